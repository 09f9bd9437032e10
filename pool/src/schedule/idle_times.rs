//! How long a function's sandboxes are kept, and when one is made ahead of the next request, from the pauses
//! between its requests: the hybrid histogram policy of "Serverless in the Wild" (Shahrad et al., ATC '20).
//!
//! ```text
//!            head: 5th percentile, less a tenth        tail: 99th, and a tenth more
//! requests end ──────────────┬─────────────────────────────────┬──────────▶ time
//!      no sandbox is kept    │ one is made ahead and kept      │ none
//! ```
//! A head within the first bin means that one is kept from the start. Where the histogram says little (few pauses
//! seen, most of them beyond its range, or spread so evenly that no bin stands out) a sandbox is kept for the
//! whole range, which is what `fixed` does.

use std::time::Duration;

/// As in the paper, whose range of 4 h they divide into minutes. Ours is the function's `idle_timeout`.
const BINS: u32 = 240;
const HEAD_PERCENT: u64 = 5;
const TAIL_PERCENT: u64 = 99;
/// Pauses below which nothing is said.
const FEWEST: u64 = 10;
/// The paper's least coefficient of variation of the bins' counts.
const VARIATION_MIN: f64 = 2.0;
/// Past so many, all counts are halved, so that what a function does now outweighs what it once did.
const MOST: u64 = 10_000;

/// The pauses of one function.
#[derive(Clone, Debug)]
pub(super) struct IdleTimes {
    range: Duration,
    bins: Box<[u32]>,
    beyond: u32,
}

/// What is to be done with sandboxes between requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Until then after a request none is kept; zero: one is kept from the start.
    pub(super) prewarm: Duration,
    /// After then none is kept.
    pub(super) keep: Duration,
}

impl IdleTimes {
    /// None seen yet.
    pub(super) fn new(range: Duration) -> IdleTimes {
        IdleTimes { range, bins: vec![0; BINS as usize].into(), beyond: 0 }
    }

    /// Counts a pause.
    pub(super) fn record(&mut self, pause: Duration) {
        let width = self.width().as_nanos().max(1);
        let bin = usize::try_from(pause.as_nanos() / width).unwrap_or(usize::MAX);
        let count = self.bins.get_mut(bin).unwrap_or(&mut self.beyond);
        *count += 1;
        if self.seen() > MOST {
            self.bins.iter_mut().chain([&mut self.beyond]).for_each(|count| *count /= 2);
        }
    }

    /// What the pauses so far suggest.
    pub(super) fn plan(&self) -> Plan {
        if !self.is_representative() {
            return Plan { prewarm: Duration::ZERO, keep: self.range };
        }
        let head = self.width() * self.percentile(HEAD_PERCENT);
        let tail = self.width() * (self.percentile(TAIL_PERCENT) + 1);
        Plan { prewarm: head - head / 10, keep: (tail + tail / 10).min(self.range) }
    }

    fn is_representative(&self) -> bool {
        self.seen() >= FEWEST
            && u64::from(self.beyond) * 2 <= self.seen()
            && self.variation() >= VARIATION_MIN
    }

    /// The bin below whose end this share of all pauses lies; the one past the last for those beyond the range.
    fn percentile(&self, percent: u64) -> u32 {
        let mut left = (self.seen() * percent).div_ceil(100);
        for (bin, count) in (0..).zip(&self.bins) {
            match left.checked_sub(u64::from(*count)) {
                Some(rest) if rest > 0 => left = rest,
                _ => return bin,
            }
        }
        BINS
    }

    /// The coefficient of variation of the bins' counts: 0 when all are alike, 15.5 when one has all.
    fn variation(&self) -> f64 {
        let mean = self.bins.iter().map(|count| f64::from(*count)).sum::<f64>() / f64::from(BINS);
        let deviation = |count: &u32| (f64::from(*count) - mean).powi(2);
        let variance = self.bins.iter().map(deviation).sum::<f64>() / f64::from(BINS);
        if mean == 0.0 { 0.0 } else { variance.sqrt() / mean }
    }

    fn seen(&self) -> u64 {
        self.bins.iter().chain([&self.beyond]).map(|count| u64::from(*count)).sum()
    }

    fn width(&self) -> Duration {
        self.range / BINS
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, FEWEST, IdleTimes, MOST, Plan};
    use proptest::prelude::*;

    /// Bins of a second.
    const RANGE: Duration = Duration::from_secs(240);
    const FIXED: Plan = Plan { prewarm: Duration::ZERO, keep: RANGE };

    fn plan(pauses: impl IntoIterator<Item = u64>) -> Plan {
        let mut times = IdleTimes::new(RANGE);
        pauses.into_iter().for_each(|seconds| times.record(Duration::from_secs(seconds)));
        times.plan()
    }

    #[test]
    fn a_regular_caller_finds_a_sandbox_made_shortly_before_and_kept_shortly_after() {
        let plan = plan([100; 50]);
        assert_eq!(plan.prewarm, Duration::from_secs(90));
        assert_eq!(plan.keep, Duration::from_millis(111_100));
    }

    #[test]
    fn pauses_within_the_first_bin_mean_that_one_is_kept_from_the_start() {
        let plan = plan([0; 50]);
        assert_eq!((plan.prewarm, plan.keep), (Duration::ZERO, Duration::from_millis(1_100)));
    }

    #[test]
    fn one_pause_in_a_hundred_may_be_longer_than_is_kept() {
        let pauses = |rare| [vec![10; 1000 - rare], vec![200; rare]].concat();
        assert!(plan(pauses(10)).keep < Duration::from_secs(20));
        assert!(plan(pauses(11)).keep > Duration::from_secs(200));
    }

    #[test]
    fn too_few_pauses_say_nothing() {
        let few = usize::try_from(FEWEST).unwrap();
        assert_eq!(plan(vec![100; few - 1]), FIXED);
        assert_ne!(plan(vec![100; few]), FIXED);
    }

    #[test]
    fn pauses_mostly_beyond_the_range_say_nothing() {
        let pauses = |beyond| [vec![100; 50], vec![1_000; beyond]].concat();
        assert_ne!(plan(pauses(50)), FIXED);
        assert_eq!(plan(pauses(51)), FIXED);
    }

    #[test]
    fn pauses_spread_evenly_say_nothing() {
        assert_eq!(plan((0..240).cycle().take(2_400)), FIXED);
    }

    #[test]
    fn a_new_habit_outweighs_an_old_one_in_time() {
        let most = usize::try_from(MOST).unwrap();
        let plan = plan([vec![100; most], vec![10; 8 * most]].concat());
        assert!(plan.keep < Duration::from_secs(13), "{plan:?}");
    }

    proptest! {
        #[test]
        fn a_plan_lies_within_the_range_and_covers_the_pauses_it_should(
            pauses in prop::collection::vec(0..300u64, 0..400),
        ) {
            let plan = plan(pauses.clone());
            prop_assert!(plan.prewarm <= plan.keep && plan.keep <= RANGE, "{plan:?}");
            let seconds = |pause: &u64| Duration::from_secs(*pause);
            let within = pauses.iter().map(seconds).filter(|pause| *pause < RANGE);
            let late = within.clone().filter(|pause| *pause >= plan.keep).count();
            prop_assert!(late * 100 <= pauses.len(), "{late} of {} come too late", pauses.len());
            let early = within.filter(|pause| *pause + Duration::from_secs(1) <= plan.prewarm).count();
            prop_assert!(early * 100 <= pauses.len() * 5, "{early} of {} come too early", pauses.len());
        }
    }
}
