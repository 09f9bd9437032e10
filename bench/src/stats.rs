//! Statistics: medians, quantiles, bootstrap intervals, the Mann–Whitney U test, HDR histograms.
//!
//! Everything random comes from a seed, so that the same measurements give the same intervals.

use hdrhistogram::Histogram;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng};
use serde::{Deserialize, Serialize};

/// Resamplings of a bootstrap.
const RESAMPLINGS: usize = 2000;

/// A value with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Where the interval begins.
    pub low: f64,
    /// Where it ends.
    pub high: f64,
}

impl From<f64> for Estimate {
    /// A value that is exact, or whose interval nobody knows.
    fn from(value: f64) -> Self {
        Self { value, low: value, high: value }
    }
}

/// The quantile `q` in 0 ..= 1 by linear interpolation (type 7 of Hyndman and Fan); NaN of nothing.
#[must_use]
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile_of_sorted(&sorted, q)
}

/// As [`quantile`], of values in ascending order.
#[must_use]
pub fn quantile_of_sorted(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = q.clamp(0.0, 1.0) * float(last);
    let below = floor_index(place).min(last);
    let above = (below + 1).min(last);
    let (low, high) = (sorted[below], sorted[above]);
    low + (high - low) * (place - float(below))
}

/// The median; NaN of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The arithmetic mean; NaN of nothing.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / float(values.len())
}

/// The sample's standard deviation; NaN of fewer than two.
#[must_use]
pub fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (float(values.len()) - 1.0)).sqrt()
}

/// Any statistic of values with its interval, by the percentile bootstrap.
#[must_use]
pub fn bootstrap(values: &[f64], seed: u64, statistic: impl Fn(&[f64]) -> f64) -> Estimate {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = values.to_vec();
    interval(statistic(values), || {
        for place in &mut drawn {
            *place = values[random.random_range(0..values.len())];
        }
        statistic(&drawn)
    })
}

/// The median with its interval.
#[must_use]
pub fn median_estimate(values: &[f64], seed: u64) -> Estimate {
    bootstrap(values, seed, median)
}

/// The median of `a[i] / b[i]`, both of the same round `i`, with its interval over the rounds.
///
/// # Panics
/// When there are not as many of one as of the other.
#[must_use]
pub fn ratio(a: &[f64], b: &[f64], seed: u64) -> Estimate {
    assert_eq!(a.len(), b.len(), "a round has both variants");
    let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
    median_estimate(&ratios, seed)
}

/// A statistic of `a` over the same of `b`, with its interval; the two are drawn apart.
#[must_use]
pub fn ratio_of(a: &[f64], b: &[f64], seed: u64, statistic: impl Fn(&[f64]) -> f64) -> Estimate {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let draw = |from: &[f64], random: &mut ChaCha8Rng| -> Vec<f64> {
        from.iter().map(|_| from[random.random_range(0..from.len())]).collect()
    };
    interval(statistic(a) / statistic(b), || {
        statistic(&draw(a, &mut random)) / statistic(&draw(b, &mut random))
    })
}

/// A statistic of all of `a` over the same of all of `b`, both measured in the same rounds, with its interval: rounds are
/// drawn, both variants of one together, and measurements within each. What is peculiar to a round's processes would
/// pass for certainty if all measurements were drawn from one heap.
///
/// # Panics
/// When there are not as many rounds of one as of the other.
#[must_use]
pub fn ratio_over_rounds(
    a: &[Vec<f64>],
    b: &[Vec<f64>],
    seed: u64,
    statistic: impl Fn(&[f64]) -> f64,
) -> Estimate {
    assert_eq!(a.len(), b.len(), "a round has both variants");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    interval(statistic(&a.concat()) / statistic(&b.concat()), || {
        let mut drawn = [Vec::new(), Vec::new()];
        for _ in a {
            let round = random.random_range(0..a.len());
            for (drawn, from) in drawn.iter_mut().zip([&a[round], &b[round]]) {
                drawn.extend(from.iter().map(|_| from[random.random_range(0..from.len())]));
            }
        }
        let [a, b] = drawn;
        statistic(&a) / statistic(&b)
    })
}

fn interval(value: f64, mut resample: impl FnMut() -> f64) -> Estimate {
    if !value.is_finite() {
        return Estimate::from(value);
    }
    let mut values: Vec<f64> = (0..RESAMPLINGS).map(|_| resample()).collect();
    values.sort_by(f64::total_cmp);
    Estimate {
        value,
        low: quantile_of_sorted(&values, 0.025),
        high: quantile_of_sorted(&values, 0.975),
    }
}

