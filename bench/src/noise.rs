//! The noise of this machine: two equal Batons take turns; every difference between them is noise.

use std::time::Duration;

use serde::Serialize;

use crate::bars::{Bar, short};
use crate::baton::{Baton, Setup};
use crate::bench::Session;
use crate::client::Request;
use crate::interleave::interleave;
use crate::load::{self, Until};
use crate::results::Results;
use crate::stats;
use crate::table::Table;

const CONNECTIONS: usize = 4;

#[derive(Debug, Serialize)]
struct Round {
    rate: f64,
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
}

pub(crate) fn run(session: &Session, results: &mut Results) -> anyhow::Result<()> {
    let setup = Setup::new().function("hello", "wasm");
    let mut batons = [setup.start(&session.cores.server)?, setup.start(&session.cores.server)?];
    let seconds = session.either(2.0, 0.2);
    let rounds = session.either(11, 3);
    let measured = interleave(&mut batons, rounds, &session.progress, |baton, _| {
        measure(baton, session, Duration::from_secs_f64(seconds))
    })?;

    let title = format!("hello by Wasm, {CONNECTIONS} connections, median of {rounds} rounds");
    let mut table = Table::new(title, ["Baton", "requests/s", "CPU µs", "p50 µs", "p99 µs"]);
    let figures: [fn(&Round) -> f64; 4] = [|r| r.rate, |r| r.cpu_us, |r| r.p50_us, |r| r.p99_us];
    for (variant, name) in ["first", "second"].into_iter().enumerate() {
        let cells = figures.map(|figure| short(stats::median(&measured.figure(variant, figure))));
        table.row([name.to_owned()].into_iter().chain(cells));
    }
    results.tables.push(table);
    for (a, b, figure) in [(0, 1, "first / second"), (1, 0, "second / first")] {
        let ratio = measured.ratio(a, b, session.seed, |round| round.cpu_us);
        results.bars.push(Bar::at_most(format!("CPU per request, {figure}"), ratio, 1.0));
    }
    results.notes.push(load::waiting_note(&session.cores));
    results.data("rounds", &measured)?;
    batons.into_iter().try_for_each(Baton::stop)
}

fn measure(baton: &Baton, session: &Session, time: Duration) -> anyhow::Result<Round> {
    let request = [Request::get("/hello/")];
    let before = baton.cpu_ns();
    let until = Until::Elapsed(time);
    let outcome =
        load::closed_awake(&baton.target(), &request, CONNECTIONS, until, &session.cores)?;
    let cpu_ns = baton.cpu_ns().saturating_sub(before);
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
