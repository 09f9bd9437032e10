//! The schedule against a world that answers in any order, late, wrongly or not at all.

use super::{
    Bounds, Cause, Daemon, Effect, Event, FunctionId, Owner, PARKED_MEMORY, Policy, Schedule,
    WaiterId,
};
use crate::lifecycle::State;
use crate::protocol::{Exit, SandboxId};
use crate::reason::{LeaseError, Reason, Usage};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const START_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

fn policy() -> Policy {
    Policy {
        memory: 64 * MIB,
        scratch: 0,
        min: 0,
        max: 4,
        concurrency: NonZeroU32::MIN,
        idle_timeout: IDLE_TIMEOUT,
        start_timeout: START_TIMEOUT,
        grace: Duration::from_secs(5),
    }
}

fn bounds() -> Bounds {
    Bounds { parked: 2, memory: 300 * MIB, creating_max: 2, waiters_max: 8 }
}

/// The schedule with everything outside it that it acts upon.
struct World {
    schedule: Schedule,
    now: Instant,
    policies: BTreeMap<FunctionId, Policy>,
    /// What each sandbox costs, from `Create` to `Gone`.
    costs: BTreeMap<SandboxId, u64>,
    creating: BTreeSet<SandboxId>,
    activating: BTreeSet<SandboxId>,
    starting: BTreeSet<SandboxId>,
    running: BTreeMap<SandboxId, FunctionId>,
    /// Terminated or removed or dead: never to be leased again.
    ending: BTreeSet<SandboxId>,
    leases: Vec<SandboxId>,
    waiting: BTreeMap<WaiterId, (FunctionId, Instant)>,
    next: u64,
    log: Vec<Effect>,
    closed: bool,
}

impl World {
    fn new(bounds: Bounds) -> World {
        World {
            schedule: Schedule::new(bounds),
            now: Instant::now(),
            policies: BTreeMap::new(),
            costs: BTreeMap::new(),
            creating: BTreeSet::new(),
            activating: BTreeSet::new(),
            starting: BTreeSet::new(),
            running: BTreeMap::new(),
            ending: BTreeSet::new(),
            leases: Vec::new(),
            waiting: BTreeMap::new(),
            next: 0,
            log: Vec::new(),
            closed: false,
        }
    }

    /// A world with a daemon and one function in it, its parked sandboxes made.
    fn with_function(bounds: Bounds, policy: Policy) -> (World, FunctionId) {
        let mut world = World::new(bounds);
        world.on(Event::Connected);
        world.on(Event::Ready);
        let function = world.add(policy);
        world.answer_all();
        (world, function)
    }

    fn add(&mut self, policy: Policy) -> FunctionId {
        let id = FunctionId(self.next);
        self.next += 1;
        self.policies.insert(id, policy);
        self.on(Event::Add(id, policy));
        id
    }

    fn on(&mut self, event: Event) {
        let mut effects = Vec::new();
        match &event {
            Event::Died(id) => {
                self.ending.insert(*id);
            }
            Event::Taint(id) => {
                self.ending.insert(*id);
            }
            Event::Disconnected => {
                self.creating.clear();
                self.ending.extend(self.costs.keys());
            }
            _ => {}
        }
        self.schedule.on(self.now, event, &mut effects);
        for effect in &effects {
            self.note(effect);
        }
        self.log.extend(effects);
        self.check();
    }

