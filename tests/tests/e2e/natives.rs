//! Native functions that misbehave: under `native` each failure has its problem, under `hybrid`
//! the component answers where the request may be repeated.

use std::fs;

use baton_tests::baton::{Baton, Setup};
use baton_tests::client::{assert_problem, tier_of};
use baton_tests::functions::functions_dir;
use baton_tests::wait_until;
use tempfile::TempDir;

fn native() -> Baton {
    Setup::new().native("misbehaving").with(r#"limits.timeout = "5s""#).start()
}

/// A Baton whose sandbox is warm.
fn hybrid() -> Baton {
    let baton = Setup::new().hybrid("misbehaving").start();
    baton.until_native("/misbehaving");
    baton
}

/// Asks for a failure that comes before the head; the function must work afterwards.
#[track_caller]
fn assert_fails(path: &str, kind: &str, status: u16) {
    let baton = native();
    let document = assert_problem(&baton.get(path), kind, status);
    assert_eq!(document["function"], "misbehaving");
    assert_eq!(baton.get("/misbehaving").body(), "fine\n");
}

/// Asks for a failure that comes after the head; it must be visible to the client.
#[track_caller]
fn assert_breaks_off(path: &str) {
    let baton = native();
    let mut raw = baton.raw();
    raw.write(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
    assert!(raw.until("\r\n\r\n").starts_with("HTTP/1.1 200 "));
    assert_eq!(raw.rest(), "some of it\n", "of 1000 bytes that were announced");
    assert_eq!(baton.get("/misbehaving").body(), "fine\n");
}

#[test]
fn a_native_function_that_ends_midway_is_answered_502() {
    assert_fails("/misbehaving/crash", "crashed", 502);
}

#[test]
fn a_native_function_that_closes_the_connection_is_answered_502() {
    assert_fails("/misbehaving/silent", "crashed", 502);
}

#[test]
fn a_native_function_that_writes_garbage_is_answered_502() {
    assert_fails("/misbehaving/garbage", "invalid-response", 502);
}

#[test]
fn a_native_function_that_writes_an_invalid_header_is_answered_502() {
    assert_fails("/misbehaving/invalid-header", "invalid-response", 502);
}

#[test]
fn a_native_function_past_its_memory_is_answered_502() {
    assert_fails("/misbehaving/allocate", "crashed", 502);
}

#[test]
fn a_native_function_that_ends_midway_through_its_answer_breaks_it_off() {
    assert_breaks_off("/misbehaving/crash-midway");
}

#[test]
fn a_native_answer_shorter_than_announced_breaks_off() {
    assert_breaks_off("/misbehaving/short");
}

#[test]
fn a_sandbox_whose_request_timed_out_is_never_used_again() {
    for path in ["/misbehaving/sleep", "/misbehaving/loop"] {
        let baton = Setup::new().native("misbehaving").with(r#"limits.timeout = "500ms""#).start();
        assert_eq!(baton.get("/misbehaving").status(), 200);
        let [before] = &baton.sandboxes_of("misbehaving")[..] else { panic!("one sandbox") };
        assert_problem(&baton.get(path), "timeout", 504);
        wait_until("the sandbox is gone", || {
            baton.sandboxes().iter().all(|sandbox| sandbox.id != before.id)
        });
        assert_eq!(baton.get("/misbehaving").status(), 200);
    }
}

#[test]
fn a_native_function_that_ends_at_once_is_answered_502() {
    let baton = Setup::new().native("misbehaving").with(r#"env.MISBEHAVE = "exit""#).start();
    assert_problem(&baton.get("/misbehaving"), "crashed", 502);
}

#[test]
fn a_native_function_that_cannot_be_executed_is_answered_502_with_the_kernels_answer() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("odd");
    fs::copy(functions_dir().join("hello"), &path).unwrap();
    let mut program = fs::read(&path).unwrap();
    // e_phnum: more program headers than the kernel reads.
    program[56..58].copy_from_slice(&1200_u16.to_le_bytes());
    fs::write(&path, program).unwrap();
    let native = format!("native = {path:?}");
    let baton = Setup::new().function("odd", "native").with(&native).start();
    baton.until_parked();
    let document = assert_problem(&baton.get("/odd"), "crashed", 502);
    let detail = document["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("execveat failed: Exec format error"), "{detail}");
}

#[test]
fn a_native_function_that_never_accepts_is_a_problem_after_its_start_timeout() {
    let baton = Setup::new()
        .native("misbehaving")
        .with(r#"env.MISBEHAVE = "deaf""#)
        .with(r#"limits.start_timeout = "500ms""#)
        .start();
    assert_problem(&baton.get("/misbehaving"), "crashed", 502);
    assert!(baton.log().contains("never accepted"));
    wait_until("its sandbox is removed", || baton.sandboxes_of("misbehaving").is_empty());
}

#[test]
fn the_component_answers_for_a_native_build_that_ends_at_once() {
    let baton = Setup::new().hybrid("misbehaving").with(r#"env.MISBEHAVE = "exit""#).start();
    baton.until_parked();
    for _ in 0..20 {
        let answer = baton.get("/misbehaving");
        assert_eq!(
            (answer.body().as_ref(), tier_of(&answer).as_str()),
            (b"fine\n".as_ref(), "wasm")
        );
    }
    wait_until("the failed start is logged", || baton.log().contains("did not start"));
}

#[test]
fn the_component_answers_for_a_native_build_that_never_accepts() {
    let baton = Setup::new()
        .hybrid("misbehaving")
        .with(r#"env.MISBEHAVE = "deaf""#)
        .with(r#"limits.start_timeout = "300ms""#)
        .start();
    baton.until_parked();
    assert_eq!(tier_of(&baton.get("/misbehaving")), "wasm");
    wait_until("the failed start is logged", || baton.log().contains("never accepted"));
    assert_eq!(tier_of(&baton.get("/misbehaving")), "wasm");
}

#[test]
fn the_component_answers_a_repeatable_request_that_a_sandbox_failed_with() {
    // The component has no such path, and answers as it does for any.
    let answer = hybrid().get("/misbehaving/garbage");
    assert_eq!((answer.body().as_ref(), tier_of(&answer).as_str()), (b"fine\n".as_ref(), "wasm"));
}

#[test]
fn a_request_that_may_not_be_repeated_is_not() {
    let baton = hybrid();
    assert_problem(&baton.post("/misbehaving/garbage", "once"), "invalid-response", 502);
    assert_eq!(baton.get("/misbehaving").status(), 200);
}

#[test]
fn retry_always_repeats_what_it_is_told_to() {
    let baton = Setup::new().hybrid("misbehaving").with(r#"retry = "always""#).start();
    baton.until_native("/misbehaving");
    let answer = baton.post("/misbehaving/garbage", "once");
    assert_eq!((answer.status().as_u16(), tier_of(&answer).as_str()), (200, "wasm"));
}

#[test]
fn retry_never_repeats_nothing() {
    let baton = Setup::new().hybrid("misbehaving").with(r#"retry = "never""#).start();
    baton.until_native("/misbehaving");
    assert_problem(&baton.get("/misbehaving/garbage"), "invalid-response", 502);
}

#[test]
fn a_crash_midway_through_an_answer_is_never_repeated() {
    let baton = hybrid();
    let mut raw = baton.raw();
    raw.write("GET /misbehaving/crash-midway HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(raw.until("\r\n\r\n").contains("tier;desc=\"native\""));
    assert_eq!(raw.rest(), "some of it\n");
    assert_eq!(baton.get("/misbehaving").status(), 200);
}
