//! How long an instance of a component of wasi:http 0.2 lives, and what one request leaves to the
//! next.

use std::time::Duration;

use baton_tests::baton::{Baton, Setup};
use baton_tests::client::assert_problem;
use baton_tests::wait_until;

fn setup() -> Setup {
    Setup::new().wasm("misbehaving").with(r#"limits.cpu_time = "300ms""#)
}

fn reused(requests: u64, idle: &str) -> Setup {
    setup().with(&format!(
        r#"instances = {{ reuse = {{ requests = {requests}, concurrent = 1, idle = "{idle}" }} }}"#
    ))
}

/// How many requests the instance says that it has counted, one request after the other.
fn counts(baton: &Baton, requests: usize) -> Vec<String> {
    let count =
        |_| String::from_utf8_lossy(baton.get("/misbehaving/count").body()).trim().to_owned();
    (0..requests).map(count).collect()
}

#[test]
fn a_fresh_instance_knows_nothing_of_another() {
    assert_eq!(counts(&setup().start(), 3), ["1", "1", "1"]);
}

/// Having changed its user, the host could not open this file itself.
#[test]
fn the_host_sees_which_pages_a_guest_has_written() {
    let baton = setup().start();
    let descriptors = format!("/proc/{}/fd", baton.host_pid());
    let open = std::fs::read_dir(descriptors).unwrap().flatten();
    let mut targets = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    assert!(targets.any(|target| target.ends_with("pagemap")));
}

#[test]
fn a_reused_instance_remembers_and_is_replaced_after_its_requests() {
    assert_eq!(counts(&reused(3, "10s").start(), 5), ["1", "2", "3", "1", "2"]);
}

#[test]
fn a_reused_instance_that_fails_is_replaced() {
    let baton = reused(100, "10s").with(r#"limits.timeout = "2s""#).start();
    for (path, kind, status) in [
        ("crash", "trapped", 500),
        ("allocate", "out-of-memory", 500),
        ("loop", "timeout", 504),
        ("sleep", "timeout", 504),
    ] {
        assert_eq!(counts(&baton, 2), ["1", "2"]);
        assert_problem(&baton.get(&format!("/misbehaving/{path}")), kind, status);
    }
    assert_eq!(counts(&baton, 1), ["1"]);
}

#[test]
fn a_reused_instance_whose_client_left_is_replaced() {
    let baton = reused(100, "10s").start();
    assert_eq!(counts(&baton, 2), ["1", "2"]);
    let mut raw = baton.raw();
    raw.write("GET /misbehaving/drip HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    raw.until("drop\n");
    raw.leave();
    wait_until("the guest is dropped", || baton.in_flight("misbehaving") == 0);
    assert_eq!(counts(&baton, 1), ["1"]);
}

#[test]
fn an_instance_that_was_idle_for_too_long_is_replaced() {
    let baton = reused(100, "50ms").start();
    wait_until("an instance was replaced", || {
        assert_eq!(counts(&baton, 1), ["1"]);
        std::thread::sleep(Duration::from_millis(200));
        counts(&baton, 1) == ["1"]
    });
}

#[test]
fn a_line_of_a_reused_instance_names_the_request_that_wrote_it() {
    let mut baton = reused(100, "10s").start();
    assert_eq!(counts(&baton, 1), ["1"]);
    let document = assert_problem(&baton.get("/misbehaving/crash"), "trapped", 500);
    let trace_id = document["trace_id"].as_str().unwrap().to_owned();
    assert!(baton.stop().success());
    let log = baton.log();
    let said = log.lines().find(|line| line.contains("told to")).unwrap_or_else(|| panic!("{log}"));
    assert!(said.contains(&trace_id), "{said}");
}
