//! `baton-bench paper`: the tables and figures of the papers that this project began with, measured
//! on this machine, next to the papers' own numbers.
//!
//! Each claim of a paper becomes a sentence that says whether our result agrees. Absolute times
//! differ with the hardware; what is compared are orders and ratios.

mod funless;
mod hybridserve;
mod korvoj;
mod lumos;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use crate::bench::Session;
use crate::characterize::Size;
use crate::compare::BaselineArguments;
use crate::measured::Measured;
use crate::results::Results;
use crate::table::Table;

/// `baton-bench paper`.
#[derive(Clone, Debug, Args)]
pub struct PaperArguments {
    /// As many repeats as the papers made
    #[arg(long)]
    full: bool,
    /// Only these: hybridserve, korvoj, lumos, funless
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the page of results goes [default: docs/measurements.md; with --only
    /// target/bench/measurements.md, so that a part does not replace the whole]
    #[arg(long)]
    output: Option<PathBuf>,
    /// Seed of everything random
    #[arg(long, default_value_t = 42)]
    seed: u64,
    #[command(flatten)]
    baselines: BaselineArguments,
}

impl PaperArguments {
    fn page(&self) -> PathBuf {
        match &self.output {
            Some(path) => path.clone(),
            None if self.only.is_empty() => "docs/measurements.md".into(),
            None => crate::baton::target_dir().join("bench/measurements.md"),
        }
    }
}

/// How much is measured.
#[derive(Clone, Debug)]
struct Effort {
    /// Cold requests of each function in each place.
    cold: usize,
    /// Time of each closed loop.
    time: Duration,
    /// Minutes of each pattern, and how long one takes.
    minutes: usize,
    minute: Duration,
    /// Requests at once.
    concurrency: Vec<u16>,
}

impl Effort {
    /// For less than 15 minutes on two cores.
    fn reduced() -> Self {
        Self {
            cold: 5,
            time: Duration::from_millis(500),
            minutes: 15,
            minute: Duration::from_millis(700),
            concurrency: vec![1, 10, 50],
        }
    }

    /// The papers' own: Lumos repeats 10 times with up to 200 at once.
    fn full() -> Self {
        Self {
            cold: 10,
            time: Duration::from_secs(5),
            minutes: 60,
            minute: Duration::from_secs(2),
            concurrency: vec![1, 10, 50, 100, 200],
        }
    }
}

/// What came of one paper.
#[derive(Debug, Default)]
struct Section {
    title: &'static str,
    tables: Vec<Table>,
    claims: Vec<Claim>,
    measured: Vec<Measured>,
    sizes: Vec<Size>,
}

/// A claim of a paper, and our result.
#[derive(Debug)]
struct Claim {
    /// What the paper says.
    paper: &'static str,
    /// What we measured.
    ours: String,
    /// Whether that agrees; nothing when it could not be measured here.
    agrees: Option<bool>,
}

impl Claim {
    fn new(paper: &'static str, ours: impl Into<String>, agrees: bool) -> Self {
        Self { paper, ours: ours.into(), agrees: Some(agrees) }
    }

    fn not_measured(paper: &'static str, why: impl Into<String>) -> Self {
        Self { paper, ours: why.into(), agrees: None }
    }

