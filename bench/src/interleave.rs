//! Variants take turns, so that what drifts on the machine drifts for all of them.

use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom as _;
use serde::Serialize;

use crate::progress::Progress;
use crate::stats::{self, Estimate};

/// What was measured of each variant in each round.
#[derive(Clone, Debug, Serialize)]
pub struct Rounds<M> {
    /// Of each variant, in the order given: one measurement a round.
    pub variants: Vec<Vec<M>>,
}

/// Of the orders: two runs of a bench take the same turns.
const SEED: u64 = 42;

/// Measures every variant once a round. The order is drawn by lot, so that none always follows the same one: what was
/// done just before is still in the caches. Every other round goes through the order of the last one backwards, so that
/// what drifts meanwhile drifts for all.
///
/// # Errors
/// The first that a measurement ends with.
pub fn interleave<V, M>(
    variants: &mut [V],
    rounds: usize,
    progress: &Progress,
    mut measure: impl FnMut(&mut V, usize) -> anyhow::Result<M>,
) -> anyhow::Result<Rounds<M>> {
    let mut measured: Vec<Vec<M>> = variants.iter().map(|_| Vec::with_capacity(rounds)).collect();
    let bar = progress.steps(rounds * variants.len());
    let mut lot = ChaCha8Rng::seed_from_u64(SEED);
    let mut order: Vec<usize> = (0..variants.len()).collect();
    for round in 0..rounds {
        match round.is_multiple_of(2) {
            true => order.shuffle(&mut lot),
            false => order.reverse(),
        }
        for &index in &order {
            measured[index].push(measure(&mut variants[index], round)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(Rounds { variants: measured })
}

impl<M> Rounds<M> {
    /// One figure of a variant, a value a round.
    pub fn figure(&self, variant: usize, figure: impl Fn(&M) -> f64) -> Vec<f64> {
        self.variants[variant].iter().map(figure).collect()
    }

    /// The median of a variant's figure, with its interval over the rounds.
    pub fn median(&self, variant: usize, seed: u64, figure: impl Fn(&M) -> f64) -> Estimate {
        stats::median_estimate(&self.figure(variant, figure), seed)
    }

    /// The median ratio of a figure of variant `a` to that of variant `b` in the same round, with
    /// its interval over the rounds.
    pub fn ratio(&self, a: usize, b: usize, seed: u64, figure: impl Fn(&M) -> f64) -> Estimate {
        stats::ratio(&self.figure(a, &figure), &self.figure(b, &figure), seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who took the turns, round by round.
    fn turns(variants: usize, rounds: usize) -> Vec<Vec<usize>> {
        let mut taken = vec![Vec::new(); rounds];
        let mut variants: Vec<usize> = (0..variants).collect();
        let measured = interleave(&mut variants, rounds, &Progress::hidden(), |variant, round| {
            taken[round].push(*variant);
            Ok((*variant, round))
        });
        for (variant, measured) in measured.expect("no failure").variants.iter().enumerate() {
            assert!(measured.iter().copied().eq((0..rounds).map(|round| (variant, round))));
        }
        taken
    }

    #[test]
    fn every_other_round_is_the_one_before_it_backwards() {
        for pair in turns(5, 20).chunks(2) {
            assert!(pair[0].iter().eq(pair[1].iter().rev()));
        }
    }

    #[test]
    fn every_variant_follows_every_other_one() {
        let turns = turns(5, 100).concat();
        let follows = |a, b| turns.windows(2).any(|pair| pair == [a, b]);
        assert!((0..5).all(|a| (0..5).all(|b| follows(a, b))));
    }
}
