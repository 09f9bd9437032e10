//! Whether sandboxes have a claim to the cores, or stand behind all who answer requests.
//!
//! ```text
//! Unknown ─▶ Claimed ──nobody waits for a sandbox for 3 ms, and one is made or removed, or a tick──▶ Yielded
//!               ▲                                                                                      │
//!               └──somebody waits: a start, a request in one or for one, what is made or removed late──┘
//! ```
//! What is done for later requests has the cores that nobody else wants. It has no turns of its own, since whoever wakes
//! up for a request would wait for their end.

use super::Schedule;
use super::daemon::Daemon;
use super::effect::Effect;
use crate::lifecycle::State;
use std::time::{Duration, Instant};

/// How long a sandbox may be in the making, or on its way out, behind all others. It takes some 10 ms of a core, and for
/// ever where others want all of them.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// For how long nobody has to have waited before sandboxes yield the cores. By the scheduler's rules (EEVDF's lag) what
/// they used meanwhile counts against them when they claim them again; what that costs a request was not measured.
pub(super) const LULL: Duration = Duration::from_millis(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cores {
    /// Nobody was told anything.
    Unknown,
    Claimed,
    Yielded,
}

impl Schedule {
    /// Has sandboxes claim the cores when somebody waits for one, and yield them when there is work in them all the same.
    pub(super) fn claim_or_yield(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.daemon != Daemon::Ready {
            self.cores = Cores::Unknown;
            return;
        }
        let at_work = self.tally.is_at_work();
        if self.somebody_waits() || at_work && self.something_is_late(now) {
            self.lull = None;
            self.switch_cores(Cores::Claimed, effects);
        } else if self.cores == Cores::Unknown {
            self.switch_cores(Cores::Yielded, effects);
        } else if at_work && self.cores == Cores::Claimed {
            let due = *self.lull.get_or_insert(now) + LULL;
            if due > now {
                self.wake_by(due);
            } else {
                self.switch_cores(Cores::Yielded, effects);
            }
        }
    }

    /// What was said last: that they claim the cores, or yield them.
    pub fn claims_cores(&self) -> Option<bool> {
        match self.cores {
            Cores::Unknown => None,
            Cores::Claimed => Some(true),
            Cores::Yielded => Some(false),
        }
    }

    /// Yields what nobody has needed lately: another run may have work to do.
    pub(super) fn yield_unneeded(&mut self, effects: &mut Vec<Effect>) {
        if self.cores == Cores::Claimed && !self.somebody_waits() && !self.tally.is_at_work() {
            self.switch_cores(Cores::Yielded, effects);
        }
    }

    fn switch_cores(&mut self, next: Cores, effects: &mut Vec<Effect>) {
        if std::mem::replace(&mut self.cores, next) == next {
            return;
        }
        effects.push(match next {
            Cores::Claimed => Effect::ClaimCores,
            Cores::Yielded | Cores::Unknown => Effect::YieldCores,
        });
    }

    fn somebody_waits(&self) -> bool {
        self.closing
            || self.tally.wanted > 0
            || !self.starts.is_empty()
            || self.functions.values().any(|function| !function.waiters.is_empty())
    }

    /// Wakes up when it will be otherwise.
    fn something_is_late(&mut self, now: Instant) -> bool {
        let works = |state| matches!(state, State::Creating | State::Removing);
        let oldest = self.sandboxes.values().filter(|it| works(it.state)).map(|it| it.since).min();
        let Some(due) = oldest.map(|since| since + PATIENCE) else { return false };
        if due > now {
            self.wake_by(due);
        }
        due <= now
    }
}