    fn note(&mut self, effect: &Effect) {
        match effect {
            Effect::Hello { in_use } => {
                let leased: BTreeSet<_> = self.leases.iter().copied().collect();
                assert!(
                    in_use.iter().all(|id| leased.contains(id)),
                    "only what is in use is spared"
                );
            }
            Effect::Create { sandbox, .. } => {
                self.costs.insert(*sandbox, PARKED_MEMORY);
                self.creating.insert(*sandbox);
            }
            Effect::Activate { sandbox, function } => {
                assert!(!self.ending.contains(sandbox));
                let memory = self.policies[function].memory.max(PARKED_MEMORY);
                *self.costs.get_mut(sandbox).unwrap() = memory;
                self.activating.insert(*sandbox);
                self.running.insert(*sandbox, *function);
            }
            Effect::Terminate(id) | Effect::Remove(id) => {
                self.ending.insert(*id);
            }
            Effect::Grant { waiter, sandbox, .. } => {
                let (function, _) = self.waiting.remove(waiter).expect("a waiter is answered once");
                self.leased(function, *sandbox);
            }
            Effect::Refuse { waiter, .. } => {
                // One refused at once was never noted as waiting.
                self.waiting.remove(waiter);
            }
            Effect::Prepared { .. } => {}
            Effect::Gone { sandbox, .. } => {
                assert!(self.costs.remove(sandbox).is_some(), "a sandbox goes once");
                self.creating.remove(sandbox);
                self.activating.remove(sandbox);
                self.starting.remove(sandbox);
                self.running.remove(sandbox);
            }
            Effect::Closed => self.closed = true,
        }
    }

    fn leased(&mut self, function: FunctionId, sandbox: SandboxId) {
        assert_eq!(self.running.get(&sandbox), Some(&function), "a lease is on its own function");
        assert!(!self.ending.contains(&sandbox), "what ends is never leased");
        self.leases.push(sandbox);
    }

    /// The law of the module's head, and that its books are what a recount gives.
    fn check(&self) {
        let bounds = self.schedule.bounds;
        let cost: u64 = self.costs.values().sum();
        assert!(cost <= bounds.memory, "{cost} bytes in use of {}", bounds.memory);
        assert_eq!(cost, self.schedule.memory);
        assert!(self.creating.len() <= bounds.creating_max);
        for id in &self.leases {
            if let Some(function) = self.running.get(id) {
                let leases = self.leases.iter().filter(|other| *other == id).count();
                assert!(leases <= self.policies[function].concurrency.get() as usize);
            }
        }
        for (waiter, (_, since)) in &self.waiting {
            assert!(self.now < *since + START_TIMEOUT, "{waiter:?} waits too long");
        }
        for (id, sandbox) in &self.schedule.sandboxes {
            let generic = matches!(sandbox.state, State::Creating | State::Parked);
            let removed = sandbox.state == State::Removing && sandbox.ending.is_some();
            let owned = sandbox.owner.as_ref().is_some_and(|Owner { function, .. }| {
                self.schedule.functions.get(function).is_some_and(|it| it.owned.contains(id))
            });
            assert!(removed || generic != owned, "{id} has no owner: {sandbox:?}");
        }
        self.recount();
    }

    fn recount(&self) {
        let count = |wanted: fn(&State) -> bool| {
            self.schedule.sandboxes.values().filter(|it| wanted(&it.state)).count()
        };
        assert_eq!(self.schedule.creating, count(|state| *state == State::Creating));
        assert_eq!(self.schedule.parked.len(), count(|state| *state == State::Parked));
        for (id, function) in &self.schedule.functions {
            let states = || function.owned.iter().map(|id| self.schedule.sandboxes[id].state);
            assert_eq!(function.serving, states().filter(|it| it.is_serving()).count());
            assert_eq!(function.leases, states().map(|it| u64::from(it.leases())).sum::<u64>());
            assert!(function.held() <= function.policy.max);
            let queued = self.schedule.starts.iter().filter(|start| start.function == *id);
            assert_eq!(function.queued, queued.count());
            assert!(function.waiters.len() <= self.schedule.bounds.waiters_max);
            if !function.waiters.is_empty() {
                assert!(!states().any(|it| function.has_room(it)), "one waits beside free room");
            }
            let warm = |id: &&SandboxId| {
                let state = self.schedule.sandboxes[*id].state;
                matches!(state, State::Idle | State::Leased(_)) && function.has_room(state)
            };
            let ready: BTreeSet<_> = function.ready.iter().collect();
            assert_eq!(ready, function.owned.iter().filter(warm).collect());
            assert_eq!(ready.len(), function.ready.len());
        }
    }

