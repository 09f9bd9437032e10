//! What it costs that a request is forwarded to a sandbox, against the same native server reached
//! directly over TCP, in turns and in two placements:
//!
//! | placement | servers | load |
//! |---|---|---|
//! | one core | share one core | has the others, and never sleeps |
//! | all cores | run where the kernel puts them | the same, and sleeps until an answer is there |
//!
//! Throughput is compared on one core, where it is the processor time that counts; latency on all
//! cores, as a client finds it that has one request at a time.

use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde::Serialize;

use crate::bars::Bar;
use crate::baton::{Baton, Setup, builds};
use crate::bench::Session;
use crate::client::{Request, Target, Tier, ask};
use crate::cores::{Cores, Split};
use crate::interleave::{Rounds, interleave};
use crate::load::{Outcome, Until, closed, closed_awake, waiting_note};
use crate::results::Results;
use crate::server::{Announced, Server};
use crate::stats::{self, Estimate};
use crate::table::Table;

/// A function that answers a few bytes, or as many as are asked for, and computes next to nothing.
const FUNCTION: &str = "hello";
/// Connections at once in the third figure.
const CONNECTIONS: usize = 16;
/// Requests after which the native build must have answered.
const WARM_MAX: usize = 1_000;

/// Where servers and load run.
#[derive(Clone, Copy)]
enum Placement {
    OneCore,
    AllCores,
}

/// The same server, reached in one of two ways.
struct Way {
    placement: Placement,
    target: Target,
    prefix: &'static str,
    running: Running,
}

enum Running {
    Direct(Server),
    Forwarded(Baton),
}

/// What one round measured of one way.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    /// Median latency of 13 bytes at one connection.
    small_ms: f64,
    /// Median latency of a million bytes at one connection.
    large_ms: f64,
    /// Requests a second for 13 bytes at 16 connections.
    rate: f64,
}

/// Measures both ways, and adds a table, bars and data.
///
/// # Errors
/// When a server cannot be started or a request fails.
pub fn run(session: &Session, results: &mut Results) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let (core, all) = (session.cores.server.first(1), Cores::available());
    let mut ways = [
        direct(Placement::OneCore, &core, directory.path())?,
        forwarded(Placement::OneCore, &core)?,
        direct(Placement::AllCores, &all, directory.path())?,
        forwarded(Placement::AllCores, &all)?,
    ];
    let span = session.either(Duration::from_secs(2), Duration::from_millis(100));
    let count = session.either(10, 2);
    let rounds = interleave(&mut ways, count, &session.progress, |way, _| {
        measure(way, span, &session.cores)
    })?;
    for way in ways {
        match way.running {
            Running::Direct(server) => server.stop()?,
            Running::Forwarded(baton) => baton.stop()?,
        }
    }
    results.notes.push(format!("on one core {}", waiting_note(&session.cores)));
    report(&rounds, session.seed, results)
}

fn direct(placement: Placement, cores: &Cores, directory: &Path) -> anyhow::Result<Way> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let target = listener.local_addr()?.into();
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let mut command = Command::new("bash");
    let moved = format!(r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" 3<&{}"#, listener.as_raw_fd());
    command.arg("-c").arg(moved).arg(builds(FUNCTION).1);
    let announced = Announced::Port(listener.local_addr()?);
    let server = Server::start(command, &announced, cores, &directory.join("log"))?;
    // Whoever else held it would take the connections of a server that has died.
    drop(listener);
    Ok(Way { placement, target, prefix: "", running: Running::Direct(server) })
}

fn forwarded(placement: Placement, cores: &Cores) -> anyhow::Result<Way> {
    let setup = Setup::new().function(FUNCTION, "native");
    let setup = setup.with("sandboxes.max = 1").with("sandboxes.min = 1");
    let setup = setup.with(&format!("sandboxes.concurrency = {CONNECTIONS}"));
    let baton = setup.start(cores)?;
    let target = baton.target();
    let native =
        |_| ask(&target, &Request::get("/hello/")).is_ok_and(|answer| answer.tier == Tier::Native);
    anyhow::ensure!((0..WARM_MAX).any(native), "the native build never answers: {}", baton.log());
    Ok(Way { placement, target, prefix: "/hello", running: Running::Forwarded(baton) })
}

fn measure(way: &Way, span: Duration, cores: &Split) -> anyhow::Result<Measured> {
    let load = |path: &str, connections| -> anyhow::Result<Outcome> {
        let requests = [Request::get(&format!("{}{path}", way.prefix))];
        let (target, until) = (&way.target, Until::Elapsed(span));
        let outcome = match way.placement {
            Placement::OneCore => closed_awake(target, &requests, connections, until, cores)?,
            Placement::AllCores => {
                closed(target, &requests, connections, until, &Cores::available())?
            }
        };
        outcome.check()
    };
    let median = |outcome: &Outcome| stats::median(&outcome.latencies_ms());
    Ok(Measured {
        small_ms: median(&load("/", 1)?),
        large_ms: median(&load("/bytes/1000000", 1)?),
        rate: load("/", CONNECTIONS)?.rate(),
    })
}

fn report(rounds: &Rounds<Measured>, seed: u64, results: &mut Results) -> anyhow::Result<()> {
    let title = "Forwarding against the same server reached directly over TCP, by placement";
    let columns =
        ["placement, way", "13 B, p50 ms", "1 MB, p50 ms", "requests/s at 16 connections"];
    let mut table = Table::new(title, columns);
    let names = ["one core, direct", "one core, forwarded", "all, direct", "all, forwarded"];
    for (way, name) in names.into_iter().enumerate() {
        let cell = |figure: fn(&Measured) -> f64| rounds.median(way, seed, figure).value;
        let (small, large) = (cell(|it| it.small_ms), cell(|it| it.large_ms));
        let rate = cell(|it| it.rate);
        table.row([
            name.into(),
            format!("{small:.4}"),
            format!("{large:.4}"),
            format!("{rate:.0}"),
        ]);
    }
    results.tables.push(table);
    // The part that is added is what is past the whole of the other way.
    let added = |figure: fn(&Measured) -> f64| {
        let Estimate { value, low, high } = rounds.ratio(3, 2, seed, figure);
        Estimate { value: value - 1.0, low: low - 1.0, high: high - 1.0 }
    };
    let share = rounds.ratio(1, 0, seed, |it| it.rate);
    results.bars.extend([
        Bar::at_most("added latency of a small answer", added(|it| it.small_ms), 0.25),
        Bar::at_most("added latency of 1 MB", added(|it| it.large_ms), 0.18),
        Bar::at_least("requests/s at 16 connections, share of direct", share, 0.30),
    ]);
    results.data("forward", rounds)?;
    Ok(())
}
