//! korvoj ("WebAssembly as an Enabler for Next Generation Serverless Computing", J. Grid Comput. 2023),
//! Tables 5 and 7 and Figure 5: cold runs of 13 functions.

use super::claim::Claim;
use super::{Paper, Section, found, optional};
use crate::bars::short;
use crate::catalogue;
use crate::compare::{self, SIGNIFICANCE};
use crate::deployment::{Deployment, Form, wasmtime};
use crate::measured::Measured;
use crate::oci::Rootfs;
use crate::results::Results;
use crate::stats::{mann_whitney, median};
use crate::table::Table;

/// Seconds of a cold run in the paper under Wasmtime with compiled code, in a distroless container, in a
/// Debian one: medians of the 100 runs of each that the authors published with their suite
/// (korvoj/wasm-serverless-benchmarks, `results`, commit 66c2aac). crun starts all of them, Wasmtime too.
const PAPER: [(&str, [f64; 3]); 13] = [
    ("audio-sine-wave", [0.62, 1.66, 3.5]),
    ("fuzzysearch", [0.7, 1.46, 3.51]),
    ("n-body", [0.715, 1.7, 3.575]),
    ("prime-numbers", [0.84, 1.7, 3.57]),
    ("whatlang", [0.67, 1.49, 3.52]),
    ("zip-compression", [3.05, 3.91, 5.89]),
    ("aes", [0.73, 1.57, 3.65]),
    ("checksum", [3.61, 2.775, 4.815]),
    ("diskio", [0.87, 1.64, 3.72]),
    ("float-operation", [0.7, 1.53, 3.53]),
    ("imageprocessing", [8.66, 2.44, 4.49]),
    ("linear-equations", [0.92, 1.59, 3.55]),
    ("matmul", [6.13, 2.01, 4.06]),
];

pub(super) fn measure(paper: &Paper<'_>, results: &mut Results) -> anyhow::Result<Section> {
    let title = "korvoj: Tables 5 and 7, Figure 5";
    let mut section = Section { title, ..Section::default() };
    let mut places = Vec::new();
    let program = wasmtime(paper.baselines.wasmtime.as_deref());
    places.extend(program.map(|program| Deployment::Wasmtime(program, Form::Ahead)));
    places.push(Deployment::Container("runc".into(), Rootfs::Scratch));
    let debian = Rootfs::Debian(paper.baselines.debian_directory());
    places.push(Deployment::Container("runc".into(), debian));
    places.push(Deployment::Baton("wasm".into()));
    places.push(Deployment::Baton("native".into()));
    for subject in catalogue::korvoj() {
        let usable = compare::usable(places.clone().into_iter(), &subject, paper.session, results);
        section.measured.extend(compare::cold(
            &subject,
            &usable,
            paper.effort.runs,
            paper.session,
        )?);
    }
    section.tables.push(table(&section.measured));
    section.tables.push(theirs(&section.measured));
    section.claims.extend(claims(&section.measured));
    Ok(section)
}

const RUNTIMES: [&str; 5] =
    ["wasmtime", "runc scratch", "runc debian", "baton wasm", "baton native"];

fn table(rows: &[Measured]) -> Table {
    let title = "Total time of a cold run in ms: start, execution and answer; p50. Faster: Wasmtime or the \
                 better container, by Mann–Whitney at 0.05";
    let columns = std::iter::once("function").chain(RUNTIMES).chain(["faster", "paper"]);
    let mut table = Table::new(title, columns);
    for (function, _) in PAPER {
        let p50 = |runtime: &str| found(rows, function, runtime).map(|row| row.latency.p50);
        let faster = race(rows, function).map_or("–", |race| race.winner.name());
        let cells = RUNTIMES.map(|runtime| optional(p50(runtime)));
        let row = std::iter::once(function.to_owned()).chain(cells);
        table.row(row.chain([faster.to_owned(), in_paper(function).0.name().to_owned()]));
    }
    table
}

/// The paper's own figures, and how many times longer the better container takes.
fn theirs(rows: &[Measured]) -> Table {
    let columns = [
        "function",
        "Wasmtime",
        "distroless",
        "Debian",
        "container / Wasm",
        "here",
        "here / paper",
    ];
    let title =
        "The paper's own in ms (medians of 100 runs), and the better container / Wasm in both";
    let mut table = Table::new(title, columns);
    for (function, seconds) in PAPER {
        let (_, paper) = in_paper(function);
        let here = race(rows, function).map(|race| race.ratio);
        let figures = seconds.map(|seconds| short(seconds * 1e3));
        let row = std::iter::once(function.to_owned()).chain(figures);
        table.row(row.chain([short(paper), optional(here), optional(here.map(|it| it / paper))]));
    }
    table
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Winner {
    Wasm,
    Container,
    /// The difference may be chance.
    Neither,
}

impl Winner {
    fn name(self) -> &'static str {
        match self {
            Self::Wasm => "Wasm",
            Self::Container => "container",
            Self::Neither => "neither",
        }
    }
}

/// Who was faster in the paper, and the better container's time over Wasm's.
fn in_paper(function: &str) -> (Winner, f64) {
    let row = PAPER.iter().find(|(name, _)| *name == function);
    let ratio =
        row.map_or(f64::NAN, |(_, [wasm, distroless, debian])| distroless.min(*debian) / wasm);
    (if ratio > 1.0 { Winner::Wasm } else { Winner::Container }, ratio)
}