    /// Time passes as a driver would let it: a tick whenever one is due.
    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(wake) = self.schedule.wake().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake);
            self.on(Event::Tick);
            assert!(self.schedule.wake().is_none_or(|wake| wake > self.now), "a busy loop");
        }
        self.now = end;
        self.check();
    }

    fn wait(&mut self, function: FunctionId) -> WaiterId {
        let waiter = WaiterId(self.next);
        self.next += 1;
        self.waiting.insert(waiter, (function, self.now));
        self.on(Event::Wait { function, waiter, cause: Cause::default() });
        waiter
    }

    fn try_lease(&mut self, function: FunctionId) -> Option<SandboxId> {
        let id = self.schedule.try_lease(self.now, function)?;
        self.leased(function, id);
        self.check();
        Some(id)
    }

    fn give_back(&mut self, index: usize, fit: bool) {
        let id = self.leases.remove(index);
        self.on(if fit { Event::Release(id) } else { Event::Taint(id) });
    }

    fn executed(&mut self, id: SandboxId) {
        self.activating.remove(&id);
        self.starting.insert(id);
        self.on(Event::Executed(id));
    }

    fn accepted(&mut self, id: SandboxId) {
        self.starting.remove(&id);
        self.on(Event::Accepted(id));
    }

    fn gone(&mut self, id: SandboxId, exit: Exit) {
        self.on(Event::Gone(id, Usage { exit: Some(exit), ..Usage::default() }));
    }

    /// The daemon and the functions do at once all that was asked of them.
    fn answer_all(&mut self) {
        for _ in 0..1000 {
            let ending = self.costs.keys().copied().find(|id| self.ending.contains(id));
            if let Some(id) = ending.filter(|_| self.schedule.daemon != Daemon::Absent) {
                self.creating.remove(&id);
                self.gone(id, Exit::Signal(9));
            } else if let Some(id) = self.creating.first().copied() {
                self.creating.remove(&id);
                self.on(Event::Created(id));
            } else if let Some(id) = self.activating.first().copied() {
                self.executed(id);
            } else if let Some(id) = self.starting.first().copied() {
                self.accepted(id);
            } else {
                return;
            }
        }
        panic!("the schedule never comes to rest");
    }

    fn sandbox(&self, seed: usize) -> Option<SandboxId> {
        self.costs.keys().nth(seed % self.costs.len().max(1)).copied()
    }

    fn function(&self, seed: usize) -> FunctionId {
        *self.policies.keys().nth(seed % self.policies.len()).unwrap()
    }

    /// One thing that may happen, chosen by two numbers.
    fn happen(&mut self, what: u8, seed: usize) {
        let pick = |set: &BTreeSet<SandboxId>| set.iter().nth(seed % set.len().max(1)).copied();
        match what % 32 {
            0 if seed.is_multiple_of(8) => self.on(Event::Connected),
            1 | 2 => self.on(Event::Ready),
            3 if seed.is_multiple_of(16) => self.on(Event::Disconnected),
            4..=7 => {
                if let Some(id) = pick(&self.creating) {
                    self.creating.remove(&id);
                    self.on(Event::Created(id));
                }
            }
            8 => {
                if let Some(id) = pick(&self.creating) {
                    self.creating.remove(&id);
                    self.on(Event::CreateFailed(id, "no".to_owned()));
                }
            }
            9..=11 => {
                if let Some(id) = pick(&self.activating) {
                    self.executed(id);
                }
            }
            12..=14 => {
                if let Some(id) = pick(&self.starting) {
                    self.accepted(id);
                }
            }
            15 => {
                if let Some(id) = pick(&self.activating) {
                    self.activating.remove(&id);
                    self.on(Event::StartFailed(id, "execveat failed".to_owned()));
                }
            }
            16 => {
                if let Some(id) = self.sandbox(seed).filter(|id| self.running.contains_key(id)) {
                    self.on(Event::Died(id));
                }
            }
            17 | 18 => {
                if let Some(id) = self.sandbox(seed).filter(|id| self.ending.contains(id)) {
                    self.creating.remove(&id);
                    self.gone(id, Exit::Code(1));
                }
            }
            19 => {
                if let Some(id) = self.sandbox(seed) {
                    self.ending.insert(id);
                    self.creating.remove(&id);
                    self.gone(id, Exit::Signal(9));
                }
            }
            20 | 21 => self.on(Event::Prepare {
                function: self.function(seed),
                wanted: u32::try_from(seed % 7).unwrap(),
                cause: Cause::default(),
            }),
            22 | 23 => {
                self.wait(self.function(seed));
            }
            24 => {
                if let Some((waiter, (function, _))) =
                    self.waiting.iter().nth(seed % self.waiting.len().max(1)).map(|(a, b)| (*a, *b))
                {
                    self.waiting.remove(&waiter);
                    self.on(Event::Cancel(function, waiter));
                }
            }
            25 => {
                self.try_lease(self.function(seed));
            }
            26 | 27 if !self.leases.is_empty() => self.give_back(seed % self.leases.len(), true),
            28 if !self.leases.is_empty() => self.give_back(seed % self.leases.len(), false),
            29 if seed.is_multiple_of(8) => {
                let id = self.function(seed / 8);
                let owned: Vec<_> = self.running.iter().filter(|it| *it.1 == id).collect();
                self.ending.extend(owned.into_iter().map(|it| *it.0));
                self.on(Event::Retire(id));
            }
            30 => self.noise(seed),
            _ => self.advance(Duration::from_millis(seed as u64 * 7)),
        }
    }

    /// News about what does not exist or was said before must change nothing.
    fn noise(&mut self, seed: usize) {
        let nobody = SandboxId(u64::MAX);
        self.on(match seed % 6 {
            0 => Event::Created(nobody),
            1 => Event::Executed(nobody),
            2 => Event::Gone(nobody, Usage::default()),
            3 => Event::Release(nobody),
            4 => Event::Cancel(self.function(seed), WaiterId(u64::MAX)),
            _ => Event::Tick,
        });
    }
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let policy = (1..120u64, 0..2u64, 0..3usize, 0..5usize, 1..4u32).prop_map(
        |(memory, scratch, min, max, concurrency)| Policy {
            memory: memory * MIB,
            scratch: scratch * MIB,
            min,
            max,
            concurrency: NonZeroU32::new(concurrency).unwrap(),
            ..policy()
        },
    );
    prop::collection::vec(policy, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]

    #[test]
    fn the_law_holds_whatever_happens_and_all_ends_well(
        policies in policies(),
        parked in 0..4usize,
        memory in 2..260u64,
        creating_max in 1..4usize,
        happenings in prop::collection::vec((any::<u8>(), 0..1000usize), 0..250),
    ) {
        let bounds = Bounds { parked, memory: memory * MIB, creating_max, waiters_max: 5 };
        let mut world = World::new(bounds);
        world.on(Event::Connected);
        world.on(Event::Ready);
        for policy in policies {
            world.add(policy);
        }
        for (what, seed) in happenings {
            world.happen(what, seed);
        }

        // Everything works again: whoever waits is answered, and idle sandboxes go.
        world.on(Event::Connected);
        world.on(Event::Ready);
        while !world.leases.is_empty() {
            world.give_back(0, true);
        }
        for _ in 0..200 {
            world.answer_all();
            world.advance(Duration::from_secs(1));
            while !world.leases.is_empty() {
                world.give_back(0, true);
            }
        }
        prop_assert!(world.waiting.is_empty());
        let functions = &world.schedule.functions;
        for function in functions.values() {
            prop_assert!(function.serving <= function.policy.min);
        }
        // A `min` that the budget cannot hold takes what it can get, so only without one is all of it known.
        if functions.values().all(|function| function.policy.min == 0) {
            let affordable = usize::try_from(bounds.memory / PARKED_MEMORY).unwrap();
            prop_assert_eq!(world.schedule.parked.len(), parked.min(affordable));
        }

        world.on(Event::Shutdown);
        world.answer_all();
        prop_assert!(world.closed && world.costs.is_empty());
    }
}

