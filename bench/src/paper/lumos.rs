//! Lumos (2025), Figures 4 to 8: sizes, cold and warm latency, I/O and serialization, concurrency.

use super::{Claim, Paper, Section};
use crate::bars::short;
use crate::catalogue;
use crate::characterize::{self, Effort, subject_sizes};
use crate::deployment::Deployment;
use crate::measured::Measured;
use crate::results::Results;
use crate::stats::{median, wide};
use crate::store::Store;
use crate::subject::Subject;

/// The functions that are measured with reduced repeats, a payload of each kind.
const REDUCED: [(&str, &str); 6] = [
    ("audio-generation", "512 KiB"),
    ("language-detection", "512 KiB"),
    ("fibonacci", "10000"),
    ("prime-numbers", "10000"),
    ("mandelbrot-bitmap", "1024 px"),
    ("encrypt-message", ""),
];

pub(super) fn measure(paper: &Paper<'_>, results: &mut Results) -> anyhow::Result<Section> {
    let mut section = Section { title: "Lumos: Figures 4 to 8", ..Section::default() };
    let effort = Effort {
        repeats: paper.effort.cold,
        concurrency: paper.effort.concurrency.clone(),
        time: paper.effort.time,
    };
    let chosen = |subject: &Subject| {
        !paper.session.quick
            || REDUCED.contains(&(subject.name.as_str(), subject.parameters.as_str()))
    };
    for subject in catalogue::lumos(None).into_iter().filter(chosen) {
        let rows = characterize::subject_rows(
            &subject,
            characterize::forms(paper.baselines),
            &effort,
            paper.session,
            results,
        )?;
        section.measured.extend(rows);
        if !section.sizes.iter().any(|size| size.function == subject.name) {
            section.sizes.extend(subject_sizes(&subject, paper.baselines));
        }
    }
    let stored = stored(paper, results)?;
    let retrieval = retrieval(&stored);
    section.measured.extend(stored);
    section.tables.push(characterize::table(&section.measured));
    section.tables.push(characterize::concurrency_table(&section.measured));
    section.tables.push(characterize::sizes_table(&section.sizes));
    section.claims = vec![
        sizes(&section),
        cold(&section.measured),
        warm(&section.measured),
        interpreted(&section.measured),
        retrieval,
        concurrency(&section.measured),
    ];
    Ok(section)
}

/// The data-intensive functions with an object store at the other end; containers have no network.
fn stored(paper: &Paper<'_>, results: &mut Results) -> anyhow::Result<Vec<Measured>> {
    let store = paper.session.cores.load.run(Store::start)?;
    for kib in [512, 1024, 2048] {
        let words = "the quick brown fox jumps over the lazy dog and comes back in the morning\n";
        let text: Vec<u8> = words.bytes().cycle().take(kib << 10).collect();
        store.put(&format!("/text-{kib}"), text);
    }
    let mut places = characterize::forms(paper.baselines);
    places.retain(|place| !matches!(place, Deployment::Container(..)));
    places.push(Deployment::Process);
    let effort =
        Effort { repeats: paper.effort.cold, concurrency: vec![1], time: paper.effort.time };
    let mut rows = Vec::new();
    for mut subject in catalogue::lumos(Some(&store.url())) {
        let data = subject.body.contains("storage");
        let small = subject.parameters == "512 KiB" && subject.name != "fuzzy-search";
        if !data || (paper.session.quick && !small) {
            continue;
        }
        subject.parameters += ", stored";
        subject.lines.push(format!("egress.allow = [{:?}]", store.url()));
        let session = paper.session;
        rows.extend(characterize::subject_rows(
            &subject,
            places.clone(),
            &effort,
            session,
            results,
        )?);
    }
    Ok(rows)
}

fn retrieval(rows: &[Measured]) -> Claim {
    let statement = "compiled Wasm has up to 2 times the I/O and serialization time of containers, \
                     interpreted Wasm up to 10 times";
    let figure = |row: &Measured| row.split.map(|split| split.retrieval + split.serialization);
    let compiled = ratio(rows, "warm", "baton wasm", "process", figure);
    let interpreted = ratio(rows, "warm", "wasmtime Pulley", "process", figure);
    match compiled {
        Some(compiled) => {
            let ours = format!(
                "{} times that of the native build by Baton's Wasm tier, {} times on Pulley",
                short(compiled),
                interpreted.map_or_else(|| "–".to_owned(), short)
            );
            Claim::new(statement, ours, compiled > 1.0)
        }
        None => Claim::not_measured(statement, "the functions did not reach the store"),
    }
}

