//! `baton-bench characterize`: what one function is like in each form it can have.
//!
//! The table of the Lumos and HybridServe papers: cold start, execution, the function's own split of
//! its time, throughput over concurrency, sizes, memory, CPU, energy, counters.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::bars::short;
use crate::bench::Session;
use crate::client::Client;
use crate::compare::{self, BaselineArguments};
use crate::counters::{Counting, energy_uj};
use crate::deployment::{Deployment, Form, wasmtime};
use crate::load::{self, Until};
use crate::measured::{CACHE_MISSES, INSTRUCTIONS, Measured, SYSTEM_CALLS, Split};
use crate::oci::Rootfs;
use crate::output::OutputArguments;
use crate::results::Results;
use crate::server;
use crate::stats::{float, median, wide};
use crate::subject::{Subject, SubjectArguments};
use crate::table::Table;

/// `baton-bench characterize`.
#[derive(Clone, Debug, Args)]
pub struct CharacterizeArguments {
    #[command(flatten)]
    subject: SubjectArguments,
    /// Bodies of the payload groups; each is measured [default: --body]
    #[arg(long)]
    payload: Vec<String>,
    /// Requests at once, in turn; separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 50, 100, 200])]
    concurrency: Vec<u16>,
    /// Cold requests, and requests for the split
    #[arg(long, default_value_t = 10)]
    repeats: usize,
    /// Seconds of each concurrency
    #[arg(long, default_value_t = 2.0)]
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

/// How much of everything is measured.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Cold requests of each form.
    pub repeats: usize,
    /// Requests at once, in turn.
    pub concurrency: Vec<u16>,
    /// Time of each.
    pub time: Duration,
}

/// An artifact's size.
#[derive(Clone, Debug, serde::Deserialize, Serialize)]
pub struct Size {
    /// The function.
    pub function: String,
    /// What it is.
    pub artifact: String,
    /// How long.
    pub bytes: u64,
}

/// The forms of a function that are compared.
#[must_use]
pub fn forms(baselines: &BaselineArguments) -> Vec<Deployment> {
    let mut forms = vec![Deployment::Baton("wasm".into()), Deployment::Baton("native".into())];
    if let Some(program) = wasmtime(baselines.wasmtime.as_deref()) {
        for form in [Form::Ahead, Form::AtStart, Form::Pulley] {
            forms.push(Deployment::Wasmtime(program.clone(), form));
        }
    }
    forms.push(Deployment::Container("runc".into(), Rootfs::Scratch));
    forms
}

/// Characterizes it.
///
/// # Errors
/// When a form that answered once fails later.
pub fn run(arguments: &CharacterizeArguments) -> anyhow::Result<Results> {
    let session = Session::new(arguments.seed, false);
    let mut results = Results::new("characterize", arguments.seed);
    anyhow::ensure!(arguments.repeats > 0, "--repeats is 0, expected at least 1");
    anyhow::ensure!(arguments.seconds > 0.0, "--seconds is {}", arguments.seconds);
    anyhow::ensure!(
        !arguments.concurrency.contains(&0),
        "--concurrency has a 0, expected at least 1"
    );
    let effort = Effort {
        repeats: arguments.repeats,
        concurrency: arguments.concurrency.clone(),
        time: Duration::from_secs_f64(arguments.seconds),
    };
    let payloads = match arguments.payload.is_empty() {
        true => vec![arguments.subject.body.clone()],
        false => arguments.payload.clone(),
    };
    let mut rows = Vec::new();
    let mut sizes = Vec::new();
    for body in payloads {
        let mut of_payload = arguments.subject.clone();
        of_payload.body.clone_from(&body);
        let subject = of_payload.subject(&session)?.called(&body);
        let places = forms(&arguments.baselines);
        rows.extend(subject_rows(&subject, places, &effort, &session, &mut results)?);
        sizes = subject_sizes(&subject, &arguments.baselines);
    }
    results.tables.push(table(&rows));
    results.tables.push(concurrency_table(&rows));
    results.tables.push(sizes_table("What is shipped", &sizes));
    if energy_uj().is_none() {
        results.notes.push("energy: not measured, RAPL is not readable here".into());
    }
    results.data("measured", &rows)?;
    results.data("sizes", &sizes)?;
    results.machine.ended();
    Ok(results)
}

