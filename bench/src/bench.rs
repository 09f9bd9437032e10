//! The benches behind `just bench NAME`.

use crate::cores::{Cores, Split};
use crate::progress::Progress;
use crate::results::Results;

/// One bench.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// Its name on the command line and of its file.
    pub name: &'static str,
    /// What it measures, in a line.
    pub about: &'static str,
    /// What of it can be measured by itself.
    pub parts: &'static [&'static str],
    /// Measures it, and fills in tables, bars and data.
    pub run: fn(&Session, &mut Results) -> anyhow::Result<()>,
}

/// All of them.
pub const BENCHES: &[Bench] = &[
    Bench {
        name: "noise",
        about: "the same Baton against itself: what a difference of nothing looks like here",
        parts: &[],
        run: crate::noise::run,
    },
    Bench {
        name: "pool",
        about: "starts from sandboxes beside posix_spawn, libcontainer, runc and crun; a thousand alive",
        parts: &["starts", "cycles", "alive"],
        run: crate::pool::run,
    },
    Bench {
        name: "telemetry",
        about: "what metrics and traces cost, in both tiers",
        parts: &[],
        run: crate::telemetry::run,
    },
    Bench {
        name: "wasm",
        about: "the Wasm tier beside bare hyper and wasmtime serve",
        parts: crate::wasm::PARTS,
        run: crate::wasm::run,
    },
    Bench {
        name: "tiers",
        about: "four traffic patterns over short and long functions, under every policy",
        parts: crate::tiers::PARTS,
        run: crate::tiers::run,
    },
    Bench {
        name: "forward",
        about: "what forwarding to a sandbox adds to the same server reached directly",
        parts: &[],
        run: crate::forward::run,
    },
];

/// What a bench is run with.
#[derive(Clone, Debug)]
pub struct Session {
    /// Of everything random.
    pub seed: u64,
    /// Fewer rounds and shorter ones, to see whether it runs at all.
    pub quick: bool,
    /// The parts of the bench that are measured; all of them when it is empty.
    pub only: Vec<String>,
    /// Cores for what is measured and for the load.
    pub cores: Split,
    /// Where progress is shown.
    pub progress: Progress,
}

impl Session {
    /// On all cores of the machine.
    #[must_use]
    pub fn new(seed: u64, quick: bool) -> Self {
        let cores = Cores::available().split();
        Self { seed, quick, only: Vec::new(), cores, progress: Progress::shown() }
    }

    /// Whether a part of the bench is to be measured.
    #[must_use]
    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == part)
    }

    /// `full`, or `quick` when that was asked for.
    pub fn either<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// Runs a bench and notes the machine's load at its end.
///
/// # Errors
/// What it ends with, or that it has no such part.
pub fn run(bench: &Bench, session: &Session) -> anyhow::Result<Results> {
    let mut results = Results::new(bench.name, session.seed);
    for part in &session.only {
        anyhow::ensure!(
            bench.parts.contains(&part.as_str()),
            "bench {} has no part {part:?} to measure by itself; it has {}",
            bench.name,
            if bench.parts.is_empty() { "none".to_owned() } else { bench.parts.join(", ") }
        );
        // The file of the whole bench stays.
        results.name += &format!("-{part}");
    }
    if session.quick {
        // What was measured at length stays.
        results.name += "-quick";
    }
    if session.cores.server == session.cores.load {
        results.notes.push("one core only: the load takes time from what it measures".into());
    }
    (bench.run)(session, &mut results)?;
    results.machine.ended();
    Ok(results)
}
