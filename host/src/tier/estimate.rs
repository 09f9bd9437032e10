//! A streaming estimate of a duration that follows change.
//!
//! Observations are counted in buckets whose bounds grow by an eighth of an octave, and each one
//! weighs [`GROWTH`] times the one before (forward decay: Cormode, Shkapenyuk, Srivastava and Xu,
//! ICDE 2009). From that follows:
//! - a quantile is the true one of the weighted observations up to a factor of 2^(1/16), 4.4 %;
//! - after `k` observations all older ones together weigh at most `GROWTH^-k` of the whole: half
//!   after 45, a hundredth after 298;
//! - memory is constant and time to record is constant.

use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

/// Buckets of an octave.
const RESOLUTION: f64 = 8.0;

/// From 1 µs to 2^28 µs, 268 s; what is shorter or longer counts as these.
const BUCKETS: usize = 28 * 8 + 1;

/// How much more an observation weighs than the one before it.
pub const GROWTH: f64 = 1.0 + 1.0 / 64.0;

/// Weights are scaled back long before they overflow.
const RESCALE: f64 = 1e100;

/// Above this quantile observations count as the quantile: one in twenty may be any outlier (a
/// page fault, a busy machine) without moving the expectation.
const TRIM: f64 = 0.95;

/// With fewer observations than this one of them is more than one in twenty, and nothing above the
/// median counts: a slow first request in a new sandbox must not keep a function from its tier.
const FEW: u64 = 20;

/// Observations that the expectation may miss.
const LAG: u64 = 4;

/// Durations of one kind, as they have been lately.
#[derive(Clone, Debug)]
pub struct Estimate {
    weights: Box<[f64; BUCKETS]>,
    /// The buckets that were ever used lie in here.
    used: Range<usize>,
    total: f64,
    /// What the next observation weighs.
    unit: f64,
    samples: u64,
    /// The expectation, and how many observations it is still good for.
    expected: Option<(Duration, u64)>,
}

impl Default for Estimate {
    fn default() -> Self {
        Self {
            weights: Box::new([0.0; BUCKETS]),
            used: 0..0,
            total: 0.0,
            unit: 1.0,
            samples: 0,
            expected: None,
        }
    }
}

impl Estimate {
    /// Takes an observation.
    pub fn record(&mut self, duration: Duration) {
        let at = bucket(duration);
        self.used = match self.used.is_empty() {
            true => at..at + 1,
            false => self.used.start.min(at)..self.used.end.max(at + 1),
        };
        self.weights[at] += self.unit;
        self.total += self.unit;
        self.unit *= GROWTH;
        self.samples += 1;
        self.expected = self.expected.and_then(|(it, good)| Some((it, good.checked_sub(1)?)));
        if self.unit > RESCALE {
            let scale = self.unit.recip();
            self.weights.iter_mut().for_each(|weight| *weight *= scale);
            self.total *= scale;
            self.unit = 1.0;
        }
    }

    /// Observations ever taken.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// The smallest duration that a share `q` of the weight does not exceed; `None` without an
    /// observation.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        (self.samples > 0).then(|| Duration::from_secs_f64(SECONDS[self.rank(q)]))
    }

    /// The mean, with what lies above the 95th percentile counted as that, and of few observations
    /// with what lies above the median counted as that. Of an eighth of the
    /// observations, `LAG` at most, nothing may be seen yet: a new mean takes as long as a few
    /// hundred additions.
    #[must_use]
    pub fn expected(&mut self) -> Option<Duration> {
        if self.expected.is_none() && self.samples > 0 {
            self.expected = Some((self.trimmed_mean(), (self.samples / 8).min(LAG)));
        }
        self.expected.map(|(expected, _)| expected)
    }

    fn trimmed_mean(&self) -> Duration {
        let trim = self.rank(if self.samples < FEW { 0.5 } else { TRIM });
        let mut sum = 0.0;
        for at in self.used.clone() {
            sum += self.weights[at] * SECONDS[at.min(trim)];
        }
        Duration::from_secs_f64(sum / self.total)
    }

    fn rank(&self, q: f64) -> usize {
        let wanted = q * self.total;
        let mut sum = 0.0;
        let mut last = 0;
        for at in self.used.clone() {
            if self.weights[at] == 0.0 {
                continue;
            }
            sum += self.weights[at];
            last = at;
            if sum >= wanted {
                break;
            }
        }
        last
    }
}

