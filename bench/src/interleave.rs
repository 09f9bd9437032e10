//! Variants take turns, so that what drifts on the machine drifts for all of them.

use serde::Serialize;

use crate::progress::Progress;
use crate::stats::{self, Estimate};

/// What was measured of each variant in each round.
#[derive(Clone, Debug, Serialize)]
pub struct Rounds<M> {
    /// Of each variant, in the order given: one measurement a round.
    pub variants: Vec<Vec<M>>,
}

/// Measures every variant once a round. Every other round goes through them backwards, so that none
/// always follows the same one.
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
    for round in 0..rounds {
        let count = variants.len();
        for turn in 0..count {
            let index = if round.is_multiple_of(2) { turn } else { count - 1 - turn };
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

    #[test]
    fn variants_take_turns_and_every_other_round_is_reversed() {
        let mut order = Vec::new();
        let mut variants = ["a", "b", "c"];
        let rounds = interleave(&mut variants, 2, &Progress::hidden(), |variant, round| {
            order.push(format!("{variant}{round}"));
            Ok(round)
        });
        assert_eq!(order, ["a0", "b0", "c0", "c1", "b1", "a1"]);
        assert_eq!(rounds.expect("no failure").variants, [[0, 1], [0, 1], [0, 1]]);
    }
}