/// Wasmtime against the better of the containers.
#[derive(Clone, Copy, Debug)]
struct Race {
    winner: Winner,
    /// The container's median over Wasmtime's.
    ratio: f64,
    /// How probable such a difference is by chance.
    p: f64,
}

fn race(rows: &[Measured], function: &str) -> Option<Race> {
    let wasm = found(rows, function, "wasmtime")?;
    let containers =
        ["runc scratch", "runc debian"].into_iter().filter_map(|it| found(rows, function, it));
    let container = containers.min_by(|a, b| a.latency.p50.total_cmp(&b.latency.p50))?;
    let (wasm, container) = (wasm.ms(), container.ms());
    let (ratio, p) = (median(&container) / median(&wasm), mann_whitney(&wasm, &container));
    let winner = match ratio > 1.0 {
        _ if p >= SIGNIFICANCE => Winner::Neither,
        true => Winner::Wasm,
        false => Winner::Container,
    };
    Some(Race { winner, ratio, p })
}

fn claims(rows: &[Measured]) -> Vec<Claim> {
    const MOST: &str = "compiled Wasm beats distroless and Debian containers on the total time of a \
                        cold run in 10 of 13 functions";
    const OTHERS: &str = "containers win checksum, imageprocessing and matmul";
    const SHORT: &str = "where little is computed (whatlang), a cold run in a container takes 2.22 times \
                         as long as by Wasm";
    let races: Vec<(&str, Race)> =
        PAPER.iter().filter_map(|(function, _)| Some((*function, race(rows, function)?))).collect();
    if races.is_empty() {
        let why = "wasmtime or runc is not there";
        return [MOST, OTHERS, SHORT].map(|claim| Claim::not_measured(claim, why)).into();
    }
    let won_by = |winner: Winner| -> Vec<&str> {
        let won = races.iter().filter(|(_, race)| race.winner == winner);
        won.map(|(function, _)| *function).collect()
    };
    let wasm = won_by(Winner::Wasm).len();
    let most = format!(
        "Wasmtime beats runc in {wasm} of {} functions; a running Baton needs no start and answers \
         whatlang cold by Wasm in {} ms",
        races.len(),
        optional(found(rows, "whatlang", "baton wasm").map(|row| row.latency.p50))
    );
    let undecided = races.iter().filter(|(_, race)| race.winner == Winner::Neither).map(
        |(function, Race { ratio, p, .. })| {
            format!("{function} (container / Wasm {}, p = {p:.2})", short(*ratio))
        },
    );
    let named = |names: Vec<String>| match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    };
    let others = format!(
        "runc wins {}; undecided: {}",
        named(won_by(Winner::Container).into_iter().map(str::to_owned).collect()),
        named(undecided.collect())
    );
    let is = |winner: fn(Winner, Winner) -> bool| {
        races.iter().any(|(function, race)| winner(race.winner, in_paper(function).0))
    };
    let contradicted = is(|ours, theirs| ours != Winner::Neither && ours != theirs);
    let open = is(|ours, theirs| ours == Winner::Neither && theirs == Winner::Container);
    let mut claims = vec![
        Claim::new(MOST, most, wasm * 2 > races.len()).sized(
            "functions of 13 that Wasm wins",
            10.0,
            crate::stats::float(wasm),
        ),
        match open && !contradicted {
            true => Claim::undecided(OTHERS, others),
            false => Claim::new(OTHERS, others, !contradicted),
        },
    ];
    if let Some((function, race)) = races.iter().find(|(function, _)| *function == "whatlang") {
        let ours = format!("{} times", short(race.ratio));
        let claim = Claim::new(SHORT, ours, race.winner == Winner::Wasm);
        let of = "cold run of whatlang, container / Wasm";
        claims.push(claim.sized(of, in_paper(function).1, race.ratio));
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_figures_are_of_the_functions_that_are_run_and_say_what_the_paper_says() {
        let names: Vec<String> = catalogue::korvoj().into_iter().map(|it| it.name).collect();
        assert!(PAPER.iter().all(|(function, _)| names.iter().any(|name| name == function)));
        let container =
            PAPER.iter().filter(|(function, _)| in_paper(function).0 == Winner::Container);
        let container: Vec<&str> = container.map(|(function, _)| *function).collect();
        assert_eq!(container, ["checksum", "imageprocessing", "matmul"]);
    }

    #[test]
    fn a_difference_that_may_be_chance_has_no_winner_and_decides_nothing() {
        let row = |function: &str, runtime: &str, ms: &[f64]| {
            Measured::of_latencies(function, runtime, "cold", ms)
        };
        let rows = [
            row("matmul", "wasmtime", &[58.0, 60.0, 57.0, 61.0, 59.0]),
            row("matmul", "runc scratch", &[60.0, 58.5, 59.5, 62.0, 57.5]),
            row("whatlang", "wasmtime", &[8.0, 9.0, 10.0, 8.5, 9.5]),
            row("whatlang", "runc scratch", &[30.0, 31.0, 32.0, 33.0, 29.0]),
        ];
        assert_eq!(race(&rows, "matmul").map(|race| race.winner), Some(Winner::Neither));
        assert_eq!(race(&rows, "whatlang").map(|race| race.winner), Some(Winner::Wasm));
        let sentences: Vec<String> = claims(&rows).iter().map(Claim::sentence).collect();
        assert!(sentences[1].starts_with("**Undecided.**"), "{}", sentences[1]);
        assert!(sentences[1].contains("undecided: matmul (container / Wasm 1"), "{}", sentences[1]);
    }
}