fn sizes(section: &Section) -> Claim {
    let statement = "images of compiled Wasm are up to 30 times smaller than containers";
    let of = |artifact: &str| -> Vec<f64> {
        let sizes = section.sizes.iter().filter(|size| size.artifact == artifact);
        sizes.map(|size| wide(size.bytes) / 1e6).collect()
    };
    let (component, native, debian) = (of("component"), of("native"), of("image debian"));
    let measured = !debian.is_empty();
    let ratio = if measured { median(&debian) / median(&component) } else { f64::NAN };
    let against = match measured {
        true => format!("{} times smaller than on a Debian image", short(ratio)),
        false => "there is no Debian to compare an image with".to_owned(),
    };
    let ours = format!(
        "the median component has {} MB, the static native build {} MB ({} times); {against}",
        short(median(&component)),
        short(median(&native)),
        short(median(&native) / median(&component))
    );
    match measured {
        true => Claim::new(statement, ours, ratio > 1.0),
        false => Claim { paper: statement, ours, agrees: None },
    }
}

/// The median ratio of a figure between two places, over the functions that have both.
fn ratio(
    rows: &[Measured],
    scenario: &str,
    a: &str,
    b: &str,
    figure: impl Fn(&Measured) -> Option<f64>,
) -> Option<f64> {
    let same = |row: &&Measured, other: &Measured| {
        (&row.function, &row.parameters, row.connections)
            == (&other.function, &other.parameters, other.connections)
    };
    let first = rows.iter().filter(|row| row.scenario == scenario && row.runtime == a);
    let ratios: Vec<f64> = first
        .filter_map(|row| {
            let mut others = rows.iter().filter(|it| it.scenario == scenario && it.runtime == b);
            let other = others.find(|other| same(other, row))?;
            Some(figure(row)? / figure(other)?)
        })
        .filter(|ratio| ratio.is_finite())
        .collect();
    (!ratios.is_empty()).then(|| median(&ratios))
}

fn cold(rows: &[Measured]) -> Claim {
    let statement = "compiled Wasm starts up to 16 % quicker than a container";
    let p50 = |row: &Measured| Some(row.latency.p50);
    match ratio(rows, "cold", "wasmtime", "runc scratch", p50) {
        Some(ratio) => {
            let ours =
                format!("the first answer of Wasmtime comes after {} of runc's time", short(ratio));
            Claim::new(statement, ours, ratio < 1.0)
        }
        None => Claim::not_measured(statement, "wasmtime or runc is not there"),
    }
}

fn warm(rows: &[Measured]) -> Claim {
    let statement = "warm, compiled Wasm is up to 1.1 times slower than containers";
    let alone: Vec<Measured> = rows.iter().filter(|row| row.connections == 1).cloned().collect();
    let p50 = |row: &Measured| Some(row.latency.p50);
    match ratio(&alone, "warm", "baton wasm", "baton native", p50) {
        Some(ratio) => {
            let bare = self::ratio(&alone, "warm", "wasmtime", "runc scratch", p50);
            let ours = format!(
                "Baton's Wasm tier takes {} times as long as its native tier; the same components \
                 under Wasmtime {} times as long as runc's containers",
                short(ratio),
                bare.map_or_else(|| "–".to_owned(), short)
            );
            // "up to 1.1" leaves room for noise, not for a factor.
            Claim::new(statement, ours, ratio < 1.3)
        }
        None => Claim::not_measured(statement, "the native tier needs sandboxes"),
    }
}

fn interpreted(rows: &[Measured]) -> Claim {
    let statement = "interpreted Wasm is up to 55 times slower when warm than compiled Wasm";
    let alone: Vec<Measured> = rows.iter().filter(|row| row.connections == 1).cloned().collect();
    let p50 = |row: &Measured| Some(row.latency.p50);
    match ratio(&alone, "warm", "wasmtime Pulley", "wasmtime", p50) {
        Some(ratio) => {
            let ours = format!(
                "on Wasmtime's interpreter Pulley requests take {} times as long",
                short(ratio)
            );
            Claim::new(statement, ours, ratio > 1.0)
        }
        None => Claim::not_measured(statement, "wasmtime is not there"),
    }
}

fn concurrency(rows: &[Measured]) -> Claim {
    let statement =
        "under load, containers have up to 27 times lower latency than interpreted Wasm";
    let loaded: Vec<Measured> = rows.iter().filter(|row| row.connections > 1).cloned().collect();
    let p50 = |row: &Measured| Some(row.latency.p50);
    match ratio(&loaded, "warm", "wasmtime Pulley", "runc scratch", p50) {
        Some(ratio) => {
            let ours = format!("{} times lower, over the functions and loads above", short(ratio));
            Claim::new(statement, ours, ratio > 1.0)
        }
        None => Claim::not_measured(statement, "wasmtime or runc is not there"),
    }
}
