//! One function's pauses between requests: since when it rests, and what follows from how long it usually does.

use super::function::{KeepAlive, Policy};
use super::idle_times::{IdleTimes, Plan};
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub(super) struct Pauses {
    plan: Plan,
    /// Only where the policy asks for it.
    times: Option<IdleTimes>,
    /// Since when no request is known to run.
    quiet_since: Option<Instant>,
    /// A sandbox was made ahead in this pause already.
    prewarmed: bool,
    /// The host does not want one kept longer.
    keep_max: Duration,
}

impl Pauses {
    pub(super) fn new(policy: &Policy) -> Pauses {
        Pauses {
            plan: Plan { prewarm: Duration::ZERO, keep: policy.idle_timeout },
            times: (policy.keep_alive == KeepAlive::Histogram)
                .then(|| IdleTimes::new(policy.idle_timeout)),
            quiet_since: None,
            prewarmed: false,
            keep_max: Duration::MAX,
        }
    }

    /// From now on an idle sandbox is kept at most so long.
    pub(super) fn keep_at_most(&mut self, keep: Duration) {
        self.keep_max = keep;
    }

    /// A request came when none was known to run.
    pub(super) fn end(&mut self, now: Instant) {
        let Some(times) = &mut self.times else { return };
        if let Some(since) = self.quiet_since.replace(now) {
            times.record(now.saturating_duration_since(since));
            self.plan = times.plan();
        }
        self.prewarmed = false;
    }

    /// A request got a sandbox.
    pub(super) fn busy(&mut self) {
        self.quiet_since = None;
    }

    /// The last request that had a sandbox has ended.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.times.is_some() {
            self.quiet_since = Some(now);
            self.prewarmed = false;
        }
    }

    /// How long an idle sandbox is kept that a request has used, or that was made ahead of the next.
    pub(super) fn keep(&self, used: bool) -> Duration {
        let keep = match self.plan.prewarm {
            Duration::ZERO => self.plan.keep,
            _ if used => Duration::ZERO,
            prewarm => self.plan.keep - prewarm,
        };
        keep.min(self.keep_max)
    }

    /// When a sandbox is to be made ahead of the next request.
    pub(super) fn prewarm_at(&self) -> Option<Instant> {
        let due = self.quiet_since? + self.plan.prewarm;
        (!self.prewarmed && !self.plan.prewarm.is_zero()).then_some(due)
    }

    /// It was made, or need not be any more in this pause.
    pub(super) fn prewarmed(&mut self) {
        self.prewarmed = true;
    }

    /// Whether the time to have one is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.quiet_since.is_none_or(|since| now >= since + self.plan.keep)
    }
}
