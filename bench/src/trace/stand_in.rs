//! Which function of ours plays which of a trace, by duration: what is computed, what is waited for, and
//! what share of the traffic is not played as it was.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::Durations;
use super::select::Chosen;
use crate::bars::short;
use crate::baton::Setup;
use crate::bench::Session;
use crate::catalogue;
use crate::client::Client;
use crate::results::Results;
use crate::stats::{float, median, wide};
use crate::subject::Subject;
use crate::table::Table;

/// How long each function of the trace lasts, in milliseconds.
pub(super) fn wanted(durations: &[Durations], chosen: &[Chosen]) -> anyhow::Result<Vec<f64>> {
    let duration = |Chosen { row, .. }: &Chosen| {
        let found = durations.iter().find(|found| found.function == row.function);
        found.map(|found| found.median.max(SHORTEST)).with_context(|| {
            format!(
                "function {} of the trace has no row in the file of durations; give one to it, or \
                 replay without --durations",
                row.function
            )
        })
    };
    chosen.iter().map(duration).collect()
}

/// The dataset has durations of 0 ms.
const SHORTEST: f64 = 0.01;

/// What plays a function of the trace.
#[derive(Clone, Debug)]
pub(super) struct StandIn {
    pub(super) subject: Subject,
    /// How long it lasts, in milliseconds.
    ms: f64,
    how: How,
}

/// How a duration is played.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum How {
    /// By a function that was measured to compute for about as long.
    Computing,
    /// By waiting for as long, which no computation of ours lasts.
    Waiting,
    /// By waiting for less: as long as an answer is waited for.
    Clipped,
}

/// From so many times the longest computation on, a function is played by one that waits.
const BEYOND: f64 = 1.25;
/// The longest that is played, in milliseconds: nine tenths of what a request may take (`PATIENCE` of
/// the load).
const LONGEST: f64 = 162_000.0;

/// For each duration the one of ours whose measured duration is nearest to it, in ratio, and one that
/// waits for what lasts longer than all of them.
fn by_duration(wanted: &[f64], candidates: &[(Subject, f64)]) -> Vec<StandIn> {
    let longest = candidates.iter().map(|(_, ms)| *ms).fold(0.0, f64::max);
    let stand_in = |wanted: &f64| {
        if *wanted > BEYOND * longest {
            let how = if *wanted > LONGEST { How::Clipped } else { How::Waiting };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
            let ms = wanted.min(LONGEST).round() as u64;
            return StandIn { subject: catalogue::waiting(ms), ms: wide(ms), how };
        }
        let distance = |ms: &f64| (ms / wanted).ln().abs();
        let nearest = candidates.iter().min_by(|a, b| distance(&a.1).total_cmp(&distance(&b.1)));
        let (subject, ms) = nearest.expect("a duration within that of a candidate");
        StandIn { subject: subject.clone(), ms: *ms, how: How::Computing }
    };
    wanted.iter().map(stand_in).collect()
}

/// What plays each of these durations.
///
/// # Errors
/// When ours cannot be measured.
pub(super) fn found(wanted: &[f64], session: &Session) -> anyhow::Result<Vec<StandIn>> {
    let longest = wanted.iter().copied().fold(0.0, f64::max);
    Ok(by_duration(wanted, &measured_durations(session, longest)?))
}

/// What the functions that can stand in take here, as components, in milliseconds; those longer than
/// `longest` only as far as needed to have one such.
fn measured_durations(session: &Session, longest: f64) -> anyhow::Result<Vec<(Subject, f64)>> {
    const REPEATS: usize = 5;
    /// What lasts long is measured fewer times.
    const ENOUGH: Duration = Duration::from_secs(2);
    let subjects = catalogue::by_duration();
    let setup = subjects.iter().fold(Setup::new(), |setup, subject| subject.add_to(setup, "wasm"));
    let baton = setup.start(&session.cores.server)?;
    let mut client = Client::new(&baton.target())?;
    let mut measured: Vec<(Subject, f64)> = Vec::new();
    let bar = session.progress.steps(subjects.len());
    for subject in subjects {
        bar.inc(1);
        let longer =
            |(other, ms): &(Subject, f64)| other.component == subject.component && *ms > longest;
        if measured.iter().any(longer) {
            continue;
        }
        let request = subject.request(&subject.prefix());
        let mut times = Vec::new();
        while times.len() < REPEATS && times.iter().sum::<f64>() < 1e3 * ENOUGH.as_secs_f64() {
            let begun = Instant::now();
            let answer = client.ask(&request)?;
            anyhow::ensure!(answer.status == 200, "{} answered {}", subject.name, answer.status);
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        measured.push((subject, median(&times)));
    }
    bar.finish_and_clear();
    baton.stop()?;
    Ok(measured)
}

/// What of the trace is replayed, and how fast.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    /// Places of the minutes in each row.
    pub(super) minutes: Range<usize>,
    /// How much faster than in the trace time goes by.
    pub(super) compress: f64,
}

