//! `baton-bench compare`: the places where a function can run, side by side and in turn.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::bars::short;
use crate::bench::Session;
use crate::deployment::{Cold, Deployment, Form, Running, wasmtime};
use crate::interleave::{Rounds, interleave};
use crate::load::{self, Until};
use crate::measured::Measured;
use crate::oci::Rootfs;
use crate::output::OutputArguments;
use crate::results::Results;
use crate::stats::{self, Estimate, float, mann_whitney, wide};
use crate::subject::{Subject, SubjectArguments};
use crate::table::Table;

/// Two places differ when chance explains their difference with less than this probability.
pub const SIGNIFICANCE: f64 = 0.05;

/// How the places are compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Start {
    /// One request at a time, each to a function that is not there yet
    Cold,
    /// Closed loop to a function that is warm
    Warm,
}

/// Where baselines are on this machine.
#[derive(Clone, Debug, Default, Args)]
pub struct BaselineArguments {
    /// The `wasmtime` command [default: from PATH, or /opt/wasmtime/bin]
    #[arg(long, env = "WASMTIME")]
    pub wasmtime: Option<PathBuf>,
    /// A directory with an unpacked Debian, writable, for containers
    #[arg(long, env = "DEBIAN_ROOTFS")]
    pub debian: Option<PathBuf>,
}

impl BaselineArguments {
    /// Where a Debian is, if there is one.
    #[must_use]
    pub fn debian_directory(&self) -> PathBuf {
        let default = || crate::baton::target_dir().join("bench/debian");
        self.debian.clone().unwrap_or_else(default)
    }
}

/// `baton-bench compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArguments {
    #[command(flatten)]
    subject: SubjectArguments,
    /// Cold or warm; both when not given
    #[arg(long, value_enum)]
    start: Vec<Start>,
    /// Only these, of the names that the table shows, such as "baton hybrid"
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Requests at once, when warm
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// Rounds; in each, every place has its turn
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Seconds of a turn, when warm
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Seed of everything random
    #[arg(long, default_value_t = 42)]
    seed: u64,
    #[command(flatten)]
    baselines: BaselineArguments,
    /// Where results go.
    #[command(flatten)]
    pub output: OutputArguments,
}

/// Every place that there is.
#[must_use]
pub fn deployments(baselines: &BaselineArguments) -> Vec<Deployment> {
    let mut all: Vec<Deployment> = ["wasm", "native", "hybrid", "adaptive"]
        .into_iter()
        .map(|policy| Deployment::Baton(policy.to_owned()))
        .collect();
    all.push(Deployment::Process);
    if let Some(program) = wasmtime(baselines.wasmtime.as_deref()) {
        for form in [Form::Ahead, Form::AtStart, Form::Pulley] {
            all.push(Deployment::Wasmtime(program.clone(), form));
        }
    }
    let debian = baselines.debian_directory();
    for runtime in ["runc", "crun"] {
        for rootfs in [Rootfs::Scratch, Rootfs::Debian(debian.clone())] {
            all.push(Deployment::Container(runtime.to_owned(), rootfs));
        }
    }
    all
}

/// Compares them.
///
/// # Errors
/// When one of them cannot be started, or its requests fail.
pub fn run(arguments: &CompareArguments) -> anyhow::Result<Results> {
    anyhow::ensure!(arguments.rounds > 0, "--rounds is 0, expected at least 1");
    anyhow::ensure!(arguments.seconds > 0.0, "--seconds is {}", arguments.seconds);
    let session = Session::new(arguments.seed, false);
    let subject = arguments.subject.subject(&session)?;
    let mut results = Results::new("compare", arguments.seed);
    let all = deployments(&arguments.baselines);
    let known: Vec<String> = all.iter().map(ToString::to_string).collect();
    for only in &arguments.only {
        anyhow::ensure!(
            known.contains(only),
            "--only is {only:?}, expected one of {}",
            known.join(", ")
        );
    }
    if wasmtime(arguments.baselines.wasmtime.as_deref()).is_none() {
        results.notes.push("wasmtime: not installed".to_owned());
    }
    let chosen = all.into_iter().filter(|deployment| {
        arguments.only.is_empty() || arguments.only.contains(&deployment.to_string())
    });
    let places: Vec<Deployment> = usable(chosen, &subject, &session, &mut results);
    anyhow::ensure!(places.len() > 1, "there is nothing to compare: {}", results.notes.join("; "));
    let mut measured = Vec::new();
    for start in [Start::Cold, Start::Warm] {
        if !arguments.start.is_empty() && !arguments.start.contains(&start) {
            continue;
        }
        let rows = match start {
            Start::Cold => cold(&subject, &places, arguments.rounds, &session)?,
            Start::Warm => {
                let time = Duration::from_secs_f64(arguments.seconds);
                let connections = usize::from(arguments.concurrency);
                warm(&subject, &places, connections, time, arguments.rounds, &session)?
            }
        };
        results.tables.push(versus(&rows, arguments.seed));
        measured.extend(rows);
    }
    results.data("measured", &measured)?;
    results.machine.ended();
    Ok(results)
}

