//! FunLess (2024): sizes of artifacts, and memory of a worker.

use std::time::Duration;

use super::claim::Claim;
use super::{Paper, Section};
use crate::bars::short;
use crate::baton::Setup;
use crate::characterize::{Size, sizes_table};
use crate::load::{self, Until};
use crate::results::Results;
use crate::server;
use crate::stats::{mean, wide};
use crate::subject::Subject;
use crate::table::Table;

/// The functions of SeBS that the paper used, as far as they need no network.
const FUNCTIONS: [&str; 4] = ["hello", "sleep", "matrix-mult", "server-reply"];
/// MB, from the paper.
const PAPER: [(&str, f64); 4] =
    [("FunLess", 0.94), ("Knative", 47.94), ("OpenFaaS", 20.63), ("Fission", 33.64)];
/// The paper's load: four clients.
const CONNECTIONS: usize = 4;
/// How often memory is looked at.
const LOOK: Duration = Duration::from_secs(1);

pub(super) fn measure(paper: &Paper<'_>, _results: &mut Results) -> anyhow::Result<Section> {
    let mut section = Section { title: "FunLess: artifact sizes and memory", ..Section::default() };
    artifacts(&mut section);
    memory(paper, &mut section)?;
    Ok(section)
}

fn artifacts(section: &mut Section) {
    for name in FUNCTIONS {
        let subject = Subject::ours(name, "");
        let files = [("component", subject.component), ("native", subject.native)];
        for (artifact, path) in files {
            if let Some(bytes) = path.and_then(|path| path.metadata().ok()).map(|file| file.len()) {
                let (function, artifact) = (name.to_owned(), artifact.to_owned());
                section.sizes.push(Size { function, artifact, bytes });
            }
        }
    }
    section.tables.push(sizes_table("What FunLess's functions are shipped as", &section.sizes));
    let average = |artifact: &str| {
        let of = section.sizes.iter().filter(|size| size.artifact == artifact);
        mean(&of.map(|size| wide(size.bytes) / 1e6).collect::<Vec<_>>())
    };
    let (component, native) = (average("component"), average("native"));
    let mut table = Table::new("Average artifact", ["platform", "MB"]);
    for (platform, megabytes) in PAPER {
        table.row([format!("paper: {platform}"), short(megabytes)]);
    }
    table.row(["Baton, component".to_owned(), short(component)]);
    table.row(["Baton, native".to_owned(), short(native)]);
    section.tables.push(table);
    let statement =
        "artifacts have 0.94 MB on average, 97 % less than the images of other platforms";
    let images = mean(&PAPER[1..].iter().map(|(_, megabytes)| *megabytes).collect::<Vec<_>>());
    let ours = format!(
        "components have {} MB on average, {} % less than the mean of those images ({} MB); the \
         static native builds have {} MB",
        short(component),
        short((1.0 - component / images) * 100.0),
        short(images),
        short(native)
    );
    let claim = Claim::new(statement, ours, component < images);
    let of = "average image / artifact";
    section.claims.push(claim.sized(of, images / PAPER[0].1, images / component));
}

fn memory(paper: &Paper<'_>, section: &mut Section) -> anyhow::Result<()> {
    let subject = Subject::ours("hello", "");
    let looks = paper.effort.looks;
    let mut table = Table::new(
        format!("Memory of Baton under hello, {CONNECTIONS} clients, looked at {looks} times, MB"),
        ["policy", "all processes, PSS, mean", "most", "host, peak resident", "requests/s"],
    );
    let mut worker = 0.0_f64;
    for policy in ["wasm", "hybrid"] {
        let setup = subject.add_to(Setup::new(), policy);
        let baton = setup.start(&paper.session.cores.server)?;
        let request = [subject.request(&subject.prefix())];
        let (mut all, mut peak, mut rates) = (Vec::new(), 0, Vec::new());
        for _ in 0..looks {
            let cores = &paper.session.cores.load;
            let until = Until::Elapsed(LOOK);
            let outcome = load::closed(&baton.target(), &request, CONNECTIONS, until, cores)?;
            let memories: Vec<server::Memory> =
                server::tree(baton.server.pid()).into_iter().filter_map(server::memory).collect();
            all.push(wide(memories.iter().map(|memory| memory.proportional).sum()) / 1e6);
            peak = peak.max(memories.iter().map(|memory| memory.peak).max().unwrap_or(0));
            rates.push(outcome.rate());
        }
        let most = all.iter().copied().fold(0.0, f64::max);
        worker = worker.max(most);
        let figures = [mean(&all), most, wide(peak) / 1e6, mean(&rates)];
        table.row(std::iter::once(policy.to_owned()).chain(figures.map(short)));
        baton.stop()?;
    }
    section.tables.push(table);
    let statement = "a worker uses 438 MB of memory, the operating system included";
    let ours = format!(
        "all of Baton's processes together use {} MB at most, without the operating system, so that \
         the sizes cannot be compared",
        short(worker)
    );
    section.claims.push(Claim::new(statement, ours, worker < 438.0));
    Ok(())
}
