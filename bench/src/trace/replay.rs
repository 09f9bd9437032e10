//! `baton-bench trace`: makes traces, looks into them, and replays them on a Baton.

use std::fs::{self, File};
use std::io::BufWriter;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::generate::generate;
use super::read;
use super::select::{Chosen, Survey, survey};
use super::stand_in::{self, Traffic};
use crate::bars::short;
use crate::baton::Setup;
use crate::bench::Session;
use crate::catalogue;
use crate::load::{self, Arrival, Outcome};
use crate::measured::{self, Measured};
use crate::output::OutputArguments;
use crate::patterns::{INVOCATIONS_MIN, Pattern, per_minute};
use crate::results::Results;
use crate::run::{CONNECTIONS_MAX, POLICIES};
use crate::schedule::{Spacing, instants};
use crate::stats::{float, wide};
use crate::subject::Subject;
use crate::table::Table;

/// `baton-bench trace`.
#[derive(Clone, Debug, Args)]
pub struct TraceArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Make a trace: three files in the columns of the Azure Functions dataset of 2019
    Generate(GenerateArguments),
    /// Say what a trace holds, and which of its functions are of which pattern
    Select(SelectArguments),
    /// Replay a trace, or a pattern, on a Baton
    Replay(Box<ReplayArguments>),
}

#[derive(Clone, Debug, Args)]
struct GenerateArguments {
    /// The directory for the files
    directory: PathBuf,
    /// How many functions
    #[arg(long, default_value_t = 50)]
    functions: usize,
    /// How many minutes
    #[arg(long, default_value_t = 1440, value_parser = clap::value_parser!(u16).range(1..=1440))]
    minutes: u16,
    /// Seed of everything random
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

#[derive(Clone, Debug, Args)]
struct SelectArguments {
    /// The file of invocations per minute
    trace: PathBuf,
    /// How many functions of each pattern
    #[arg(long, default_value_t = 1)]
    each: usize,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
struct ReplayArguments {
    /// The file of invocations per minute; without it, patterns are made
    #[arg(long)]
    trace: Option<PathBuf>,
    /// The file of durations, by which functions of ours stand in for the trace's
    #[arg(long, requires = "trace")]
    durations: Option<PathBuf>,
    /// Only these patterns [default: all four]
    #[arg(long, value_enum, value_delimiter = ',')]
    pattern: Vec<Pattern>,
    /// How many functions of each pattern are taken from the trace
    #[arg(long, default_value_t = 1)]
    each: usize,
    /// Minutes of the trace, FIRST-LAST or their number
    #[arg(long, default_value = "30", value_parser = minutes)]
    minutes: RangeInclusive<usize>,
    /// Invocations a minute of made patterns
    #[arg(long, default_value_t = 60.0)]
    per_minute: f64,
    /// How much faster than in the trace time goes by
    #[arg(long, default_value_t = 60.0)]
    compress: f64,
    /// Minutes replayed before those that count
    #[arg(long, default_value_t = 2)]
    warm_up: usize,
    /// How invocations lie in their minute
    #[arg(long, value_enum, default_value_t = Spacing::Exponential)]
    spacing: Spacing,
    /// Which tier answers
    #[arg(long, default_value = "hybrid", value_parser = POLICIES)]
    policy: String,
    /// The functions that stand in, when durations do not say: one for each chosen function
    #[arg(long, default_value = "float-operation", value_delimiter = ',')]
    function: Vec<String>,
    /// The body that they are asked with [default: their paper's parameters]
    #[arg(long)]
    body: Option<String>,
    /// How often each pattern is replayed, each time with other arrivals
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,
    /// Seed of everything random
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Write one row for each request to this file as CSV
    #[arg(long)]
    requests: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArguments,
}

fn minutes(text: &str) -> Result<RangeInclusive<usize>, String> {
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number > 0);
    let range = match text.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).map(|(first, last)| first..=last),
        None => number(text).map(|count| 1..=count),
    };
    range
        .filter(|range| !range.is_empty())
        .ok_or_else(|| "expected a number of minutes, or FIRST-LAST counted from 1".to_owned())
}

