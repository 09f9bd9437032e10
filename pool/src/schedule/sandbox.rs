//! One sandbox's place in the schedule, and how the schedule shows its sandboxes to others.

use super::Schedule;
use super::function::{Cause, FunctionId};
use super::greedy_dual::Credit;
use crate::lifecycle::State;
use crate::protocol::SandboxId;
use crate::reason::Reason;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub(super) struct Sandbox {
    pub(super) state: State,
    pub(super) scratch: u64,
    /// What it costs of the budget.
    pub(super) memory: u64,
    pub(super) born: Instant,
    /// When its making began; then when a request last got it or gave it back, or when it accepted first; then when its
    /// end began.
    pub(super) since: Instant,
    /// A request had it.
    pub(super) used: bool,
    /// What it is worth when memory is short.
    pub(super) credit: Credit,
    pub(super) owner: Option<Owner>,
    pub(super) ending: Option<Ending>,
}

/// Whose it is from activation on.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) function: FunctionId,
    pub(super) cause: Cause,
    pub(super) activated: Instant,
    pub(super) handed_over: Option<Instant>,
    /// How the start ended has been said.
    pub(super) reported: bool,
}

/// Why it ends, and when patience does.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) reason: Reason,
    pub(super) kill_at: Option<Instant>,
}

impl Sandbox {
    pub(super) fn new(now: Instant, scratch: u64) -> Sandbox {
        Sandbox {
            state: State::Creating,
            scratch,
            memory: super::PARKED_MEMORY,
            born: now,
            since: now,
            used: false,
            credit: 0,
            owner: None,
            ending: None,
        }
    }
}

/// A sandbox as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxInfo {
    /// Which.
    pub id: SandboxId,
    /// Whose.
    pub function: Option<FunctionId>,
    /// Where in its life.
    pub state: State,
    /// Its init, once parked.
    pub pid: Option<u32>,
    /// Since it was asked for.
    pub age: Duration,
    /// Bytes of the budget that it is charged.
    pub charged: u64,
    /// Why it ends, if it does.
    pub ending: Option<Reason>,
}

/// A function whose last starts failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// Why the last one did.
    pub reason: Reason,
    /// How many in a row.
    pub failures: u32,
    /// Until the next may be tried.
    pub retry_in: Duration,
}

/// Sandboxes by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Being made.
    pub creating: usize,
    /// Generic and ready.
    pub parked: usize,
    /// Given a function that does not accept yet.
    pub starting: usize,
    /// Warm, with requests or without.
    pub warm: usize,
    /// Warm and stopped.
    pub frozen: usize,
    /// Finishing what they have.
    pub draining: usize,
    /// On the way out.
    pub removing: usize,
}

impl Counts {
    fn add(&mut self, state: State) {
        let count = match state {
            State::Creating => &mut self.creating,
            State::Parked => &mut self.parked,
            State::Activating | State::Starting(_) => &mut self.starting,
            State::Idle | State::Leased(_) => &mut self.warm,
            State::Frozen => &mut self.frozen,
            State::Draining(_) => &mut self.draining,
            State::Removing => &mut self.removing,
            State::Removed => return,
        };
        *count += 1;
    }
}

/// The pool in numbers. A lease or release alone does not change them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// A daemon is there and takes orders.
    pub ready: bool,
    /// All sandboxes.
    pub total: Counts,
    /// Those of each function.
    pub functions: BTreeMap<FunctionId, Counts>,
    /// Bytes of the budget in use.
    pub memory: u64,
    /// Starts that wait for a parked sandbox or for memory.
    pub queued: usize,
}

impl Schedule {
    /// The pool in numbers.
    pub fn statistics(&self) -> Statistics {
        let mut statistics = Statistics {
            ready: self.daemon == super::Daemon::Ready,
            memory: self.memory,
            queued: self.starts.len(),
            functions: self.functions.keys().map(|id| (*id, Counts::default())).collect(),
            ..Statistics::default()
        };
        for sandbox in self.sandboxes.values() {
            statistics.total.add(sandbox.state);
            if let Some(owner) = &sandbox.owner {
                statistics.functions.entry(owner.function).or_default().add(sandbox.state);
            }
        }
        statistics
    }

    /// Every sandbox there is; whoever knows the processes adds the pid.
    pub fn sandboxes(&self, now: Instant) -> impl Iterator<Item = SandboxInfo> {
        self.sandboxes.iter().map(move |(id, sandbox)| SandboxInfo {
            id: *id,
            function: sandbox.owner.as_ref().map(|owner| owner.function),
            state: sandbox.state,
            pid: None,
            age: now.saturating_duration_since(sandbox.born),
            charged: sandbox.memory,
            ending: sandbox.ending.as_ref().map(|ending| ending.reason.clone()),
        })
    }

    /// Where a sandbox is in its life; `None` once it is gone.
    pub fn state(&self, id: SandboxId) -> Option<State> {
        Some(self.sandboxes.get(&id)?.state)
    }

    /// Why a sandbox ends, if it does.
    pub fn ending(&self, id: SandboxId) -> Option<&Reason> {
        Some(&self.sandboxes.get(&id)?.ending.as_ref()?.reason)
    }

    /// Whether a function is left alone for a while because its starts fail, and why they do.
    pub fn quarantine(&self, now: Instant, function: FunctionId) -> Option<Quarantine> {
        let backoff = &self.functions.get(&function)?.backoff;
        Some(Quarantine {
            reason: backoff.reason()?.clone(),
            failures: backoff.failures(),
            retry_in: backoff.paused(now).map_or(Duration::ZERO, |until| until - now),
        })
    }
}
