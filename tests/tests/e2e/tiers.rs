//! Which tier answers, and how one stands in for the other.

use baton_tests::baton::{Baton, Setup, is_running};
use baton_tests::client::{Connection, assert_problem, request, tier_of};
use baton_tests::{wait_for, wait_until};
use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Why a request went where it did: the attribute of its span.
#[track_caller]
fn reason_of(baton: &Baton, trace: u8, path: &str) -> String {
    let trace_id = format!("{trace:032x}");
    let mut asked = request(Method::GET, path, "");
    let parent = format!("00-{trace_id}-00000000000000ab-01").parse().unwrap();
    asked.headers_mut().insert("traceparent", parent);
    assert_eq!(baton.ask(asked).status(), 200);
    let root = wait_for("the trace is there", || {
        let document = baton.administration(&format!("/v1/traces/{trace_id}"));
        let traces = document["traces"].as_array()?.clone();
        traces.into_iter().find(|found| found["trace_id"] == *trace_id)
    });
    let reason: &Value = &root["root"]["attributes"]["baton.tier.reason"];
    reason.as_str().unwrap_or_else(|| panic!("no reason in {root:#}")).to_owned()
}

/// The first process of a sandbox that is warm for a function.
fn warm(baton: &Baton, function: &str) -> Pid {
    baton.until_native(&format!("/{function}"));
    wait_for("a sandbox is idle", || {
        let mut idle = baton.sandboxes_of(function);
        idle.retain(|sandbox| sandbox.state == "idle");
        let pids = idle.into_iter().map(|sandbox| Pid::from_raw(sandbox.pid));
        pids.into_iter().find(|&pid| is_running(pid))
    })
}

#[test]
fn wasm_answers_first_and_the_native_build_later_alike() {
    let baton = Setup::new().hybrid("hello").start();
    let first = baton.get("/hello");
    assert_eq!(tier_of(&first), "wasm");
    assert_eq!(baton.until_native("/hello").body(), first.body());
}

#[test]
fn run_serves_both_builds_at_the_root_and_says_the_tier() {
    let baton = Setup::run("hello").start();
    assert_eq!(tier_of(&baton.get("/")), "wasm");
    assert_eq!(baton.until_native("/you").body(), "hello, you\n");
}

#[test]
fn the_trace_says_why_a_tier_was_chosen() {
    let baton = Setup::new().hybrid("hello").start();
    assert_eq!(reason_of(&baton, 1, "/hello"), "no-warm-sandbox");
    baton.until_native("/hello");
    assert_eq!(reason_of(&baton, 2, "/hello"), "warm");
}

#[test]
fn the_trace_says_that_a_policy_left_no_choice() {
    let baton = Setup::new()
        .function("misbehaving", "wasm")
        .component("misbehaving")
        .native("hello")
        .start();
    assert_eq!(reason_of(&baton, 1, "/misbehaving"), "policy");
    assert_eq!(reason_of(&baton, 2, "/hello"), "policy");
}

#[test]
fn the_policy_wasm_never_uses_a_sandbox() {
    let baton = Setup::new().wasm("hello").executable("hello").start();
    for _ in 0..50 {
        assert_eq!(tier_of(&baton.get("/hello")), "wasm");
    }
    assert!(baton.sandboxes_of("hello").is_empty());
}

#[test]
fn the_policy_native_waits_for_a_sandbox() {
    let baton = Setup::new().native("hello").component("hello").start();
    for _ in 0..50 {
        assert_eq!(tier_of(&baton.get("/hello")), "native");
    }
}

#[test]
fn the_next_request_after_a_sandbox_was_killed_is_answered_unnoticed() {
    let baton = Setup::new().hybrid("hello").start();
    for _ in 0..10 {
        kill(warm(&baton, "hello"), Signal::SIGKILL).unwrap();
        let answer = baton.get("/hello");
        assert_eq!(
            (answer.body().as_ref(), answer.status().as_u16()),
            (b"hello, world\n".as_ref(), 200)
        );
    }
}

#[test]
fn a_request_that_may_not_be_repeated_is_answered_too_when_its_sandbox_was_dead() {
    let baton = Setup::new().hybrid("hello").start();
    for _ in 0..10 {
        let sandbox = warm(&baton, "hello");
        kill(sandbox, Signal::SIGKILL).unwrap();
        // While it is dying it may still take the request's bytes.
        wait_until("it is dead", || !is_running(sandbox));
        let answer = baton.post("/hello", "once");
        assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (200, b"once".as_ref()));
    }
}