/// The sizes of what is shipped.
#[must_use]
pub fn subject_sizes(subject: &Subject, baselines: &BaselineArguments) -> Vec<Size> {
    let program = wasmtime(baselines.wasmtime.as_deref());
    let debian = baselines.debian_directory();
    let sizes = compare::sizes(subject, program.as_deref(), &debian);
    let size = |(artifact, bytes)| Size { function: subject.name.clone(), artifact, bytes };
    sizes.into_iter().map(size).collect()
}

/// Everything about one request of a function in these places, as far as they are here.
///
/// # Errors
/// When a form that answered once fails later.
pub fn subject_rows(
    subject: &Subject,
    places: Vec<Deployment>,
    effort: &Effort,
    session: &Session,
    results: &mut Results,
) -> anyhow::Result<Vec<Measured>> {
    let places = compare::usable(places.into_iter(), subject, session, results);
    let mut rows = compare::cold(subject, &places, effort.repeats, session)?;
    let bar = session.progress.steps(places.len());
    for place in &places {
        let (warm, skipped) = warm_rows(subject, place, effort, session)?;
        rows.extend(warm);
        bar.inc(1);
        if let Some(from) = skipped {
            let Subject { name, parameters, .. } = subject;
            results.notes.push(format!(
                "{name} {parameters} in {place}: not measured at {from} or more at once, where one \
                 answer would take over {} s",
                ANSWER_MAX / 1e3
            ));
        }
    }
    bar.finish_and_clear();
    Ok(rows)
}

/// Milliseconds that an answer may take under load, by what it takes alone.
const ANSWER_MAX: f64 = 10_000.0;

/// Warm measurements, and from which concurrency on they were left out.
fn warm_rows(
    subject: &Subject,
    place: &Deployment,
    effort: &Effort,
    session: &Session,
) -> anyhow::Result<(Vec<Measured>, Option<usize>)> {
    let running = place.start(subject, session)?;
    compare::warm_up(&running, subject, 1, session)?;
    let request = subject.request(&running.prefix);
    let mut client = Client::new(&running.target())?;
    let bodies = (0..effort.repeats).map(|_| Ok(client.ask(&request)?.body));
    let bodies: Vec<Vec<u8>> = bodies.collect::<anyhow::Result<_>>()?;
    drop(client);
    let mut rows: Vec<Measured> = Vec::new();
    let mut skipped = None;
    for concurrency in &effort.concurrency {
        let connections = usize::from(*concurrency);
        let alone = rows.first().map_or(0.0, |row| row.latency.p50 / float(row.connections));
        if alone * float(connections) > ANSWER_MAX {
            skipped = Some(connections);
            break;
        }
        let (cpu_before, energy_before) = (running.cpu_ns(), energy_uj());
        let counting = Counting::begin(&server::tree(running.pid()));
        let until = Until::Elapsed(effort.time);
        let requests = [request.clone()];
        let cores = &session.cores.load;
        let outcome = load::closed(&running.target(), &requests, connections, until, cores)?;
        let counts = counting.map(Counting::end).unwrap_or_default();
        let energy = energy_uj().zip(energy_before).map(|(now, then)| now.saturating_sub(then));
        let cpu_ns = running.cpu_ns().saturating_sub(cpu_before);
        let mut row = Measured::of(&subject.name, &place.to_string(), "warm", &outcome);
        let asked = float(row.requests.max(1));
        row.parameters.clone_from(&subject.parameters);
        row.connections = connections;
        row.cpu_ms = Some(wide(cpu_ns) / 1e6 / asked);
        row.joules = energy.map(|energy| wide(energy) / 1e6 / asked);
        row.counters = counts.into_iter().map(|(event, count)| (event, count / asked)).collect();
        row.split = split(&bodies);
        row.memory = running.memory();
        rows.push(row);
    }
    running.stop()?;
    Ok((rows, skipped))
}

