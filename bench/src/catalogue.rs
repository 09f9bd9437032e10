//! The papers' functions with the requests that the papers made.

use crate::subject::Subject;

/// The request body with a paper's parameters: most of ours have them as defaults.
#[must_use]
pub fn body(function: &str) -> &'static str {
    match function {
        "hello" => "",
        "float-operation" => r#"{"n":100000}"#,
        "encrypt-message" => {
            r#"{"key":"0123456789abcdef0123456789abcdef","message":"The quick brown fox","nonce":"0123456789ab"}"#
        }
        "sleep" => r#"{"seconds":0.1}"#,
        _ => "{}",
    }
}

/// FunctionBench in korvoj's selection; diskio needs a scratch directory.
#[must_use]
pub fn korvoj() -> Vec<Subject> {
    const NAMES: [&str; 13] = [
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
    ];
    let subject = |name: &&str| {
        // The paper computes one sine, cosine and square root of 10,000,000.
        let body = if *name == "float-operation" { r#"{"value":10000000}"# } else { body(name) };
        let mut subject = Subject::ours(name, body);
        subject.scratch = *name == "diskio";
        subject
    };
    NAMES.iter().map(subject).collect()
}

/// Lumos's functions with their payload groups, as far as they need no store.
#[must_use]
pub fn lumos(store: Option<&str>) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for kib in [512, 1024, 2048] {
        let group = format!("{kib} KiB");
        let text = match store {
            Some(store) => format!(r#"{{"storage":"{store}/text-{kib}"}}"#),
            None => format!(r#"{{"size_kib":{kib}}}"#),
        };
        let audio = match store {
            Some(store) => format!(r#"{{"size_kib":{kib},"storage":"{store}/audio-{kib}"}}"#),
            None => format!(r#"{{"size_kib":{kib}}}"#),
        };
        subjects.push(Subject::ours("audio-generation", &audio).called(&group));
        subjects.push(Subject::ours("fuzzy-search", &text).called(&group));
        subjects.push(Subject::ours("language-detection", &text).called(&group));
    }
    for number in [10_000, 100_000, 1_000_000] {
        let group = number.to_string();
        let number = format!(r#"{{"number":{number}}}"#);
        subjects.push(Subject::ours("fibonacci", &number).called(&group));
        let limit = format!(r#"{{"limit":{group}}}"#);
        subjects.push(Subject::ours("prime-numbers", &limit).called(&group));
    }
    subjects.push(Subject::ours("mandelbrot-bitmap", r#"{"size":1024}"#).called("1024 px"));
    subjects.push(Subject::ours("encrypt-message", body("encrypt-message")));
    subjects
}

/// Functions of ours that compute from microseconds to some seconds, to stand in for others by
/// duration; of each function the shorter before the longer.
#[must_use]
pub fn by_duration() -> Vec<Subject> {
    let sized = |name: &str, key: &str, values: &[u32]| -> Vec<Subject> {
        let subject = |value: &u32| {
            let body = format!("{{{key:?}:{value}}}");
            Subject::ours(name, &body).called(&format!("{key} {value}"))
        };
        values.iter().map(subject).collect()
    };
    let mut subjects = vec![Subject::ours("hello", "")];
    // One name a route: of a function with several sizes each gets one of its own.
    for (name, key, values) in [
        (
            "float-operation",
            "n",
            &[10_000, 100_000, 1_000_000, 5_000_000, 20_000_000, 100_000_000][..],
        ),
        ("matmul", "size", &[50, 100, 200, 400, 700, 1000][..]),
    ] {
        for mut subject in sized(name, key, values) {
            subject.name = format!("{name}-{}", subject.parameters.replace(' ', "-"));
            subjects.push(subject);
        }
    }
    subjects
}

/// What stands in for a function that lasts longer than those: one that waits for so many
/// milliseconds. A trace does not say what its functions do, but who lasts that long mostly waits.
#[must_use]
pub fn waiting(ms: u64) -> Subject {
    let seconds = std::time::Duration::from_millis(ms).as_secs_f64();
    let mut subject = Subject::ours("sleep", &format!("{{\"seconds\":{seconds}}}"));
    subject.parameters = format!("{seconds} s");
    subject.name = format!("sleep-{ms}");
    subject
}
