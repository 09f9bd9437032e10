//! Every limit of a function has a test in which a function tries to break it; those that have no
//! better place are here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use baton_tests::baton::{Baton, Place, Setup};
use baton_tests::client::assert_problem;
use baton_tests::{wait_for, wait_until};

/// The limits of `[function.limits]`, and the tests that try to break each.
const PROVED: [(&str, &[&str]); 11] = [
    (
        "memory",
        &[
            "memory_past_the_limit_is_answered_500",
            "memory_past_the_limit_of_0_3_is_answered_500",
            "a_native_function_past_its_memory_is_answered_502",
        ],
    ),
    ("cpu", &["a_function_that_computes_without_end_is_held_to_its_share"]),
    (
        "cpu_time",
        &[
            "an_endless_loop_is_ended_at_its_cpu_time",
            "an_endless_loop_of_0_3_is_ended_at_its_cpu_time",
            "a_native_request_past_its_cpu_time_is_answered_504_and_its_sandbox_removed",
        ],
    ),
    ("pids", &["it_bombs_with_forks_only_itself"]),
    (
        "timeout",
        &[
            "a_guest_that_sleeps_past_the_timeout_is_answered_504",
            "an_answer_that_takes_too_long_breaks_off",
        ],
    ),
    (
        "start_timeout",
        &["a_native_function_that_never_accepts_is_a_problem_after_its_start_timeout"],
    ),
    ("concurrency", &["requests_past_the_concurrency_and_the_queue_are_answered_503"]),
    ("queue", &["requests_past_the_concurrency_and_the_queue_are_answered_503"]),
    ("queue_timeout", &["a_request_that_waits_too_long_in_the_queue_is_answered_503"]),
    (
        "request_body",
        &[
            "a_body_announced_past_the_limit_is_answered_413_unread",
            "a_chunked_body_past_the_limit_is_answered_413",
        ],
    ),
    ("scratch", &["neither_tier_writes_more_than_it_may", "it_fills_no_scratch_but_its_own"]),
];

/// The bounds of a function that nobody sets, as ARCHITECTURE.md calls them, and the same.
const FIXED: [(&str, &str); 12] = [
    ("stack of a guest", "a_guest_that_calls_itself_without_end_traps"),
    ("elements of an instance's tables, summed", "a_table_grows_to_its_bound_and_no_further"),
    ("host resources that a guest holds", "a_guest_that_hoards_handles_traps"),
    (
        "bytes copied out of a guest by one host call",
        "one_call_copies_no_more_out_of_a_guest_than_it_may",
    ),
    ("a header map that a guest makes", "a_header_map_past_the_limit_is_refused"),
    ("turn of a guest", "a_function_that_loops_does_not_keep_another_from_answering"),
    (
        "lines that a function may write in a second, and at once",
        "either_tier_writes_no_more_lines_and_no_longer_ones_than_it_may",
    ),
    (
        "a line of a function's output",
        "either_tier_writes_no_more_lines_and_no_longer_ones_than_it_may",
    ),
    (
        "outgoing connections of a function, of them idle ones to one origin, and for how long",
        "one_function_has_no_more_connections_than_it_may",
    ),
    ("a head of an answer to a function", "an_answer_with_too_long_a_head_is_refused"),
    ("open descriptors of a native function", "it_exhausts_no_descriptors_but_its_own"),
    (
        "files and directories in a sandbox's `/tmp`",
        "it_fills_its_scratch_with_no_more_files_than_fit",
    ),
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All files of Rust below a directory, as one text.
fn sources(directory: &Path) -> String {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| match path.is_dir() {
        true => sources(&path),
        false if path.extension().is_some_and(|extension| extension == "rs") => {
            fs::read_to_string(path).unwrap()
        }
        false => String::new(),
    };
    entries.map(read).collect()
}

#[test]
fn every_limit_has_a_test_that_tries_to_break_it() {
    let manifest = fs::read_to_string(repository().join("docs/manifest.md")).unwrap();
    let (_, section) = manifest.split_once("### `[function.limits]`").unwrap();
    let (section, _) = section.split_once("\n###").unwrap();
    let keys: Vec<&str> = section
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0))
        .collect();
    assert_eq!(keys, PROVED.map(|(key, _)| key));
    let architecture = fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap();
    for (bound, _) in FIXED {
        assert!(architecture.contains(&format!("| {bound} |")), "{bound}");
    }
    let code: String = ["tests/tests", "pool/tests", "host/src"]
        .map(|directory| sources(&repository().join(directory)))
        .concat();
    let fixed = FIXED.iter().map(|(_, test)| *test);
    for test in PROVED.iter().flat_map(|(_, tests)| *tests).copied().chain(fixed) {
        assert!(code.contains(&format!("fn {test}()")), "there is no test {test}");
    }
}

/// What the files of this name say in the control groups of a Baton and below, added up.
fn counted(place: &Place, file: &str, name: &str) -> u64 {
    fn below(directory: &Path, file: &str, name: &str) -> u64 {
        let text = fs::read_to_string(directory.join(file)).unwrap_or_default();
        let own =
            text.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let inner = entries.filter(|entry| entry.path().is_dir());
        own.sum::<u64>() + inner.map(|entry| below(&entry.path(), file, name)).sum::<u64>()
    }
    place.cgroups().iter().map(|group| below(group, file, name)).sum()
}

#[test]
fn a_function_that_computes_without_end_is_held_to_its_share() {
    let place = Arc::new(Place::new());
    let baton = Setup::new()
        .native("misbehaving")
        .with("limits.cpu = 0.1")
        .with(r#"limits.cpu_time = "500ms""#)
        .start_in(Arc::clone(&place));
    assert_eq!(baton.get("/misbehaving").body(), "fine\n");
    std::thread::scope(|scope| {
        let looping = scope.spawn(|| baton.get("/misbehaving/loop"));
        // The kernel counts each period in which it had used up its share.
        wait_until("it was held", || counted(&place, "cpu.stat", "nr_throttled ") > 0);
        assert_problem(&looping.join().unwrap(), "timeout", 504);
    });
}

/// How many lines of `misbehaving` had which outcome.
fn lines(baton: &Baton) -> BTreeMap<String, f64> {
    let page = crate::metrics::page(baton);
    let begins = "baton_function_lines_total{faas_name=\"misbehaving\",baton_outcome=\"";
    let found = page.lines().filter_map(|line| {
        let (outcome, value) = line.strip_prefix(begins)?.split_once("\"} ")?;
        Some((outcome.to_owned(), value.parse().ok()?))
    });
    found.collect()
}

#[test]
fn either_tier_writes_no_more_lines_and_no_longer_ones_than_it_may() {
    for setup in [Setup::new().wasm("misbehaving"), Setup::new().native("misbehaving")] {
        let baton = setup.start();
        let counts = wait_for("lines are dropped", || {
            assert_eq!(baton.get("/misbehaving/shout").body(), "shouted\n");
            let counts = lines(&baton);
            (counts.get("dropped").copied().unwrap_or_default() > 0.0).then_some(counts)
        });
        assert!(counts["logged"] >= 4_000.0, "{counts:?}");
        assert_eq!(baton.get("/misbehaving").body(), "fine\n");
        let log = baton.log();
        let longest = log.lines().map(str::len).max().unwrap();
        // A line of the log has the function's, at most 8 KiB, and says whose it is.
        assert!(longest < 9 << 10, "{longest}");
    }
}
