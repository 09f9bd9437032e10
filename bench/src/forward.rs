//! What it costs that a request is forwarded to a sandbox, against the same native server reached
//! directly over TCP, in turns and in two placements:
//!
//! | placement | servers | load |
//! |---|---|---|
//! | one core | share one core | has the others, and never sleeps |
//! | all cores | run where the kernel puts them | the same, and sleeps until an answer is there |
//!
//! Throughput is compared on one core, where it is the processor time that counts; latency on all
//! cores, as a client finds it that has one request at a time. Two simple relays that understand nothing of
//! what they move stand beside it ([`crate::relay`]); they are no floor.

use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde::Serialize;

use crate::bars::{Bar, short};
use crate::baton::{Baton, Setup, builds};
use crate::bench::Session;
use crate::client::{Request, Target, Tier, ask};
use crate::cores::{Cores, Split};
use crate::interleave::{Rounds, interleave};
use crate::load::{Outcome, Until, closed, closed_awake, waiting_note};
use crate::relay::Manner;
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

/// By what the server is reached, in the order of the figures.
const KINDS: [&str; 4] = ["direct", "relayed, copying", "relayed, splicing", "forwarded"];
const DIRECT: usize = 0;
const COPYING: usize = 1;
const SPLICING: usize = 2;
const FORWARDED: usize = 3;

/// The same server, reached in one of these ways.
struct Way {
    placement: Placement,
    target: Target,
    prefix: &'static str,
    running: Running,
}

enum Running {
    Direct(Server),
    /// The relay, then the server.
    Relayed([Server; 2]),
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
    let mut ways = Vec::new();
    for (placement, cores) in [(Placement::OneCore, &core), (Placement::AllCores, &all)] {
        ways.push(direct(placement, cores, directory.path())?);
        ways.push(relayed(placement, Manner::Copied, cores, directory.path())?);
        ways.push(relayed(placement, Manner::Spliced, cores, directory.path())?);
        ways.push(forwarded(placement, cores)?);
    }
    let span = session.either(Duration::from_millis(1_500), Duration::from_millis(100));
    let count = session.either(8, 2);
    let rounds = interleave(&mut ways, count, &session.progress, |way, _| {
        measure(way, span, &session.cores)
    })?;
    for way in ways {
        match way.running {
            Running::Direct(server) => server.stop()?,
            Running::Relayed(servers) => servers.into_iter().try_for_each(Server::stop)?,
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

fn relayed(
    placement: Placement,
    manner: Manner,
    cores: &Cores,
    directory: &Path,
) -> anyhow::Result<Way> {
    let place = if let Placement::OneCore = placement { "one" } else { "all" };
    let socket = directory.join(format!("{place}-{manner:?}.sock"));
    let mut command = Command::new("bash");
    command.arg("-c").arg(r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" 3<&0"#).arg(builds(FUNCTION).1);
    command.stdin(Stdio::from(OwnedFd::from(UnixListener::bind(&socket)?)));
    let announced = Announced::Inherited(socket.clone());
    let log = directory.join("log");
    let server = Server::start(command, &announced, cores, &log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("relay").arg(&socket);
    command.args((manner == Manner::Spliced).then_some("--splice"));
    let announced = Announced::Lines(vec!["listening"]);
    let relay = Server::start(command, &announced, cores, &log)?;
    let target = relay.target();
    Ok(Way { placement, target, prefix: "", running: Running::Relayed([relay, server]) })
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
    let names = ["one core", "all"].into_iter().flat_map(|place| KINDS.map(|kind| (place, kind)));
    for (way, (place, kind)) in names.enumerate() {
        let cell = |figure: fn(&Measured) -> f64| rounds.median(way, seed, figure).value;
        let (small, large) = (cell(|it| it.small_ms), cell(|it| it.large_ms));
        let rate = cell(|it| it.rate);
        table.row([
            format!("{place}, {kind}"),
            format!("{small:.4}"),
            format!("{large:.4}"),
            format!("{rate:.0}"),
        ]);
    }
    results.tables.push(table);
    // The part that is added is what is past the whole of the other way.
    let all = KINDS.len();
    let added = |kind: usize, figure: fn(&Measured) -> f64| {
        let Estimate { value, low, high } = rounds.ratio(all + kind, all + DIRECT, seed, figure);
        Estimate { value: value - 1.0, low: low - 1.0, high: high - 1.0 }
    };
    let share = |kind: usize| rounds.ratio(kind, DIRECT, seed, |it| it.rate);
    for kind in [COPYING, SPLICING] {
        let [small, large] = [added(kind, |it| it.small_ms), added(kind, |it| it.large_ms)];
        results.notes.push(format!(
            "{}: adds {} to a small answer and {} to 1 MB, has {} of direct's requests/s at 16 connections",
            KINDS[kind], short(small.value), short(large.value), short(share(kind).value),
        ));
    }
    let [small, large] = [added(FORWARDED, |it| it.small_ms), added(FORWARDED, |it| it.large_ms)];
    results.bars.extend([
        Bar::at_most("added latency of a small answer", small, 0.25),
        Bar::at_most("added latency of 1 MB", large, 0.18),
        Bar::at_least("requests/s at 16 connections, share of direct", share(FORWARDED), 0.30),
    ]);
    results.data("forward", rounds)?;
    Ok(())
}
