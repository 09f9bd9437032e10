//! The Wasm tier beside other hosts of wasi:http, and beside a server that runs no guest.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::Method;
use serde::Serialize;

use crate::bars::{Bar, Op, short};
use crate::baton::{Baton, Setup, builds, program, target_dir};
use crate::bench::Session;
use crate::client::{self, Request, Target};
use crate::interleave::{Rounds, interleave};
use crate::load::{self, Until};
use crate::results::Results;
use crate::server::{Announced, Server};
use crate::stats;
use crate::table::Table;

/// What `wasmtime serve` is given where it shall be as fast as it can be with a fresh instance for
/// each request. `-Wconcurrency-support=n` would be among them, but since 48 it answers 500 to all.
const BEST: &[&str] = &[
    "-Opooling-allocator=y",
    "-Opooling-pagemap-scan=auto",
    "-Opooling-memory-keep-resident=2097152",
    "-Opooling-table-keep-resident=65536",
    "-Opooling-total-component-instances=1000",
    "-Opooling-total-core-instances=10000",
    "-Opooling-total-memories=2000",
    "-Opooling-total-tables=4000",
    "-Opooling-total-stacks=1000",
    "-Opooling-max-memory-size=67108864",
];

/// Connections at once.
const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// Requests in flight when memory is looked at.
const IN_FLIGHT: usize = 1000;
const ECHOED: usize = 64 << 10;

/// Who answers, in the order of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Bare,
    Wasmtime,
    WasmtimeBest,
    Fresh,
    Traced,
    Reused,
}

impl Who {
    const ALL: [Self; 6] =
        [Self::Bare, Self::Wasmtime, Self::WasmtimeBest, Self::Fresh, Self::Traced, Self::Reused];

    fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare hyper",
            Self::Wasmtime => "wasmtime serve",
            Self::WasmtimeBest => "wasmtime serve, best flags",
            Self::Fresh => "Baton, fresh",
            Self::Traced => "Baton, fresh, every request traced",
            Self::Reused => "Baton, reused",
        }
    }
}

/// One of them, running.
enum Subject {
    Server(Server),
    Baton(Baton),
}

impl Subject {
    fn target(&self) -> Target {
        match self {
            Self::Server(server) => server.target(),
            Self::Baton(baton) => baton.target(),
        }
    }

    fn cpu_ns(&self) -> u64 {
        match self {
            Self::Server(server) => server.cpu_ns(),
            Self::Baton(baton) => baton.cpu_ns(),
        }
    }
}

/// A component and what it is asked.
struct Work {
    part: &'static str,
    title: &'static str,
    function: &'static str,
    body: usize,
}

const WORKS: [Work; 3] = [
    Work {
        part: "throughput",
        title: "raw, some 40 bytes with a length",
        function: "raw",
        body: 0,
    },
    Work { part: "hello", title: "hello (axum), GET", function: "hello", body: 0 },
    Work { part: "echo", title: "hello (axum), echo of 64 KiB", function: "hello", body: ECHOED },
];

#[derive(Debug, Serialize)]
struct Round {
    rate: f64,
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
}

/// What can be measured by itself: each of [`WORKS`], and the rest.
pub(crate) const PARTS: &[&str] = &["throughput", "hello", "echo", "start", "memory", "spin"];

pub(crate) fn run(session: &Session, results: &mut Results) -> anyhow::Result<()> {
    let wasmtime = installed("wasmtime");
    if wasmtime.is_none() {
        results.notes.push("there is no `wasmtime` on the PATH: it is left out".into());
    }
    results.notes.push(format!("best flags of wasmtime serve: {}", BEST.join(" ")));
    results.notes.push(load::waiting_note(&session.cores));
    for work in WORKS.iter().filter(|work| session.wants(work.part)) {
        compare(session, results, work, wasmtime.as_deref())?;
    }
    if session.wants("start") {
        start(session, results, wasmtime.as_deref())?;
    }
    if session.wants("memory") {
        memory(session, results)?;
    }
    if session.wants("spin") {
        neighbour(session, results)?;
    }
    Ok(())
}

/// A program on the PATH.
fn installed(name: &str) -> Option<PathBuf> {
    let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output().ok()?;
    let path = String::from_utf8(found.stdout).ok()?;
    (!path.trim().is_empty()).then(|| path.trim().into())
}

