//! Components of wasi:http 0.3: they behave, and are bounded, as those of 0.2.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use baton_tests::baton::{Baton, Setup};
use baton_tests::client::{Raw, assert_problem, tier_of};
use baton_tests::wait_until;

use crate::components::is_whole;

fn setup() -> Setup {
    Setup::new().wasm("third").with(r#"limits.cpu_time = "300ms""#)
}

#[test]
fn a_component_of_0_3_answers_beside_one_of_0_2() {
    let baton = setup().wasm("hello").start();
    let answer = baton.post("/third/a?b", "some text");
    assert_eq!((answer.status().as_u16(), tier_of(&answer).as_str()), (200, "wasm"));
    assert_eq!(answer.body(), "POST /a?b\nsome text");
    assert_eq!(baton.get("/hello").body(), "hello, world\n");
}

#[test]
fn a_component_of_0_3_sees_the_host_and_the_headers() {
    let seen = setup().start().get("/third/headers");
    let seen = String::from_utf8_lossy(seen.body()).into_owned();
    for line in ["target: /headers", "host: test.example", "x-forwarded-prefix: /third"] {
        assert!(seen.lines().any(|seen| seen == line), "{seen}");
    }
}

#[test]
fn a_body_of_0_3_is_streamed_both_ways() {
    let baton = setup().start();
    let mut raw = baton.raw();
    raw.write("POST /third/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    raw.until("POST /\n");
    for part in ["one", "two"] {
        raw.write(format!("3\r\n{part}\r\n")).unwrap();
        raw.until(part);
    }
    raw.write("0\r\n\r\n").unwrap();
    raw.until("0\r\n\r\n");
}

#[track_caller]
fn assert_fails(path: &str, kind: &str, status: u16) {
    for baton in [setup().start(), reused(10, 2).start()] {
        let document = assert_problem(&baton.get(&format!("/third/{path}")), kind, status);
        assert_eq!(document["function"], "third");
        assert_eq!(baton.get("/third/count").body(), "1\n");
        wait_until("nothing is in flight", || baton.in_flight("third") == 0);
    }
}

#[test]
fn a_trap_of_0_3_is_answered_500() {
    assert_fails("crash", "trapped", 500);
}

#[test]
fn an_endless_loop_of_0_3_is_ended_at_its_cpu_time() {
    assert_fails("loop", "timeout", 504);
}

#[test]
fn memory_past_the_limit_of_0_3_is_answered_500() {
    assert_fails("allocate", "out-of-memory", 500);
}

#[test]
fn an_error_code_of_0_3_is_answered_502() {
    let baton = setup().start();
    assert_problem(&baton.get("/third/error"), "invalid-response", 502);
}

#[test]
fn a_guest_of_0_3_that_sleeps_past_the_timeout_is_answered_504() {
    for setup in [setup(), reused(10, 2)] {
        let baton = setup.with(r#"limits.timeout = "300ms""#).start();
        assert_problem(&baton.get("/third/sleep"), "timeout", 504);
        assert_eq!(baton.get("/third/count").body(), "1\n");
    }
}

#[test]
fn an_answer_of_0_3_that_fails_midway_breaks_off() {
    for baton in [setup().start(), reused(10, 2).start()] {
        for path in ["crash-midway", "short"] {
            let mut raw = baton.raw();
            raw.write(format!("GET /third/{path} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
            let answer = raw.rest();
            assert!(!is_whole(&answer), "{answer}");
        }
        wait_until("nothing is in flight", || baton.in_flight("third") == 0);
    }
}

#[test]
fn a_client_that_leaves_takes_a_guest_of_0_3_along() {
    for baton in [setup().start(), reused(10, 2).start()] {
        let mut raw = baton.raw();
        raw.write("GET /third/drip HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        raw.until("drop\n");
        assert_eq!(baton.in_flight("third"), 1);
        raw.leave();
        wait_until("the guest is dropped", || baton.in_flight("third") == 0);
        let mut raw = baton.raw();
        raw.write("GET /third/sleep HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        wait_until("it sleeps", || baton.in_flight("third") == 1);
        raw.leave();
        wait_until("the guest is dropped", || baton.in_flight("third") == 0);
        assert_eq!(baton.get("/third/").status(), 200);
    }
}

#[test]
fn what_a_guest_of_0_3_prints_names_its_trace() {
    let mut baton = setup().start();
    let answer = baton.get("/third/print");
    assert_eq!(answer.body(), "printed\n");
    assert!(baton.stop().success());
    let log = baton.log();
    let line =
        log.lines().find(|line| line.contains("a line of 0.3")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("trace_id") && line.contains("third"), "{line}");
}

/// A server that answers one request with 204.
fn elsewhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let _ = client.read(&mut [0; 4096]).unwrap();
        client.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    });
    address
}

#[test]
fn a_guest_of_0_3_reaches_what_it_may_and_nothing_else() {
    let address = elsewhere();
    let url = format!("http://{address}/");
    let allowed = setup().with(&format!(r#"egress.allow = ["{address}"]"#)).start();
    assert_eq!(allowed.post("/third/fetch", url.clone()).body(), "204\n");
    let denied =
        assert_problem(&setup().start().post("/third/fetch", url), "invalid-response", 502);
    assert!(denied["detail"].as_str().unwrap().contains("Denied"), "{denied}");
}

#[test]
fn a_precompiled_component_of_0_3_is_served_when_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let machine = directory.path().join("third.cwasm");
    let component = baton_tests::functions::functions_dir().join("third.wasm");
    let mut compile = std::process::Command::new(baton_tests::baton::program());
    assert!(
        compile.arg("compile").arg(component).arg("-o").arg(&machine).status().unwrap().success()
    );
    let line = format!("component = \"{}\"", machine.display());
    let setup = Setup::new().function("third", "wasm").with(&line);
    let baton = setup.argument("--allow-precompiled").start();
    assert_eq!(baton.get("/third/").body(), "GET /\n");
}

/// Instances that serve `requests`, `concurrent` at once.
fn reused(requests: u64, concurrent: usize) -> Setup {
    setup().with(&format!(
        r#"instances = {{ reuse = {{ requests = {requests}, concurrent = {concurrent}, idle = "10s" }} }}"#
    ))
}

fn counts(baton: &Baton, requests: usize) -> Vec<String> {
    let count = |_| String::from_utf8_lossy(baton.get("/third/count").body()).trim().to_owned();
    (0..requests).map(count).collect()
}

#[test]
fn fresh_instances_of_0_3_share_nothing() {
    assert_eq!(counts(&setup().start(), 3), ["1", "1", "1"]);
}

#[test]
fn a_reused_instance_of_0_3_is_replaced_after_its_requests() {
    // Which instance takes a request is the handler's choice: a second one may come in between.
    let counts = counts(&reused(3, 1).start(), 12);
    assert!(counts.iter().all(|count| ["1", "2", "3"].contains(&count.as_str())), "{counts:?}");
    let begun = counts.iter().filter(|count| *count == "1").count();
    assert!((4..12).contains(&begun), "{counts:?}");
}

#[test]
fn two_requests_meet_in_one_instance_of_0_3() {
    let baton = reused(10, 2).start();
    // While the first instance is made, another request would get one of its own.
    assert_eq!(counts(&baton, 1), ["1"]);
    let ask = || {
        let mut raw = baton.raw();
        raw.write("GET /third/meet HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        raw
    };
    // Which instance takes a request is the handler's choice; two that are apart wait in vain until their time is up.
    wait_until("two requests meet", || {
        let mut both: Vec<Raw> = vec![ask(), ask()];
        both.iter_mut().all(|raw| raw.rest().ends_with("met\n"))
    });
}

#[test]
fn an_instance_of_0_3_that_was_idle_for_too_long_is_replaced() {
    let baton = setup()
        .with(r#"instances = { reuse = { requests = 10, concurrent = 1, idle = "50ms" } }"#)
        .start();
    assert_eq!(counts(&baton, 1), ["1"]);
    wait_until("the instance is replaced", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        counts(&baton, 1) == ["1"]
    });
}
