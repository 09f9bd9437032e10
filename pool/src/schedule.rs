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
//! - while a function starts, nothing is made that nobody waits for, but the stock is not short for long;
//! - while somebody waits for what is in a sandbox, sandboxes claim the cores;
//! - nobody waits while there is room, and nobody waits longer than `start_timeout`;
//! - no frozen sandbox has a request;
//! - every sandbox is parked or on the way there, belongs to a function, or is being removed.

mod backoff;
mod cores;
mod daemon;
mod effect;
mod ending;
mod event;
mod function;
mod greedy_dual;
mod idle;
mod idle_times;
mod outlook;
mod pauses;
mod room;
mod sandbox;
mod starts;
mod stock;
mod tally;
#[cfg(test)]
mod tests;
mod waiters;

pub use effect::Effect;
pub use event::Event;
pub use function::{Cause, FunctionId, KeepAlive, Policy, WaiterId};
pub use outlook::Outlook;
pub use sandbox::{Counts, Quarantine, SandboxInfo, Statistics};

use crate::lifecycle::{self, State};
use crate::protocol::SandboxId;
use crate::reason::Reason;
use backoff::Backoff;
use cores::Cores;
use daemon::Daemon;
use function::{Function, Waiter};
use greedy_dual::Clock;
use sandbox::{Owner, Sandbox};
use starts::Start;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;
use tally::Tally;

/// What a sandbox without a function is charged: measured at 475 kB with its network namespace.
pub const PARKED_MEMORY: u64 = 1 << 20;

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
    /// Since when there are fewer than are to be kept ready.
    short_since: Option<Instant>,
    /// When the function that accepted last has had time for its first answer.
    settled: Option<Instant>,
    /// Of sandboxes by what they mean for the others.
    tally: Tally,
    /// What was said last about the cores.
    cores: Cores,
    /// Since when nobody waits, as far as that matters.
    lull: Option<Instant>,
    /// What all sandboxes cost.
    memory: u64,
    /// Of evictions.
    clock: Clock,
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
            short_since: None,
            settled: None,
            tally: Tally::default(),
            cores: Cores::Unknown,
            lull: None,
            memory: 0,
            clock: Clock::default(),
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
    pub fn try_lease(
        &mut self,
        now: Instant,
        function: FunctionId,
        effects: &mut Vec<Effect>,
    ) -> Option<SandboxId> {
        let id = self.ready(function)?;
        self.arrived(now, function, true);
        self.lend(now, id);
        if self.cores == Cores::Yielded {
            self.claim_or_yield(now, effects);
        }
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
            Event::HandedOver(id) => {
                if let Some(owner) = self.owner_mut(id) {
                    owner.handed_over = Some(now);
                }
                self.step(now, id, lifecycle::Event::HandedOver, effects);
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
                self.arrived(now, function, wanted <= 1);
                self.demand(now, function, u64::from(wanted), cause);
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
        self.claim_or_yield(now, effects);
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
            self.prewarm(now, id);
            self.tick_waiters(now, id, effects);
        }
        self.yield_unneeded(effects);
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
        self.tally.moved(last, next);
        if next == State::Removing && last != State::Removing {
            sandbox.since = now;
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

    fn owner_mut(&mut self, id: SandboxId) -> Option<&mut Owner> {
        self.sandboxes.get_mut(&id)?.owner.as_mut()
    }

    fn wake_by(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}
