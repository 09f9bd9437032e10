//! `just bench pool`: how soon a function answers from a sandbox, beside what else it could be started
//! with, and what sandboxes cost.
//!
//! This bench asks no Baton over HTTP: what it measures ends at the sandbox, so it plays the host itself,
//! with the host's pool and the daemon of `target/release/baton`. A start begins with the host's decision, has the same
//! preamble as all others (another start or request, drawn by lot, then a rest: a spawn right after a spawn is
//! quicker), and ends with the first 200 of the same static server. What a process needs besides, a listening socket, a
//! connection to it and two pipes, a parked sandbox has made before the decision. `posix_spawn` is measured both ways:
//! it makes them after the decision, or has them already as well, which is the stricter measure.

mod contenders;
mod crowd;
mod house;
mod place;

use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Runtime;

use crate::bars::{Bar, Op, short};
use crate::bench::Session;
use crate::interleave::{Rounds, interleave};
use crate::results::Results;
use crate::stats::{self, Estimate};
use crate::table::Table;
pub use contenders::container;

use contenders::Contender;
use house::House;
use place::Place;

/// Between a start and what came before it.
const REST: Duration = Duration::from_millis(20);

/// One start, from the decision to the first 200.
#[derive(Clone, Copy, Debug, Serialize)]
struct Start {
    ms: f64,
    /// Of everything that took part; `None` where the machine does not count it for us.
    cpu_ms: Option<f64>,
}

/// What takes turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Parked,
    /// Linked dynamically, out of a root file system.
    Rooted,
    Cold,
    Frozen,
    Warm,
    Other(Contender),
}

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Self::Parked => "Baton, parked",
            Self::Rooted => "Baton, parked, dynamic, with a root file system",
            Self::Cold => "Baton, cold: nothing is parked",
            Self::Frozen => "Baton, frozen",
            Self::Warm => "Baton, warm, connection kept",
            Self::Other(contender) => contender.name(),
        }
    }
}

pub(crate) fn run(session: &Session, results: &mut Results) -> anyhow::Result<()> {
    let place = Place::new()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if session.wants("starts") {
        starts(session, results, &place, &runtime)?;
    }
    if session.wants("cycles") {
        crowd::creations(session, results, &place)?;
    }
    if session.wants("alive") {
        crowd::alive(session, results, &place)?;
    }
    let left = place.end()?;
    results.notes.extend(left.iter().map(|group| format!("left behind: {}", group.display())));
    results.bars.push(Bar::at_most("control groups left behind", stats::float(left.len()), 0.0));
    Ok(())
}

fn starts(
    session: &Session,
    results: &mut Results,
    place: &Place,
    runtime: &Runtime,
) -> anyhow::Result<()> {
    let day = Duration::from_secs(86_400);
    let parked = runtime.block_on(House::start(place, "parked", 1))?;
    let cold = runtime.block_on(House::start(place, "cold", 0))?;
    let [starting, warm] = [parked.add(day)?, parked.add(day)?];
    let (frozen, unparked) = (parked.add(Duration::ZERO)?, cold.add(day)?);
    let rooted = parked.add_rooted(place)?;
    for function in [frozen, warm] {
        runtime.block_on(parked.warm_up(function))?;
    }
    let mut variants: Vec<_> = [Contender::Spawn, Contender::SpawnAhead, Contender::SpawnDynamic]
        .map(Variant::Other)
        .into();
    variants.extend([Variant::Parked, Variant::Rooted, Variant::Cold]);
    variants.extend([Variant::Frozen, Variant::Warm]);
    for contender in [Contender::Libcontainer, Contender::Runc, Contender::Crun] {
        // What does not work here at all is left out rather than let all else go unmeasured.
        let tried =
            || runtime.block_on(async { contender.prepare(place, usize::MAX)?.start().await });
        let why = contender.missing().or_else(|| Some(tried().err()?.to_string()));
        match why {
            None => variants.push(Variant::Other(contender)),
            Some(why) => results.notes.push(format!("{} is left out: {why}", contender.name())),
        }
    }
    let rounds = session.either(200, 5);
    let measured = interleave(&mut variants, rounds, &session.progress, |variant, round| {
        runtime.block_on(async {
            match variant {
                Variant::Parked => rested(parked.fresh(place, starting)).await,
                Variant::Rooted => rested(parked.fresh(place, rooted)).await,
                Variant::Cold => rested(cold.fresh(place, unparked)).await,
                Variant::Frozen => rested(parked.again(place, frozen, true)).await,
                Variant::Warm => rested(parked.again(place, warm, false)).await,
                Variant::Other(contender) => {
                    let prepared = contender.prepare(place, round)?;
                    rested(prepared.start()).await
                }
            }
        })
    })?;
    for house in [parked, cold] {
        runtime.block_on(house.end())?;
    }
    results.tables.push(table(&variants, &measured, rounds));
    results.data("starts", &measured)?;
    results.notes.push(
        "libcontainer, runc and crun run as commands on one bundle: all namespaces, limits, no \
         seccomp filter, which Baton's sandboxes have; the command's own start is part of its time"
            .into(),
    );
    results.notes.push(
        "the rootfs function is the same server as the workspace builds it: linked dynamically, its loader and \
         libraries in the root"
            .into(),
    );
    bars(&variants, &measured, session.seed, results);
    Ok(())
}

