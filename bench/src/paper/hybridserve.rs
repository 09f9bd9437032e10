//! HybridServe (WoSC 2025), Table 2 and Figure 4.

use super::claim::Claim;
use super::{Paper, Section, found, optional};
use crate::bars::short;
use crate::characterize::subject_sizes;
use crate::compare;
use crate::deployment::{Deployment, Form, wasmtime};
use crate::measured::Measured;
use crate::oci::Rootfs;
use crate::patterns::Pattern;
use crate::results::Results;
use crate::schedule::Spacing;
use crate::stats::{mean, wide};
use crate::subject::Subject;
use crate::table::Table;
use crate::trace::replay::{Part, Replay};

/// The paper's Table 2: function, then Wasm and container of cold start ms, execution ms, image MB,
/// peak memory MB.
const TABLE: [(&str, [[f64; 2]; 4]); 2] = [
    ("float-operation", [[34.31, 270.19], [0.114, 0.029], [0.85, 103.51], [1.50, 31.20]]),
    ("imageprocessing", [[30.97, 259.64], [3876.0, 2847.0], [4.16, 104.90], [269.0, 273.0]]),
];

/// The paper's mean response over the four patterns in ms, by Wasm alone and by hybrid.
const RESPONSE: [f64; 2] = [201.21, 43.34];
/// How much sooner hybrid answers than Wasm alone, averaged over the patterns.
const REDUCTION: f64 = 0.4311;
/// How much sooner a cold request is answered than with containers only.
const COLD_REDUCTION: f64 = 0.919;
/// How many times faster a Wasm runtime starts than a container.
const STARTS: f64 = 8.38;

/// Invocations a minute of a pattern, so few that one core keeps up by Wasm but in a spike.
const PER_MINUTE: f64 = 6.0;

pub(super) fn measure(paper: &Paper<'_>, results: &mut Results) -> anyhow::Result<Section> {
    let mut section = Section { title: "HybridServe: Table 2 and Figure 4", ..Section::default() };
    characteristics(paper, &mut section, results)?;
    patterns(paper, &mut section, results)?;
    Ok(section)
}

