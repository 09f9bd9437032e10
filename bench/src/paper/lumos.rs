//! Lumos (2025), Figures 4 to 8: sizes, cold and warm latency, I/O and serialization, concurrency.

use super::claim::Claim;
use super::{Paper, Section};
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
    section.tables.push(characterize::sizes_table("What is shipped", &section.sizes));
    section.claims = vec![sizes(&section), cold(&section.measured), warm(&section.measured)];
    section.claims.push(interpreted(&section.measured));
    section.claims.extend(retrieval);
    section.claims.push(concurrency(&section.measured));
    Ok(section)
}

/// The data-intensive functions with an object store at the other end; containers have no network.
fn stored(paper: &Paper<'_>, results: &mut Results) -> anyhow::Result<Vec<Measured>> {
    let store = paper.session.cores.load.run(Store::start)?;
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
        subject.lines.push(format!("egress.allow = [{:?}]", store.origin()));
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

/// Ratios over functions: "up to" is compared with the most.
#[derive(Debug)]
struct Spread {
    median: f64,
    most: f64,
    /// Where that was.
    of: String,
}

impl Spread {
    fn of(ratios: Vec<(String, f64)>) -> Option<Self> {
        let ratios: Vec<_> = ratios.into_iter().filter(|(_, ratio)| ratio.is_finite()).collect();
        let all: Vec<f64> = ratios.iter().map(|(_, ratio)| *ratio).collect();
        let (of, most) = ratios.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(Self { median: median(&all), most, of })
    }

    fn text(&self) -> String {
        format!("{}, {} times in the median", self.at_most(), short(self.median))
    }

    fn at_most(&self) -> String {
        format!("at most {} times ({})", short(self.most), self.of)
    }
}

/// The ratios of a figure between two places, of the functions that have both.
fn spread(
    rows: &[Measured],
    scenario: &str,
    a: &str,
    b: &str,
    figure: impl Fn(&Measured) -> Option<f64>,
) -> Option<Spread> {
    let same = |row: &&Measured, other: &Measured| {
        (&row.function, &row.parameters, row.connections)
            == (&other.function, &other.parameters, other.connections)
    };
    let first = rows.iter().filter(|row| row.scenario == scenario && row.runtime == a);
    let ratios = first.filter_map(|row| {
        let mut others = rows.iter().filter(|it| it.scenario == scenario && it.runtime == b);
        let other = others.find(|other| same(other, row))?;
        let name = format!("{} {}", row.function, row.parameters).trim_end().to_owned();
        let name = match row.connections {
            0 | 1 => name,
            many => format!("{name}, {many} at once"),
        };
        Some((name, figure(row)? / figure(other)?))
    });
    Spread::of(ratios.collect())
}

fn p50(row: &Measured) -> Option<f64> {
    Some(row.latency.p50)
}

fn alone(rows: &[Measured]) -> Vec<Measured> {
    rows.iter().filter(|row| row.connections == 1).cloned().collect()
}

fn sizes(section: &Section) -> Claim {
    let statement = "images of compiled Wasm are up to 30 times smaller than containers";
    let ratio = |artifact: &str| {
        let of = section.sizes.iter().filter(|size| size.artifact == artifact);
        let ratios = of.filter_map(|size| {
            let component = section
                .sizes
                .iter()
                .find(|other| other.artifact == "component" && other.function == size.function)?;
            Some((size.function.clone(), wide(size.bytes) / wide(component.bytes)))
        });
        Spread::of(ratios.collect())
    };
    match (ratio("image debian"), ratio("image scratch")) {
        (Some(debian), Some(scratch)) => {
            let ours = format!(
                "over the component an image of the static native build alone has {} its size, one on \
                 Debian {}; the paper's base image lies between them",
                scratch.at_most(),
                debian.at_most()
            );
            let claim = Claim::new(statement, ours, scratch.median > 1.0);
            claim.sized("size, Debian image / component, at most", 30.0, debian.most)
        }
        _ => Claim::not_measured(statement, "there is no Debian to compare an image with"),
    }
}

fn cold(rows: &[Measured]) -> Claim {
    let statement = "compiled Wasm starts up to 16 % quicker than a container";
    match spread(rows, "cold", "runc scratch", "wasmtime", p50) {
        Some(spread) => {
            let ours =
                format!("until the first answer runc takes {} as long as Wasmtime", spread.text());
            let claim = Claim::new(statement, ours, spread.median > 1.0);
            claim.sized("cold start, container / Wasm, at most", 1.0 / (1.0 - 0.16), spread.most)
        }
        None => Claim::not_measured(statement, "wasmtime or runc is not there"),
    }
}

fn warm(rows: &[Measured]) -> Claim {
    let statement = "warm, compiled Wasm is up to 1.1 times slower than containers";
    let alone = alone(rows);
    match spread(&alone, "warm", "baton wasm", "baton native", p50) {
        Some(spread) => {
            let bare = self::spread(&alone, "warm", "wasmtime", "runc scratch", p50);
            let ours = format!(
                "Baton's Wasm tier over its native tier: {}; the same components under Wasmtime over \
                 runc's containers: {}",
                spread.text(),
                bare.map_or_else(|| "–".to_owned(), |bare| bare.text())
            );
            // "up to 1.1" means hardly slower, and leaves room for noise, not for a factor.
            let claim = Claim::new(statement, ours, spread.median < 1.3);
            claim.sized("warm, compiled Wasm / native, at most", 1.1, spread.most)
        }
        None => Claim::not_measured(statement, "the native tier needs sandboxes"),
    }
}

fn interpreted(rows: &[Measured]) -> Claim {
    let statement = "interpreted Wasm is up to 55 times slower when warm than compiled Wasm";
    match spread(&alone(rows), "warm", "wasmtime Pulley", "wasmtime", p50) {
        Some(spread) => {
            let ours =
                format!("Wasmtime's interpreter Pulley over its compiled code: {}", spread.text());
            let claim = Claim::new(statement, ours, spread.median > 1.0);
            claim.sized("warm, interpreted / compiled Wasm, at most", 55.0, spread.most)
        }
        None => Claim::not_measured(statement, "wasmtime is not there"),
    }
}

fn retrieval(rows: &[Measured]) -> [Claim; 2] {
    let figure = |row: &Measured| row.split.map(|split| split.retrieval + split.serialization);
    let claim = |statement, runtime: &str, paper, of| match spread(
        rows, "warm", runtime, "process", figure,
    ) {
        Some(spread) => {
            let ours = format!("over the native build as a process: {}", spread.text());
            Claim::new(statement, ours, spread.most > 1.0).sized(of, paper, spread.most)
        }
        None => Claim::not_measured(statement, "the functions did not reach the store"),
    };
    [
        claim(
            "compiled Wasm has up to 2 times the I/O and serialization time of containers",
            "baton wasm",
            2.0,
            "I/O and serialization, compiled Wasm / native, at most",
        ),
        claim(
            "interpreted Wasm has up to 10 times the I/O and serialization time of containers",
            "wasmtime Pulley",
            10.0,
            "I/O and serialization, interpreted Wasm / native, at most",
        ),
    ]
}

fn concurrency(rows: &[Measured]) -> Claim {
    let statement =
        "under load, containers have up to 27 times lower latency than interpreted Wasm";
    let loaded: Vec<Measured> = rows.iter().filter(|row| row.connections > 1).cloned().collect();
    match spread(&loaded, "warm", "wasmtime Pulley", "runc scratch", p50) {
        Some(spread) => {
            let ours = format!("Wasmtime's interpreter over runc's containers: {}", spread.text());
            let claim = Claim::new(statement, ours, spread.median > 1.0);
            claim.sized("under load, interpreted Wasm / container, at most", 27.0, spread.most)
        }
        None => Claim::not_measured(statement, "wasmtime or runc is not there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_up_to_something_is_compared_with_the_most_and_names_it() {
        let row = |function: &str, runtime: &str, ms| Measured {
            connections: 8,
            ..Measured::of_latencies(function, runtime, "warm", &[ms])
        };
        let rows = [
            row("a", "wasmtime Pulley", 20.0),
            row("b", "wasmtime Pulley", 54.0),
            row("c", "wasmtime Pulley", 5.0),
            row("a", "runc scratch", 1.0),
            row("b", "runc scratch", 2.0),
            row("d", "runc scratch", 2.0),
        ];
        let sentence = concurrency(&rows).sentence();
        assert!(sentence.starts_with("**Agrees, in order and in size.**"), "{sentence}");
        assert!(
            sentence.contains("at most 27 times (b, 8 at once), 23.5 times in the"),
            "{sentence}"
        );
    }
}
