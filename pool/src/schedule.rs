//! Who gets which sandbox, and when sandboxes are made and ended. Pure: time and ids come in as
//! values, and whatever is to be done goes out as an [`Effect`].
//!
//! ```text
//!            demand                    settle                     attend
//! requests ─────────▶ queue of starts ───────▶ parked sandboxes ─────────▶ waiters, oldest first
//!                          │                     ▲
//!                          └── memory short:     └── refilled, at most `creating_max` at once
//!                              evict the idle
//! ```
//! It holds at every moment that
//! - a sandbox has at most its function's `concurrency` requests, none once it drains;
//! - all sandboxes together, from the first word about them to the last, cost at most the budget:
//!   what a parked one takes, or the memory limit of the function in it;
//! - at most `creating_max` are being created;
//! - nobody waits while there is room, and nobody waits longer than `start_timeout`;
//! - every sandbox is parked or on the way there, belongs to a function, or is being removed.

mod backoff;
mod function;
mod room;
mod sandbox;
#[cfg(test)]
mod tests;

pub use function::{Cause, FunctionId, Policy, WaiterId};
pub use sandbox::{Counts, SandboxInfo, Statistics};

use crate::lifecycle::{self, State};
use crate::protocol::SandboxId;
use crate::reason::{LeaseError, Reason, Usage};
use backoff::Backoff;
use function::{Function, Waiter};
use room::Room;
use sandbox::{Ending, Owner, Sandbox};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// What a sandbox without a function is charged: measured at 475 kB with its network namespace.
pub const PARKED_MEMORY: u64 = 1 << 20;

/// After so many failed creations in a row, those who wait for one are told.
const CREATION_PATIENCE: u32 = 3;

/// The pool's own bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Generic sandboxes kept ready.
    pub parked: usize,
    /// Bytes that all sandboxes may cost together.
    pub memory: u64,
    /// Creations at once.
    pub creating_max: usize,
    /// Requests of one function that may wait at once.
    pub waiters_max: usize,
}

/// What the schedule is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is a daemon, perhaps in place of another.
    Connected,
    /// The daemon has swept and takes orders.
    Ready,
    /// The daemon is no more.
    Disconnected,
    /// The daemon parked a sandbox.
    Created(SandboxId),
    /// The daemon could not make one, and says why.
    CreateFailed(SandboxId, String),
    /// The function's exec succeeded.
    Executed(SandboxId),
    /// The function accepted its first connection.
    Accepted(SandboxId),
    /// The function could not be executed, with what was tried and what the kernel said.
    StartFailed(SandboxId, String),
    /// The sandbox's process ended.
    Died(SandboxId),
    /// Nothing of it is left.
    Gone(SandboxId, Usage),
    /// A function is there.
    Add(FunctionId, Policy),
    /// A function gets no more requests; its sandboxes end when they have none.
    Retire(FunctionId),
    /// So many requests are in flight in a function: have sandboxes for them soon.
    Prepare {
        /// Where.
        function: FunctionId,
        /// How many.
        wanted: u32,
        /// By which request this was said.
        cause: Cause,
    },
    /// A request wants a sandbox and waits.
    Wait {
        /// Of this function.
        function: FunctionId,
        /// Who waits.
        waiter: WaiterId,
        /// For which request.
        cause: Cause,
    },
    /// It does not wait any more.
    Cancel(FunctionId, WaiterId),
    /// A request gave a sandbox back.
    Release(SandboxId),
    /// A request gave a sandbox back unfit for another.
    Taint(SandboxId),
    /// End everything.
    Shutdown,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Greet the new daemon.
    Hello {
        /// Sandboxes of its predecessor that still serve requests.
        in_use: Vec<SandboxId>,
    },
    /// Have one made.
    Create {
        /// Its name.
        sandbox: SandboxId,
        /// Bytes of its `/tmp`.
        scratch: u64,
    },
    /// Start a function in a parked one.
    Activate {
        /// In this one.
        sandbox: SandboxId,
        /// This function.
        function: FunctionId,
    },
    /// Tell it to finish.
    Terminate(SandboxId),
    /// Have it killed and removed.
    Remove(SandboxId),
    /// A waiter gets a sandbox.
    Grant {
        /// Who.
        waiter: WaiterId,
        /// Which.
        sandbox: SandboxId,
        /// It waited for this sandbox to start.
        cold: bool,
    },
    /// A waiter gets none.
    Refuse {
        /// Who.
        waiter: WaiterId,
        /// Why not.
        error: LeaseError,
    },
    /// A start is over.
    Prepared {
        /// In this sandbox.
        sandbox: SandboxId,
        /// Of this function.
        function: FunctionId,
        /// Which request caused it.
        cause: Cause,
        /// It accepts, or why not.
        outcome: Result<(), Reason>,
    },
    /// A sandbox is no more.
    Gone {
        /// Which.
        sandbox: SandboxId,
        /// Whose it was.
        function: Option<FunctionId>,
        /// Why.
        reason: Reason,
        /// What it used.
        usage: Usage,
    },
    /// After [`Event::Shutdown`]: there is nothing left that could be waited for.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Daemon {
    Absent,
    Greeted,
    Ready,
}