#[test]
fn a_prepared_function_is_leased_without_waiting_once_it_accepts() {
    let (mut world, function) = World::with_function(bounds(), policy());
    assert_eq!(world.try_lease(function), None);
    world.on(Event::Prepare { function, wanted: 1, cause: Cause::default() });
    let id = *world.activating.first().unwrap();
    world.executed(id);
    assert_eq!(world.try_lease(function), None, "it may not accept for long");
    world.accepted(id);
    assert_eq!(world.try_lease(function), Some(id));
    assert_eq!(world.try_lease(function), None, "one request at once");
}

#[test]
fn a_waiter_is_granted_as_soon_as_the_function_is_executed() {
    let (mut world, function) = World::with_function(bounds(), policy());
    let waiter = world.wait(function);
    let id = *world.activating.first().unwrap();
    world.executed(id);
    assert!(world.log.contains(&Effect::Grant { waiter, sandbox: id, cold: true }));
}

#[test]
fn a_waiter_for_a_busy_sandbox_is_granted_by_its_release_and_was_not_cold() {
    let (mut world, function) =
        World::with_function(bounds(), Policy { max: 1, min: 1, ..policy() });
    let id = world.try_lease(function).unwrap();
    world.advance(Duration::from_secs(1));
    let waiter = world.wait(function);
    world.give_back(0, true);
    assert!(world.log.contains(&Effect::Grant { waiter, sandbox: id, cold: false }));
}

