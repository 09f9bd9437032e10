//! korvoj ("WebAssembly as an Enabler for Next Generation Serverless Computing", J. Grid Comput. 2023),
//! Tables 5 and 7 and Figure 5: cold runs of 13 functions.

use super::{Claim, Paper, Section, found, optional};
use crate::catalogue;
use crate::compare;
use crate::deployment::{Deployment, Form, wasmtime};
use crate::measured::Measured;
use crate::oci::Rootfs;
use crate::results::Results;
use crate::table::Table;

/// The functions that containers won in the paper.
const CONTAINERS_WON: [&str; 3] = ["checksum", "imageprocessing", "matmul"];

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
            paper.effort.cold,
            paper.session,
        )?);
    }
    section.tables.push(table(&section.measured));
    section.claims.extend(claims(&section.measured));
    Ok(section)
}

const RUNTIMES: [&str; 5] =
    ["wasmtime", "runc scratch", "runc debian", "baton wasm", "baton native"];

fn table(rows: &[Measured]) -> Table {
    let title = "Total time of a cold run in ms: start, execution and answer; p50";
    let columns = std::iter::once("function").chain(RUNTIMES).chain(["faster", "paper"]);
    let mut table = Table::new(title, columns);
    for subject in catalogue::korvoj() {
        let p50 = |runtime: &str| found(rows, &subject.name, runtime).map(|row| row.latency.p50);
        let faster = match wasm_is_faster(rows, &subject.name) {
            Some(true) => "Wasm",
            Some(false) => "container",
            None => "–",
        };
        let paper =
            if CONTAINERS_WON.contains(&subject.name.as_str()) { "container" } else { "Wasm" };
        let cells = RUNTIMES.map(|runtime| optional(p50(runtime)));
        let row = std::iter::once(subject.name.clone()).chain(cells);
        table.row(row.chain([faster.to_owned(), paper.to_owned()]));
    }
    table
}

/// Whether the run under Wasmtime was faster than that in any container.
fn wasm_is_faster(rows: &[Measured], function: &str) -> Option<bool> {
    let p50 = |runtime: &str| found(rows, function, runtime).map(|row| row.latency.p50);
    let containers = ["runc scratch", "runc debian"].into_iter().filter_map(p50);
    let container = containers.reduce(f64::min)?;
    Some(p50("wasmtime")? < container)
}

fn claims(rows: &[Measured]) -> [Claim; 2] {
    const MOST: &str = "compiled Wasm beats distroless and Debian containers on the total time of a \
                        cold run in 10 of 13 functions";
    const OTHERS: &str = "containers win checksum, imageprocessing and matmul";
    let judged: Vec<(String, bool)> = catalogue::korvoj()
        .into_iter()
        .filter_map(|subject| Some((subject.name.clone(), wasm_is_faster(rows, &subject.name)?)))
        .collect();
    if judged.is_empty() {
        let why = "wasmtime or runc is not there";
        return [Claim::not_measured(MOST, why), Claim::not_measured(OTHERS, why)];
    }
    let lost: Vec<&str> =
        judged.iter().filter(|(_, won)| !won).map(|(name, _)| name.as_str()).collect();
    let won = judged.len() - lost.len();
    let start = found(rows, "whatlang", "baton wasm").map(|row| row.latency.p50);
    let most = format!(
        "Wasmtime beats runc in {won} of {} functions; a running Baton needs no start and answers \
         whatlang cold by Wasm in {} ms",
        judged.len(),
        optional(start)
    );
    let others = match lost.is_empty() {
        true => "runc wins none".to_owned(),
        false => format!("runc wins {}", lost.join(", ")),
    };
    let same = judged.iter().all(|(name, won)| CONTAINERS_WON.contains(&name.as_str()) != *won);
    [Claim::new(MOST, most, won * 2 > judged.len()), Claim::new(OTHERS, others, same)]
}