/// The bucket whose middle is nearest, on the scale of ratios.
fn bucket(duration: Duration) -> usize {
    let octaves = (duration.as_secs_f64() * 1e6).max(1.0).log2();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 512 for any duration"
    )]
    let at = (octaves * RESOLUTION).round() as usize;
    at.min(BUCKETS - 1)
}

/// The middle of each bucket.
static SECONDS: LazyLock<[f64; BUCKETS]> =
    LazyLock::new(|| std::array::from_fn(|bucket| (bucket as f64 / RESOLUTION).exp2() * 1e-6));

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MICROSECOND: f64 = 1e-6;

    fn fed(values: &[f64]) -> Estimate {
        let mut estimate = Estimate::default();
        values.iter().for_each(|value| estimate.record(Duration::from_secs_f64(*value)));
        estimate
    }

    proptest! {
        #[test]
        fn a_quantile_is_the_weighted_one_within_a_sixteenth_of_an_octave(
            values in prop::collection::vec(MICROSECOND..200.0, 1..200),
            q in 0.0..1.0,
        ) {
            let mut sorted: Vec<(f64, f64)> = values
                .iter()
                .enumerate()
                .map(|(i, value)| (*value, GROWTH.powi(i32::try_from(i).unwrap())))
                .collect();
            sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
            let total: f64 = sorted.iter().map(|(_, weight)| weight).sum();
            let found = fed(&values).quantile(q).unwrap().as_secs_f64();
            // Where the sum of weights meets the share exactly, rounding may take either neighbour.
            let mut sum = 0.0;
            let near = sorted.iter().any(|(value, weight)| {
                let before = sum;
                sum += weight;
                let covers = before <= q * total * (1.0 + 1e-9) && sum >= q * total * (1.0 - 1e-9);
                covers && (found / value).log2().abs() <= 1.0 / 16.0 + 1e-3
            });
            prop_assert!(near, "{found} of {sorted:?}");
        }

        #[test]
        fn what_was_is_forgotten_at_the_stated_rate(
            before in MICROSECOND..100.0,
            after in MICROSECOND..100.0,
            many in 1usize..2_000,
        ) {
            let mut values = vec![before; many];
            values.extend(vec![after; 45]);
            let median = fed(&values).quantile(0.51).unwrap().as_secs_f64();
            // 45 observations weigh just over half.
            prop_assert!(GROWTH.powi(-45) < 0.5);
            let upper = after.max(before);
            prop_assert!(median <= upper * 1.05);
            if after >= before {
                prop_assert!((median / after).log2().abs() <= 0.07, "{median} for {after}");
            }
        }

        #[test]
        fn one_outlier_in_twenty_one_does_not_move_the_expectation(
            usual in 10e-6..1.0,
            outlier in 1.0..200.0,
            at in 0usize..21,
        ) {
            // The newest weigh most: as an outlier anywhere but among the last it is below a twentieth.
            let mut values = vec![usual; 24];
            values[at.min(8)] = outlier;
            let expected = fed(&values).expected().unwrap().as_secs_f64();
            prop_assert!((expected / usual).log2().abs() <= 0.07, "{expected} for {usual}");
        }
    }

    #[test]
    fn slow_ones_that_are_fewer_than_half_of_few_observations_do_not_move_the_expectation() {
        for few in 3..19 {
            let mut values = vec![5.0; (few - 1) / 2];
            values.resize(few, 0.5);
            let expected = fed(&values).expected().unwrap().as_secs_f64();
            assert!((expected / 0.5).log2().abs() <= 0.07, "{expected} of {few}");
        }
    }

    #[test]
    fn a_million_observations_do_not_overflow() {
        let mut estimate = Estimate::default();
        (0..1_000_000).for_each(|_| estimate.record(Duration::from_millis(3)));
        let expected = estimate.expected().unwrap();
        assert!((2.8..3.2).contains(&(expected.as_secs_f64() * 1e3)), "{expected:?}");
    }

    #[test]
    fn nothing_is_expected_before_the_first_observation() {
        assert_eq!(Estimate::default().expected(), None);
        assert_eq!(Estimate::default().quantile(0.5), None);
    }
}
