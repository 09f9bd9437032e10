//! Cold starts, and whether making sandboxes is felt by others.

use std::time::Duration;

use serde::Serialize;

use super::p99;
use super::replay::until_gone;
use crate::bars::{Bar, Op};
use crate::baton::{Baton, Setup};
use crate::bench::Session;
use crate::client::{self, Answer, Request};
use crate::interleave::interleave;
use crate::load::{self, Arrival};
use crate::results::Results;
use crate::schedule;
use crate::stats;

/// Sandboxes made a second beside the load.
const CREATIONS: f64 = 20.0;
/// Requests a second of the load.
const RATE: f64 = 200.0;

pub(super) fn run(session: &Session, results: &mut Results) -> anyhow::Result<()> {
    cold(session, results)?;
    felt(session, results)
}

/// From a request's arrival until its handler has it, when the function has no sandbox and none is
/// parked: adaptive against the native build alone.
fn cold(session: &Session, results: &mut Results) -> anyhow::Result<()> {
    let begun = |policy: &str| {
        Setup::new()
            .host("server_timing = true")
            .section("[pool]\nparked = 0")
            .function("hello", policy)
            .with("sandboxes = { max = 1, idle_timeout = \"20ms\" }")
            .start(&session.cores.server)
    };
    let mut batons = [begun("adaptive")?, begun("native")?];
    let rounds = session.either(25, 5);
    let measured = interleave(&mut batons, rounds, &session.progress, |baton, _| {
        until_gone(baton, |_| true)?;
        let answer = client::ask(&baton.target(), &Request::get("/hello"))?;
        anyhow::ensure!(answer.status == 200, "hello answered {}", answer.status);
        Ok(until_handled(&answer))
    })?;
    let ratio = measured.ratio(0, 1, session.seed, |ms| *ms);
    let figure = "arrival to handler running when cold, adaptive / native without parked sandboxes";
    results.bars.push(Bar::at_most(figure, ratio, 0.08));
    results.data("cold", &measured)?;
    batons.into_iter().try_for_each(Baton::stop)
}

/// Milliseconds until the tier had the request. A native function that is cold still starts then,
/// so this is the least that it takes.
fn until_handled(answer: &Answer) -> f64 {
    let before = ["admit", "load", "lease", "connect", "instantiate"];
    before.into_iter().filter_map(|phase| answer.phase(phase)).sum()
}

#[derive(Debug, Serialize)]
struct Felt {
    latencies_ms: Vec<f64>,
    created: u64,
}

/// Requests answered by Wasm, with and without sandboxes being made for another function.
fn felt(session: &Session, results: &mut Results) -> anyhow::Result<()> {
    let baton = Setup::new()
        .host("server_timing = true")
        .section("[pool]\nparked = 4")
        .function("float-operation", "wasm")
        .function("hello", "native")
        .with("sandboxes = { max = 8, idle_timeout = \"1ms\" }")
        .start(&session.cores.server)?;
    let time = Duration::from_secs_f64(session.either(4.0, 1.0));
    let rounds = session.either(5, 2);
    let mut variants = [false, true];
    let measured = interleave(&mut variants, rounds, &session.progress, |creating, round| {
        measure(&baton, session, *creating, time, round)
    })?;
    let pooled = |variant: usize| -> Vec<f64> {
        let rounds: &Vec<Felt> = &measured.variants[variant];
        rounds.iter().flat_map(|round| round.latencies_ms.iter().copied()).collect()
    };
    let created: u64 = measured.variants[1].iter().map(|round| round.created).sum();
    let rate = stats::wide(created) / (time.as_secs_f64() * stats::float(rounds));
    let figure = "p99 of Wasm requests, while sandboxes are made / while none is";
    results.bars.push(if rate < 0.75 * CREATIONS {
        let why = format!("only {rate:.1} sandboxes a second were made instead of {CREATIONS}");
        Bar::not_measured(figure, Op::AtMost, 1.25, why)
    } else {
        let ratio = stats::ratio_of(&pooled(1), &pooled(0), session.seed, p99);
        Bar::at_most(figure, ratio, 1.25)
    });
    results.notes.push(format!("sandboxes made beside the load: {rate:.1} a second"));
    results.data("felt", &measured)?;
    baton.stop()
}

fn measure(
    baton: &Baton,
    session: &Session,
    creating: bool,
    time: Duration,
    round: usize,
) -> anyhow::Result<Felt> {
    let requests = [Request::post("/float-operation", r#"{"n": 1000}"#), Request::get("/hello")];
    let seed = session.seed.wrapping_add(round as u64);
    let arrival = |request| move |at| Arrival { at, request };
    let mut arrivals: Vec<_> =
        schedule::poisson(RATE, time, seed).into_iter().map(arrival(0)).collect();
    if creating {
        arrivals.extend(schedule::uniform(CREATIONS, time).into_iter().map(arrival(1)));
    }
    arrivals.sort_by_key(|arrival| arrival.at);
    let before = started(baton)?;
    let outcome = load::open(&baton.target(), &requests, &arrivals, 64, &session.cores.load)?;
    let outcome = outcome.check()?;
    let created = started(baton)?.saturating_sub(before);
    let of_wasm = outcome.samples.iter().filter(|sample| sample.request == 0);
    Ok(Felt { latencies_ms: of_wasm.map(load::Sample::ms).collect(), created })
}

/// Sandboxes that were ever started for the function that wants them.
fn started(baton: &Baton) -> anyhow::Result<u64> {
    let document = baton.admin("/v1/functions/hello")?;
    Ok(document["service_times"]["activation"]["samples"].as_u64().unwrap_or(0))
}