/// A start that what came before it has not warmed the caches for.
async fn rested<T>(start: impl Future<Output = T>) -> T {
    tokio::time::sleep(REST).await;
    start.await
}

fn table(variants: &[Variant], measured: &Rounds<Start>, rounds: usize) -> Table {
    let title = format!("From the decision to the first 200, {rounds} interleaved rounds");
    let mut table = Table::new(title, ["start", "p50 ms", "p99 ms", "CPU ms", "CPU s in all"]);
    for (index, variant) in variants.iter().enumerate() {
        let ms = measured.figure(index, |start| start.ms);
        let cpu: Vec<f64> = measured.variants[index].iter().filter_map(|it| it.cpu_ms).collect();
        table.row([
            variant.name().to_owned(),
            short(stats::median(&ms)),
            short(stats::quantile(&ms, 0.99)),
            short(stats::median(&cpu)),
            short(cpu.iter().sum::<f64>() / 1e3),
        ]);
    }
    table
}

fn bars(variants: &[Variant], measured: &Rounds<Start>, seed: u64, results: &mut Results) {
    let of = |wanted: Variant| {
        let index = variants.iter().position(|variant| *variant == wanted)?;
        Some(measured.figure(index, |start| start.ms))
    };
    let ratio = |a, b, q: f64| -> Option<Estimate> {
        Some(stats::ratio_of(&of(a)?, &of(b)?, seed, |ms| stats::quantile(ms, q)))
    };
    let [ahead, whole, dynamic] =
        [Contender::SpawnAhead, Contender::Spawn, Contender::SpawnDynamic].map(Variant::Other);
    let [runc, crun] = [Contender::Runc, Contender::Crun].map(Variant::Other);
    let rows = [
        ("parked to first 200 / posix_spawn to 200, p50", Variant::Parked, whole, 0.5, 1.1),
        ("parked to first 200 / posix_spawn to 200, p99", Variant::Parked, whole, 0.99, 1.3),
        (
            "parked to first 200 / posix_spawn, its socket and pipes made ahead, to 200, p50",
            Variant::Parked,
            ahead,
            0.5,
            1.1,
        ),
        (
            "parked to first 200 / posix_spawn, its socket and pipes made ahead, to 200, p99",
            Variant::Parked,
            ahead,
            0.99,
            1.3,
        ),
        (
            "parked to first 200 of a rootfs function / posix_spawn of its server to 200, p50",
            Variant::Rooted,
            dynamic,
            0.5,
            2.0,
        ),
        (
            "parked to first 200 of a rootfs function / posix_spawn of the static server to 200, p50",
            Variant::Rooted,
            whole,
            0.5,
            2.0,
        ),
        ("full cold / runc, p50", Variant::Cold, runc, 0.5, 0.3),
        ("full cold / crun, p50", Variant::Cold, crun, 0.5, 1.0),
    ];
    for (figure, ours, theirs, quantile, wanted) in rows {
        results.bars.push(match ratio(ours, theirs, quantile) {
            Some(estimate) => Bar::at_most(figure, estimate, wanted),
            None => {
                let why = format!("{} is left out", theirs.name());
                Bar::not_measured(figure, Op::AtMost, wanted, why)
            }
        });
    }
}