/// The two-sided p of the Mann–Whitney U test, by the normal approximation with corrections for
/// ties and continuity; 1 when one side is empty or all values are equal.
#[must_use]
pub fn mann_whitney(a: &[f64], b: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> = a.iter().map(|value| (*value, true)).collect();
    all.extend(b.iter().map(|value| (*value, false)));
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    let (mut rank_sum, mut ties, mut first) = (0.0, 0.0, 0);
    for group in all.chunk_by(|x, y| x.0 == y.0) {
        let size = float(group.len());
        let rank = float(first) + (size + 1.0) / 2.0;
        rank_sum += rank * float(group.iter().filter(|(_, of_a)| *of_a).count());
        ties += size.powi(3) - size;
        first += group.len();
    }
    let (m, n) = (float(a.len()), float(b.len()));
    let total = m + n;
    let u = rank_sum - m * (m + 1.0) / 2.0;
    let variance = m * n / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    if a.is_empty() || b.is_empty() || variance <= 0.0 {
        return 1.0;
    }
    let z = ((u - m * n / 2.0).abs() - 0.5).max(0.0) / variance.sqrt();
    (2.0 * normal_tail(z)).min(1.0)
}

/// The probability that a standard normal variable exceeds `z >= 0` (Abramowitz and Stegun 26.2.17,
/// error below 7.5e-8).
fn normal_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = series.iter().rev().fold(0.0, |sum, factor| (sum + factor) * t);
    sum * (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// A histogram of nanoseconds from 1 ns to an hour with three significant digits.
///
/// # Panics
/// Never: the bounds are valid.
#[must_use]
pub fn histogram(nanoseconds: impl IntoIterator<Item = u64>) -> Histogram<u64> {
    const HOUR: u64 = 3_600_000_000_000;
    let mut histogram = Histogram::new_with_bounds(1, HOUR, 3).expect("bounds that are valid");
    for value in nanoseconds {
        histogram.saturating_record(value);
    }
    histogram
}

/// A count as a number to calculate with.
#[must_use]
pub fn float(count: usize) -> f64 {
    wide(u64::try_from(count).unwrap_or(u64::MAX))
}

/// As [`float`]; exact up to 2^53.
#[must_use]
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "there is no other way")]
pub fn wide(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index within a slice"
)]
fn floor_index(place: f64) -> usize {
    place as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_interpolate_between_neighbours() {
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(quantile(&[10.0, 20.0], 0.25), 12.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn mann_whitney_gives_the_published_p() {
        // scipy.stats.mannwhitneyu(a, b, method="asymptotic").
        let a = [19.0, 22.0, 16.0, 29.0, 24.0];
        let b = [20.0, 11.0, 17.0, 12.0];
        assert!((mann_whitney(&a, &b) - 0.111_346_886_538_160_13).abs() < 1e-6);
    }

    #[test]
    fn equal_values_differ_nowhere() {
        assert_eq!(mann_whitney(&[1.0; 8], &[1.0; 9]), 1.0);
        assert_eq!(mann_whitney(&[], &[1.0]), 1.0);
    }

    #[test]
    fn a_ratio_is_as_unsure_as_its_rounds_differ() {
        let (a, b) = ([vec![1.0; 50], vec![2.0; 50]], [vec![1.0; 50], vec![1.0; 50]]);
        let rounds = ratio_over_rounds(&a, &b, 42, mean);
        assert_eq!([rounds.low, rounds.value, rounds.high], [1.0, 1.5, 2.0]);
        let heap = ratio_of(&a.concat(), &b.concat(), 42, mean);
        assert!(heap.high - heap.low < 0.5);
    }

    proptest! {
        #[test]
        fn an_interval_holds_its_value_and_keeps_within_the_values(
            values in prop::collection::vec(0.001..1e6, 1..40), seed: u64,
        ) {
            let Estimate { value, low, high } = median_estimate(&values, seed);
            prop_assert!(low <= value && value <= high);
            prop_assert!(quantile(&values, 0.0) <= low && high <= quantile(&values, 1.0));
        }

        #[test]
        fn mann_whitney_is_symmetric_and_a_probability(
            a in prop::collection::vec(0.0..10.0, 1..30),
            b in prop::collection::vec(0.0..10.0, 1..30),
        ) {
            let p = mann_whitney(&a, &b);
            prop_assert!((0.0..=1.0).contains(&p));
            prop_assert!((p - mann_whitney(&b, &a)).abs() < 1e-9);
        }

        #[test]
        fn a_histogram_answers_within_its_precision(value in 1_u64..3_000_000_000_000) {
            let found = histogram([value]).value_at_quantile(0.5);
            prop_assert!(found.abs_diff(value) <= value / 500 + 1);
        }
    }
}
