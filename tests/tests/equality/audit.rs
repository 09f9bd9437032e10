//! Every function that the papers measured is served, told of, asked well, badly and too much, and makes
//! its inputs from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use baton_tests::functions::built_twice;
use serde_json::Value;

use crate::cases::{cases, post};
use crate::{LONG, ask, component, native, reads_json};

/// The papers' functions: FunctionBench in korvoj's selection, Lumos, SeBS as FunLess used it. Two of
/// them have one name and one route.
const PAPERS: [&[&str]; 3] = [
    &[
        "audio-sine-wave",
        "fuzzysearch",
        "n-body",
        "prime-numbers",
        "whatlang",
        "zip-compression",
        "aes",
        "checksum",
        "diskio",
        "float-operation",
        "imageprocessing",
        "linear-equations",
        "matmul",
    ],
    &[
        "audio-generation",
        "fuzzy-search",
        "language-detection",
        "encrypt-message",
        "decrypt-message",
        "fibonacci",
        "prime-numbers",
        "mandelbrot-bitmap",
    ],
    &["sleep", "network-benchmark", "server-reply", "matrix-mult", "hello"],
];

/// Whose inputs are made from a seed; those of the others stand in the request as a whole.
const SEEDED: [&str; 9] = [
    "aes-encryption",
    "checksum",
    "diskio",
    "fuzzysearch",
    "imageprocessing",
    "language-detection",
    "linear-equations",
    "matmul",
    "zip-compression",
];

/// What answers 200 only with what a manifest gives, and is asked for it in `tiers`.
const NEEDY: [&str; 3] = ["diskio", "network-benchmark", "server-reply"];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The functions of `functions.toml` by name: their route and the name of their builds.
fn served() -> BTreeMap<String, (String, String)> {
    let text = fs::read_to_string(repository().join("functions.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let functions = manifest["function"].as_array().unwrap();
    let served = functions.iter().map(|function| {
        let field = |name: &str| function[name].as_str().unwrap().to_owned();
        let native = field("native");
        assert_eq!(field("component"), format!("{native}.wasm"), "both builds are of one source");
        let build = native.rsplit('/').next().unwrap().to_owned();
        (field("name"), (field("route"), build))
    });
    served.collect()
}

#[test]
fn every_function_of_the_papers_is_served_under_its_name_and_nothing_else_is() {
    let served = served();
    let names: BTreeSet<&str> = served.keys().map(String::as_str).collect();
    assert_eq!(names, PAPERS.into_iter().flatten().copied().collect());
    for (name, (route, _)) in &served {
        assert_eq!(route, &format!("/{name}/*"));
    }
}

#[test]
fn every_function_has_both_builds_and_a_row_that_says_what_it_does() {
    let guide = fs::read_to_string(repository().join("docs/functions.md")).unwrap();
    let rows: Vec<Vec<&str>> = guide
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let built = built_twice();
    for (name, (_, build)) in served() {
        assert!(built.contains(&build), "{name}: {build} is not built twice");
        let row = rows.iter().find(|row| row[0].contains(&format!("`{name}`")));
        let row = row.unwrap_or_else(|| panic!("{name} has no row in docs/functions.md"));
        assert_eq!(row.len(), 6, "{name}: {row:?}");
        assert!(row.iter().all(|cell| !cell.is_empty()), "{name}: {row:?}");
    }
}

#[test]
fn every_function_is_asked_well_badly_and_too_much() {
    let builds: BTreeSet<String> = served().into_values().map(|(_, build)| build).collect();
    for build in builds {
        let statuses: Vec<u16> = cases(&build).iter().map(|case| case.status).collect();
        assert!(statuses.contains(&200) || NEEDY.contains(&build.as_str()), "{build}: no 200");
        assert!(statuses.contains(&400), "{build}: no 400");
        // `assert_equal` asks who reads JSON for too much, `tiers` the one that reads most; `hello`
        // streams what it is sent, without end.
        assert!(reads_json(&build) || build == "hello", "{build}: no 413");
    }
    assert!(reads_json(LONG));
}

#[tokio::test]
async fn whoever_makes_its_input_makes_it_from_the_seed_and_nobody_else_takes_one() {
    let builds: BTreeSet<String> = served().into_values().map(|(_, build)| build).collect();
    for build in builds.iter().filter(|build| reads_json(build)) {
        // diskio's component needs a manifest; that its tiers answer alike is asked in `tiers`.
        let function =
            if NEEDY.contains(&build.as_str()) { native(build) } else { component(build) };
        let seeded = SEEDED.contains(&build.as_str());
        let body = |seed: u64| match build.as_str() {
            // By themselves they read a given text, and tell times.
            "fuzzysearch" | "language-detection" => {
                format!(r#"{{"seed": {seed}, "size_kib": 16, "measure": false}}"#)
            }
            _ => format!(r#"{{"seed": {seed}}}"#),
        };
        let asked = async |seed: u64| {
            let case = post(body(seed), if seeded { 200 } else { 400 });
            let answer = ask(&function.address, &case).await;
            assert_eq!(answer.status(), case.status, "{build}: {:?}", answer.body());
            let mut answer: Value = serde_json::from_slice(answer.body()).unwrap();
            // It may be repeated in the answer, which says nothing of the input.
            answer.as_object_mut().unwrap().remove("seed");
            answer
        };
        let (first, again, other) = (asked(7).await, asked(7).await, asked(8).await);
        assert_eq!(first, again, "{build}: the same seed");
        // Whatever words it makes, their language is English.
        let tells = seeded && build != "language-detection";
        assert_eq!(first != other, tells, "{build}: another seed: {first} {other}");
    }
}
