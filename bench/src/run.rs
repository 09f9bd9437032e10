//! `baton-bench run`: one function in one place, asked in one way.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use crate::bench::Session;
use crate::client::{Request, Target};
use crate::deployment::Deployment;
use crate::load::{self, Arrival, Outcome, Until};
use crate::measured::{self, Measured};
use crate::output::OutputArguments;
use crate::results::Results;
use crate::schedule;
use crate::stats;
use crate::subject::{Subject, SubjectArguments};
use crate::table::Table;

/// How a function is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Mode {
    /// Closed loop after a warm-up: each connection asks again as soon as it has its answer
    Warm,
    /// As warm, on one connection
    Sequential,
    /// One at a time, each when the function has neither an idle nor a leased sandbox
    Cold,
    /// All at once to a function that is cold, then the next burst
    Burst,
    /// Open loop: requests come when they come, whatever became of those before
    Open,
}

/// How the requests of an open loop are spaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Arrivals {
    /// A Poisson process
    Poisson,
    /// At equal gaps
    Uniform,
    /// --concurrency at once, at equal gaps
    Burst,
}

/// `baton-bench run`.
#[derive(Clone, Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    subject: SubjectArguments,
    /// Which tier answers [default: what its builds allow]
    #[arg(long, value_parser = POLICIES)]
    policy: Option<String>,
    /// Ask a Baton that already runs, http://ADDRESS; with the function at --path
    #[arg(long, conflicts_with_all = ["policy", "component", "native"])]
    url: Option<String>,
    /// How it is asked
    #[arg(long, value_enum, default_value_t = Mode::Warm)]
    mode: Mode,
    /// Requests at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// Open loop: requests a second
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Open loop: how they are spaced
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    arrivals: Arrivals,
    /// Seconds of each repeat
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Requests of each repeat instead, except in an open loop [default of cold and burst: 20]
    #[arg(long)]
    requests: Option<usize>,
    /// Requests before each measurement that are not counted; not before cold ones and bursts
    #[arg(long, default_value_t = 50)]
    warm_up: usize,
    /// How often all of it is measured
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Seed of everything random
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where results go.
    #[command(flatten)]
    pub output: OutputArguments,
}

/// Baton's policies.
pub const POLICIES: [&str; 4] = ["wasm", "native", "hybrid", "adaptive"];

/// Requests of a cold measurement.
const COLD_REQUESTS: usize = 20;

/// Measures it.
///
/// # Errors
/// When it cannot be measured at all; what the target does wrong is in the results.
pub fn run(arguments: &RunArguments) -> anyhow::Result<Results> {
    check(arguments)?;
    let session = Session::new(arguments.seed, false);
    let mut results = Results::new("run", arguments.seed);
    let mut rows = Vec::new();
    let mut outcomes = Vec::new();
    let bar = session.progress.steps(arguments.repeats);
    for repeat in 0..arguments.repeats {
        let seed = arguments.seed.wrapping_add(u64::try_from(repeat)?);
        let (row, outcome) = once(arguments, &session, seed)?;
        let lost = row.lost.clone();
        rows.push(row);
        outcomes.push(outcome);
        bar.inc(1);
        if let Some(lost) = lost {
            results.notes.push(format!("the target was lost in repeat {}: {lost}", repeat + 1));
            break;
        }
    }
    bar.finish_and_clear();
    let title = format!("Each of {} repeats", rows.len());
    results.tables.push(measured::table(&title, &rows));
    results.tables.push(histogram(&outcomes));
    for (failure, count) in outcomes.iter().flat_map(|outcome| &outcome.failures) {
        results.notes.push(format!("{count} requests failed: {failure}"));
    }
    results.data("measured", &rows)?;
    results.machine.ended();
    Ok(results)
}

fn check(arguments: &RunArguments) -> anyhow::Result<()> {
    let RunArguments { rate, seconds, repeats, .. } = arguments;
    anyhow::ensure!(rate.is_finite() && *rate > 0.0, "--rate is {rate}, expected more than 0");
    anyhow::ensure!(
        seconds.is_finite() && *seconds > 0.0,
        "--seconds is {seconds}, expected more than 0"
    );
    anyhow::ensure!(*repeats > 0, "--repeats is 0, expected at least 1");
    anyhow::ensure!(
        arguments.url.is_none() || !matches!(arguments.mode, Mode::Cold | Mode::Burst),
        "whether a function behind --url is cold is not known; measure it without --url"
    );
    Ok(())
}

/// All repeats together, as HDR histogram.
fn histogram(outcomes: &[Outcome]) -> Table {
    let succeeded = outcomes.iter().flat_map(|outcome| &outcome.samples).filter(|s| s.succeeded());
    let histogram = stats::histogram(succeeded.map(|sample| sample.latency_ns));
    let mut table = Table::new("Latency of all repeats together", ["quantile", "ms", "requests"]);
    for value in histogram.iter_quantiles(1) {
        table.row([
            format!("{:.5}", value.quantile_iterated_to()),
            format!("{:.3}", stats::wide(value.value_iterated_to()) / 1e6),
            value.count_since_last_iteration().to_string(),
        ]);
    }
    table
}

fn once(
    arguments: &RunArguments,
    session: &Session,
    seed: u64,
) -> anyhow::Result<(Measured, Outcome)> {
    if let Some(url) = &arguments.url {
        let subject = Subject { path: arguments.subject.path.clone(), ..bare(&arguments.subject) };
        let request = subject.request("");
        let outcome = loaded(arguments, session, &target(url)?, &request, seed)?;
        return Ok((Measured::of(&subject.name, url, &scenario(arguments), &outcome), outcome));
    }
    let subject = arguments.subject.subject(session)?;
    let policy = arguments.policy.clone().unwrap_or_else(|| default_policy(&subject).to_owned());
    let deployment = Deployment::Baton(policy);
    if let Some(lacks) = deployment.lacks(&subject) {
        anyhow::bail!("{deployment}: {lacks}");
    }
    match arguments.mode {
        Mode::Cold | Mode::Burst => cold(arguments, session, &subject, &deployment),
        Mode::Warm | Mode::Sequential | Mode::Open => {
            warm(arguments, session, &subject, &deployment, seed)
        }
    }
}