/// Does it, and returns what is printed and whether the target was lost in the middle.
///
/// # Errors
/// Faults of the trace; a Baton that cannot be started.
pub fn run(arguments: &TraceArguments) -> anyhow::Result<(String, bool)> {
    match &arguments.action {
        Action::Generate(arguments) => Ok((make(arguments)?, false)),
        Action::Select(arguments) => {
            let reader = read::invocations(&arguments.trace)?;
            let all = 0..reader.minutes();
            let survey = survey(reader, arguments.each, all)?;
            let mut results = Results::new("select", 0);
            results.tables.push(survey_table(&survey));
            results.data("survey", &survey)?;
            results.machine.ended();
            Ok((arguments.output.write(&results)?, false))
        }
        Action::Replay(arguments) => replay(arguments),
    }
}

fn make(arguments: &GenerateArguments) -> anyhow::Result<String> {
    let GenerateArguments { directory, functions, minutes, seed } = arguments;
    let made = generate(*functions, usize::from(*minutes), *seed);
    fs::create_dir_all(directory)?;
    let file = |name: &str| -> anyhow::Result<BufWriter<File>> {
        let path = directory.join(name);
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        Ok(BufWriter::new(file))
    };
    made.write_invocations(file("invocations_per_function.csv")?)?;
    made.write_durations(file("function_durations_percentiles.csv")?)?;
    made.write_memory(file("app_memory_percentiles.csv")?)?;
    let invocations = made.invocations();
    let place = directory.display();
    Ok(format!("{functions} functions, {minutes} minutes, {invocations} invocations: {place}\n"))
}

fn survey_table(survey: &Survey) -> Table {
    let counts: Vec<String> =
        survey.patterns.iter().map(|(pattern, count)| format!("{count} {pattern}")).collect();
    let title = format!(
        "{} functions, {} invocations; by pattern: {}",
        survey.functions,
        survey.invocations,
        if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
    );
    let others = survey.functions - survey.patterns.values().sum::<usize>();
    let title = match others {
        0 => title,
        _ => format!("{title}; {others} with fewer than {INVOCATIONS_MIN} invocations"),
    };
    let mut table = Table::new(title, ["function", "pattern", "per minute", "most in a minute"]);
    for chosen in &survey.chosen {
        table.row([
            chosen.row.function.chars().take(16).collect::<String>(),
            chosen.pattern.to_string(),
            short(per_minute(&chosen.row.counts)),
            chosen.row.counts.iter().max().copied().unwrap_or(0).to_string(),
        ]);
    }
    table
}

/// One function of a replay.
#[derive(Clone, Debug)]
pub struct Part {
    /// Invocations in each minute.
    pub counts: Vec<u32>,
    /// The function.
    pub subject: Subject,
}

/// How functions are replayed.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Under which policy.
    pub policy: String,
    /// How long a minute takes.
    pub minute: Duration,
    /// How invocations lie in it.
    pub spacing: Spacing,
    /// Of everything random.
    pub seed: u64,
}