    fn sentence(&self) -> String {
        let verdict = match self.agrees {
            Some(true) => "**Agrees.**",
            Some(false) => "**Contradicts.**",
            None => "**Not measured.**",
        };
        format!("{verdict} The paper: {}. Here: {}.", self.paper, self.ours)
    }
}

type Measure = fn(&Paper<'_>, &mut Results) -> anyhow::Result<Section>;

/// What a section is measured with.
struct Paper<'a> {
    effort: &'a Effort,
    session: &'a Session,
    baselines: &'a BaselineArguments,
}

const SECTIONS: [(&str, Measure); 4] = [
    ("hybridserve", hybridserve::measure),
    ("korvoj", korvoj::measure),
    ("lumos", lumos::measure),
    ("funless", funless::measure),
];

/// Measures, writes the page and the results file, and returns what is printed.
///
/// # Errors
/// When a function that answered once fails later, or files cannot be written.
pub fn run(arguments: &PaperArguments) -> anyhow::Result<String> {
    for only in &arguments.only {
        anyhow::ensure!(
            SECTIONS.iter().any(|(name, _)| name == only),
            "--only is {only:?}, expected hybridserve, korvoj, lumos or funless"
        );
    }
    let begun = Instant::now();
    let effort = if arguments.full { Effort::full() } else { Effort::reduced() };
    let session = Session::new(arguments.seed, !arguments.full);
    let baselines = &arguments.baselines;
    let paper = Paper { effort: &effort, session: &session, baselines };
    let mut results = Results::new("paper", arguments.seed);
    let mut sections = Vec::new();
    for (name, measure) in SECTIONS {
        if arguments.only.is_empty() || arguments.only.iter().any(|only| only == name) {
            sections.push(measure(&paper, &mut results)?);
        }
    }
    let mut noted = Vec::new();
    std::mem::swap(&mut noted, &mut results.notes);
    for note in noted {
        // A place that is missing is missing for every function.
        if !results.notes.contains(&note) {
            results.notes.push(note);
        }
    }
    results.machine.ended();
    let measured: Vec<&Measured> = sections.iter().flat_map(|section| &section.measured).collect();
    results.data("measured", &measured)?;
    let sizes: Vec<&Size> = sections.iter().flat_map(|section| &section.sizes).collect();
    results.data("sizes", &sizes)?;
    results.tables = sections.iter().flat_map(|section| section.tables.clone()).collect();
    let page = page(&sections, &results, &effort, begun.elapsed(), arguments.full);
    fs::write(arguments.page(), &page)?;
    let path = results.write()?;
    Ok(format!("{page}\nresults: {}\n", path.display()))
}

fn page(
    sections: &[Section],
    results: &Results,
    effort: &Effort,
    took: Duration,
    full: bool,
) -> String {
    let mut page = String::from("# Measurements\n\n");
    let (command, repeats) = if full {
        ("just paper full", "the papers' own repeats")
    } else {
        ("just paper", "reduced repeats")
    };
    let Effort { cold, time, minutes, minute, concurrency } = effort;
    let _ = writeln!(
        page,
        "The tables and figures of the papers that Baton began with, measured again by `{command}` \
         with {repeats}: {cold} cold requests of each function in each place, closed loops of \
         {time:?} at {concurrency:?} requests at once, patterns of {minutes} minutes that take \
         {minute:?} each. Places take turns; figures are medians. This file is written by that \
         command, which took {:.1} minutes; raw data is in `target/bench/paper.json`, and \
         `baton-bench report target/bench/paper.json` draws it.\n",
        took.as_secs_f64() / 60.0
    );
    let _ = writeln!(page, "Machine: {}; seed {}.\n", results.machine.line(), results.seed);
    let _ = writeln!(
        page,
        "The papers measured on other hardware (a Jetson Orin Nano, a Raspberry Pi, servers) with \
         other runtimes: shapes and ratios are compared, not milliseconds. \"Agrees\" says that the \
         order is the paper's, not that the ratio is: both ratios stand there. Containers here are \
         runc's, of the same static executable that Baton's native tier runs.\n"
    );
    let contradictions: Vec<&Claim> = sections
        .iter()
        .flat_map(|section| &section.claims)
        .filter(|claim| claim.agrees == Some(false))
        .collect();
    let _ = writeln!(page, "## Where our result contradicts a paper\n");
    if contradictions.is_empty() {
        let _ = writeln!(page, "Nowhere.");
    }
    for claim in contradictions {
        let _ = writeln!(page, "- {}", claim.sentence());
    }
    for section in sections {
        let _ = writeln!(page, "\n## {}\n", section.title);
        for table in &section.tables {
            let _ = writeln!(page, "{table}");
        }
        for claim in &section.claims {
            let _ = writeln!(page, "- {}", claim.sentence());
        }
    }
    if !results.notes.is_empty() {
        let _ = writeln!(page, "\n## Not measured\n");
        for note in &results.notes {
            let _ = writeln!(page, "- {note}");
        }
    }
    page
}

/// The measurement of a function in a place, if it was made.
fn found<'a>(rows: &'a [Measured], function: &str, runtime: &str) -> Option<&'a Measured> {
    rows.iter().find(|row| row.function == function && row.runtime == runtime)
}

/// A number, or a dash.
fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), crate::bars::short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contradiction_is_named_before_everything_else() {
        let claims = vec![
            Claim::new("Wasm is smaller", "it is", true),
            Claim::new("containers are faster", "they are slower", false),
        ];
        let section = Section { title: "A paper", claims, ..Section::default() };
        let results = Results::new("paper", 1);
        let page = page(&[section], &results, &Effort::reduced(), Duration::ZERO, false);
        let (before, after) = page.split_once("## A paper").expect("a section");
        assert!(before.contains("**Contradicts.**") && !before.contains("**Agrees.**"));
        assert!(after.contains("**Agrees.** The paper: Wasm is smaller. Here: it is."));
    }
}