/// Those that can be had here; why the others cannot is noted.
#[must_use]
pub fn usable(
    places: impl Iterator<Item = Deployment>,
    subject: &Subject,
    session: &Session,
    results: &mut Results,
) -> Vec<Deployment> {
    let mut usable = Vec::new();
    for place in places {
        if let Some(lacks) = place.lacks(subject) {
            results.notes.push(format!("{place}: not measured, {lacks}"));
            continue;
        }
        match try_once(&place, subject, session) {
            Ok(()) => usable.push(place),
            Err(why) => {
                results.notes.push(format!("{} in {place}: not measured, {why}", subject.name));
            }
        }
    }
    usable
}

/// Whether the function answers there at all.
fn try_once(place: &Deployment, subject: &Subject, session: &Session) -> Result<(), String> {
    let answered = place.start(subject, session).and_then(|running| {
        let request = subject.request(&running.prefix);
        let answer = crate::client::ask(&running.target(), &request)?;
        anyhow::ensure!(answer.status == 200, "it answered {}", answer.status);
        running.stop()
    });
    answered.map_err(|error| reason(&format!("{error:#}")))
}

/// A fault of a manifest without the place of that file, which is a temporary one; anything else as
/// it is, on one line.
fn reason(error: &str) -> String {
    let fault = error.lines().find_map(|line| line.split_once("baton.toml:").map(|(_, it)| it));
    match fault {
        Some(fault) => fault.trim_start_matches(|c: char| c.is_ascii_digit() || ": ".contains(c)),
        None => error,
    }
    .replace('\n', " ")
}

/// Cold requests, one for each place in each round.
///
/// # Errors
/// When a request fails.
pub fn cold(
    subject: &Subject,
    places: &[Deployment],
    rounds: usize,
    session: &Session,
) -> anyhow::Result<Vec<Measured>> {
    let mut colds: Vec<Cold<'_>> =
        places.iter().map(|place| place.cold(subject, session)).collect::<anyhow::Result<_>>()?;
    let measured = interleave(&mut colds, rounds, &session.progress, |cold, _| cold.once())?;
    colds.into_iter().try_for_each(Cold::stop)?;
    let rows = places.iter().zip(&measured.variants).map(|(place, ms)| {
        let mut row = Measured::of_latencies(&subject.name, &place.to_string(), "cold", ms);
        row.parameters.clone_from(&subject.parameters);
        row
    });
    Ok(rows.collect())
}

/// A turn under load.
struct Turn {
    outcome: load::Outcome,
    cpu_ns: u64,
}

/// Closed loops, one for each place in each round.
///
/// # Errors
/// When requests fail.
pub fn warm(
    subject: &Subject,
    places: &[Deployment],
    connections: usize,
    time: Duration,
    rounds: usize,
    session: &Session,
) -> anyhow::Result<Vec<Measured>> {
    let start = |place: &Deployment| {
        let running = place.start(subject, session)?;
        warm_up(&running, subject, connections, session)?;
        Ok(running)
    };
    let mut running: Vec<Running> = places.iter().map(start).collect::<anyhow::Result<_>>()?;
    let measured = interleave(&mut running, rounds, &session.progress, |running, _| {
        turn(running, subject, connections, Until::Elapsed(time), session)
    })?;
    let rows = summarize(subject, places, connections, &measured, &running);
    running.into_iter().try_for_each(Running::stop)?;
    Ok(rows)
}

/// Requests until what they make necessary is there.
///
/// # Errors
/// When the load cannot be made.
pub fn warm_up(
    running: &Running,
    subject: &Subject,
    connections: usize,
    session: &Session,
) -> anyhow::Result<()> {
    let request = [subject.request(&running.prefix)];
    for _ in 0..2 {
        let until = Until::Requests(2 * connections);
        let cores = &session.cores.load;
        load::closed(&running.target(), &request, connections, until, cores)?.check()?;
        running.settle()?;
    }
    Ok(())
}

fn turn(
    running: &Running,
    subject: &Subject,
    connections: usize,
    until: Until,
    session: &Session,
) -> anyhow::Result<Turn> {
    let request = [subject.request(&running.prefix)];
    let before = running.cpu_ns();
    let cores = &session.cores.load;
    let outcome = load::closed(&running.target(), &request, connections, until, cores)?.check()?;
    let cpu_ns = running.cpu_ns().saturating_sub(before);
    Ok(Turn { outcome, cpu_ns })
}