#[test]
fn a_waiter_is_refused_with_the_bound_when_all_stay_busy() {
    let (mut world, function) =
        World::with_function(bounds(), Policy { max: 1, min: 1, ..policy() });
    world.try_lease(function).unwrap();
    let waiter = world.wait(function);
    world.advance(START_TIMEOUT);
    let error = LeaseError::Saturated { max: 1, waited: START_TIMEOUT };
    assert!(world.log.contains(&Effect::Refuse { waiter, error }));
}

#[test]
fn an_idle_sandbox_ends_politely_and_is_killed_after_its_grace() {
    let (mut world, function) = World::with_function(bounds(), policy());
    world.on(Event::Prepare { function, wanted: 1, cause: Cause::default() });
    world.answer_all();
    let id = *world.running.keys().next().unwrap();
    world.advance(IDLE_TIMEOUT);
    assert_eq!(world.log.last(), Some(&Effect::Terminate(id)));
    world.advance(policy().grace);
    assert_eq!(world.log.last(), Some(&Effect::Remove(id)));
}

#[test]
fn a_tainted_sandbox_lets_its_other_requests_end_and_takes_no_more() {
    let concurrency = NonZeroU32::new(2).unwrap();
    let (mut world, function) =
        World::with_function(bounds(), Policy { concurrency, min: 1, max: 1, ..policy() });
    let id = world.try_lease(function).unwrap();
    world.try_lease(function).unwrap();
    world.give_back(0, false);
    assert_eq!(world.try_lease(function), None);
    assert!(!world.log.contains(&Effect::Remove(id)));
    world.give_back(0, true);
    assert!(world.log.contains(&Effect::Remove(id)));
}

