//! The four traffic patterns of the HybridServe evaluation as invocations per minute: made from a
//! seed, and recognised in a trace.
//!
//! The paper names the patterns and not how it chose them; the criteria here are ours.

use std::fmt::{self, Display};

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, Poisson};
use serde::{Deserialize, Serialize};

use crate::stats::{float, mean, wide};

/// A shape of traffic.
#[derive(
    Clone,
    Copy,
    Debug,
    Deserialize,
    Eq,
    Hash,
    Ord,
    PartialEq,
    PartialOrd,
    Serialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// The same rate all the time.
    Steady,
    /// A rate that goes up and down.
    Fluctuating,
    /// A low rate with a few short bursts.
    Spike,
    /// A low rate that becomes a high one and stays so.
    Jump,
}

impl Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Steady => "steady",
            Self::Fluctuating => "fluctuating",
            Self::Spike => "spike",
            Self::Jump => "jump",
        })
    }
}

/// A trace is recognised in at most so many bins (half hours of a day), so that the noise of rare
/// invocations does not count as a shape.
const BINS: usize = 48;
/// Fewer invocations than this show no shape.
pub const INVOCATIONS_MIN: f64 = 30.0;
/// A spike is a minute of so many times the mean of all minutes.
const SPIKE: f64 = 4.0;
/// And at most this share of the minutes are spikes.
const SPIKES_MAX: f64 = 0.1;
/// The higher rate of a jump, over the lower.
const JUMP: f64 = 3.0;
/// The share of the variance between bins that the jump explains.
const JUMP_EXPLAINS: f64 = 0.7;
/// Deviation between bins beyond that of a Poisson process, over the mean: below, it is steady.
const STEADY_MAX: f64 = 0.25;

impl Pattern {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Steady, Self::Fluctuating, Self::Spike, Self::Jump];

    /// Invocations in each of `minutes`, `per_minute` on average.
    #[must_use]
    pub fn counts(self, minutes: usize, per_minute: f64, seed: u64) -> Vec<u32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let phase = random.random_range(0.0..1.0);
        // One spike in 15 minutes, never in the very first.
        let spikes: Vec<usize> = (0..minutes.div_ceil(15))
            .map(|spike| spike * 15 + random.random_range(1..minutes.clamp(2, 15)))
            .collect();
        let mut rates: Vec<f64> = (0..minutes)
            .map(|minute| {
                let place = float(minute) / float(minutes);
                match self {
                    Self::Steady => 1.0,
                    Self::Fluctuating => {
                        1.0 + 0.8 * (std::f64::consts::TAU * (4.0 * place + phase)).sin()
                    }
                    Self::Spike if spikes.contains(&minute) => 12.0,
                    Self::Spike => 0.4,
                    Self::Jump if place < 0.5 => 0.25,
                    Self::Jump => 1.75,
                }
            })
            .collect();
        let scale = per_minute / mean(&rates);
        rates.iter_mut().for_each(|rate| *rate *= scale);
        rates.into_iter().map(|rate| poisson(rate, &mut random)).collect()
    }

    /// Which pattern the invocations per minute of a function are, if any: of the criteria, the
    /// first that is met in the order spike, jump, steady, fluctuating.
    ///
    /// - spike: some minutes have 4 times the mean, at most 10 % of them, and most minutes are
    ///   below the mean, even less the noise that rare invocations make by themselves;
    /// - jump: the day divides in two, each at least a tenth of it, with means 3 times apart, and
    ///   that explains 70 % of the variance;
    /// - steady: the rate deviates by at most a quarter of its mean beyond a Poisson process;
    /// - fluctuating: everything else.
    #[must_use]
    pub fn of(counts: &[u32]) -> Option<Self> {
        let minutes: Vec<f64> = counts.iter().map(|count| f64::from(*count)).collect();
        if minutes.iter().sum::<f64>() < INVOCATIONS_MIN {
            return None;
        }
        let bins = rebin(&minutes);
        Some(if has_spikes(&minutes) {
            Self::Spike
        } else if has_jump(&bins) {
            Self::Jump
        } else if excess_deviation(&bins) <= STEADY_MAX {
            Self::Steady
        } else {
            Self::Fluctuating
        })
    }
}

fn poisson(rate: f64, random: &mut ChaCha8Rng) -> u32 {
    let drawn = Poisson::new(rate).map_or(0.0, |poisson| poisson.sample(random));
    // A Poisson variable is a whole number.
    format!("{drawn:.0}").parse().unwrap_or(u32::MAX)
}

fn rebin(minutes: &[f64]) -> Vec<f64> {
    let size = minutes.len().div_ceil(BINS).max(1);
    // A shorter last bin would look like a fall.
    minutes.chunks_exact(size).map(|bin| bin.iter().sum()).collect()
}

fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / float(values.len())
}

fn has_spikes(minutes: &[f64]) -> bool {
    let mean = mean(minutes);
    // Three deviations of a Poisson process are no spike.
    let high = (SPIKE * mean).max(mean + 3.0 * mean.sqrt() + 1.0);
    let spikes = minutes.iter().filter(|count| **count >= high).count();
    spikes > 0 && float(spikes) <= SPIKES_MAX * float(minutes.len())
}

fn has_jump(bins: &[f64]) -> bool {
    let edge = (bins.len() / 10).max(1);
    let whole = variance(bins);
    if bins.len() <= 2 * edge || whole == 0.0 {
        return false;
    }
    (edge..bins.len() - edge).any(|at| {
        let (before, after) = bins.split_at(at);
        let within = (variance(before) * float(before.len())
            + variance(after) * float(after.len()))
            / float(bins.len());
        let (low, high) = (mean(before).min(mean(after)), mean(before).max(mean(after)));
        high >= JUMP * low && 1.0 - within / whole >= JUMP_EXPLAINS
    })
}

/// The deviation beyond that of a Poisson process, whose variance is its mean; over the mean.
fn excess_deviation(bins: &[f64]) -> f64 {
    (variance(bins) - mean(bins)).max(0.0).sqrt() / mean(bins)
}

/// The mean of counts.
#[must_use]
pub fn per_minute(counts: &[u32]) -> f64 {
    wide(counts.iter().map(|count| u64::from(*count)).sum()) / float(counts.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn too_few_invocations_show_no_pattern() {
        assert_eq!(Pattern::of(&[1; 20]), None);
        assert_eq!(Pattern::of(&[]), None);
    }

    proptest! {
        #[test]
        fn a_pattern_that_was_made_is_recognised(
            seed: u64, minutes in 60_usize..1440, rate in 20.0..500.0,
        ) {
            for pattern in Pattern::ALL {
                let counts = pattern.counts(minutes, rate, seed);
                prop_assert_eq!(counts.len(), minutes);
                prop_assert_eq!(Pattern::of(&counts), Some(pattern));
            }
        }

        #[test]
        fn the_rate_is_the_one_asked_for(seed: u64, minutes in 100_usize..400, rate in 10.0..50.0) {
            for pattern in Pattern::ALL {
                let made = per_minute(&pattern.counts(minutes, rate, seed));
                prop_assert!((made / rate - 1.0).abs() < 0.2, "{pattern}: {made} for {rate}");
            }
        }

        #[test]
        fn the_same_seed_makes_the_same_pattern(seed: u64) {
            for pattern in Pattern::ALL {
                prop_assert_eq!(pattern.counts(60, 9.0, seed), pattern.counts(60, 9.0, seed));
            }
        }
    }
}