/// What the function says about its own time: the median of each part, if it says it.
fn split(bodies: &[Vec<u8>]) -> Option<Split> {
    let parsed: Vec<Value> =
        bodies.iter().filter_map(|body| serde_json::from_slice(body).ok()).collect();
    let part = |name: &str| -> Option<f64> {
        let values: Vec<f64> =
            parsed.iter().filter_map(|value| value["data"][name].as_f64()).collect();
        (!values.is_empty()).then(|| median(&values))
    };
    Some(Split {
        retrieval: part("data_retrieval_ms")?,
        serialization: part("serialization_ms")?,
        compute: part("compute_ms")?,
    })
}

/// One line for each payload and form.
#[must_use]
pub fn table(rows: &[Measured]) -> Table {
    let columns = [
        "function",
        "runtime",
        "cold p50 ms",
        "warm p50 ms",
        "I/O ms",
        "serialize ms",
        "compute ms",
        "CPU ms",
        "peak MB",
        "J",
        "instructions",
        "cache misses",
        "system calls",
    ];
    let title = "Cold start, execution on one connection, and what it costs a request";
    let mut table = Table::new(title, columns);
    let alone = rows.iter().filter(|row| row.scenario == "warm").fold(
        Vec::<&Measured>::new(),
        |mut first, row| {
            let key = |row: &Measured| {
                (row.parameters.clone(), row.runtime.clone(), row.function.clone())
            };
            if !first.iter().any(|seen| key(seen) == key(row)) {
                first.push(row);
            }
            first
        },
    );
    for warm in alone {
        let cold = rows.iter().find(|row| {
            row.scenario == "cold"
                && (&row.function, &row.parameters, &row.runtime)
                    == (&warm.function, &warm.parameters, &warm.runtime)
        });
        let optional = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), short);
        let counter = |name: &str| optional(warm.counter(name));
        table.row([
            format!("{} {}", warm.function, warm.parameters).trim_end().to_owned(),
            warm.runtime.clone(),
            optional(cold.map(|row| row.latency.p50)),
            short(warm.latency.p50),
            optional(warm.split.map(|split| split.retrieval)),
            optional(warm.split.map(|split| split.serialization)),
            optional(warm.split.map(|split| split.compute)),
            optional(warm.cpu_ms),
            optional(warm.memory.map(|bytes| wide(bytes) / 1e6)),
            optional(warm.joules),
            counter(INSTRUCTIONS),
            counter(CACHE_MISSES),
            counter(SYSTEM_CALLS),
        ]);
    }
    table
}

/// Throughput and latency over concurrency.
#[must_use]
pub fn concurrency_table(rows: &[Measured]) -> Table {
    let columns = ["function", "runtime", "at once", "1/s", "p50 ms", "p99 ms", "failed"];
    let mut table = Table::new("Over concurrency", columns);
    for row in rows.iter().filter(|row| row.scenario == "warm") {
        table.row([
            format!("{} {}", row.function, row.parameters).trim_end().to_owned(),
            row.runtime.clone(),
            row.connections.to_string(),
            short(row.rate),
            short(row.latency.p50),
            short(row.latency.p99),
            row.failed.to_string(),
        ]);
    }
    table
}

/// Sizes in MB.
#[must_use]
pub fn sizes_table(title: &str, sizes: &[Size]) -> Table {
    let mut table = Table::new(title, ["function", "artifact", "MB"]);
    for size in sizes {
        let megabytes = short(wide(size.bytes) / 1e6);
        table.row([size.function.clone(), size.artifact.clone(), megabytes]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_the_median_of_what_the_function_says() {
        let body = |ms: f64| {
            format!(
                r#"{{"data":{{"data_retrieval_ms":{ms},"serialization_ms":1,"compute_ms":2}}}}"#
            )
            .into_bytes()
        };
        let split = split(&[body(1.0), body(9.0), body(3.0)]).expect("a split");
        assert_eq!((split.retrieval, split.compute), (3.0, 2.0));
        assert!(super::split(&[b"hello".to_vec()]).is_none());
    }
}