#[test]
fn a_function_that_dies_at_every_start_backs_off_with_its_reason() {
    let (mut world, function) = World::with_function(bounds(), policy());
    for _ in 0..2 {
        world.on(Event::Prepare { function, wanted: 1, cause: Cause::default() });
        let id = *world.activating.first().unwrap();
        world.executed(id);
        world.on(Event::Died(id));
        world.gone(id, Exit::Code(1));
    }
    let waiter = world.wait(function);
    let reason = Reason::Exit(Exit::Code(1));
    let error = LeaseError::StartFailed { reason };
    assert!(world.log.contains(&Effect::Refuse { waiter, error }));
    world.answer_all();
    world.advance(Duration::from_millis(100));
    world.wait(function);
    assert_eq!(world.activating.len(), 1, "one attempt after the pause");
}

#[test]
fn what_does_not_accept_in_time_never_accepted() {
    let (mut world, function) = World::with_function(bounds(), policy());
    world.on(Event::Prepare { function, wanted: 1, cause: Cause::default() });
    let sandbox = *world.activating.first().unwrap();
    world.executed(sandbox);
    world.advance(START_TIMEOUT);
    let outcome = Err(Reason::NeverAccepted);
    let cause = Cause::default();
    assert!(world.log.contains(&Effect::Prepared { sandbox, function, cause, outcome }));
    assert!(world.log.contains(&Effect::Remove(sandbox)));
}

#[test]
fn the_least_recently_used_idle_sandbox_makes_room() {
    let budget = Bounds { memory: 131 * MIB, ..bounds() };
    let (mut world, first) = World::with_function(budget, Policy { max: 1, ..policy() });
    let second = world.add(Policy { max: 1, ..policy() });
    let third = world.add(Policy { max: 1, ..policy() });
    for function in [first, second] {
        world.on(Event::Prepare { function, wanted: 1, cause: Cause::default() });
        world.answer_all();
        world.advance(Duration::from_secs(1));
    }
    world.wait(third);
    world.answer_all();
    let owners: Vec<_> = world.running.values().copied().collect();
    assert_eq!(owners, [second, third]);
    let evicted = world.log.iter().any(|effect| {
        matches!(effect, Effect::Gone { function: Some(id), reason: Reason::Evicted, .. } if *id == first)
    });
    assert!(evicted);
}

#[test]
fn a_lost_daemons_sandboxes_finish_their_requests_and_nothing_else() {
    let (mut world, function) = World::with_function(bounds(), Policy { min: 2, ..policy() });
    let id = world.try_lease(function).unwrap();
    world.on(Event::Disconnected);
    assert_eq!(world.try_lease(function), None);
    world.on(Event::Connected);
    assert!(world.log.contains(&Effect::Hello { in_use: vec![id] }));
    assert_eq!(world.costs.keys().collect::<Vec<_>>(), [&id], "the rest was swept");
    world.on(Event::Ready);
    world.give_back(0, true);
    assert!(world.log.contains(&Effect::Remove(id)));
}

#[test]
fn a_function_larger_than_the_budget_is_refused_at_once() {
    let (mut world, function) =
        World::with_function(bounds(), Policy { memory: 400 * MIB, ..policy() });
    let waiter = world.wait(function);
    let error = LeaseError::OverBudget { memory: 400 * MIB, budget: 300 * MIB };
    assert!(world.log.contains(&Effect::Refuse { waiter, error }));
}

#[test]
fn two_starts_that_each_want_the_whole_budget_do_not_take_it_from_each_other() {
    let budget = Bounds { memory: 64 * MIB, parked: 0, ..bounds() };
    let (mut world, function) = World::with_function(budget, policy());
    world.on(Event::Prepare { function, wanted: 2, cause: Cause::default() });
    world.answer_all();
    assert_eq!(world.running.len(), 1);
}

#[test]
fn a_request_that_goes_wrong_before_the_first_accept_was_seen_is_no_failed_start() {
    let (mut world, function) = World::with_function(bounds(), policy());
    for _ in 0..3 {
        world.wait(function);
        let id = *world.activating.first().unwrap();
        world.executed(id);
        world.give_back(0, false);
        world.gone(id, Exit::Signal(9));
        world.answer_all();
    }
    world.wait(function);
    assert_eq!(world.activating.len(), 1, "no pause");
}
