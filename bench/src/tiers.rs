//! Which policy answers soonest: the four traffic patterns over a short function, a long one and
//! both, under every policy.
//!
//! Each trace is twelve minutes of a pattern, compressed; all policies of a pattern get the same
//! arrivals, in turns, each on a Baton of its own that has answered a few requests and has no sandbox of
//! the functions left. A request is cold when its function had no warm sandbox at that moment, by a
//! sampler that looks every 20 ms.

mod replay;
mod warming;

use std::time::Duration;

use serde::Serialize;

use crate::bars::{Bar, short};
use crate::bench::Session;
use crate::client::Request;
use crate::interleave::{Rounds, interleave};
use crate::patterns::Pattern;
use crate::results::Results;
use crate::stats::{self, Estimate};
use crate::table::Table;
use replay::{Run, Trace};

const POLICIES: [&str; 4] = ["wasm", "native", "hybrid", "adaptive"];
const ADAPTIVE: usize = 3;
const MINUTES: usize = 12;

/// What is asked, and how often.
#[derive(Clone, Copy, Debug)]
struct Workload {
    name: &'static str,
    /// Functions, the bodies of their requests, and requests a second of each on the mean.
    parts: &'static [(&'static str, &'static str, f64)],
}

const WORKLOADS: [Workload; 3] = [
    Workload { name: "short", parts: &[("float-operation", r#"{"n": 1000}"#, 100.0)] },
    Workload { name: "long", parts: &[("matmul", r#"{"size": 200}"#, 12.0)] },
    Workload {
        name: "mixed",
        parts: &[("float-operation", r#"{"n": 1000}"#, 50.0), ("matmul", r#"{"size": 200}"#, 6.0)],
    },
];

#[derive(Debug, Serialize)]
struct Case {
    pattern: Pattern,
    workload: &'static str,
    policies: [&'static str; 4],
    rounds: Rounds<Run>,
}

/// What can be measured alone: the replays of one pattern, and cold starts with what making sandboxes
/// does to others.
pub(crate) const PARTS: &[&str] = &["steady", "fluctuating", "spike", "jump", "warming"];

pub(crate) fn run(session: &Session, results: &mut Results) -> anyhow::Result<()> {
    let mut cases = Vec::new();
    let patterns = [Pattern::Steady, Pattern::Fluctuating, Pattern::Spike, Pattern::Jump];
    for pattern in patterns.into_iter().filter(|pattern| session.wants(&pattern.to_string())) {
        for workload in WORKLOADS {
            cases.push(case(session, pattern, workload)?);
        }
    }
    if !cases.is_empty() {
        results.tables.push(table(&cases));
    }
    for case in &cases {
        bars(session.seed, case, results);
    }
    headline(session.seed, &cases, results);
    if session.wants("warming") {
        warming::run(session, results)?;
    }
    results.data("cases", &cases)?;
    Ok(())
}

fn case(session: &Session, pattern: Pattern, workload: Workload) -> anyhow::Result<Case> {
    let minute = Duration::from_millis(session.either(250, 150));
    let mut policies = POLICIES;
    let rounds =
        interleave(&mut policies, session.either(5, 1), &session.progress, |policy, n| {
            let seed = session.seed.wrapping_add(n as u64);
            let trace = Trace::new(pattern, workload.parts, MINUTES, minute, seed);
            replay::run(session, policy, &trace)
        })?;
    Ok(Case { pattern, workload: workload.name, policies: POLICIES, rounds })
}

impl Case {
    fn name(&self) -> String {
        format!("{}, {}", self.pattern, self.workload)
    }

    /// Latencies of a policy, round by round.
    fn rounds(&self, policy: usize) -> Vec<Vec<f64>> {
        self.rounds.variants[policy].iter().map(|run| run.latencies_ms.clone()).collect()
    }

    /// Latencies of all rounds of a policy.
    fn latencies(&self, policy: usize) -> Vec<f64> {
        self.rounds(policy).concat()
    }

    fn sum(&self, policy: usize, figure: impl Fn(&Run) -> f64) -> f64 {
        self.rounds.variants[policy].iter().map(figure).sum()
    }

    /// A statistic of adaptive over that of whichever other policy has the least.
    fn over_best(&self, seed: u64, statistic: fn(&[f64]) -> f64) -> Estimate {
        let of = |policy: &usize| statistic(&self.latencies(*policy));
        let best = (0..ADAPTIVE).min_by(|a, b| of(a).total_cmp(&of(b))).unwrap_or_default();
        stats::ratio_over_rounds(&self.rounds(ADAPTIVE), &self.rounds(best), seed, statistic)
    }
}

fn p99(values: &[f64]) -> f64 {
    stats::quantile(values, 0.99)
}

fn table(cases: &[Case]) -> Table {
    let columns = [
        "pattern, function, policy",
        "requests",
        "mean ms",
        "p50 ms",
        "p99 ms",
        "cold %",
        "native %",
        "sandbox s",
        "CPU s",
    ];
    let mut table = Table::new("Replayed patterns, all rounds together", columns);
    for case in cases {
        for (policy, name) in POLICIES.into_iter().enumerate() {
            let all = case.latencies(policy);
            let share = |figure: fn(&Run) -> usize| {
                100.0 * case.sum(policy, |run| stats::float(figure(run))) / stats::float(all.len())
            };
            let figures = [
                stats::mean(&all),
                stats::median(&all),
                p99(&all),
                share(|run| run.cold),
                share(|run| run.native),
                case.sum(policy, |run| run.sandbox_seconds),
                case.sum(policy, |run| run.cpu_seconds),
            ];
            let cells = [format!("{}, {name}", case.name()), all.len().to_string()];
            table.row(cells.into_iter().chain(figures.map(short)));
        }
    }
    table
}

fn bars(seed: u64, case: &Case, results: &mut Results) {
    let mut at_most = |what: &str, measured: Estimate, wanted: f64| {
        results.bars.push(Bar::at_most(format!("{}: {what}", case.name()), measured, wanted));
    };
    at_most("mean, adaptive / best other", case.over_best(seed, stats::mean), 1.05);
    at_most("p99, adaptive / best other", case.over_best(seed, p99), 1.15);
    let held = |policy| case.sum(policy, |run| run.sandbox_seconds);
    let hybrid = held(2);
    // A policy that held none where hybrid held none is as good.
    let ratio = if hybrid > 0.0 { held(ADAPTIVE) / hybrid } else { 1.0 };
    at_most("sandbox-seconds, adaptive / hybrid", ratio.into(), 1.0);
}

/// The paper's: on a long function, against Wasm alone.
fn headline(seed: u64, cases: &[Case], results: &mut Results) {
    for case in cases.iter().filter(|case| case.workload == "long") {
        let (adaptive, wasm) = (case.rounds(ADAPTIVE), case.rounds(0));
        let ratio = stats::ratio_over_rounds(&adaptive, &wasm, seed, stats::mean);
        let figure = format!("{}: mean, adaptive / wasm only", case.name());
        results.bars.push(Bar::at_most(figure, ratio, 0.57));
    }
}

/// A request of ours with a JSON body.
fn post(function: &str, body: &str) -> Request {
    Request::post(&format!("/{function}"), body)
}