impl Traffic {
    /// Which function stands in for which, and how much of the traffic is not played as it was.
    pub(super) fn tell(
        &self,
        chosen: &[Chosen],
        wanted: &[f64],
        stand_ins: &[StandIn],
        results: &mut Results,
    ) {
        let mut table = Table::new(
            "Functions that stand in for the trace's, by duration",
            ["trace's function", "pattern", "its ms", "stands in", "its own ms"],
        );
        for ((chosen, wanted), stand_in) in chosen.iter().zip(wanted).zip(stand_ins) {
            table.row([
                chosen.row.function.chars().take(16).collect::<String>(),
                chosen.pattern.to_string(),
                short(*wanted),
                stand_in.subject.name.clone(),
                short(stand_in.ms),
            ]);
        }
        results.tables.push(table);
        let invocations = |chosen: &Chosen| -> f64 {
            chosen.row.counts[self.minutes.clone()].iter().map(|count| f64::from(*count)).sum()
        };
        let all: f64 = chosen.iter().map(invocations).sum();
        for (how, what) in [
            (
                How::Waiting,
                "last longer than our longest computation and are played by waiting as long",
            ),
            (How::Clipped, "last longer than any request may here and are played too short"),
        ] {
            let of = || chosen.iter().zip(stand_ins).filter(|(_, stand_in)| stand_in.how == how);
            let share = of().map(|(chosen, _)| invocations(chosen)).sum::<f64>() / all;
            results.notes.push(format!(
                "{} of {} functions, {} % of the invocations, {what}",
                of().count(),
                chosen.len(),
                short(if all > 0.0 { share * 100.0 } else { 0.0 })
            ));
        }
        let computing = |(chosen, stand_in): (&Chosen, &StandIn)| match stand_in.how {
            How::Computing => invocations(chosen) * stand_in.ms,
            _ => 0.0,
        };
        let work: f64 = chosen.iter().zip(stand_ins).map(computing).sum();
        let time = float(self.minutes.len()) * 6e4 / self.compress;
        results.notes.push(format!(
            "together they ask for {} cores of computing by Wasm, at {} times the trace's speed",
            short(work / time),
            self.compress
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patterns::Pattern;
    use crate::trace::Invocations;

    fn of_pattern(pattern: Pattern, function: &str) -> Chosen {
        let row = Invocations {
            owner: String::new(),
            app: String::new(),
            function: function.into(),
            trigger: String::new(),
            counts: vec![1; 4],
        };
        Chosen { pattern, row }
    }

    #[test]
    fn a_function_without_duration_is_a_fault() {
        let chosen = [of_pattern(Pattern::Steady, "a"), of_pattern(Pattern::Jump, "b")];
        let duration =
            |function: &str, median| Durations { function: function.into(), average: 0.0, median };
        let both = [duration("b", 9.0), duration("a", 0.0)];
        assert_eq!(wanted(&both, &chosen).expect("durations"), [0.01, 9.0]);
        let fault = wanted(&both[..1], &chosen).expect_err("a fault").to_string();
        assert!(fault.contains("function a of the trace has no row"), "{fault}");
    }

    #[test]
    fn who_stands_in_is_nearest_in_ratio_and_waits_for_what_no_computation_lasts() {
        let candidates =
            [("short", 1.0), ("long", 100.0)].map(|(name, ms)| (Subject::ours(name, ""), ms));
        let played: Vec<(String, f64, How)> =
            by_duration(&[11.0, 9.0, 120.0, 126.0, 1e9], &candidates)
                .into_iter()
                .map(|stand_in| (stand_in.subject.name, stand_in.ms, stand_in.how))
                .collect();
        let expected = [
            ("long", 100.0, How::Computing),
            ("short", 1.0, How::Computing),
            ("long", 100.0, How::Computing),
            ("sleep-126", 126.0, How::Waiting),
            ("sleep-162000", LONGEST, How::Clipped),
        ];
        assert_eq!(played, expected.map(|(name, ms, how)| (name.to_owned(), ms, how)));
    }

    #[test]
    fn what_is_not_played_as_it_was_is_counted() {
        let mut results = Results::new("trace", 1);
        let chosen = [of_pattern(Pattern::Steady, "a"), of_pattern(Pattern::Jump, "b")];
        let candidates = [("short", 1000.0)].map(|(name, ms)| (Subject::ours(name, ""), ms));
        let wanted = [1000.0, 2000.0];
        let stand_ins = by_duration(&wanted, &candidates);
        Traffic { minutes: 0..4, compress: 60.0 }.tell(&chosen, &wanted, &stand_ins, &mut results);
        let waits = "1 of 2 functions, 50 % of the invocations, last longer than our longest";
        assert!(results.notes[0].starts_with(waits), "{:?}", results.notes);
        assert!(results.notes[1].starts_with("0 of 2 functions, 0 %"), "{:?}", results.notes);
        // Four invocations of a second in four minutes that take a second each.
        assert!(
            results.notes[2].starts_with("together they ask for 1 cores"),
            "{:?}",
            results.notes
        );
    }
}