fn replay(arguments: &ReplayArguments) -> anyhow::Result<(String, bool)> {
    anyhow::ensure!(
        arguments.compress.is_finite() && arguments.compress > 0.0,
        "--compress is {}, expected more than 0",
        arguments.compress
    );
    let session = Session::new(arguments.seed, false);
    let mut results = Results::new("trace", arguments.seed);
    let mut rows = Vec::new();
    let mut requests = String::from("pattern,function,at_ms,latency_ms,status,tier\n");
    let patterns = patterns(arguments);
    let chosen = chosen(arguments, &patterns)?;
    let stand_ins = stand_ins(arguments, &chosen, &session, &mut results)?;
    let bar = session.progress.steps(patterns.len() * usize::from(arguments.repeats));
    'patterns: for pattern in patterns {
        let parts = parts(arguments, pattern, &chosen, &stand_ins);
        if parts.is_empty() {
            results.notes.push(format!(
                "the trace has no function of the pattern {pattern} that is invoked in these minutes"
            ));
            continue;
        }
        let names: Vec<&str> = parts.iter().map(|part| part.subject.name.as_str()).collect();
        let runtime = format!("baton {}", arguments.policy);
        for repeat in 0..arguments.repeats {
            let outcome = once(arguments, &parts, repeat, &session)?;
            if outcome.samples.is_empty() && outcome.lost.is_none() {
                let note = format!("{pattern}: there is no invocation in the minutes that count");
                results.notes.push(note);
            }
            requests += &lines(pattern, &parts, &outcome)?;
            rows.push(Measured::of(&names.join("+"), &runtime, &pattern.to_string(), &outcome));
            bar.inc(1);
            if let Some(lost) = outcome.lost {
                results.notes.push(format!("the target was lost in {pattern}: {lost}"));
                break 'patterns;
            }
        }
    }
    bar.finish_and_clear();
    let title = format!(
        "Replay, minutes {} to {} at {} times their speed, {} minutes of warm-up not counted",
        arguments.minutes.start(),
        arguments.minutes.end(),
        arguments.compress,
        arguments.warm_up
    );
    results.tables.push(measured::table(&title, &rows));
    results.data("measured", &rows)?;
    results.machine.ended();
    if let Some(path) = &arguments.requests {
        fs::write(path, requests)?;
    }
    Ok((arguments.output.write(&results)?, results.is_partial()))
}

/// Replays the functions of one pattern, and leaves out the minutes before those that count.
fn once(
    arguments: &ReplayArguments,
    parts: &[Part],
    repeat: u16,
    session: &Session,
) -> anyhow::Result<Outcome> {
    let how = Replay {
        policy: arguments.policy.clone(),
        minute: Duration::from_secs(60).div_f64(arguments.compress),
        spacing: arguments.spacing,
        seed: arguments.seed.wrapping_add(1000 * u64::from(repeat)),
    };
    let minutes = arguments.minutes.end() - arguments.minutes.start() + 1;
    let replayed = parts.iter().map(|part| part.counts.len()).max().unwrap_or(0);
    let skipped = how.minute * u32::try_from(replayed.saturating_sub(minutes))?;
    after(skipped, how.play(parts, session)?)
}

/// A line of comma-separated values for each request.
fn lines(pattern: Pattern, parts: &[Part], outcome: &Outcome) -> anyhow::Result<String> {
    let mut lines = String::new();
    for sample in &outcome.samples {
        let part = &parts[usize::try_from(sample.request)?];
        lines += &format!(
            "{pattern},{},{:.3},{:.3},{},{}\n",
            part.subject.name,
            wide(sample.at_ns) / 1e6,
            sample.ms(),
            sample.status,
            serde_json::to_value(sample.tier)?.as_str().unwrap_or_default()
        );
    }
    Ok(lines)
}

fn patterns(arguments: &ReplayArguments) -> Vec<Pattern> {
    match arguments.pattern.is_empty() {
        true => Pattern::ALL.to_vec(),
        false => arguments.pattern.clone(),
    }
}

/// The functions of those patterns that are busiest in the minutes that count; none without a trace.
fn chosen(arguments: &ReplayArguments, patterns: &[Pattern]) -> anyhow::Result<Vec<Chosen>> {
    let Some(trace) = &arguments.trace else { return Ok(Vec::new()) };
    let reader = read::invocations(trace)?;
    let last = *arguments.minutes.end();
    anyhow::ensure!(
        last <= reader.minutes(),
        "--minutes ends at {last}, and {} has {} minutes",
        trace.display(),
        reader.minutes()
    );
    let first = *arguments.minutes.start() - 1;
    let mut chosen = survey(reader, arguments.each, first..last)?.chosen;
    chosen.retain(|chosen| patterns.contains(&chosen.pattern));
    Ok(chosen)
}