fn summarize(
    subject: &Subject,
    places: &[Deployment],
    connections: usize,
    measured: &Rounds<Turn>,
    running: &[Running],
) -> Vec<Measured> {
    let rows = places.iter().zip(&measured.variants).zip(running);
    let rows = rows.map(|((place, turns), running)| {
        let mut all = load::Outcome::default();
        let mut cpu_ns = 0;
        for turn in turns {
            let offset = u64::try_from(all.elapsed.as_nanos()).unwrap_or(u64::MAX);
            all.samples.extend(
                turn.outcome
                    .samples
                    .iter()
                    .map(|sample| load::Sample { at_ns: sample.at_ns + offset, ..*sample }),
            );
            all.elapsed += turn.outcome.elapsed;
            cpu_ns += turn.cpu_ns;
        }
        let mut row = Measured::of(&subject.name, &place.to_string(), "warm", &all);
        row.parameters.clone_from(&subject.parameters);
        row.connections = connections;
        row.cpu_ms = Some(wide(cpu_ns) / 1e6 / float(all.samples.len()));
        row.memory = running.memory();
        row
    });
    rows.collect()
}

/// Medians with intervals, each against the first place.
#[must_use]
pub fn versus(rows: &[Measured], seed: u64) -> Table {
    let Some(first) = rows.first() else { return Table::default() };
    let title = format!(
        "{}, {}, {} at once; ratio and Mann–Whitney p against {}",
        first.function, first.scenario, first.connections, first.runtime
    );
    let columns = [
        "runtime",
        "n",
        "p50 ms",
        "95 % interval",
        "p99 ms",
        "1/s",
        "CPU ms",
        "ratio",
        "95 % interval",
        "p",
        "differs",
    ];
    let mut table = Table::new(title, columns);
    let base = first.ms();
    for row in rows {
        let ms = row.ms();
        let median = stats::median_estimate(&ms, seed);
        let ratio = stats::ratio_of(&ms, &base, seed, stats::median);
        let p = mann_whitney(&ms, &base);
        table.row([
            row.runtime.clone(),
            row.requests.to_string(),
            short(median.value),
            interval(median),
            short(row.latency.p99),
            short(row.rate),
            row.cpu_ms.map_or_else(|| "–".into(), short),
            short(ratio.value),
            interval(ratio),
            if p < 0.0001 { "< 0.0001".into() } else { format!("{p:.4}") },
            if p < SIGNIFICANCE { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table
}

/// An interval as text.
#[must_use]
pub fn interval(estimate: Estimate) -> String {
    format!("{} – {}", short(estimate.low), short(estimate.high))
}

/// Sizes in bytes of what is shipped of a function.
#[must_use]
pub fn sizes(subject: &Subject, program: Option<&Path>, debian: &Path) -> Vec<(String, u64)> {
    let size = |path: &Path| path.metadata().map(|metadata| metadata.len()).ok();
    let mut sizes = Vec::new();
    let native = subject.native.as_deref().and_then(size);
    if let Some(component) = &subject.component {
        sizes.extend(size(component).map(|bytes| ("component".to_owned(), bytes)));
        if let Some(program) = program {
            for (form, name) in [(Form::Ahead, ".cwasm"), (Form::Pulley, "Pulley .cwasm")] {
                let made = crate::deployment::artifact(program, component, form).ok();
                sizes.extend(made.as_deref().and_then(size).map(|bytes| (name.to_owned(), bytes)));
            }
        }
    }
    if let Some(native) = native {
        sizes.push(("native".to_owned(), native));
        sizes.push(("image scratch".to_owned(), native));
        if debian.join("etc/debian_version").exists() {
            sizes.push(("image debian".to_owned(), native + tree_size(debian)));
        }
    }
    sizes
}

/// Bytes of all files below a directory.
fn tree_size(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => tree_size(&entry.path()),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_missing_is_missing_for_the_same_reason_in_every_run() {
        let error =
            "baton ended: baton: /tmp/x/baton.toml:11:10: function.f.policy: not yet\n1 fault";
        assert_eq!(reason(error), "function.f.policy: not yet");
        assert_eq!(reason("it answered 500\n"), "it answered 500 ");
    }

    #[test]
    fn places_that_answer_alike_do_not_differ_and_others_do() {
        let ms = |offset: f64| -> Vec<f64> { (0..40).map(|i| offset + f64::from(i % 7)).collect() };
        let row = |name: &str, ms: &[f64]| Measured::of_latencies("f", name, "cold", ms);
        let rows = [row("a", &ms(1.0)), row("b", &ms(1.0)), row("c", &ms(9.0))];
        let table = versus(&rows, 1);
        let differs: Vec<&str> =
            table.rows.iter().filter_map(|row| row.last().map(String::as_str)).collect();
        assert_eq!(differs, ["no", "no", "yes"]);
    }
}