/// A sandbox that a function is to get.
#[derive(Clone, Copy, Debug)]
struct Start {
    function: FunctionId,
    cause: Cause,
}

/// The pool's mind.
#[derive(Clone, Debug)]
pub struct Schedule {
    bounds: Bounds,
    daemon: Daemon,
    closing: bool,
    functions: BTreeMap<FunctionId, Function>,
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    /// At most the sum of the functions' `max`.
    starts: VecDeque<Start>,
    parked: VecDeque<SandboxId>,
    creating: usize,
    /// What all sandboxes cost.
    memory: u64,
    creation: Backoff,
    next_sandbox: u64,
    wake: Option<Instant>,
}

impl Schedule {
    /// Nothing there yet, not even a daemon.
    pub fn new(bounds: Bounds) -> Schedule {
        Schedule {
            bounds,
            daemon: Daemon::Absent,
            closing: false,
            functions: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            starts: VecDeque::new(),
            parked: VecDeque::new(),
            creating: 0,
            memory: 0,
            creation: Backoff::default(),
            next_sandbox: 0,
            wake: None,
        }
    }

    /// When [`Event::Tick`] is due next; never later than needed, sometimes earlier.
    pub fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// A warm sandbox with room, now or not at all.
    pub fn try_lease(&mut self, now: Instant, function: FunctionId) -> Option<SandboxId> {
        let function = self.functions.get_mut(&function)?;
        let id = *function.ready.last()?;
        let sandbox = self.sandboxes.get_mut(&id)?;
        let next = sandbox.state.on(lifecycle::Event::Lease).ok()?;
        function.moved(id, sandbox.state, next);
        sandbox.state = next;
        sandbox.since = now;
        Some(id)
    }

