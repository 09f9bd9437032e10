//! What becomes of sandboxes between requests, and of functions whose starts fail.

use baton_tests::baton::{Place, Setup};
use baton_tests::client::{assert_problem, tier_of};
use baton_tests::collector::Collector;
use baton_tests::wait_until;
use serde_json::Value;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn an_idle_sandbox_is_frozen_and_still_answers() {
    let baton = Setup::new().hybrid("hello").with(r#"sandboxes.freeze_after = "100ms""#).start();
    for _ in 0..3 {
        baton.until_native("/hello");
        wait_until("it is frozen", || {
            baton.sandboxes_of("hello").iter().any(|sandbox| sandbox.state == "frozen")
        });
        let answer = baton.get("/hello/you");
        let answer = (tier_of(&answer), answer.body().clone());
        assert_eq!(answer, ("native".to_owned(), "hello, you\n".into()));
    }
}

#[test]
fn freezing_thawing_and_removing_are_traced_with_their_reasons() {
    let collector = Collector::start();
    let baton = Setup::new()
        .telemetry(&format!("endpoint = \"{}\"", collector.endpoint()))
        .hybrid("hello")
        .with(r#"sandboxes.freeze_after = "50ms""#)
        .with(r#"sandboxes.idle_timeout = "500ms""#)
        .start();
    baton.until_native("/hello");
    wait_until("it is frozen", || {
        baton.sandboxes_of("hello").iter().any(|sandbox| sandbox.state == "frozen")
    });
    assert_eq!(tier_of(&baton.get("/hello")), "native");
    let wanted = [
        ("baton.sandbox.freeze", "idle"),
        ("baton.sandbox.thaw", "request"),
        ("baton.sandbox.thaw", "idle"),
        ("baton.sandbox.remove", "idle"),
    ];
    collector.wait_for(
        |spans| {
            wanted.iter().all(|(name, reason)| {
                spans.iter().any(|span| {
                    span.name == *name && span.attributes["baton.sandbox.reason"] == *reason
                })
            })
        },
        PATIENCE,
    );
}

#[test]
fn a_function_whose_starts_fail_is_shown_with_the_reason() {
    let baton = Setup::new().native("misbehaving").with(r#"env.MISBEHAVE = "exit""#).start();
    let function = || baton.administration("/v1/functions/misbehaving");
    assert_eq!(function()["quarantine"], Value::Null);
    wait_until("it failed twice in a row", || {
        assert_problem(&baton.get("/misbehaving"), "crashed", 502);
        function()["quarantine"]["failures"].as_u64() >= Some(2)
    });
    let reason = function()["quarantine"]["reason"].clone();
    assert!(reason.as_str().is_some_and(|reason| reason.starts_with("exit ")), "{reason}");
    let shown = &baton.administration("/v1/sandboxes")["quarantine"][0];
    assert_eq!((&shown["function"], &shown["reason"]), (&Value::from("misbehaving"), &reason));
}

#[test]
fn an_answer_for_a_function_that_never_accepts_says_so() {
    let baton = Setup::new()
        .native("misbehaving")
        .with(r#"env.MISBEHAVE = "deaf""#)
        .with(r#"limits.start_timeout = "300ms""#)
        .start();
    let answer = baton.get("/misbehaving");
    assert_problem(&answer, "crashed", 502);
    let document: Value = serde_json::from_slice(answer.body()).unwrap();
    let detail = document["detail"].as_str().unwrap();
    assert!(detail.contains("never accepted"), "{detail}");
}

#[test]
fn a_request_before_the_daemon_is_ready_has_a_sandbox_prepared_all_the_same() {
    // `start` returns when administration answers, which is before sandboxes can be made.
    let baton = Setup::new().hybrid("hello").start();
    assert_eq!(tier_of(&baton.get("/hello")), "wasm");
    wait_until("one is warm, though nobody asked again", || {
        baton.sandboxes_of("hello").iter().any(|sandbox| sandbox.state == "idle")
    });
}

#[test]
fn a_native_request_past_its_cpu_time_is_answered_504_and_its_sandbox_removed() {
    let baton = Setup::new()
        .native("misbehaving")
        .with(r#"limits.cpu_time = "200ms""#)
        .with(r#"limits.timeout = "60s""#)
        .start();
    assert_eq!(baton.get("/misbehaving").body(), "fine\n");
    let answer = baton.get("/misbehaving/loop");
    assert_problem(&answer, "timeout", 504);
    let document: Value = serde_json::from_slice(answer.body()).unwrap();
    assert!(document["detail"].as_str().unwrap().contains("CPU time"), "{document}");
    wait_until("its sandbox is removed", || baton.sandboxes_of("misbehaving").is_empty());
}

#[test]
fn waiting_is_no_cpu_time() {
    let baton = Setup::new()
        .native("misbehaving")
        .with(r#"limits.cpu_time = "50ms""#)
        .with(r#"limits.timeout = "1s""#)
        .start();
    let answer = baton.get("/misbehaving/sleep");
    let document: Value = serde_json::from_slice(answer.body()).unwrap();
    assert!(document["detail"].as_str().unwrap().contains("within 1s"), "{document}");
}

#[test]
fn what_sandboxes_used_is_shown_while_they_live_and_after() {
    let baton = Setup::new().native("hello").with(r#"sandboxes.idle_timeout = "1s""#).start();
    assert_eq!(baton.get("/hello").status(), 200);
    let sandboxes = baton.administration("/v1/sandboxes");
    let rows = sandboxes["sandboxes"].as_array().unwrap();
    let usage = &rows.iter().find(|row| row["function"] == "hello").unwrap()["usage"];
    assert!(usage["memory_bytes"].as_u64() > Some(0), "{sandboxes:#}");
    assert!(usage["memory_peak_bytes"].as_u64() >= usage["memory_bytes"].as_u64());
    let cpu = || baton.administration("/v1/functions/hello")["usage"]["cpu_seconds"].clone();
    let living = cpu().as_f64().unwrap();
    assert!(living > 0.0);
    wait_until("it is removed", || baton.sandboxes_of("hello").is_empty());
    assert!(cpu().as_f64().unwrap() >= living);
}

/// Whether all that is below a place's group has only what is left of the cores.
fn yields(place: &Place) -> bool {
    let idle = place.cgroups().into_iter().map(|group| group.join("cpu.idle"));
    let idle = idle.filter(|file| file.exists()).map(|file| fs::read_to_string(file).unwrap());
    idle.collect::<String>().trim() == "1"
}

#[test]
fn sandboxes_leave_the_cores_to_others_while_nobody_waits_for_one() {
    let place = Arc::new(Place::new());
    let baton = Setup::new()
        .native("misbehaving")
        .with(r#"limits.timeout = "1s""#)
        .start_in(Arc::clone(&place));
    baton.until_parked();
    wait_until("the stock was made behind everybody", || yields(&place));
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| baton.get("/misbehaving/sleep"));
        wait_until("somebody waits", || !yields(&place));
        assert_problem(&asked.join().unwrap(), "timeout", 504);
    });
    wait_until("another is made behind everybody", || yields(&place));
}
