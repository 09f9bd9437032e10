//! One function's place in the schedule: its bounds, who waits for it and what it has.

use super::backoff::Backoff;
use super::pauses::Pauses;
use crate::lifecycle::State;
use crate::protocol::SandboxId;
use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::time::{Duration, Instant, SystemTime};

/// A revision of a function; a number is never used again during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionId(pub u64);

/// A request that waits for a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub u64);

/// The span that something is done for, kept and handed back so that the two can be linked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// W3C trace id; 0 when no request caused it.
    pub trace_id: u128,
    /// W3C span id.
    pub span_id: u64,
    /// The trace is recorded.
    pub sampled: bool,
    /// When it asked: what a parked sandbox went through before is none of its doing.
    pub at: Option<SystemTime>,
}

/// What the schedule knows of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Bytes of the budget that one sandbox of it takes.
    pub memory: u64,
    /// Bytes of private `/tmp`; 0 for none.
    pub scratch: u64,
    /// Sandboxes kept even when idle.
    pub min: usize,
    /// Sandboxes at most.
    pub max: usize,
    /// Requests at once in one sandbox.
    pub concurrency: NonZeroU32,
    /// How long an idle sandbox is kept, or kept at most.
    pub idle_timeout: Duration,
    /// How that is decided.
    pub keep_alive: KeepAlive,
    /// How long an idle sandbox runs before it is frozen.
    pub freeze_after: Duration,
    /// From activation to the first accept, and the longest that a request waits.
    pub start_timeout: Duration,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
}

/// How long idle sandboxes are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepAlive {
    /// For the idle timeout.
    #[default]
    Fixed,
    /// As the pauses between the function's requests suggest, at most that; one may be made ahead of the next.
    Histogram,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) id: WaiterId,
    pub(super) cause: Cause,
    pub(super) since: Instant,
}

#[derive(Clone, Debug)]
pub(super) struct Function {
    pub(super) policy: Policy,
    /// Warm sandboxes with room; the one used last comes last and is taken first, so that the others can freeze and go.
    pub(super) ready: Vec<SandboxId>,
    /// All its sandboxes until they are gone.
    pub(super) owned: BTreeSet<SandboxId>,
    pub(super) waiters: VecDeque<Waiter>,
    pub(super) backoff: Backoff,
    pub(super) pauses: Pauses,
    /// Requests that got a sandbox of it since it last had none.
    pub(super) uses: u64,
    /// How long its last start took.
    pub(super) cost: Duration,
    pub(super) retired: bool,
    /// Starts that wait for a parked sandbox or for memory.
    pub(super) queued: usize,
    /// Sandboxes that serve or soon will.
    pub(super) serving: usize,
    /// Sandboxes that finish what they have.
    pub(super) draining: usize,
    /// Requests in its serving and draining sandboxes.
    pub(super) leases: u64,
}

impl Function {
    pub(super) fn new(policy: Policy) -> Function {
        Function {
            policy,
            ready: Vec::new(),
            owned: BTreeSet::new(),
            waiters: VecDeque::new(),
            backoff: Backoff::default(),
            pauses: Pauses::new(&policy),
            uses: 0,
            cost: Duration::ZERO,
            retired: false,
            queued: 0,
            serving: 0,
            draining: 0,
            leases: 0,
        }
    }

    /// Sandboxes that `wanted` requests at once are worth, within its bounds.
    pub(super) fn target(&self, wanted: u64) -> usize {
        let worth = wanted.div_ceil(u64::from(self.policy.concurrency.get()));
        usize::try_from(worth).unwrap_or(usize::MAX).max(self.policy.min).min(self.policy.max)
    }

    /// Requests that want a sandbox now.
    pub(super) fn wanted(&self) -> u64 {
        self.leases + self.waiters.len() as u64
    }

    /// Sandboxes that count against its `max`: a draining one still works.
    pub(super) fn held(&self) -> usize {
        self.queued + self.serving + self.draining
    }

    /// It may lose an idle sandbox.
    pub(super) fn has_spare(&self) -> bool {
        self.retired || self.serving > self.policy.min
    }

    /// Notes that a sandbox went from one state to another.
    pub(super) fn moved(&mut self, id: SandboxId, from: State, to: State) {
        self.serving = self.serving + usize::from(to.is_serving()) - usize::from(from.is_serving());
        let drains = |state| usize::from(matches!(state, State::Draining(_)));
        self.draining = self.draining + drains(to) - drains(from);
        self.leases = self.leases + u64::from(to.leases()) - u64::from(from.leases());
        match (self.is_ready(from), self.is_ready(to)) {
            (false, true) => self.ready.push(id),
            (true, false) if self.ready.last() == Some(&id) => {
                self.ready.pop();
            }
            (true, false) => self.ready.retain(|other| *other != id),
            _ => {}
        }
    }

    /// A sandbox in this state can take one more request, though it may not have accepted one yet.
    pub(super) fn has_room(&self, state: State) -> bool {
        matches!(state, State::Idle | State::Leased(_) | State::Frozen | State::Starting(_))
            && state.leases() < self.policy.concurrency.get()
    }

    fn is_ready(&self, state: State) -> bool {
        matches!(state, State::Idle | State::Leased(_) | State::Frozen) && self.has_room(state)
    }
}