fn compare(
    session: &Session,
    results: &mut Results,
    work: &Work,
    wasmtime: Option<&Path>,
) -> anyhow::Result<()> {
    let logs = tempfile::tempdir()?;
    let sink = bare(session, logs.path(), true)?;
    let mut subjects = Vec::new();
    for who in Who::ALL {
        if let Some(subject) = begin(who, session, work, wasmtime, logs.path(), &sink)? {
            subjects.push((who, subject));
        }
    }
    let (rounds, time) = (session.either(7, 3), session.either(1.0, 0.2));
    let title = format!("{}: median of {rounds} rounds of {time} s", work.title);
    let columns = ["host", "connections", "requests/s", "of bare", "CPU µs", "p50 µs", "p99 µs"];
    let mut table = Table::new(title, columns);
    for connections in CONNECTIONS {
        let measured =
            interleave(&mut subjects, rounds, &session.progress, |(who, subject), _| {
                let request = [request(*who, work)];
                measure(subject, &request, connections, session, Duration::from_secs_f64(time))
                    .with_context(|| format!("{} on {}", who.name(), work.title))
            })?;
        let seed = session.seed;
        for (index, (who, _)) in subjects.iter().enumerate() {
            let median =
                |figure: fn(&Round) -> f64| short(stats::median(&measured.figure(index, figure)));
            table.row([
                who.name().to_owned(),
                connections.to_string(),
                median(|r| r.rate),
                short(measured.ratio(index, 0, seed, |r| r.rate).value),
                median(|r| r.cpu_us),
                median(|r| r.p50_us),
                median(|r| r.p99_us),
            ]);
        }
        if work.function == "raw" {
            bars(results, &measured, &subjects, connections, seed);
        }
        results.data(&format!("{}, {connections} connections", work.title), &measured)?;
    }
    results.tables.push(table);
    for (_, subject) in subjects {
        match subject {
            Subject::Server(server) => server.stop()?,
            Subject::Baton(baton) => baton.stop()?,
        }
    }
    sink.stop()
}

fn bars(
    results: &mut Results,
    measured: &Rounds<Round>,
    subjects: &[(Who, Subject)],
    connections: usize,
    seed: u64,
) {
    let wanted: &[(Who, Who, f64)] = match connections {
        64 => &[
            (Who::Fresh, Who::Wasmtime, 3.5),
            (Who::Fresh, Who::WasmtimeBest, 2.0),
            (Who::Fresh, Who::Bare, 0.27),
            (Who::Reused, Who::Bare, 0.55),
        ],
        16 => &[(Who::Fresh, Who::Bare, 0.27), (Who::Reused, Who::Bare, 0.65)],
        _ => &[],
    };
    let place = |who| subjects.iter().position(|(found, _)| *found == who);
    for &(a, b, number) in wanted {
        let figure = format!("{} / {}, {connections} connections", a.name(), b.name());
        results.bars.push(match (place(a), place(b)) {
            (Some(a), Some(b)) => {
                Bar::at_least(figure, measured.ratio(a, b, seed, |round| round.rate), number)
            }
            _ => Bar::not_measured(figure, Op::AtLeast, number, "wasmtime is not installed"),
        });
    }
}

/// Starts one of them; nothing when it is not installed.
fn begin(
    who: Who,
    session: &Session,
    work: &Work,
    wasmtime: Option<&Path>,
    logs: &Path,
    sink: &Server,
) -> anyhow::Result<Option<Subject>> {
    let cores = &session.cores.server;
    let component = builds(work.function).0;
    let baton = Setup::new().host("server_timing = false").function(work.function, "wasm");
    let reuse = r#"instances = { reuse = { requests = 1000000, concurrent = 1, idle = "10s" } }"#;
    let endpoint = format!("http://{}", sink.addresses[0]);
    Ok(match (who, wasmtime) {
        (Who::Bare, _) => Some(Subject::Server(bare(session, logs, false)?)),
        (Who::Wasmtime, Some(wasmtime)) => {
            Some(Subject::Server(serve(wasmtime, &[], &component, session, logs)?))
        }
        (Who::WasmtimeBest, Some(wasmtime)) => {
            Some(Subject::Server(serve(wasmtime, BEST, &component, session, logs)?))
        }
        (Who::Wasmtime | Who::WasmtimeBest, None) => None,
        (Who::Fresh, _) => Some(Subject::Baton(baton.start(cores)?)),
        (Who::Traced, _) => {
            let traced = baton
                .variable("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
                .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
            Some(Subject::Baton(traced.start(cores)?))
        }
        (Who::Reused, _) => Some(Subject::Baton(baton.with(reuse).start(cores)?)),
    })
}

/// This program as a server without a guest, and as a collector that keeps nothing.
fn bare(session: &Session, logs: &Path, beside_load: bool) -> anyhow::Result<Server> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("bare");
    let cores = if beside_load { &session.cores.load } else { &session.cores.server };
    let announced = Announced::Lines(vec!["listening"]);
    Ok(Server::start(command, &announced, cores, &logs.join("bare.log"))?)
}