/// The functions of a pattern: those of the trace with what stands in for each, or made ones.
fn parts(
    arguments: &ReplayArguments,
    pattern: Pattern,
    chosen: &[Chosen],
    stand_ins: &[Subject],
) -> Vec<Part> {
    let (first, last) = (*arguments.minutes.start(), *arguments.minutes.end());
    if arguments.trace.is_none() {
        let length = last - first + 1 + arguments.warm_up;
        let rate = arguments.per_minute / float(stand_ins.len());
        let made = stand_ins.iter().zip(0_u64..).map(|(subject, index)| {
            let seed = arguments.seed.wrapping_add(index);
            Part { counts: pattern.counts(length, rate, seed), subject: subject.clone() }
        });
        return made.collect();
    }
    let from = first.saturating_sub(1 + arguments.warm_up);
    let of_pattern = chosen.iter().zip(stand_ins).filter(|(found, _)| found.pattern == pattern);
    let part = |(found, subject): (&Chosen, &Subject)| Part {
        counts: found.row.counts[from..last].to_vec(),
        subject: subject.clone(),
    };
    of_pattern.map(part).collect()
}

/// The functions of ours that are asked: one for each that was chosen, by its duration where that
/// is given; without a trace those that were named.
fn stand_ins(
    arguments: &ReplayArguments,
    chosen: &[Chosen],
    session: &Session,
    results: &mut Results,
) -> anyhow::Result<Vec<Subject>> {
    if let Some(path) = &arguments.durations {
        let wanted = stand_in::wanted(&read::durations(path)?, chosen)?;
        let stand_ins = stand_in::found(&wanted, session)?;
        let traffic = Traffic {
            minutes: *arguments.minutes.start() - 1..*arguments.minutes.end(),
            compress: arguments.compress,
        };
        traffic.tell(chosen, &wanted, &stand_ins, results);
        return Ok(stand_ins.into_iter().map(|stand_in| stand_in.subject).collect());
    }
    let body =
        |name: &String| arguments.body.clone().unwrap_or_else(|| catalogue::body(name).to_owned());
    let named = arguments.function.iter().map(|name| Subject::ours(name, &body(name)));
    if arguments.trace.is_none() {
        return Ok(named.collect());
    }
    // The same for each pattern, however many functions the others have.
    let named: Vec<Subject> = named.collect();
    let place = |index: usize| {
        let before = chosen[..index].iter().filter(|it| it.pattern == chosen[index].pattern);
        named[before.count() % named.len()].clone()
    };
    Ok((0..chosen.len()).map(place).collect())
}

impl Replay {
    /// Replays functions on a Baton of its own.
    ///
    /// # Errors
    /// When that cannot be started, or does not end well.
    pub fn play(&self, parts: &[Part], session: &Session) -> anyhow::Result<Outcome> {
        let mut names: Vec<&str> = Vec::new();
        let mut setup = Setup::new().section("[pool]\nmemory = \"8GiB\"");
        for part in parts {
            if !names.contains(&part.subject.name.as_str()) {
                names.push(&part.subject.name);
                setup = part.subject.add_to(setup, &self.policy);
            }
        }
        let baton = setup.start(&session.cores.server)?;
        let mut arrivals: Vec<Arrival> = Vec::new();
        for (request, part) in parts.iter().enumerate() {
            let seed = self.seed.wrapping_add(u64::try_from(request)?);
            let at = instants(&part.counts, self.minute, self.spacing, seed);
            arrivals.extend(at.into_iter().map(|at| Arrival { at, request }));
        }
        arrivals.sort_by_key(|arrival| arrival.at);
        let requests: Vec<_> =
            parts.iter().map(|part| part.subject.request(&part.subject.prefix())).collect();
        let cores = &session.cores.load;
        let outcome = load::open(&baton.target(), &requests, &arrivals, CONNECTIONS_MAX, cores)?;
        if outcome.lost.is_none() {
            baton.stop()?;
        }
        Ok(outcome)
    }
}

/// The outcome without its first minutes, which are `skipped`.
fn after(skipped: Duration, mut outcome: Outcome) -> anyhow::Result<Outcome> {
    let counted = u64::try_from(skipped.as_nanos())?;
    outcome.samples.retain(|sample| sample.at_ns >= counted);
    outcome.elapsed = outcome.elapsed.saturating_sub(skipped);
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_a_number_or_a_range() {
        assert_eq!(minutes("30"), Ok(1..=30));
        assert_eq!(minutes("601-660"), Ok(601..=660));
        for bad in ["0", "5-3", "x", "-3", "0-4"] {
            assert!(minutes(bad).is_err(), "{bad}");
        }
    }
}
