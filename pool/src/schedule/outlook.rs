//! What the pool could do for one more request of a function, without doing it.

use super::function::FunctionId;
use super::{Daemon, PARKED_MEMORY, Schedule};
use crate::lifecycle::State;
use std::time::{Duration, Instant};

/// What there is for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// A warm sandbox has room.
    pub warm: bool,
    /// A parked sandbox can become one of this function at once.
    pub parked: bool,
    /// Its sandboxes that accept and have as many requests as they take.
    pub busy: u32,
    /// Its sandboxes that do not accept yet.
    pub starting: u32,
    /// Requests that wait for a sandbox.
    pub waiting: u32,
    /// Its sandboxes that serve, or soon will.
    pub sandboxes: u32,
}

impl Schedule {
    /// Keeps idle sandboxes of `function` at most for `keep` from now on, below its own bound.
    pub fn keep_at_most(&mut self, function: FunctionId, keep: Duration) {
        if let Some(function) = self.functions.get_mut(&function) {
            function.pauses.keep_at_most(keep);
        }
    }

    /// What there is for one more request of `function` at `now`.
    pub fn outlook(&self, now: Instant, function: FunctionId) -> Outlook {
        let Some(known) = self.functions.get(&function) else { return Outlook::default() };
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let states = known.owned.iter().filter_map(|id| Some(self.sandboxes.get(id)?.state));
        let is_starting = |state: &State| matches!(state, State::Activating | State::Starting(_));
        let starting = states.clone().filter(is_starting).count();
        let is_busy = |state: &State| matches!(state, State::Leased(_)) && !known.has_room(*state);
        let fits = |id| self.sandboxes.get(id).is_some_and(|it| it.scratch == known.policy.scratch);
        let may_start = self.daemon == Daemon::Ready
            && !self.closing
            && !known.retired
            && known.backoff.paused(now).is_none()
            && !known.backoff.in_doubt()
            && known.held() < known.policy.max
            && self.starts.is_empty()
            && self.free() >= known.policy.memory.saturating_sub(PARKED_MEMORY);
        Outlook {
            warm: !known.ready.is_empty(),
            parked: may_start && self.parked.iter().any(fits),
            busy: count(states.filter(is_busy).count()),
            starting: count(starting + known.queued),
            waiting: count(known.waiters.len()),
            sandboxes: count(known.serving + known.queued),
        }
    }
}
