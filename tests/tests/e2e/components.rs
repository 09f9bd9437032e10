//! Components that misbehave: each failure has its problem, and the next request is answered.

use baton_tests::baton::{Baton, Setup};
use baton_tests::client::assert_problem;
use baton_tests::wait_until;

fn baton() -> Baton {
    Setup::new().wasm("misbehaving").with(r#"limits.cpu_time = "300ms""#).start()
}

/// Asks for a failure that comes before the head; the function must work afterwards.
#[track_caller]
fn assert_fails(path: &str, kind: &str, status: u16) {
    let baton = baton();
    let document = assert_problem(&baton.get(path), kind, status);
    assert_eq!(document["function"], "misbehaving");
    assert_eq!(baton.get("/misbehaving").body(), "fine\n");
    wait_until("nothing is in flight", || baton.in_flight("misbehaving") == 0);
}

/// Asks for a failure that comes after the head; it must be visible to the client.
#[track_caller]
fn assert_breaks_off(path: &str) {
    let baton = baton();
    let mut raw = baton.raw();
    raw.write(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
    let answer = raw.rest();
    // The head may not even have left the host when the failure came.
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!is_whole(&answer), "{answer}");
    assert_eq!(baton.get("/misbehaving").body(), "fine\n");
    wait_until("nothing is in flight", || baton.in_flight("misbehaving") == 0);
}

/// Whether a client would take this for a message that is complete.
pub(crate) fn is_whole(answer: &str) -> bool {
    let answer = answer.to_ascii_lowercase();
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    match head.split_once("content-length: ") {
        Some((_, length)) => length.lines().next() == Some(&body.len().to_string()),
        None => body.ends_with("0\r\n\r\n"),
    }
}

#[test]
fn a_trap_is_answered_500() {
    assert_fails("/misbehaving/crash", "trapped", 500);
}

#[test]
fn an_endless_loop_is_ended_at_its_cpu_time() {
    assert_fails("/misbehaving/loop", "timeout", 504);
}

#[test]
fn memory_past_the_limit_is_answered_500() {
    assert_fails("/misbehaving/allocate", "out-of-memory", 500);
}

#[test]
fn a_guest_that_returns_without_an_answer_is_answered_502() {
    assert_fails("/misbehaving/silent", "invalid-response", 502);
}

#[test]
fn a_guest_that_answers_with_an_error_is_answered_502() {
    assert_fails("/misbehaving/error", "invalid-response", 502);
}

#[test]
fn a_guest_cannot_set_a_header_that_http_forbids() {
    assert_fails("/misbehaving/invalid-header", "trapped", 500);
}

#[test]
fn a_header_map_past_the_limit_is_refused() {
    assert_fails("/misbehaving/large-headers", "trapped", 500);
}

#[test]
fn a_trap_midway_breaks_the_answer_off() {
    assert_breaks_off("/misbehaving/crash-midway");
}

#[test]
fn a_trap_right_after_the_head_never_looks_like_a_whole_answer() {
    let baton = baton();
    for _ in 0..20 {
        let mut raw = baton.raw();
        raw.write(
            "GET /misbehaving/crash-after-head HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
        let answer = raw.rest();
        // Whether the head had left depends on when the guest had to yield.
        let refused = answer.starts_with("HTTP/1.1 500 ") && answer.contains("problem:trapped");
        assert!(refused || !is_whole(&answer), "{answer}");
    }
    assert_eq!(baton.get("/misbehaving").body(), "fine\n");
}

#[test]
fn a_body_shorter_than_announced_breaks_the_answer_off() {
    assert_breaks_off("/misbehaving/short");
}

#[test]
fn an_answer_that_takes_too_long_breaks_off() {
    let baton = Setup::new().wasm("misbehaving").with(r#"limits.timeout = "300ms""#).start();
    let mut raw = baton.raw();
    raw.write("GET /misbehaving/drip HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(!is_whole(&raw.rest()));
    wait_until("nothing is in flight", || baton.in_flight("misbehaving") == 0);
}

#[test]
fn a_guest_that_sleeps_past_the_timeout_is_answered_504() {
    let baton = Setup::new().wasm("misbehaving").with(r#"limits.timeout = "300ms""#).start();
    assert_problem(&baton.get("/misbehaving/sleep"), "timeout", 504);
    assert_eq!(baton.get("/misbehaving").body(), "fine\n");
}

#[test]
fn a_trap_says_in_the_log_which_function_and_which_trace() {
    let mut baton = baton();
    let document = assert_problem(&baton.get("/misbehaving/crash"), "trapped", 500);
    assert!(baton.stop().success());
    let (log, trace_id) = (baton.log(), document["trace_id"].as_str().unwrap().to_owned());
    let line = log.lines().find(|line| line.contains(" WARN ")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("misbehaving") && line.contains(&trace_id), "{line}");
    // What the guest wrote on its standard error names the same trace.
    let said = log.lines().find(|line| line.contains("told to")).unwrap_or_else(|| panic!("{log}"));
    assert!(said.contains(&trace_id), "{said}");
}

#[test]
fn a_function_that_loops_does_not_keep_another_from_answering() {
    let baton = Setup::new().wasm("misbehaving").wasm("hello").start();
    let mut loops: Vec<_> = (0..4).map(|_| baton.raw()).collect();
    for raw in &mut loops {
        raw.write("GET /misbehaving/loop HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    wait_until("all of them loop", || baton.in_flight("misbehaving") == 4);
    for _ in 0..10 {
        assert_eq!(baton.get("/hello").body(), "hello, world\n");
    }
    loops.into_iter().for_each(baton_tests::client::Raw::leave);
    wait_until("the loops are dropped", || baton.in_flight("misbehaving") == 0);
}

#[test]
fn requests_past_the_concurrency_and_the_queue_are_answered_503() {
    let baton = Setup::new()
        .wasm("misbehaving")
        .with("limits.concurrency = 1")
        .with("limits.queue = 0")
        .start();
    let mut first = baton.raw();
    first
        .write(
            "POST /misbehaving/hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
             Connection: close\r\n\r\n",
        )
        .unwrap();
    wait_until("the first is in", || baton.in_flight("misbehaving") == 1);
    let document = assert_problem(&baton.get("/misbehaving"), "saturated", 503);
    assert_eq!(document["function"], "misbehaving");
    first.write("0\r\n\r\n").unwrap();
    assert!(first.rest().contains("held\n"));
    assert_eq!(baton.get("/misbehaving").status(), 200);
}

#[test]
fn a_request_in_the_queue_is_answered_once_there_is_room() {
    let baton = Setup::new().wasm("misbehaving").with("limits.concurrency = 1").start();
    let hold = "POST /misbehaving/hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
                Connection: close\r\n\r\n";
    let (mut first, mut second) = (baton.raw(), baton.raw());
    first.write(hold).unwrap();
    wait_until("the first is in", || baton.in_flight("misbehaving") == 1);
    second.write(hold).unwrap();
    second.write("0\r\n\r\n").unwrap();
    wait_until("the second waits", || {
        baton.administration("/v1/functions/misbehaving")["waiting"] == 1
    });
    first.write("0\r\n\r\n").unwrap();
    assert!(first.rest().contains("held\n"));
    assert!(second.rest().contains("held\n"));
}

#[test]
fn a_request_that_waits_too_long_in_the_queue_is_answered_503() {
    let baton = Setup::new()
        .wasm("misbehaving")
        .with("limits.concurrency = 1")
        .with(r#"limits.queue_timeout = "200ms""#)
        .start();
    let mut first = baton.raw();
    first
        .write("POST /misbehaving/hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    wait_until("the first is in", || baton.in_flight("misbehaving") == 1);
    assert_problem(&baton.get("/misbehaving"), "saturated", 503);
}
