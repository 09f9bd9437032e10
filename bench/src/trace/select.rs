//! Choosing functions of a trace by the pattern of their invocations, with bounded memory.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Serialize;

use super::Invocations;
use super::read::TraceError;
use crate::patterns::{Pattern, per_minute};

/// A function that was chosen.
#[derive(Clone, Debug, Serialize)]
pub struct Chosen {
    /// Its pattern.
    pub pattern: Pattern,
    /// Its row.
    pub row: Invocations,
}

/// What a trace holds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Survey {
    /// Rows.
    pub functions: usize,
    /// Rows of each pattern; those with too few invocations have none.
    pub patterns: BTreeMap<Pattern, usize>,
    /// Invocations.
    pub invocations: u64,
    /// The functions with the most invocations in the minutes that count, `each` of each pattern at most.
    pub chosen: Vec<Chosen>,
}

/// Reads a trace to its end and keeps the `each` functions of each pattern that are busiest in these
/// minutes (places in the rows), of those that are invoked in them at all.
///
/// # Errors
/// The trace's first fault.
pub fn survey(
    rows: impl Iterator<Item = Result<Invocations, TraceError>>,
    each: usize,
    minutes: Range<usize>,
) -> Result<Survey, TraceError> {
    let mut survey = Survey::default();
    let mut kept: BTreeMap<Pattern, Vec<(f64, Invocations)>> = BTreeMap::new();
    for row in rows {
        let row = row?;
        survey.functions += 1;
        survey.invocations += row.counts.iter().map(|count| u64::from(*count)).sum::<u64>();
        let Some(pattern) = Pattern::of(&row.counts) else { continue };
        *survey.patterns.entry(pattern).or_default() += 1;
        let busy = per_minute(row.counts.get(minutes.clone()).unwrap_or_default());
        if busy <= 0.0 || busy.is_nan() {
            continue;
        }
        let kept = kept.entry(pattern).or_default();
        kept.push((busy, row));
        kept.sort_by(|a, b| b.0.total_cmp(&a.0));
        kept.truncate(each);
    }
    let chosen = kept
        .into_iter()
        .flat_map(|(pattern, rows)| rows.into_iter().map(move |(_, row)| Chosen { pattern, row }));
    survey.chosen = chosen.collect();
    Ok(survey)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::generate::generate;

    #[test]
    fn a_survey_keeps_the_busiest_of_each_pattern() {
        let made = generate(200, 240, 7);
        let rows = made.functions.iter().map(|(row, _)| Ok(row.clone()));
        let survey = survey(rows, 2, 0..240).expect("no fault");
        assert_eq!(survey.functions, 200);
        for pattern in Pattern::ALL {
            let of = |chosen: &&Chosen| chosen.pattern == pattern;
            assert_eq!(survey.chosen.iter().filter(of).count(), 2, "{pattern}");
        }
    }

    #[test]
    fn who_is_chosen_is_invoked_in_the_minutes_that_count() {
        let made = generate(200, 240, 7);
        let rows = || made.functions.iter().map(|(row, _)| Ok(row.clone()));
        let minutes = 100..103;
        let chosen = survey(rows(), 1, minutes.clone()).expect("no fault").chosen;
        assert!(!chosen.is_empty());
        for Chosen { pattern, row } in chosen {
            let most = per_minute(&row.counts[minutes.clone()]);
            assert!(most > 0.0);
            let others =
                made.functions.iter().filter(|(row, _)| Pattern::of(&row.counts) == Some(pattern));
            let busiest = others.map(|(row, _)| per_minute(&row.counts[minutes.clone()]));
            assert_eq!(busiest.fold(0.0, f64::max), most);
        }
    }
}