#[test]
fn a_killed_sandbox_is_replaced() {
    let baton = Setup::new().hybrid("hello").start();
    let sandbox = warm(&baton, "hello");
    kill(sandbox, Signal::SIGKILL).unwrap();
    wait_until("it is gone", || {
        baton.sandboxes_of("hello").iter().all(|other| other.pid != sandbox.as_raw())
    });
    assert_ne!(warm(&baton, "hello"), sandbox);
}

#[test]
fn an_idle_sandbox_is_removed_after_its_timeout() {
    let baton = Setup::new().hybrid("hello").with(r#"sandboxes.idle_timeout = "300ms""#).start();
    let sandbox = warm(&baton, "hello");
    wait_until("it is removed", || baton.sandboxes_of("hello").is_empty());
    wait_until("its process is gone", || !is_running(sandbox));
    assert_eq!(tier_of(&baton.get("/hello")), "wasm");
}

#[test]
fn a_minimum_of_sandboxes_is_there_before_the_first_request() {
    let baton = Setup::new().hybrid("hello").with("sandboxes.min = 1").start();
    wait_until("one is idle", || {
        baton.sandboxes_of("hello").iter().any(|sandbox| sandbox.state == "idle")
    });
    assert_eq!(tier_of(&baton.get("/hello")), "native");
}

#[test]
fn there_are_never_more_sandboxes_than_the_maximum() {
    let baton = Setup::new().hybrid("misbehaving").with("sandboxes.max = 2").start();
    baton.until_parked();
    let mut clients: Vec<_> = (0..6).map(|_| baton.raw()).collect();
    for client in &mut clients {
        client
            .write(
                "POST /misbehaving/hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            )
            .unwrap();
    }
    wait_until("all are in flight", || baton.in_flight("misbehaving") == 6);
    // The later requests may find the sandbox that was prepared behind the earlier ones.
    wait_until("two are warm or serving", || {
        let of = baton.sandboxes_of("misbehaving");
        assert!(of.len() <= 2, "{of:?}");
        of.iter().filter(|sandbox| matches!(&*sandbox.state, "idle" | "leased")).count() == 2
    });
}

#[test]
fn a_sandbox_serves_one_request_at_a_time_and_wasm_the_others() {
    let baton = Setup::new().hybrid("misbehaving").with("sandboxes.max = 1").start();
    baton.until_native("/misbehaving");
    let mut first = baton.raw();
    first
        .write(
            "POST /misbehaving/hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
             Connection: close\r\n\r\n3\r\nabc\r\n",
        )
        .unwrap();
    wait_until("the sandbox is leased", || {
        baton.sandboxes_of("misbehaving").iter().any(|sandbox| sandbox.state == "leased")
    });
    assert_eq!(tier_of(&baton.get("/misbehaving")), "wasm");
    first.write("0\r\n\r\n").unwrap();
    assert!(first.rest().contains("tier;desc=\"native\""));
    baton.until_native("/misbehaving");
}

#[test]
fn requests_past_all_sandboxes_of_a_native_function_are_answered_503() {
    let baton = Setup::new()
        .native("misbehaving")
        .with("limits.concurrency = 1")
        .with("limits.queue = 0")
        .start();
    assert_eq!(baton.get("/misbehaving").status(), 200);
    let mut first = baton.raw();
    first
        .write("POST /misbehaving/hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    wait_until("the first is in", || baton.in_flight("misbehaving") == 1);
    assert_problem(&baton.get("/misbehaving"), "saturated", 503);
}

#[test]
fn one_connection_of_a_client_sees_both_tiers() {
    let baton = Setup::new().hybrid("hello").start();
    let mut connection = Connection::open(baton.address).unwrap();
    let mut tiers = Vec::new();
    wait_until("the native build answers on it", || {
        let answer = connection.send(request(Method::GET, "/hello/you", "")).unwrap();
        assert_eq!(answer.body(), "hello, you\n");
        tiers.push(tier_of(&answer));
        tiers.last().unwrap() == "native"
    });
    assert_eq!(tiers[0], "wasm");
}

/// What `baton explain` is told.
fn explained(baton: &Baton, function: &str) -> Value {
    baton.administration(&format!("/v1/functions/{function}/explain"))
}

#[test]
fn adaptive_activates_a_parked_sandbox_for_a_long_function() {
    let baton = Setup::new()
        .function("matmul", "adaptive")
        .component("matmul")
        .executable("matmul")
        .with("sandboxes.idle_timeout = \"50ms\"")
        .start();
    baton.until_parked();
    let multiply = || baton.post("/matmul", r#"{"size": 200}"#);
    let first = multiply();
    assert_eq!((first.status().as_u16(), tier_of(&first)), (200, "wasm".to_owned()));
    wait_until("the first sandbox came and went", || {
        let came = !explained(&baton, "matmul")["estimates"]["activation"].is_null();
        came && baton.sandboxes_of("matmul").is_empty()
    });
    let answer = wait_for("a parked sandbox answers", || {
        baton.until_parked();
        wait_until("none is warm", || baton.sandboxes_of("matmul").is_empty());
        let answer = multiply();
        assert_eq!(answer.status(), 200);
        let document = explained(&baton, "matmul");
        let last = document["decisions"].as_array().unwrap().last().unwrap().clone();
        (last["reason"] == "parked").then_some(answer)
    });
    assert_eq!(answer.body(), first.body());
    let document = explained(&baton, "matmul");
    assert!(document["estimates"]["wasm"]["expected_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn adaptive_makes_a_sandbox_behind_the_first_request_to_learn_what_it_takes() {
    let baton =
        Setup::new().function("hello", "adaptive").component("hello").executable("hello").start();
    baton.until_parked();
    assert_eq!(reason_of(&baton, 1, "/hello"), "no-warm-sandbox");
    baton.until_native("/hello");
    let document = explained(&baton, "hello");
    let decisions = document["decisions"].as_array().unwrap();
    assert_eq!(decisions.last().unwrap()["reason"], "warm", "{document:#}");
}

#[test]
fn adaptive_answers_every_request_while_its_sandboxes_are_killed() {
    let baton = Setup::new()
        .function("matmul", "adaptive")
        .component("matmul")
        .executable("matmul")
        .with("retry = \"always\"")
        .start();
    baton.until_parked();
    for _ in 0..30 {
        let answer = baton.post("/matmul", r#"{"size": 120}"#);
        assert_eq!(answer.status(), 200);
        for sandbox in baton.sandboxes_of("matmul") {
            // It may be on its way out already.
            let _ = kill(Pid::from_raw(sandbox.pid), Signal::SIGKILL);
        }
    }
}

#[test]
fn explain_says_what_the_next_request_would_do_under_every_policy() {
    let baton = Setup::new()
        .hybrid("hello")
        .function("misbehaving", "wasm")
        .component("misbehaving")
        .start();
    assert_eq!(explained(&baton, "hello")["next"]["reason"], "no-warm-sandbox");
    assert_eq!(explained(&baton, "misbehaving")["next"]["reason"], "policy");
    let _warm = warm(&baton, "hello");
    let document = explained(&baton, "hello");
    assert_eq!(document["next"]["tier"], "native");
    assert_eq!(document["next"]["reason"], "warm");
    let times = baton.administration("/v1/functions/hello")["service_times"].clone();
    assert!(times["wasm"]["p50_ms"].as_f64().unwrap() > 0.0, "{times:#}");
    assert!(times["native"]["samples"].as_u64().unwrap() > 0, "{times:#}");
    assert!(times["activation"]["expected_ms"].as_f64().unwrap() > 0.0, "{times:#}");
    assert_eq!(baton.ask_admin("/v1/functions/nobody/explain").unwrap().status(), 404);
}

#[test]
fn the_time_that_a_client_takes_to_send_its_body_is_not_measured() {
    let baton = Setup::new().wasm("misbehaving").start();
    let mut slow = baton.raw();
    slow.write(
        "POST /misbehaving/hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
         Connection: close\r\n\r\n3\r\nabc\r\n",
    )
    .unwrap();
    wait_until("it is in flight", || baton.in_flight("misbehaving") == 1);
    std::thread::sleep(std::time::Duration::from_secs(1));
    slow.write("0\r\n\r\n").unwrap();
    assert!(slow.rest().contains("held"));
    let times = wait_for("it is measured", || {
        let document = baton.administration("/v1/functions/misbehaving");
        let times = document["service_times"]["wasm"].clone();
        times.is_object().then_some(times)
    });
    assert!(times["p99_ms"].as_f64().unwrap() < 1000.0, "{times:#}");
}
