//! How long to leave alone what keeps failing.
//!
//! The first failure may be retried at once (a parked sandbox can be killed under our hands), each
//! further one in a row doubles the pause; while in doubt only one attempt at a time is made.

use crate::reason::Reason;
use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
    reason: Option<Reason>,
}

impl Backoff {
    pub(super) fn fail(&mut self, now: Instant, reason: Reason) {
        let pause = self
            .failures
            .checked_sub(1)
            .map_or(Duration::ZERO, |doublings| FIRST.saturating_mul(1 << doublings.min(16)));
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + pause.min(LONGEST));
        self.reason = Some(reason);
    }

    pub(super) fn succeed(&mut self) {
        *self = Backoff::default();
    }

    /// The end of the pause, if one lies ahead.
    pub(super) fn paused(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// The last attempt failed.
    pub(super) fn in_doubt(&self) -> bool {
        self.failures > 0
    }

    /// Failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn reason(&self) -> Option<&Reason> {
        self.reason.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::{Backoff, Duration, Instant, LONGEST, Reason};

    #[test]
    fn pauses_double_from_nothing_up_to_a_bound_and_end_with_a_success() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..16)
            .map(|_| {
                backoff.fail(now, Reason::Died);
                backoff.paused(now).map_or(Duration::ZERO, |until| until - now)
            })
            .collect();
        assert_eq!(pauses[..4], [0, 100, 200, 400].map(Duration::from_millis));
        assert_eq!(pauses[15], LONGEST);
        backoff.succeed();
        assert!(backoff.paused(now).is_none() && !backoff.in_doubt());
    }
}
