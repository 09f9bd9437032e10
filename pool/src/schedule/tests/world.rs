//! Everything around a schedule, doing at random or in order what a daemon, functions and requests do, and
//! checking at every step that the law holds.

use super::START_TIMEOUT;
use crate::lifecycle::State;
use crate::protocol::{Exit, SandboxId};
use crate::reason::Usage;
use crate::schedule::cores::{LULL, PATIENCE};
use crate::schedule::daemon::Daemon;
use crate::schedule::sandbox::Owner;
use crate::schedule::{
    Bounds, Cause, Effect, Event, FunctionId, PARKED_MEMORY, Policy, Schedule, WaiterId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The schedule with everything outside it that it acts upon.
pub(super) struct World {
    pub(super) schedule: Schedule,
    pub(super) now: Instant,
    pub(super) policies: BTreeMap<FunctionId, Policy>,
    /// What each sandbox costs, from `Create` to `Gone`.
    pub(super) costs: BTreeMap<SandboxId, u64>,
    pub(super) creating: BTreeSet<SandboxId>,
    pub(super) activating: BTreeSet<SandboxId>,
    pub(super) starting: BTreeSet<SandboxId>,
    pub(super) running: BTreeMap<SandboxId, FunctionId>,
    /// Terminated or removed or dead: never to be leased again.
    pub(super) ending: BTreeSet<SandboxId>,
    pub(super) leases: Vec<SandboxId>,
    pub(super) waiting: BTreeMap<WaiterId, (FunctionId, Instant)>,
    pub(super) frozen: BTreeSet<SandboxId>,
    pub(super) next: u64,
    pub(super) log: Vec<Effect>,
    /// What was said last about the cores; `None` when nobody was told, or is no more.
    pub(super) claimed: Option<bool>,
    pub(super) closed: bool,
}

impl World {
    pub(super) fn new(bounds: Bounds) -> World {
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
            frozen: BTreeSet::new(),
            next: 0,
            log: Vec::new(),
            claimed: None,
            closed: false,
        }
    }

    /// A world with a daemon and one function in it, its parked sandboxes made.
    pub(super) fn with_function(bounds: Bounds, policy: Policy) -> (World, FunctionId) {
        let mut world = World::new(bounds);
        world.on(Event::Connected);
        world.on(Event::Ready);
        let function = world.add(policy);
        world.answer_all();
        (world, function)
    }

    pub(super) fn add(&mut self, policy: Policy) -> FunctionId {
        let id = FunctionId(self.next);
        self.next += 1;
        self.policies.insert(id, policy);
        self.on(Event::Add(id, policy));
        id
    }

    pub(super) fn on(&mut self, event: Event) {
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
                self.claimed = None;
            }
            Event::Connected => self.claimed = None,
            _ => {}
        }
        self.schedule.on(self.now, event, &mut effects);
        self.note_all(effects);
        self.check();
    }

    fn note_all(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::ClaimCores => assert_ne!(self.claimed.replace(true), Some(true)),
                Effect::YieldCores => assert_ne!(self.claimed.replace(false), Some(false)),
                effect => {
                    self.note(&effect);
                    self.log.push(effect);
                }
            }
        }
    }

    pub(super) fn note(&mut self, effect: &Effect) {
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
                assert!(!self.frozen.contains(id), "a frozen process hears no signal");
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
            Effect::Freeze { sandbox, .. } => {
                assert!(!self.leases.contains(sandbox), "what is in use is not frozen");
                assert!(self.frozen.insert(*sandbox), "what is frozen is not frozen again");
            }
            Effect::Thaw { sandbox, .. } => {
                assert!(self.frozen.remove(sandbox), "only what is frozen is thawed");
            }
            Effect::Prepared { .. } => {}
            Effect::Gone { sandbox, .. } => {
                assert!(self.costs.remove(sandbox).is_some(), "a sandbox goes once");
                self.creating.remove(sandbox);
                self.activating.remove(sandbox);
                self.starting.remove(sandbox);
                self.running.remove(sandbox);
                self.frozen.remove(sandbox);
            }
            Effect::Closed => self.closed = true,
            Effect::ClaimCores | Effect::YieldCores => {}
        }
    }

    pub(super) fn leased(&mut self, function: FunctionId, sandbox: SandboxId) {
        assert_eq!(self.running.get(&sandbox), Some(&function), "a lease is on its own function");
        assert!(!self.ending.contains(&sandbox), "what ends is never leased");
        // Whoever gets a lease thaws its sandbox.
        self.frozen.remove(&sandbox);
        self.leases.push(sandbox);
    }

    /// The law of the module's head, and that its books are what a recount gives.
    pub(super) fn check(&self) {
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
            let frozen = sandbox.state == State::Frozen;
            let absent = self.schedule.daemon == Daemon::Absent;
            assert!(frozen == self.frozen.contains(id) || absent && removed, "{sandbox:?}");
        }
        if self.schedule.daemon == Daemon::Ready {
            self.check_cores();
        }
        self.recount();
    }

    /// Who waits has a share of the cores, and what nobody waits for has none.
    fn check_cores(&self) {
        let sandboxes = || self.schedule.sandboxes.values();
        let starts = |state| matches!(state, State::Activating | State::Starting(_));
        let waits = !self.leases.is_empty() && sandboxes().any(|it| it.state.leases() > 0)
            || sandboxes().any(|it| starts(it.state))
            || !self.schedule.starts.is_empty()
            || !self.waiting.is_empty()
            || self.schedule.closing;
        let working = |state| matches!(state, State::Creating | State::Removing);
        let works = sandboxes().any(|it| working(it.state));
        let late = |since: Instant| self.now >= since + PATIENCE;
        if waits || sandboxes().any(|it| working(it.state) && late(it.since)) {
            assert_eq!(self.claimed, Some(true), "somebody waits behind others");
        } else if works && self.schedule.lull.is_none_or(|since| self.now >= since + LULL) {
            assert_eq!(self.claimed, Some(false), "others wait behind what nobody waits for");
        }
    }

    pub(super) fn recount(&self) {
        let count = |wanted: fn(&State) -> bool| {
            self.schedule.sandboxes.values().filter(|it| wanted(&it.state)).count()
        };
        assert_eq!(self.schedule.tally.creating, count(|state| *state == State::Creating));
        assert_eq!(self.schedule.tally.removing, count(|state| *state == State::Removing));
        let wanted = |state: &State| {
            state.leases() > 0 || matches!(state, State::Activating | State::Starting(_))
        };
        assert_eq!(self.schedule.tally.wanted, count(wanted));
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
                matches!(state, State::Idle | State::Leased(_) | State::Frozen)
                    && function.has_room(state)
            };
            let ready: BTreeSet<_> = function.ready.iter().collect();
            assert_eq!(ready, function.owned.iter().filter(warm).collect());
            assert_eq!(ready.len(), function.ready.len());
        }
    }

    /// Time passes as a driver would let it: a tick whenever one is due.
    pub(super) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(wake) = self.schedule.wake().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake);
            self.on(Event::Tick);
            assert!(self.schedule.wake().is_none_or(|wake| wake > self.now), "a busy loop");
        }
        self.now = end;
        self.check();
    }

    pub(super) fn wait(&mut self, function: FunctionId) -> WaiterId {
        let waiter = WaiterId(self.next);
        self.next += 1;
        self.waiting.insert(waiter, (function, self.now));
        self.on(Event::Wait { function, waiter, cause: Cause::default() });
        waiter
    }

    pub(super) fn try_lease(&mut self, function: FunctionId) -> Option<SandboxId> {
        let mut effects = Vec::new();
        let id = self.schedule.try_lease(self.now, function, &mut effects)?;
        self.leased(function, id);
        self.note_all(effects);
        self.check();
        Some(id)
    }

    pub(super) fn give_back(&mut self, index: usize, fit: bool) {
        let id = self.leases.remove(index);
        self.on(if fit { Event::Release(id) } else { Event::Taint(id) });
    }

    pub(super) fn handed_over(&mut self, id: SandboxId) {
        self.activating.remove(&id);
        self.starting.insert(id);
        self.on(Event::HandedOver(id));
    }

    pub(super) fn accepted(&mut self, id: SandboxId) {
        self.starting.remove(&id);
        self.on(Event::Accepted(id));
    }

    pub(super) fn gone(&mut self, id: SandboxId, exit: Exit) {
        self.on(Event::Gone(id, Usage { exit: Some(exit), ..Usage::default() }));
    }

    /// The daemon and the functions do at once all that was asked of them.
    pub(super) fn answer_all(&mut self) {
        for _ in 0..1000 {
            let ending = self.costs.keys().copied().find(|id| self.ending.contains(id));
            if let Some(id) = ending.filter(|_| self.schedule.daemon != Daemon::Absent) {
                self.creating.remove(&id);
                self.gone(id, Exit::Signal(9));
            } else if let Some(id) = self.creating.first().copied() {
                self.creating.remove(&id);
                self.on(Event::Created(id));
            } else if let Some(id) = self.activating.first().copied() {
                self.handed_over(id);
            } else if let Some(id) = self.starting.first().copied() {
                self.accepted(id);
            } else {
                return;
            }
        }
        panic!("the schedule never comes to rest");
    }

    /// The daemon makes what was asked of it.
    pub(super) fn answer_creations(&mut self) {
        while let Some(id) = self.creating.pop_first() {
            self.on(Event::Created(id));
        }
    }

    pub(super) fn sandbox(&self, seed: usize) -> Option<SandboxId> {
        self.costs.keys().nth(seed % self.costs.len().max(1)).copied()
    }

    pub(super) fn function(&self, seed: usize) -> FunctionId {
        *self.policies.keys().nth(seed % self.policies.len()).unwrap()
    }

    /// One thing that may happen, chosen by two numbers.
    pub(super) fn happen(&mut self, what: u8, seed: usize) {
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
                    self.handed_over(id);
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
    pub(super) fn noise(&mut self, seed: usize) {
        let nobody = SandboxId(u64::MAX);
        self.on(match seed % 6 {
            0 => Event::Created(nobody),
            1 => Event::HandedOver(nobody),
            2 => Event::Gone(nobody, Usage::default()),
            3 => Event::Release(nobody),
            4 => Event::Cancel(self.function(seed), WaiterId(u64::MAX)),
            _ => Event::Tick,
        });
    }
}
