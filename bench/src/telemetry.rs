//! What telling costs: requests and CPU time with telemetry off, with metrics exported, and with
//! traces of 1 % and of all requests, in both tiers, on a function of microseconds and one of about a
//! millisecond. The collector takes everything and does nothing with it, on the load's cores.
//!
//! Counting cannot be switched off in Baton, so what is called off counts, too: the bars for metrics
//! are about their export. What counting itself takes is measured by `just bench-inside`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::bars::{Bar, short};
use crate::baton::{Baton, Setup};
use crate::bench::Session;
use crate::client::Request;
use crate::interleave::interleave;
use crate::load::{self, Until};
use crate::results::Results;
use crate::stats::{self, Estimate};
use crate::table::Table;

const CONNECTIONS: usize = 4;

/// What is told; the first is what the others are compared with.
const TELLING: [(&str, &[(&str, &str)]); 4] = [
    ("off", &[("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_SAMPLER", "always_off")]),
    ("metrics", &[("OTEL_TRACES_SAMPLER", "always_off"), ("OTEL_METRIC_EXPORT_INTERVAL", "1000")]),
    (
        "traces of 1 %",
        &[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.01")],
    ),
    ("traces of all", &[("OTEL_TRACES_SAMPLER", "always_on")]),
];

/// A function, what it is asked, and how much more CPU time the last three may take.
const WORK: [(&str, &str, [f64; 3]); 2] = [
    ("hello", "", [1.06, 1.06, 1.25]),
    ("prime-numbers", r#"{"limit":45000}"#, [1.02, 1.02, 1.02]),
];

#[derive(Debug, Serialize)]
struct Round {
    rate: f64,
    cpu_us: f64,
}

pub(crate) fn run(session: &Session, results: &mut Results) -> anyhow::Result<()> {
    let collector = session.cores.load.run(collector)?;
    for (function, body, bars) in WORK {
        for tier in ["wasm", "native"] {
            measure(session, results, collector, (function, body, bars), tier)?;
        }
    }
    let note = "counting cannot be switched off: it is part of every row, and `just bench-inside` measures it";
    results.notes.push(note.into());
    results.notes.push(load::waiting_note(&session.cores));
    Ok(())
}

fn measure(
    session: &Session,
    results: &mut Results,
    collector: SocketAddr,
    (function, body, bars): (&str, &str, [f64; 3]),
    tier: &str,
) -> anyhow::Result<()> {
    let endpoint = format!("http://{collector}");
    let start = |variables: &[(&str, &str)]| {
        let setup = Setup::new()
            .function(function, tier)
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
            .variable("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        let setup =
            variables.iter().fold(setup, |setup, (name, value)| setup.variable(name, value));
        setup.start(&session.cores.server)
    };
    let batons = TELLING.iter().map(|(_, variables)| start(variables));
    let mut batons = batons.collect::<anyhow::Result<Vec<Baton>>>()?;
    let time = Duration::from_secs_f64(session.either(1.5, 0.2));
    let rounds = session.either(15, 3);
    let measured = interleave(&mut batons, rounds, &session.progress, |baton, _| {
        let path = format!("/{function}/");
        let request = [match body {
            "" => Request::get(&path),
            json => Request::post(&path, json),
        }];
        let (before, until) = (baton.cpu_ns(), Until::Elapsed(time));
        let target = baton.target();
        let outcome =
            load::closed_awake(&target, &request, CONNECTIONS, until, &session.cores)?.check()?;
        let cpu_ns = baton.cpu_ns().saturating_sub(before);
        let requests = stats::float(outcome.samples.len());
        Ok(Round { rate: outcome.rate(), cpu_us: stats::wide(cpu_ns) / 1e3 / requests })
    })?;
    let title =
        format!("{function} in {tier}, {CONNECTIONS} connections, median of {rounds} rounds");
    let mut table = Table::new(title, ["telemetry", "requests/s", "CPU µs", "CPU over off"]);
    for (variant, (name, _)) in TELLING.iter().enumerate() {
        let over = measured.ratio(variant, 0, session.seed, |round| round.cpu_us);
        let figure =
            |figure: fn(&Round) -> f64| short(stats::median(&measured.figure(variant, figure)));
        let cells = [figure(|r| r.rate), figure(|r| r.cpu_us), short(over.value)];
        table.row([(*name).to_owned()].into_iter().chain(cells));
        if let Some(bar) = variant.checked_sub(1).and_then(|of| bars.get(of)) {
            let named = format!("CPU per request over off, {function} in {tier}, {name}");
            results.bars.push(Bar::at_most(named, over, *bar));
        }
    }
    results.tables.push(table);
    if let Some(explained) = explained(batons.last())? {
        let named = format!("share of a request that its leaf spans explain, {function} in {tier}");
        results.bars.push(Bar::at_least(named, explained, 0.95));
    }
    results.data(&format!("{function}/{tier}"), &measured)?;
    batons.into_iter().try_for_each(Baton::stop)
}

/// The share of its requests' time that the leaves of the last traces cover.
fn explained(baton: Option<&Baton>) -> anyhow::Result<Option<Estimate>> {
    let Some(baton) = baton else { return Ok(None) };
    let list = baton.admin("/v1/traces")?;
    let ids = list["traces"].as_array().into_iter().flatten();
    let ids = ids.filter_map(|trace| trace["trace_id"].as_str()).take(100);
    let mut shares = vec![];
    for id in ids {
        // It may have made room for later ones by now.
        let Ok(found) = baton.admin(&format!("/v1/traces/{id}")) else { continue };
        let roots = found["traces"].as_array().into_iter().flatten().map(|trace| &trace["root"]);
        for root in roots.filter(|root| root["kind"] == "server") {
            shares.push(stats::wide(leaves(root)) / stats::wide(duration(root).max(1)));
        }
    }
    Ok((!shares.is_empty()).then(|| stats::median_estimate(&shares, 1)))
}

fn duration(span: &Value) -> u64 {
    span["duration_ns"].as_u64().unwrap_or(0)
}

fn leaves(span: &Value) -> u64 {
    match span["children"].as_array() {
        Some(children) if !children.is_empty() => children.iter().map(leaves).sum(),
        _ => duration(span),
    }
}

/// A collector over HTTP that takes everything, until the process ends.
fn collector() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who breaks off has what it wanted.
            std::thread::spawn(move || drop(take_all(stream)));
        }
    });
    Ok(address)
}

fn take_all(stream: TcpStream) -> std::io::Result<()> {
    let mut answers = stream.try_clone()?;
    let mut requests = BufReader::new(stream);
    let mut length = 0;
    let mut line = String::new();
    while requests.read_line(&mut line)? > 0 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line == "\r\n" {
            std::io::copy(&mut requests.by_ref().take(length), &mut std::io::sink())?;
            answers.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
            length = 0;
        }
        line.clear();
    }
    Ok(())
}
