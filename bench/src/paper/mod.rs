//! `baton-bench paper`: the tables and figures of the papers that this project began with, measured
//! on this machine, next to the papers' own numbers.
//!
//! Each claim of a paper becomes a sentence that says whether our result agrees, in order and in size
//! (`claim.rs`). Absolute times differ with the hardware; what is compared are orders and ratios.

mod claim;
mod funless;
mod hybridserve;
mod korvoj;
mod lumos;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use self::claim::{ALIKE, Claim, Verdict};
use crate::bars::short;
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
    /// The same for korvoj.
    runs: usize,
    /// Time of each closed loop.
    time: Duration,
    /// Minutes of each pattern, and how long one takes.
    minutes: usize,
    minute: Duration,
    /// Requests at once.
    concurrency: Vec<u16>,
    /// Seconds of hello, in each of which memory is looked at.
    looks: usize,
}

impl Effort {
    /// For less than 15 minutes on two cores.
    fn reduced() -> Self {
        Self {
            cold: 5,
            runs: 5,
            time: Duration::from_millis(500),
            minutes: 15,
            minute: Duration::from_millis(700),
            concurrency: vec![1, 10, 50],
            looks: 3,
        }
    }

    /// The papers' own: Lumos repeats 10 times with up to 200 at once, korvoj runs each function 100
    /// times, FunLess looks at memory for five minutes.
    fn full() -> Self {
        Self {
            cold: 10,
            runs: 100,
            time: Duration::from_secs(2),
            minutes: 60,
            minute: Duration::from_secs(2),
            concurrency: vec![1, 10, 50, 100, 200],
            looks: 300,
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

impl Section {
    /// The paper's name, which the title begins with.
    fn paper(&self) -> &'static str {
        self.title.split(':').next().unwrap_or_default()
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
    let wanted: Vec<_> = SECTIONS
        .into_iter()
        .filter(|(name, _)| arguments.only.is_empty() || arguments.only.iter().any(|it| it == name))
        .collect();
    let (mut sections, mut printed) = (Vec::new(), String::new());
    for (at, (_, measure)) in wanted.iter().enumerate() {
        sections.push(measure(&paper, &mut results)?);
        // Whoever breaks off an hour's run keeps the papers that were through.
        let missing: Vec<_> = wanted.iter().skip(at + 1).map(|(name, _)| *name).collect();
        let run = Run { effort: &effort, full: arguments.full, took: begun.elapsed(), missing };
        printed = write(&run, &sections, results.clone(), &arguments.page())?;
    }
    Ok(printed)
}

/// What a page says of the run that it comes from.
struct Run<'a> {
    effort: &'a Effort,
    full: bool,
    took: Duration,
    /// Sections that are still to be measured.
    missing: Vec<&'static str>,
}

/// Writes page and results file of these sections, and returns what is printed.
fn write(
    run: &Run<'_>,
    sections: &[Section],
    mut results: Results,
    to: &Path,
) -> anyhow::Result<String> {
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
    let page = page(run, sections, &results);
    fs::write(to, &page)?;
    let path = results.write()?;
    Ok(format!("{page}\nresults: {}\n", path.display()))
}

fn page(run: &Run<'_>, sections: &[Section], results: &Results) -> String {
    let mut page = String::from("# Measurements\n\n");
    let (command, repeats) = if run.full {
        ("just paper full", "the papers' own repeats")
    } else {
        ("just paper", "reduced repeats")
    };
    let Effort { cold, runs, time, minutes, minute, concurrency, looks: _ } = run.effort;
    let _ = writeln!(
        page,
        "The tables and figures of the papers that Baton began with, measured again by `{command}` \
         with {repeats}: {cold} cold requests of each function in each place ({runs} of korvoj's), \
         closed loops of {time:?} at {concurrency:?} requests at once, patterns of {minutes} minutes that take \
         {minute:?} each. Places take turns; figures are medians. This file is written by that \
         command, which took {:.1} minutes; raw data is in `target/bench/paper.json`, and \
         `baton-bench report target/bench/paper.json` draws it.\n",
        run.took.as_secs_f64() / 60.0
    );
    if !run.missing.is_empty() {
        let _ = writeln!(page, "**Not the whole:** {} not measured yet.\n", run.missing.join(", "));
    }
    let _ = writeln!(page, "Machine: {}; seed {}.\n", results.machine.line(), results.seed);
    let _ = writeln!(
        page,
        "The papers measured on other hardware (a Jetson Orin Nano, a Raspberry Pi, servers) with \
         other runtimes: orders and ratios are compared, not milliseconds. A claim agrees in order when \
         the same side wins here, and in size when neither ratio is more than {ALIKE} times the other; \
         both ratios stand there. Where a paper says \"up to\", the most that was seen here is compared \
         with it. Containers here are runc's, of the same static executable that Baton's native tier \
         runs.\n"
    );
    let named = sections
        .iter()
        .flat_map(|section| section.claims.iter().map(|claim| (section.paper(), claim)));
    let _ = writeln!(page, "{}", claim::table(named));
    for (title, verdict) in [
        ("Where our result contradicts a paper", Verdict::Contradicts),
        ("Where the order is a paper's and the size is not", Verdict::OrderOnly),
        ("What our measurement does not decide", Verdict::Undecided),
    ] {
        let _ = writeln!(page, "## {title}\n");
        let all = sections.iter().flat_map(|section| &section.claims);
        let sentences: Vec<String> = all
            .filter(|claim| claim.verdict() == verdict)
            .map(|claim| format!("- {}\n", claim.sentence()))
            .collect();
        let nowhere = || "Nowhere.\n".to_owned();
        let listed = if sentences.is_empty() { nowhere() } else { sentences.concat() };
        let _ = writeln!(page, "{listed}");
    }
    for section in sections {
        let _ = writeln!(page, "## {}\n", section.title);
        for table in &section.tables {
            let _ = writeln!(page, "{table}");
        }
        for claim in &section.claims {
            let _ = writeln!(page, "- {}", claim.sentence());
        }
        page.push('\n');
    }
    if !results.notes.is_empty() {
        let _ = writeln!(page, "## Not measured\n");
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
    value.map_or_else(|| "–".to_owned(), short)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(effort: &Effort) -> Run<'_> {
        Run { effort, full: false, took: Duration::ZERO, missing: vec![] }
    }

    #[test]
    fn a_page_that_is_not_the_whole_says_what_is_missing() {
        let effort = Effort::reduced();
        let results = Results::new("paper", 1);
        assert!(!page(&whole(&effort), &[], &results).contains("Not the whole"));
        let broken_off = Run { missing: vec!["lumos", "funless"], ..whole(&effort) };
        let page = page(&broken_off, &[], &results);
        assert!(page.contains("**Not the whole:** lumos, funless not measured yet."));
    }

    #[test]
    fn contradictions_and_other_sizes_are_named_before_everything_else() {
        let claims = vec![
            Claim::new("Wasm is smaller", "it is", true).sized("MB", 2.0, 2.1),
            Claim::new("Wasm starts sooner", "it does", true).sized("starts", 8.0, 2.0),
            Claim::new("containers are faster", "they are slower", false),
        ];
        let section = Section { title: "A paper: its table", claims, ..Section::default() };
        let results = Results::new("paper", 1);
        let page = page(&whole(&Effort::reduced()), &[section], &results);
        let (before, after) = page.split_once("## A paper").expect("a section");
        assert!(before.contains("**Contradicts.**") && before.contains("not in size.**"));
        assert!(before.contains("| A paper |") && !before.contains("**Agrees, in order"));
        assert!(after.contains("**Agrees, in order and in size.** The paper: Wasm is smaller."));
    }
}