fn bare(arguments: &SubjectArguments) -> Subject {
    let mut subject = Subject::ours(&arguments.function, &arguments.body);
    if let Some(method) = &arguments.method {
        subject.method = method.clone();
    }
    subject
}

/// The policy that a function's builds allow.
#[must_use]
pub fn default_policy(subject: &Subject) -> &'static str {
    match (&subject.component, &subject.native) {
        (Some(_), Some(_)) => "hybrid",
        (Some(_), None) => "wasm",
        _ => "native",
    }
}

/// The address of a URL.
fn target(url: &str) -> anyhow::Result<Target> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("--url is {url:?}, expected http://ADDRESS:PORT"))?;
    let address = rest.trim_end_matches('/').parse().with_context(|| {
        format!("--url is {url:?}, expected http://ADDRESS:PORT with the address as a number")
    })?;
    Ok(Target::Tcp(address))
}

fn scenario(arguments: &RunArguments) -> String {
    let named = |value: Option<clap::builder::PossibleValue>| {
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    };
    match arguments.mode {
        Mode::Open => {
            format!("open {} {}/s", named(arguments.arrivals.to_possible_value()), arguments.rate)
        }
        mode => named(mode.to_possible_value()),
    }
}

fn connections(arguments: &RunArguments) -> usize {
    match arguments.mode {
        Mode::Sequential => 1,
        _ => usize::from(arguments.concurrency),
    }
}

/// The load of warm modes, after its warm-up.
fn loaded(
    arguments: &RunArguments,
    session: &Session,
    target: &Target,
    request: &Request,
    seed: u64,
) -> anyhow::Result<Outcome> {
    let cores = &session.cores.load;
    let requests = [request.clone()];
    let connections = connections(arguments);
    if arguments.warm_up > 0 {
        load::closed(target, &requests, connections, Until::Requests(arguments.warm_up), cores)?;
    }
    let time = Duration::from_secs_f64(arguments.seconds);
    if arguments.mode != Mode::Open {
        let until = arguments.requests.map_or(Until::Elapsed(time), Until::Requests);
        return Ok(load::closed(target, &requests, connections, until, cores)?);
    }
    let instants = match arguments.arrivals {
        Arrivals::Poisson => schedule::poisson(arguments.rate, time, seed),
        Arrivals::Uniform => schedule::uniform(arguments.rate, time),
        Arrivals::Burst => schedule::bursts(arguments.rate, connections, time),
    };
    let arrivals: Vec<Arrival> =
        instants.into_iter().map(|at| Arrival { at, request: 0 }).collect();
    Ok(load::open(target, &requests, &arrivals, CONNECTIONS_MAX, cores)?)
}

/// Connections of an open loop.
pub const CONNECTIONS_MAX: usize = 1024;

fn warm(
    arguments: &RunArguments,
    session: &Session,
    subject: &Subject,
    deployment: &Deployment,
    seed: u64,
) -> anyhow::Result<(Measured, Outcome)> {
    let running = deployment.start(subject, session)?;
    let request = subject.request(&running.prefix);
    // Warm also means that what the warm-up made necessary is there.
    let warmed = [request.clone()];
    let until = Until::Requests(arguments.warm_up.max(1));
    load::closed(&running.target(), &warmed, connections(arguments), until, &session.cores.load)?;
    running.settle()?;
    let before = running.cpu_ns();
    let outcome = loaded(arguments, session, &running.target(), &request, seed)?;
    let cpu_ns = running.cpu_ns().saturating_sub(before);
    let asked = outcome.samples.len() + arguments.warm_up;
    let mut row =
        Measured::of(&subject.name, &deployment.to_string(), &scenario(arguments), &outcome);
    row.connections = if arguments.mode == Mode::Open { 0 } else { connections(arguments) };
    row.cpu_ms = Some(stats::wide(cpu_ns) / 1e6 / stats::float(asked.max(1)));
    row.memory = running.memory();
    if outcome.lost.is_none() {
        running.stop()?;
    }
    Ok((row, outcome))
}

/// Bursts (of one request: cold ones) to a function without a sandbox.
fn cold(
    arguments: &RunArguments,
    session: &Session,
    subject: &Subject,
    deployment: &Deployment,
) -> anyhow::Result<(Measured, Outcome)> {
    let mut cold = deployment.cold(subject, session)?;
    let size = match arguments.mode {
        Mode::Burst => connections(arguments),
        _ => 1,
    };
    let mut all = Outcome::default();
    let mut done = 0;
    while done < arguments.requests.unwrap_or(COLD_REQUESTS) {
        done += size;
        let burst = cold.burst(size)?;
        let offset = u64::try_from(all.elapsed.as_nanos())?;
        all.samples.extend(burst.samples.into_iter().map(|mut sample| {
            sample.at_ns += offset;
            sample
        }));
        for (failure, count) in burst.failures {
            *all.failures.entry(failure).or_default() += count;
        }
        all.elapsed += burst.elapsed;
        all.lost = burst.lost;
        if all.lost.is_some() {
            break;
        }
    }
    let mut row = Measured::of(&subject.name, &deployment.to_string(), &scenario(arguments), &all);
    row.connections = size;
    if all.lost.is_none() {
        cold.stop()?;
    }
    Ok((row, all))
}
