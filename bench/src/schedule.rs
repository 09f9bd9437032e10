//! From invocations per minute to the instant of each.

use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, Exp1};
use serde::{Deserialize, Serialize};

use crate::stats::wide;

/// How the invocations of a minute lie within it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    /// Gaps of an exponential distribution, as of a Poisson process.
    #[default]
    Exponential,
    /// Gaps of a uniform distribution.
    Uniform,
    /// Equal gaps.
    Equidistant,
}

/// The instants of all invocations, in ascending order, when each minute takes `minute` (60 s, or
/// less: the trace is compressed in time). A minute has exactly the invocations that it is given:
/// gaps are drawn, then scaled to fill it, as `InVitro` does.
#[must_use]
pub fn instants(counts: &[u32], minute: Duration, spacing: Spacing, seed: u64) -> Vec<Duration> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut instants = Vec::new();
    for (index, count) in (0_u32..).zip(counts) {
        let begin = minute * index;
        // One gap more than invocations: the one after the last.
        let mut gap = || match spacing {
            Spacing::Exponential => Exp1.sample(&mut random),
            Spacing::Uniform => random.random_range(0.0..1.0),
            Spacing::Equidistant => 1.0,
        };
        let gaps: Vec<f64> = (0..=*count).map(|_| gap()).collect();
        let whole = gaps.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let mut sum = 0.0;
        instants.extend(gaps.iter().take(gaps.len() - 1).map(|gap| {
            sum += gap;
            begin + minute.mul_f64((sum / whole).min(1.0))
        }));
    }
    instants
}

/// Instants of a Poisson process of `rate` a second for `time`.
#[must_use]
pub fn poisson(rate: f64, time: Duration, seed: u64) -> Vec<Duration> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut at = 0.0;
    let gaps = std::iter::from_fn(|| {
        let gap: f64 = Exp1.sample(&mut random);
        at += gap / rate;
        (at < time.as_secs_f64()).then(|| Duration::from_secs_f64(at))
    });
    gaps.collect()
}

/// Instants at equal gaps, `rate` a second for `time`.
#[must_use]
pub fn uniform(rate: f64, time: Duration) -> Vec<Duration> {
    let instant = |index: u64| Duration::from_secs_f64(wide(index) / rate);
    (0..).map(instant).take_while(|at| *at < time).collect()
}

/// `size` at once, as often as makes `rate` a second, for `time`.
#[must_use]
pub fn bursts(rate: f64, size: usize, time: Duration) -> Vec<Duration> {
    let starts = uniform(rate / crate::stats::float(size.max(1)), time);
    starts.into_iter().flat_map(|at| std::iter::repeat_n(at, size.max(1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn equidistant_invocations_divide_their_minute() {
        let found = instants(&[0, 3], MINUTE, Spacing::Equidistant, 1);
        assert_eq!(found, [75, 90, 105].map(Duration::from_secs));
    }

    #[test]
    fn bursts_come_together() {
        let found = bursts(20.0, 10, Duration::from_secs(1));
        assert_eq!(found.len(), 20);
        assert_eq!((found[9], found[10]), (Duration::ZERO, Duration::from_millis(500)));
    }

    proptest! {
        #[test]
        fn each_minute_has_its_invocations_in_order(
            counts in prop::collection::vec(0_u32..50, 1..20), seed: u64, seconds in 1_u64..61,
        ) {
            let minute = Duration::from_secs(seconds);
            for spacing in [Spacing::Exponential, Spacing::Uniform, Spacing::Equidistant] {
                let found = instants(&counts, minute, spacing, seed);
                prop_assert!(found.is_sorted());
                let mut rest = &found[..];
                for (index, count) in (0_u32..).zip(&counts) {
                    let (these, others) = rest.split_at(usize::try_from(*count)?);
                    rest = others;
                    let inside = minute * index..=minute * (index + 1);
                    prop_assert!(these.iter().all(|at| inside.contains(at)));
                }
                prop_assert!(rest.is_empty());
            }
        }

        #[test]
        fn a_poisson_process_has_its_rate(seed: u64, rate in 50.0..200.0) {
            let found = poisson(rate, Duration::from_secs(20), seed).len();
            let expected = rate * 20.0;
            prop_assert!((crate::stats::float(found) - expected).abs() < 6.0 * expected.sqrt());
        }
    }
}