fn characteristics(
    paper: &Paper<'_>,
    section: &mut Section,
    results: &mut Results,
) -> anyhow::Result<()> {
    let mut places = vec![Deployment::Baton("wasm".into()), Deployment::Baton("native".into())];
    let program = wasmtime(paper.baselines.wasmtime.as_deref());
    places.extend(program.clone().map(|program| Deployment::Wasmtime(program, Form::Ahead)));
    places.push(Deployment::Container("runc".into(), Rootfs::Scratch));
    let debian = Rootfs::Debian(paper.baselines.debian_directory());
    places.push(Deployment::Container("runc".into(), debian));
    let columns = ["function", "where", "cold ms", "warm ms", "image MB", "peak MB"];
    let mut table = Table::new("Table 2. Cold: until the first whole answer.", columns);
    for (name, figures) in TABLE {
        // Of float operations the paper's took a tenth of a millisecond.
        let body = if name == "float-operation" { r#"{"n":1000}"# } else { "{}" };
        let parameters = if name == "float-operation" { "1000" } else { "" };
        let subject = Subject::ours(name, body).called(parameters);
        let usable = compare::usable(places.clone().into_iter(), &subject, paper.session, results);
        let cold = compare::cold(&subject, &usable, paper.effort.cold, paper.session)?;
        let (time, session) = (paper.effort.time, paper.session);
        let warm = compare::warm(&subject, &usable, 1, time, 3, session)?;
        let sizes = subject_sizes(&subject, paper.baselines);
        let size = |artifact: &str| {
            let size = sizes.iter().find(|size| size.artifact == artifact);
            size.map(|size| wide(size.bytes) / 1e6)
        };
        for (index, label) in ["paper: Wasm", "paper: container"].into_iter().enumerate() {
            let cells = figures.map(|figure| short(figure[index]));
            table.row([name.to_owned(), label.to_owned()].into_iter().chain(cells));
        }
        for (cold, warm) in cold.iter().zip(&warm) {
            let image = match cold.runtime.as_str() {
                "baton wasm" | "wasmtime" => size("component"),
                "runc debian" => size("image debian"),
                _ => size("native"),
            };
            table.row([
                name.to_owned(),
                cold.runtime.clone(),
                short(cold.latency.p50),
                short(warm.latency.p50),
                optional(image),
                optional(warm.memory.map(|bytes| wide(bytes) / 1e6)),
            ]);
        }
        claims(name, &cold, &warm, &mut section.claims);
        section.measured.extend(cold.into_iter().chain(warm));
        section.sizes.extend(sizes);
    }
    section.tables.push(table);
    Ok(())
}

fn claims(name: &str, cold: &[Measured], warm: &[Measured], claims: &mut Vec<Claim>) {
    let p50 =
        |rows: &[Measured], runtime: &str| found(rows, name, runtime).map(|row| row.latency.p50);
    let starts = p50(cold, "wasmtime").zip(p50(cold, "runc scratch"));
    let statement = "a Wasm runtime starts 8.38 times faster than a container, with a function \
                     that computes little";
    if name == "float-operation" {
        claims.push(match starts {
            Some((wasm, container)) => Claim::new(
                statement,
                format!(
                    "`wasmtime serve` on compiled code takes {} ms to its first answer, runc {} ms \
                     ({} times); Baton answers cold by Wasm in {} ms and from a parked sandbox in {} \
                     ms",
                    short(wasm),
                    short(container),
                    short(container / wasm),
                    optional(p50(cold, "baton wasm")),
                    optional(p50(cold, "baton native"))
                ),
                container > wasm,
            )
            .sized("start, container / Wasm", STARTS, container / wasm),
            None => Claim::not_measured(statement, "wasmtime or runc is not there"),
        });
    }
    let answers = p50(cold, "baton wasm").zip(p50(cold, "runc scratch"));
    if let (Some((wasm, container)), "float-operation") = (answers, name) {
        let share = short((1.0 - wasm / container) * 100.0);
        let claim = Claim::new(
            "a cold request is answered 91.9 % sooner than with containers only",
            format!("{share} % sooner by Baton's Wasm tier than by a container of runc"),
            wasm < container,
        );
        let paper = 1.0 / (1.0 - COLD_REDUCTION);
        claims.push(claim.sized("cold answer, container / hybrid", paper, container / wasm));
    }
    if let (Some(wasm), Some(native)) = (p50(warm, "baton wasm"), p50(warm, "baton native")) {
        let (statement, of) = match name {
            "float-operation" => (
                "warm, Wasm takes 3.9 times as long as native for float operations",
                "warm float operations, Wasm / native",
            ),
            _ => (
                "warm, Wasm takes 1.36 times as long as native for image processing",
                "warm image processing, Wasm / native",
            ),
        };
        let execution = TABLE.iter().find(|(function, _)| *function == name);
        let paper = execution.map_or(f64::NAN, |(_, [_, [wasm, native], ..])| wasm / native);
        let ours = format!(
            "{} ms by Wasm, {} ms natively ({} times)",
            short(wasm),
            short(native),
            short(wasm / native)
        );
        let claim = Claim::new(statement, ours, wasm > native);
        claims.push(claim.sized(of, paper, wasm / native));
    }
}

/// Policies in the order of the table.
const POLICIES: [&str; 4] = ["wasm", "native", "hybrid", "adaptive"];

fn patterns(paper: &Paper<'_>, section: &mut Section, results: &mut Results) -> anyhow::Result<()> {
    let subject = Subject::ours("matmul", r#"{"size":300}"#).called("300");
    let places = POLICIES.map(|policy| Deployment::Baton(policy.into()));
    let usable = compare::usable(places.into_iter(), &subject, paper.session, results);
    let title = format!(
        "Figure 4. Mean response in ms of matmul 300, {PER_MINUTE} invocations a minute on average; \
         a minute takes {:?}, so {} a second",
        paper.effort.minute,
        short(PER_MINUTE / paper.effort.minute.as_secs_f64())
    );
    let names = usable.iter().map(ToString::to_string);
    let columns: Vec<String> = std::iter::once("pattern".to_owned()).chain(names).collect();
    let mut table = Table::new(title, columns);
    let mut reductions = Vec::new();
    let mut responses: Vec<(String, f64)> = Vec::new();
    for pattern in Pattern::ALL {
        let mut cells = vec![pattern.to_string()];
        let mut means = Vec::new();
        for place in &usable {
            let Deployment::Baton(policy) = place else { continue };
            let seed = paper.session.seed;
            let counts = pattern.counts(paper.effort.minutes, PER_MINUTE, seed);
            let replay = Replay {
                policy: policy.clone(),
                minute: paper.effort.minute,
                spacing: Spacing::Exponential,
                seed,
            };
            let parts = [Part { counts, subject: subject.clone() }];
            let outcome = replay.play(&parts, paper.session)?;
            let mut row =
                Measured::of(&subject.name, &place.to_string(), &pattern.to_string(), &outcome);
            row.parameters.clone_from(&subject.parameters);
            cells.push(short(row.latency.mean));
            means.push((policy.clone(), row.latency.mean));
            section.measured.push(row);
        }
        table.row(cells);
        responses.extend(means.iter().cloned());
        let of = |wanted: &str| means.iter().find(|(policy, _)| policy == wanted).map(|it| it.1);
        if let (Some(wasm), Some(hybrid)) = (of("wasm"), of("hybrid")) {
            reductions.push((pattern, 1.0 - hybrid / wasm));
        }
    }
    let mean_of = |policy: &str| {
        let of = responses.iter().filter(|(of, _)| of == policy);
        mean(&of.map(|(_, ms)| *ms).collect::<Vec<_>>())
    };
    let every = |cell: &dyn Fn(&str) -> String| -> Vec<String> {
        let policies = usable.iter().filter_map(|place| match place {
            Deployment::Baton(policy) => Some(cell(policy)),
            _ => None,
        });
        policies.collect()
    };
    let ours = every(&|policy| short(mean_of(policy)));
    table.row(std::iter::once("all four".to_owned()).chain(ours));
    let theirs = every(&|policy| match policy {
        "wasm" => short(RESPONSE[0]),
        "hybrid" => short(RESPONSE[1]),
        _ => "–".to_owned(),
    });
    table.row(std::iter::once("paper: all four".to_owned()).chain(theirs));
    section.tables.push(table);
    let statement =
        "over the four patterns, hybrid answers 43.11 % faster than Wasm alone on average";
    let means = "hybrid answers after 43.34 ms on average, Wasm alone after 201.21 ms";
    if reductions.is_empty() {
        for statement in [statement, means] {
            section.claims.push(Claim::not_measured(statement, "hybrid needs sandboxes"));
        }
        return Ok(());
    }
    let each: Vec<String> = reductions
        .iter()
        .map(|(pattern, share)| format!("{pattern} {} %", short(share * 100.0)))
        .collect();
    let reduction = mean(&reductions.iter().map(|(_, share)| *share).collect::<Vec<_>>());
    let ours = format!("{} % faster on average ({})", short(reduction * 100.0), each.join(", "));
    let of = "response, Wasm alone / hybrid, by the average reduction";
    let claim = Claim::new(statement, ours, reduction > 0.0);
    section.claims.push(claim.sized(of, 1.0 / (1.0 - REDUCTION), 1.0 / (1.0 - reduction)));
    let (wasm, hybrid) = (mean_of("wasm"), mean_of("hybrid"));
    let ours = format!("hybrid after {} ms, Wasm alone after {} ms", short(hybrid), short(wasm));
    let claim = Claim::new(means, ours, hybrid < wasm);
    let of = "mean response, Wasm alone / hybrid";
    section.claims.push(claim.sized(of, RESPONSE[0] / RESPONSE[1], wasm / hybrid));
    Ok(())
}