    /// Takes note of `event` at `now` and says what is to be done about it.
    pub fn on(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Connected => self.connected(now, effects),
            Event::Ready => {
                if self.daemon == Daemon::Greeted {
                    self.daemon = Daemon::Ready;
                }
            }
            Event::Disconnected => self.disconnected(now, effects),
            Event::Created(id) => {
                self.step(now, id, lifecycle::Event::Created, effects);
                self.creation.succeed();
            }
            Event::CreateFailed(id, error) => self.create_failed(now, id, error, effects),
            Event::Executed(id) => {
                if let Some(owner) = self.owner_mut(id) {
                    owner.executed = Some(now);
                }
                self.step(now, id, lifecycle::Event::Executed, effects);
                self.attend_owner(now, id, effects);
            }
            Event::Accepted(id) => self.accepted(now, id, effects),
            Event::StartFailed(id, error) => {
                self.start_failed(now, id, &Reason::Start(error), effects);
            }
            Event::Died(id) => {
                self.end(now, id, lifecycle::Event::Remove, Reason::Died, effects);
                self.attend_owner(now, id, effects);
            }
            Event::Gone(id, usage) => self.gone(now, id, usage, effects),
            Event::Add(id, policy) => {
                self.functions.insert(id, Function::new(policy));
                self.attend(now, id, effects);
            }
            Event::Retire(id) => self.retire(now, id, effects),
            Event::Prepare { function, wanted, cause } => {
                if self.daemon == Daemon::Ready {
                    self.demand(now, function, u64::from(wanted), cause);
                }
            }
            Event::Wait { function, waiter, cause } => {
                self.wait(now, function, Waiter { id: waiter, cause, since: now }, effects);
            }
            Event::Cancel(function, waiter) => {
                if let Some(function) = self.functions.get_mut(&function) {
                    function.waiters.retain(|other| other.id != waiter);
                }
            }
            Event::Release(id) if self.release(now, id) => return,
            Event::Release(id) => self.returned(now, id, lifecycle::Event::Release, effects),
            Event::Taint(id) => self.returned(now, id, lifecycle::Event::Taint, effects),
            Event::Shutdown => self.shutdown(now, effects),
            Event::Tick => self.tick(now, effects),
        }
        self.settle(now, effects);
    }

    fn connected(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.daemon != Daemon::Absent {
            self.disconnected(now, effects);
        }
        self.daemon = Daemon::Greeted;
        // Before it says that it is ready, the new daemon sweeps whatever is not named here.
        let (in_use, swept): (Vec<_>, Vec<_>) = self
            .sandboxes
            .keys()
            .partition(|id| matches!(self.sandboxes[id].state, State::Draining(_)));
        effects.push(Effect::Hello { in_use });
        for id in swept {
            self.gone(now, id, Usage::default(), effects);
        }
    }

    fn disconnected(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.daemon = Daemon::Absent;
        let ids: Vec<_> = self.sandboxes.keys().copied().collect();
        for id in ids {
            self.end(now, id, lifecycle::Event::Drain, Reason::DaemonLost, effects);
        }
        self.forget_unwaited();
        self.attend_all(now, effects);
        self.close(effects);
    }

    fn create_failed(
        &mut self,
        now: Instant,
        id: SandboxId,
        error: String,
        effects: &mut Vec<Effect>,
    ) {
        if !self.sandboxes.contains_key(&id) {
            return;
        }
        self.creation.fail(now, Reason::Create(error.clone()));
        self.gone_because(now, id, Reason::Create(error), Usage::default(), effects);
        if self.creation.failures() < CREATION_PATIENCE || !self.parked.is_empty() {
            return;
        }
        for start in std::mem::take(&mut self.starts) {
            if let Some(function) = self.functions.get_mut(&start.function) {
                function.queued = 0;
            }
            self.refuse_hopeless(start.function, effects);
        }
    }

    fn accepted(&mut self, now: Instant, id: SandboxId, effects: &mut Vec<Effect>) {
        self.step(now, id, lifecycle::Event::Accepted, effects);
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        sandbox.since = now;
        if !matches!(sandbox.state, State::Removing) {
            self.report(now, id, Ok(()), effects);
        }
        self.wake_when_idle(id);
        self.attend_owner(now, id, effects);
    }

    fn start_failed(
        &mut self,
        now: Instant,
        id: SandboxId,
        reason: &Reason,
        effects: &mut Vec<Effect>,
    ) {
        self.end(now, id, lifecycle::Event::Remove, reason.clone(), effects);
        self.report(now, id, Err(reason.clone()), effects);
        self.attend_owner(now, id, effects);
    }

    fn gone(&mut self, now: Instant, id: SandboxId, usage: Usage, effects: &mut Vec<Effect>) {
        let Some(sandbox) = self.sandboxes.get(&id) else { return };
        let intended = sandbox.ending.as_ref().map(|ending| ending.reason.clone());
        self.gone_because(now, id, usage.verdict(intended), usage, effects);
    }

    fn gone_because(
        &mut self,
        now: Instant,
        id: SandboxId,
        reason: Reason,
        usage: Usage,
        effects: &mut Vec<Effect>,
    ) {
        self.report(now, id, Err(reason.clone()), effects);
        self.step(now, id, lifecycle::Event::Gone, effects);
        let Some(sandbox) = self.sandboxes.remove(&id) else { return };
        self.memory -= sandbox.memory;
        let function = sandbox.owner.map(|owner| owner.function);
        effects.push(Effect::Gone { sandbox: id, function, reason, usage });
        if let Some(name) = function {
            if let Some(function) = self.functions.get_mut(&name) {
                function.owned.remove(&id);
                if function.retired && function.owned.is_empty() {
                    self.functions.remove(&name);
                }
            }
            self.attend(now, name, effects);
        }
        self.close(effects);
    }

    fn retire(&mut self, now: Instant, id: FunctionId, effects: &mut Vec<Effect>) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        function.retired = true;
        function.queued = 0;
        self.starts.retain(|start| start.function != id);
        refuse_all(function, &LeaseError::Draining, effects);
        if function.owned.is_empty() {
            self.functions.remove(&id);
            return;
        }
        for sandbox in function.owned.clone() {
            self.end(now, sandbox, lifecycle::Event::Drain, Reason::Retired, effects);
        }
    }

    fn wait(&mut self, now: Instant, id: FunctionId, waiter: Waiter, effects: &mut Vec<Effect>) {
        let refusal = match self.functions.get_mut(&id) {
            None => Some(LeaseError::Draining),
            Some(function) if function.retired || self.closing => Some(LeaseError::Draining),
            Some(function) if function.policy.memory > self.bounds.memory => {
                Some(LeaseError::OverBudget {
                    memory: function.policy.memory,
                    budget: self.bounds.memory,
                })
            }
            Some(function) if function.waiters.len() >= self.bounds.waiters_max => {
                Some(LeaseError::QueueFull { waiters_max: self.bounds.waiters_max })
            }
            Some(function) => {
                let deadline = now + function.policy.start_timeout;
                function.waiters.push_back(waiter);
                self.wake_by(deadline);
                None
            }
        };
        match refusal {
            Some(error) => effects.push(Effect::Refuse { waiter: waiter.id, error }),
            None => self.attend(now, id, effects),
        }
    }

    /// The usual end of a request, without a look around: its sandbox stays warm and nobody waits.
    fn release(&mut self, now: Instant, id: SandboxId) -> bool {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return true };
        let function = sandbox.owner.as_ref().map(|owner| owner.function);
        let Some(function) = function.and_then(|id| self.functions.get_mut(&id)) else {
            return false;
        };
        if !matches!(sandbox.state, State::Leased(_))
            || !function.waiters.is_empty()
            || !self.starts.is_empty()
        {
            return false;
        }
        let Ok(next) = sandbox.state.on(lifecycle::Event::Release) else { return false };
        function.moved(id, sandbox.state, next);
        sandbox.state = next;
        sandbox.since = now;
        self.wake_when_idle(id);
        true
    }

    fn returned(
        &mut self,
        now: Instant,
        id: SandboxId,
        how: lifecycle::Event,
        effects: &mut Vec<Effect>,
    ) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        sandbox.since = now;
        if how == lifecycle::Event::Taint {
            sandbox.ending.get_or_insert(Ending { reason: Reason::Tainted, kill_at: None });
        }
        self.step(now, id, how, effects);
        self.wake_when_idle(id);
        self.attend_owner(now, id, effects);
    }

    fn shutdown(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.closing = true;
        self.starts.clear();
        for function in self.functions.values_mut() {
            function.queued = 0;
            refuse_all(function, &LeaseError::Draining, effects);
        }
        let ids: Vec<_> = self.sandboxes.keys().copied().collect();
        for id in ids {
            self.end(now, id, lifecycle::Event::Remove, Reason::Shutdown, effects);
        }
        self.close(effects);
    }

    fn close(&mut self, effects: &mut Vec<Effect>) {
        if self.closing && (self.sandboxes.is_empty() || self.daemon == Daemon::Absent) {
            effects.push(Effect::Closed);
        }
    }

    fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.wake = None;
        let ids: Vec<_> = self.sandboxes.keys().copied().collect();
        for id in ids {
            self.tick_sandbox(now, id, effects);
        }
        self.attend_all(now, effects);
        let functions: Vec<_> = self.functions.keys().copied().collect();
        for id in functions {
            self.tick_waiters(now, id, effects);
        }
    }

    /// Ends what is due in one sandbox and notes when something will be.
    fn tick_sandbox(&mut self, now: Instant, id: SandboxId, effects: &mut Vec<Effect>) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        let Some(owner) = &sandbox.owner else { return };
        let Some(function) = self.functions.get(&owner.function) else { return };
        match sandbox.state {
            State::Activating | State::Starting(_) => {
                let due = owner.activated + function.policy.start_timeout;
                if due > now {
                    self.wake_by(due);
                } else {
                    self.start_failed(now, id, &Reason::NeverAccepted, effects);
                }
            }
            State::Idle if function.has_spare() => {
                let due = sandbox.since + function.policy.idle_timeout;
                if due > now {
                    self.wake_by(due);
                } else {
                    self.end(now, id, lifecycle::Event::Drain, Reason::Idle, effects);
                }
            }
            State::Removing => match sandbox.ending.as_mut().and_then(|end| end.kill_at.as_mut()) {
                Some(due) if *due > now => {
                    let due = *due;
                    self.wake_by(due);
                }
                Some(_) => self.kill(id, effects),
                None => {}
            },
            _ => {}
        }
    }

    /// Refuses who has waited too long.
    fn tick_waiters(&mut self, now: Instant, id: FunctionId, effects: &mut Vec<Effect>) {
        let absent = self.daemon == Daemon::Absent;
        let Some(function) = self.functions.get_mut(&id) else { return };
        let max = function.policy.max;
        while let Some(waiter) = function.waiters.front() {
            let due = waiter.since + function.policy.start_timeout;
            if due > now {
                self.wake_by(due);
                return;
            }
            let waited = now - waiter.since;
            let error = match function.backoff.reason() {
                _ if absent => LeaseError::NoDaemon,
                Some(reason) => LeaseError::StartFailed { reason: reason.clone() },
                None if function.serving + function.draining >= max => {
                    LeaseError::Saturated { max, waited }
                }
                None => LeaseError::Starting { waited },
            };
            effects.push(Effect::Refuse { waiter: waiter.id, error });
            function.waiters.pop_front();
        }
    }

    fn attend_all(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let functions: Vec<_> = self.functions.keys().copied().collect();
        for id in functions {
            self.attend(now, id, effects);
        }
    }

    fn attend_owner(&mut self, now: Instant, id: SandboxId, effects: &mut Vec<Effect>) {
        if let Some(owner) = self.owner_mut(id) {
            let function = owner.function;
            self.attend(now, function, effects);
        }
    }

    /// Gives a function's room to those who wait, asks for more sandboxes if it has too few, and
    /// sends away those for whom nothing can be done.
    fn attend(&mut self, now: Instant, id: FunctionId, effects: &mut Vec<Effect>) {
        while let Some(sandbox) = self.room(id) {
            let Some(waiter) =
                self.functions.get_mut(&id).and_then(|function| function.waiters.pop_front())
            else {
                break;
            };
            self.step(now, sandbox, lifecycle::Event::Lease, effects);
            let cold = self
                .owner_mut(sandbox)
                .and_then(|owner| owner.executed)
                .is_some_and(|executed| executed >= waiter.since);
            effects.push(Effect::Grant { waiter: waiter.id, sandbox, cold });
        }
        let Some(function) = self.functions.get(&id) else { return };
        let (wanted, waiter) = (function.wanted(), function.waiters.front().copied());
        if waiter.is_some() || function.serving < function.policy.min {
            self.demand(now, id, wanted, waiter.map(|waiter| waiter.cause).unwrap_or_default());
            self.refuse_hopeless(id, effects);
        }
    }

    /// A sandbox that a waiter of this function may have.
    fn room(&self, id: FunctionId) -> Option<SandboxId> {
        let function = self.functions.get(&id)?;
        function.waiters.front()?;
        let state = |id: &SandboxId| self.sandboxes.get(id).map(|sandbox| sandbox.state);
        function.ready.last().copied().or_else(|| {
            let has_room =
                |id: &&SandboxId| state(id).is_some_and(|state| function.has_room(state));
            function.owned.iter().find(has_room).copied()
        })
    }

    /// Queues starts until the function has what `wanted` requests at once are worth.
    fn demand(&mut self, now: Instant, id: FunctionId, wanted: u64, cause: Cause) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        if self.closing || function.retired || function.policy.memory > self.bounds.memory {
            return;
        }
        if let Some(until) = function.backoff.paused(now) {
            return self.wake_by(until);
        }
        let doubted = function.backoff.in_doubt();
        let unproven =
            |id: &SandboxId| self.sandboxes[id].owner.as_ref().is_some_and(|owner| !owner.reported);
        let target = function.target(wanted);
        while function.serving + function.queued < target && function.held() < function.policy.max {
            if doubted && (function.queued > 0 || function.owned.iter().any(unproven)) {
                return;
            }
            function.queued += 1;
            self.starts.push_back(Start { function: id, cause });
        }
    }

    /// Refuses the waiters of a function that has no sandbox and none on the way.
    fn refuse_hopeless(&mut self, id: FunctionId, effects: &mut Vec<Effect>) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        let dying =
            |id: &SandboxId| self.sandboxes[id].owner.as_ref().is_some_and(|owner| !owner.reported);
        if function.held() > 0 || function.owned.iter().any(dying) {
            return;
        }
        let error = match function.backoff.reason().or_else(|| self.creation.reason()) {
            Some(reason) => LeaseError::StartFailed { reason: reason.clone() },
            None => LeaseError::Saturated { max: function.policy.max, waited: Duration::ZERO },
        };
        refuse_all(function, &error, effects);
    }

    /// Uses what is parked, makes room, and refills; whatever happened may have changed these.
    fn settle(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.daemon != Daemon::Ready || self.closing {
            return;
        }
        self.activate(now, effects);
        self.trim(now, effects);
        self.refill(now, effects);
    }

    /// Puts queued starts into parked sandboxes, oldest first.
    fn activate(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let (mut next, mut short) = (0, false);
        while let Some(start) = self.starts.get(next).copied() {
            let Some(function) = self.functions.get(&start.function) else { return };
            let policy = function.policy;
            let fits = |id: &&SandboxId| self.sandboxes[id].scratch == policy.scratch;
            let Some(sandbox) = self.parked.iter().find(fits).copied() else {
                next += 1;
                continue;
            };
            let more = policy.memory.saturating_sub(PARKED_MEMORY);
            match self.make_room(now, more, Some((start.function, sandbox)), effects) {
                Room::Free => {
                    self.starts.remove(next);
                    self.start(now, start, sandbox, effects);
                }
                Room::Coming => return,
                // Nothing can be evicted: a later, smaller one may still fit.
                Room::None => {
                    next += 1;
                    short = true;
                }
            }
        }
        if short {
            self.forget_unwaited();
        }
    }

    fn start(&mut self, now: Instant, start: Start, id: SandboxId, effects: &mut Vec<Effect>) {
        let Some(function) = self.functions.get_mut(&start.function) else { return };
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        function.queued -= 1;
        function.owned.insert(id);
        let due = now + function.policy.start_timeout;
        let memory = function.policy.memory.max(PARKED_MEMORY);
        self.memory = self.memory - sandbox.memory + memory;
        sandbox.memory = memory;
        sandbox.owner = Some(Owner {
            function: start.function,
            cause: start.cause,
            activated: now,
            executed: None,
            reported: false,
        });
        self.step(now, id, lifecycle::Event::Activate, effects);
        self.wake_by(due);
        effects.push(Effect::Activate { sandbox: id, function: start.function });
    }

    /// Drops the starts that nobody waits for: the next request will ask again.
    fn forget_unwaited(&mut self) {
        let functions = &mut self.functions;
        self.starts.retain(|start| {
            functions.get_mut(&start.function).is_some_and(|function| {
                let keep = !function.waiters.is_empty();
                function.queued -= usize::from(!keep);
                keep
            })
        });
    }

    /// Parked sandboxes of this scratch size that the queued starts need, and those kept besides.
    fn parked_target(&self, scratch: u64) -> usize {
        let needs = |start: &&Start| {
            self.functions
                .get(&start.function)
                .is_some_and(|function| function.policy.scratch == scratch)
        };
        let kept = if scratch == 0 { self.bounds.parked } else { 0 };
        kept + self.starts.iter().filter(needs).count()
    }

    /// Removes parked sandboxes that no start needs any more.
    fn trim(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let mut kept: BTreeMap<u64, usize> = BTreeMap::new();
        for id in self.parked.clone() {
            let scratch = self.sandboxes[&id].scratch;
            let count = kept.entry(scratch).or_default();
            if *count < self.parked_target(scratch) {
                *count += 1;
            } else {
                self.end(now, id, lifecycle::Event::Drain, Reason::Surplus, effects);
            }
        }
    }

    /// Has sandboxes made: first those that starts need, oldest first, then those to be kept ready.
    /// None takes memory that a start before it waits for, or the two would take turns for ever.
    fn refill(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let Some(until) = self.creation.paused(now) {
            return self.wake_by(until);
        }
        let mut stock = self.stock();
        let mut owed: u64 = 0;
        for policy in self.queued() {
            let ready = stock.entry(policy.scratch).or_default();
            if *ready > 0 {
                *ready -= 1;
            } else if self.creating >= self.bounds.creating_max {
                return;
            } else {
                let room = match owed {
                    0 => self.make_room(now, PARKED_MEMORY, None, effects),
                    _ if self.free() >= owed.saturating_add(PARKED_MEMORY) => Room::Free,
                    _ => return,
                };
                match room {
                    Room::Free => self.create(now, policy.scratch, effects),
                    Room::Coming => return,
                    Room::None => return self.forget_unwaited(),
                }
            }
            owed = owed.saturating_add(policy.memory.saturating_sub(PARKED_MEMORY));
        }
        let mut kept = stock.get(&0).copied().unwrap_or_default();
        while kept < self.bounds.parked
            && self.creating < self.bounds.creating_max
            && self.free() >= owed.saturating_add(PARKED_MEMORY)
        {
            self.create(now, 0, effects);
            kept += 1;
        }
    }

    /// Sandboxes without a function, there or on the way, by scratch size.
    fn stock(&self) -> BTreeMap<u64, usize> {
        let mut stock = BTreeMap::new();
        for sandbox in self.sandboxes.values() {
            if matches!(sandbox.state, State::Creating | State::Parked) {
                *stock.entry(sandbox.scratch).or_default() += 1;
            }
        }
        stock
    }

    /// Whose starts wait, oldest first.
    fn queued(&self) -> Vec<Policy> {
        let policy = |start: &Start| Some(self.functions.get(&start.function)?.policy);
        self.starts.iter().filter_map(policy).collect()
    }

    fn create(&mut self, now: Instant, scratch: u64, effects: &mut Vec<Effect>) {
        let sandbox = SandboxId(self.next_sandbox);
        self.next_sandbox += 1;
        self.creating += 1;
        self.memory += PARKED_MEMORY;
        self.sandboxes.insert(sandbox, Sandbox::new(now, scratch));
        effects.push(Effect::Create { sandbox, scratch });
    }

    /// Ends a sandbox, at once or as soon as its requests have ended; the first reason stays.
    fn end(
        &mut self,
        now: Instant,
        id: SandboxId,
        how: lifecycle::Event,
        reason: Reason,
        effects: &mut Vec<Effect>,
    ) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        sandbox.ending.get_or_insert(Ending { reason, kill_at: None });
        self.step(now, id, how, effects);
    }

    /// The only place where a sandbox changes its state, and where all that follows from it is noted.
    fn step(
        &mut self,
        now: Instant,
        id: SandboxId,
        event: lifecycle::Event,
        effects: &mut Vec<Effect>,
    ) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        // What the daemon says out of turn changes nothing.
        let Ok(next) = sandbox.state.on(event) else { return };
        let last = std::mem::replace(&mut sandbox.state, next);
        if let Some(owner) = &sandbox.owner
            && let Some(function) = self.functions.get_mut(&owner.function)
        {
            function.moved(id, last, next);
        }
        if last == State::Creating && next != State::Creating {
            self.creating -= 1;
        }
        if next == State::Parked {
            self.parked.push_back(id);
        } else if last == State::Parked {
            self.parked.retain(|other| *other != id);
        }
        match (last, next) {
            (State::Removing, State::Removing) if event == lifecycle::Event::Remove => {
                self.kill(id, effects);
            }
            (State::Removing, _) => {}
            (_, State::Removing) => self.dismiss(now, id, last, effects),
            _ => {}
        }
    }

    /// Begins to end a sandbox: politely if its function runs and did nothing wrong.
    fn dismiss(&mut self, now: Instant, id: SandboxId, last: State, effects: &mut Vec<Effect>) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        let runs = !matches!(last, State::Creating | State::Parked | State::Activating);
        let grace = sandbox
            .owner
            .as_ref()
            .and_then(|owner| self.functions.get(&owner.function))
            .map(|function| function.policy.grace);
        match (&mut sandbox.ending, grace) {
            (Some(ending), Some(grace)) if runs && ending.reason.is_polite() => {
                let due = now + grace;
                ending.kill_at = Some(due);
                self.wake_by(due);
                if self.daemon != Daemon::Absent {
                    effects.push(Effect::Terminate(id));
                }
            }
            _ => self.kill(id, effects),
        }
    }

    fn kill(&mut self, id: SandboxId, effects: &mut Vec<Effect>) {
        if let Some(ending) = self.sandboxes.get_mut(&id).and_then(|it| it.ending.as_mut()) {
            ending.kill_at = None;
        }
        // Without a daemon nobody is there to do it; the next one will sweep.
        if self.daemon != Daemon::Absent {
            effects.push(Effect::Remove(id));
        }
    }

    /// Says once how a start ended, and lets its function feel it.
    fn report(
        &mut self,
        now: Instant,
        id: SandboxId,
        outcome: Result<(), Reason>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(owner) = self.owner_mut(id) else { return };
        if std::mem::replace(&mut owner.reported, true) {
            return;
        }
        let (function, cause) = (owner.function, owner.cause);
        if let Some(function) = self.functions.get_mut(&function) {
            match &outcome {
                Ok(()) => function.backoff.succeed(),
                // None of these is the start's fault.
                Err(Reason::DaemonLost | Reason::Retired | Reason::Shutdown | Reason::Tainted) => {}
                Err(reason) => function.backoff.fail(now, reason.clone()),
            }
        }
        effects.push(Effect::Prepared { sandbox: id, function, cause, outcome });
    }

    fn owner_mut(&mut self, id: SandboxId) -> Option<&mut Owner> {
        self.sandboxes.get_mut(&id)?.owner.as_mut()
    }

    fn wake_when_idle(&mut self, id: SandboxId) {
        let Some(sandbox) = self.sandboxes.get(&id) else { return };
        let function = sandbox.owner.as_ref().and_then(|owner| self.functions.get(&owner.function));
        if let (State::Idle, Some(function)) = (sandbox.state, function) {
            self.wake_by(sandbox.since + function.policy.idle_timeout);
        }
    }

    fn wake_by(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

fn refuse_all(function: &mut Function, error: &LeaseError, effects: &mut Vec<Effect>) {
    let refuse = |waiter: Waiter| Effect::Refuse { waiter: waiter.id, error: error.clone() };
    effects.extend(function.waiters.drain(..).map(refuse));
}