fn serve(
    wasmtime: &Path,
    flags: &[&str],
    component: &Path,
    session: &Session,
    logs: &Path,
) -> anyhow::Result<Server> {
    let address = free_address()?;
    let mut command = Command::new(wasmtime);
    command.args(["serve", "-Scli=y"]).args(flags).arg("--addr").arg(address.to_string());
    command.arg(component);
    let announced = Announced::Port(address);
    Ok(Server::start(command, &announced, &session.cores.server, &logs.join("wasmtime.log"))?)
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn request(who: Who, work: &Work) -> Request {
    let path = match who {
        Who::Fresh | Who::Traced | Who::Reused => format!("/{}/", work.function),
        Who::Bare | Who::Wasmtime | Who::WasmtimeBest => "/".to_owned(),
    };
    match work.body {
        0 => Request::get(&path),
        bytes => Request::new(&Method::POST, &path, &[], &vec![b'x'; bytes]),
    }
}

fn measure(
    subject: &Subject,
    request: &[Request],
    connections: usize,
    session: &Session,
    time: Duration,
) -> anyhow::Result<Round> {
    let before = subject.cpu_ns();
    let until = Until::Elapsed(time);
    let outcome =
        load::closed_awake(&subject.target(), request, connections, until, &session.cores)?;
    let cpu_ns = subject.cpu_ns().saturating_sub(before);
    let outcome = outcome.check()?;
    let histogram = outcome.histogram();
    let us = |quantile| stats::wide(histogram.value_at_quantile(quantile)) / 1e3;
    Ok(Round {
        rate: outcome.rate(),
        cpu_us: stats::wide(cpu_ns) / 1e3 / stats::float(outcome.samples.len()),
        p50_us: us(0.5),
        p99_us: us(0.99),
    })
}

/// From the start of the process to its first answer, the component's machine code being there.
fn start(session: &Session, results: &mut Results, wasmtime: Option<&Path>) -> anyhow::Result<()> {
    let figure = "start to first answer from cache, Baton / wasmtime serve on a .cwasm";
    let Some(wasmtime) = wasmtime else {
        let why = "wasmtime is not installed";
        results.bars.push(Bar::not_measured(figure, Op::AtMost, 0.45, why));
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let (component, native) = builds("hello");
    let machine = directory.path().join("hello.cwasm");
    let mut compile = Command::new(wasmtime);
    compile.arg("compile").arg("-o").arg(&machine).arg(&component);
    anyhow::ensure!(compile.status()?.success(), "wasmtime cannot compile {component:?}");
    let mut variants = ["Baton, both builds", "wasmtime serve"];
    let rounds = session.either(25, 5);
    let measured = interleave(&mut variants, rounds, &session.progress, |variant, round| {
        let log = directory.path().join("log");
        let begun = Instant::now();
        let server = if *variant == "wasmtime serve" {
            serve(wasmtime, &["--allow-precompiled"], &machine, session, directory.path())?
        } else {
            let mut command = Command::new(program());
            command.arg("run").arg(&component).arg("--native").arg(&native);
            command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--cache-dir"]);
            command.arg(target_dir().join("bench-cache"));
            command.arg("--state-dir").arg(directory.path().join(format!("state-{round}")));
            let announced = Announced::Lines(vec!["listening"]);
            Server::start(command, &announced, &session.cores.server, &log)?
        };
        let answer = client::ask(&server.target(), &Request::get("/"))?;
        let taken = begun.elapsed();
        anyhow::ensure!(answer.status == 200, "{variant} answered {}", answer.status);
        server.stop()?;
        Ok(taken.as_secs_f64() * 1e3)
    })?;
    let mut table =
        Table::new(format!("Start to first answer, median of {rounds}"), ["host", "ms"]);
    for (index, name) in variants.iter().enumerate() {
        table.row([(*name).to_owned(), short(stats::median(&measured.figure(index, |ms| *ms)))]);
    }
    results.tables.push(table);
    let ratio = measured.ratio(0, 1, session.seed, |ms| *ms);
    results.bars.push(Bar::at_most(figure, ratio, 0.45));
    results.data("start", &measured)?;
    Ok(())
}

/// Resident memory of each request that waits inside a guest.
fn memory(session: &Session, results: &mut Results) -> anyhow::Result<()> {
    let baton = Setup::new()
        .function("misbehaving", "wasm")
        .with(&format!("limits.concurrency = {IN_FLIGHT}"))
        .with(r#"limits.timeout = "60s""#)
        .start(&session.cores.server)?;
    let SocketAddr::V4(address) = baton.server.addresses[0] else { anyhow::bail!("no IPv4") };
    let unused = resident(&baton)?;
    let mut held = Vec::with_capacity(IN_FLIGHT);
    let mut hold = |requests: usize| -> anyhow::Result<f64> {
        while held.len() < requests {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(
                b"POST /misbehaving/hold HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
            )?;
            held.push(stream);
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while baton.admin("/v1/functions/misbehaving")?["in_flight"] != requests {
            anyhow::ensure!(Instant::now() < deadline, "not all requests get in: {}", baton.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        // A guest counts as in flight before it runs.
        std::thread::sleep(Duration::from_millis(500));
        Ok(stats::wide(resident(&baton)?.saturating_sub(unused)) / 1024.0)
    };
    // Code that nobody had run before is paged in by the first, once for all.
    let (first, all) = (hold(1)?, hold(IN_FLIGHT)?);
    drop(held);
    baton.stop()?;
    results.notes.push(format!(
        "the first request in flight took {first:.0} KiB, code paged in; all of them, the first included, {:.2} KiB each",
        all / stats::float(IN_FLIGHT)
    ));
    let kib = (all - first) / stats::float(IN_FLIGHT - 1);
    let figure = format!("KiB resident for each of {IN_FLIGHT} requests in flight");
    results.bars.push(Bar::at_most(figure, kib, 64.0));
    Ok(())
}

/// Bytes of memory that its processes have for themselves, shared pages by their share.
fn resident(baton: &Baton) -> anyhow::Result<u64> {
    let mut kib = 0;
    for pid in crate::server::tree(baton.server.pid()) {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let count = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib += count.context("a size")?.trim().parse::<u64>()?;
    }
    Ok(kib * 1024)
}

/// What a request waits for beside a guest that computes without end.
fn neighbour(session: &Session, results: &mut Results) -> anyhow::Result<()> {
    let baton = Setup::new()
        .function("raw", "wasm")
        .function("misbehaving", "wasm")
        .with(r#"limits.cpu_time = "10m""#)
        .with(r#"limits.timeout = "10m""#)
        .start(&session.cores.server)?;
    let time = Duration::from_secs_f64(session.either(3.0, 0.5));
    let mut table =
        Table::new("Beside a guest that spins, 4 connections", ["spinning", "p50 ms", "p99 ms"]);
    let subject = Subject::Baton(baton);
    let request = [Request::get("/raw/")];
    let mut spinners = Vec::new();
    for spinning in 0..=1 {
        if spinning == 1 {
            let Target::Tcp(address) = subject.target() else { anyhow::bail!("no TCP") };
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(b"GET /misbehaving/loop HTTP/1.1\r\nhost: a\r\n\r\n")?;
            spinners.push(stream);
            std::thread::sleep(Duration::from_millis(200));
        }
        let round = measure(&subject, &request, 4, session, time)?;
        let cells = [round.p50_us / 1e3, round.p99_us / 1e3].map(short);
        table.row([spinning.to_string()].into_iter().chain(cells));
        if spinning == 1 {
            let p99 = round.p99_us / 1e3;
            results.bars.push(Bar::at_most("neighbour's p99 ms beside a spinning guest", p99, 5.0));
        }
    }
    results.tables.push(table);
    drop(spinners);
    match subject {
        Subject::Baton(baton) => baton.stop(),
        Subject::Server(server) => server.stop(),
    }
}
