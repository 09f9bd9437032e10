//! Making a trace in the same columns: functions of all four patterns, with rates and durations
//! spread over orders of magnitude as those of the dataset are.

use std::io::{self, Write};

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, LogNormal};

use super::Invocations;
use crate::patterns::Pattern;
use crate::stats::wide;

/// The median rate of a function in invocations a minute, and the deviation of its logarithm: half
/// of the dataset's functions are invoked less than once a minute, few make most invocations
/// (Shahrad et al., "Serverless in the Wild", ATC 2020, section 3).
const RATE: (f64, f64) = (1.0, 2.0);
const RATE_MAX: f64 = 600.0;
/// The log-normal fit of average execution times in seconds that the same paper gives in its
/// section 3.5: location −0.38, deviation 2.36.
const DURATION: (f64, f64) = (-0.38, 2.36);
/// The average memory of an app in MB: ours, around the 170 MB median that the paper's figure shows.
const MEMORY: (f64, f64) = (170.0, 0.6);

/// A trace that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Invocations, the pattern each was made by.
    pub functions: Vec<(Invocations, Pattern)>,
    durations: Vec<f64>,
    memory: Vec<f64>,
}

/// Makes a trace of so many functions and minutes.
///
/// # Panics
/// Never: the distributions' parameters are valid.
#[must_use]
pub fn generate(functions: usize, minutes: usize, seed: u64) -> Made {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let lognormal = |location, deviation| {
        LogNormal::<f64>::new(location, deviation).expect("a deviation that is finite")
    };
    let rates = lognormal(RATE.0.ln(), RATE.1);
    let seconds = lognormal(DURATION.0, DURATION.1);
    let megabytes = lognormal(MEMORY.0.ln(), MEMORY.1);
    let mut made = Made { functions: Vec::new(), durations: Vec::new(), memory: Vec::new() };
    for pattern in Pattern::ALL.into_iter().cycle().take(functions) {
        let rate = rates.sample(&mut random).min(RATE_MAX);
        let mut hash = || format!("{:016x}{:016x}", random.random::<u64>(), random.random::<u64>());
        let (owner, app, function) = (hash(), hash(), hash());
        let counts = pattern.counts(minutes, rate, random.random());
        let trigger = "http".to_owned();
        made.functions.push((Invocations { owner, app, function, trigger, counts }, pattern));
        made.durations.push(1e3 * seconds.sample(&mut random));
        made.memory.push(megabytes.sample(&mut random));
    }
    made
}

impl Made {
    /// Writes the file of invocations per minute.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_invocations(&self, mut to: impl Write) -> io::Result<()> {
        let minutes = self.functions.first().map_or(0, |(row, _)| row.counts.len());
        write!(to, "HashOwner,HashApp,HashFunction,Trigger")?;
        (1..=minutes).try_for_each(|minute| write!(to, ",{minute}"))?;
        writeln!(to)?;
        for (Invocations { owner, app, function, trigger, counts }, _) in &self.functions {
            write!(to, "{owner},{app},{function},{trigger}")?;
            counts.iter().try_for_each(|count| write!(to, ",{count}"))?;
            writeln!(to)?;
        }
        to.flush()
    }

    /// Writes the file of durations.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_durations(&self, mut to: impl Write) -> io::Result<()> {
        write!(to, "HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum")?;
        const PERCENTILES: [(&str, f64); 7] = [
            ("0", 0.5),
            ("1", 0.55),
            ("25", 0.8),
            ("50", 0.95),
            ("75", 1.1),
            ("99", 2.0),
            ("100", 3.0),
        ];
        for (name, _) in PERCENTILES {
            write!(to, ",percentile_Average_{name}")?;
        }
        writeln!(to)?;
        for ((row, _), average) in self.functions.iter().zip(&self.durations) {
            let count: u64 = row.counts.iter().map(|count| u64::from(*count)).sum();
            let Invocations { owner, app, function, .. } = row;
            let (low, high) = (average * 0.5, average * 3.0);
            write!(to, "{owner},{app},{function},{average:.3},{count},{low:.3},{high:.3}")?;
            for (_, factor) in PERCENTILES {
                write!(to, ",{:.3}", average * factor)?;
            }
            writeln!(to)?;
        }
        to.flush()
    }

    /// Writes the file of memory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_memory(&self, mut to: impl Write) -> io::Result<()> {
        write!(to, "HashOwner,HashApp,SampleCount,AverageAllocatedMb")?;
        const PERCENTILES: [(u32, f64); 8] = [
            (1, 0.8),
            (5, 0.85),
            (25, 0.95),
            (50, 1.0),
            (75, 1.05),
            (95, 1.2),
            (99, 1.3),
            (100, 1.4),
        ];
        for (name, _) in PERCENTILES {
            write!(to, ",AverageAllocatedMb_pct{name}")?;
        }
        writeln!(to)?;
        for ((row, _), average) in self.functions.iter().zip(&self.memory) {
            let samples = row.counts.iter().filter(|count| **count > 0).count();
            write!(to, "{},{},{samples},{average:.0}", row.owner, row.app)?;
            for (_, factor) in PERCENTILES {
                write!(to, ",{:.0}", average * factor)?;
            }
            writeln!(to)?;
        }
        to.flush()
    }

    /// Invocations of all functions.
    #[must_use]
    pub fn invocations(&self) -> f64 {
        let counts = self.functions.iter().flat_map(|(row, _)| &row.counts);
        wide(counts.map(|count| u64::from(*count)).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::read;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn what_is_made_can_be_read_again(functions in 1_usize..20, minutes in 1_usize..60, seed: u64) {
            let made = generate(functions, minutes, seed);
            let mut bytes = Vec::new();
            made.write_invocations(&mut bytes)?;
            let rows = read::InvocationsReader::new("made", &bytes[..]).expect("columns");
            let rows: Vec<Invocations> = rows.collect::<Result<_, _>>().expect("rows");
            let expected: Vec<Invocations> =
                made.functions.iter().map(|(row, _)| row.clone()).collect();
            prop_assert_eq!(rows, expected);
            let mut bytes = Vec::new();
            made.write_durations(&mut bytes)?;
            let durations = read::durations_of("made", &bytes[..]).expect("durations");
            prop_assert_eq!(durations.len(), functions);
        }
    }
}
