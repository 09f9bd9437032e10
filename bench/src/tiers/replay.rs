//! One trace replayed against one Baton that begins cold.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::post;
use crate::baton::{Baton, Setup};
use crate::bench::Session;
use crate::client::{self, Request, Tier};
use crate::load::{self, Arrival};
use crate::patterns::Pattern;
use crate::schedule::{self, Spacing};
use crate::stats;

const CONNECTIONS_MAX: usize = 64;
/// Requests before the trace begins, of each function.
const ACQUAINTED: usize = 3;
/// The longest that sandboxes may take to go.
const GONE_MAX: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// What is asked when.
pub(super) struct Trace {
    functions: Vec<&'static str>,
    requests: Vec<Request>,
    arrivals: Vec<Arrival>,
}

/// What came of a replay.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    pub latencies_ms: Vec<f64>,
    /// Requests whose function had no warm sandbox when they came.
    pub cold: usize,
    /// Requests that the native build answered.
    pub native: usize,
    /// Sandboxes that had a function, times how long.
    pub sandbox_seconds: f64,
    pub cpu_seconds: f64,
}

impl Trace {
    /// `minutes` of a pattern, each compressed into `minute`, of every part at its own rate.
    pub(super) fn new(
        pattern: Pattern,
        parts: &[(&'static str, &'static str, f64)],
        minutes: usize,
        minute: Duration,
        seed: u64,
    ) -> Self {
        let mut arrivals = Vec::new();
        for (request, (_, _, rate)) in parts.iter().enumerate() {
            let counts = pattern.counts(minutes, rate * minute.as_secs_f64(), seed);
            let instants = schedule::instants(&counts, minute, Spacing::default(), seed);
            arrivals.extend(instants.into_iter().map(|at| Arrival { at, request }));
        }
        arrivals.sort_by_key(|arrival| arrival.at);
        Self {
            functions: parts.iter().map(|(function, ..)| *function).collect(),
            requests: parts.iter().map(|(function, body, _)| post(function, body)).collect(),
            arrivals,
        }
    }
}

/// What the sampler saw at one moment.
struct Look {
    at: Duration,
    /// Of each function: whether some sandbox was warm.
    warm: Vec<bool>,
    /// Sandboxes that had a function.
    held: usize,
}

pub(super) fn run(session: &Session, policy: &str, trace: &Trace) -> anyhow::Result<Run> {
    let setup =
        trace.functions.iter().fold(Setup::new().host("server_timing = true"), |setup, f| {
            let limits = "sandboxes = { max = 2, idle_timeout = \"1s\" }";
            setup.function(f, policy).with(limits)
        });
    let baton = setup.start(&session.cores.server)?;
    for request in trace.requests.iter().flat_map(|request| [request; ACQUAINTED]) {
        client::ask(&baton.target(), request)?;
    }
    until_gone(&baton, |row| !row["function"].is_null())?;
    let before = baton.cpu_ns();
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    let (outcome, looks) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| looks(&baton, &trace.functions, begun, &over));
        let target = baton.target();
        let (requests, arrivals) = (&trace.requests, &trace.arrivals);
        let outcome = load::open(&target, requests, arrivals, CONNECTIONS_MAX, &session.cores.load);
        over.store(true, Ordering::Relaxed);
        (outcome, sampler.join().unwrap_or_default())
    });
    let cpu = baton.cpu_ns().saturating_sub(before);
    let outcome = outcome?.check()?;
    baton.stop()?;
    let was_cold = |sample: &&load::Sample| {
        let at = Duration::from_nanos(sample.at_ns);
        let last = looks.partition_point(|look| look.at <= at).checked_sub(1);
        let warm = last.and_then(|last| looks[last].warm.get(sample.request as usize));
        !warm.copied().unwrap_or(false)
    };
    let held = looks.windows(2).map(|pair| {
        stats::float(pair[0].held) * (pair[1].at.saturating_sub(pair[0].at)).as_secs_f64()
    });
    Ok(Run {
        latencies_ms: outcome.latencies_ms(),
        cold: outcome.samples.iter().filter(was_cold).count(),
        native: outcome.samples.iter().filter(|sample| sample.tier == Tier::Native).count(),
        sandbox_seconds: held.sum(),
        cpu_seconds: stats::wide(cpu) / 1e9,
    })
}

fn looks(baton: &Baton, functions: &[&str], begun: Instant, over: &AtomicBool) -> Vec<Look> {
    let mut looks = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let document = baton.admin("/v1/sandboxes").unwrap_or_default();
        let rows = document["sandboxes"].as_array().cloned().unwrap_or_default();
        let is_warm = |function: &&str| {
            rows.iter().any(|row| {
                let state = row["state"].as_str().unwrap_or_default();
                row["function"] == **function && matches!(state, "idle" | "leased" | "frozen")
            })
        };
        looks.push(Look {
            at: begun.elapsed(),
            warm: functions.iter().map(is_warm).collect(),
            held: rows.iter().filter(|row| !row["function"].is_null()).count(),
        });
        std::thread::sleep(LOOK);
    }
    looks
}

/// Waits until no sandbox is there that counts.
pub(super) fn until_gone(baton: &Baton, counts: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + GONE_MAX;
    while Instant::now() < deadline {
        let sandboxes = baton.admin("/v1/sandboxes")?;
        if !sandboxes["sandboxes"].as_array().is_some_and(|rows| rows.iter().any(&counts)) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    anyhow::bail!("an idle sandbox is not removed")
}
