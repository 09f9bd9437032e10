//! Golden traces: for each path that a request can take, all that a collector is told of it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use baton_tests::baton::{Baton, Setup, is_running};
use baton_tests::client::{assert_problem, request, tier_of};
use baton_tests::collector::{Collector, Span, SpanKind};
use baton_tests::golden::golden;
use baton_tests::{wait_for, wait_until};
use bytes::Bytes;
use http::{Method, Response};
use nix::sys::signal::{Signal, kill};

/// Longer than any export takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The caller's trace and span.
fn parent(trace: u32) -> String {
    format!("00-{trace:032x}-00000000000000ab-01")
}

#[track_caller]
fn ask(baton: &Baton, trace: u32, path: &str) -> Response<Bytes> {
    let mut asked = request(Method::GET, path, "");
    asked.headers_mut().insert("traceparent", parent(trace).parse().unwrap());
    asked.headers_mut().insert("user-agent", "golden/1".parse().unwrap());
    baton.ask(asked)
}

fn told(collector: &Collector, setup: Setup) -> Setup {
    setup
        .telemetry(&format!("endpoint = \"{}\"", collector.endpoint()))
        .variable("OTEL_BSP_SCHEDULE_DELAY", "10")
}

/// Everything of the trace of this number, as text.
#[track_caller]
fn trace(collector: &Collector, number: u32) -> String {
    let spans = spans(collector, number);
    golden(&spans, &BTreeMap::new())
}

#[track_caller]
fn spans(collector: &Collector, number: u32) -> Vec<Span> {
    let trace_id = format!("{number:032x}");
    let is_it = |span: &Span| span.trace_id == trace_id && span.kind == SpanKind::Server;
    let mut spans = collector.wait_for(|spans| spans.iter().any(is_it), PATIENCE);
    spans.retain(|span| span.trace_id == trace_id);
    spans
}

/// The server span of the trace of this number, with a name for it.
#[track_caller]
fn server(collector: &Collector, number: u32) -> BTreeMap<String, &'static str> {
    let spans = spans(collector, number);
    let server = spans.iter().find(|span| span.kind == SpanKind::Server).unwrap();
    BTreeMap::from([(server.span_id.clone(), "the request")])
}

/// The first trace with a root of this name that is linked to one of these spans.
#[track_caller]
fn linked(collector: &Collector, name: &str, to: &BTreeMap<String, &str>) -> String {
    let links = |span: &Span| span.links.iter().any(|(_, id)| to.contains_key(id));
    let is_it = |span: &Span| span.name == name && links(span);
    let mut spans = collector.wait_for(|spans| spans.iter().any(is_it), PATIENCE);
    let trace_id = spans.iter().find(|span| is_it(span)).unwrap().trace_id.clone();
    spans.retain(|span| span.trace_id == trace_id);
    golden(&spans, to)
}

/// The number of a trace, from 100 on, that the native build answered over a kept-alive connection.
#[track_caller]
fn warm_native(baton: &Baton, collector: &Collector, path: &str) -> u32 {
    let mut number = 99;
    wait_for("the native build answers", || {
        number += 1;
        let native = tier_of(&ask(baton, number, path)) == "native";
        let connected = native
            .then(|| spans(collector, number).iter().any(|span| span.name.ends_with(".connect")));
        (connected == Some(false)).then_some(number)
    })
}

#[test]
fn a_cold_request_to_wasm() {
    let (collector, cache) = (Collector::start(), tempfile::tempdir().unwrap());
    let setup = Setup::new().wasm("hello").host(&format!("cache.dir = {:?}", cache.path()));
    let baton = told(&collector, setup).start();
    // The next host compiles again, and meanwhile the request is there already.
    let host = baton.host_pid();
    kill(host, Signal::SIGKILL).unwrap();
    wait_until("the host is dead", || !is_running(host));
    for entry in fs::read_dir(cache.path()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(ask(&baton, 1, "/hello/you?a=b").status(), 200);
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET /hello/* server
        baton.tier = wasm
        baton.tier.reason = policy
        client.address = 127.0.0.1
        client.port = ~
        faas.coldstart = true
        faas.invocation_id = ~
        faas.name = hello
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 11
        http.response.status_code = 200
        http.route = /hello/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /hello/you
        url.query = a=b
        url.scheme = http
        user_agent.original = golden/1
      baton.admit
      baton.component.load
          baton.component.source = compile
      baton.component.instantiate
      baton.component.handle
    ");
}

#[test]
fn a_warm_request_to_wasm() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().wasm("hello")).start();
    assert_eq!(ask(&baton, 1, "/hello/you?a=b").status(), 200);
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET /hello/* server
        baton.tier = wasm
        baton.tier.reason = policy
        client.address = 127.0.0.1
        client.port = ~
        faas.coldstart = false
        faas.invocation_id = ~
        faas.name = hello
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 11
        http.response.status_code = 200
        http.route = /hello/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /hello/you
        url.query = a=b
        url.scheme = http
        user_agent.original = golden/1
      baton.admit
      baton.component.instantiate
      baton.component.handle
    ");
}

#[test]
fn the_first_request_to_a_native_build() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().native("hello")).start();
    baton.until_parked();
    assert_eq!(ask(&baton, 1, "/hello").status(), 200);
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET /hello/* server
        baton.tier = native
        baton.tier.reason = policy
        client.address = 127.0.0.1
        client.port = ~
        faas.coldstart = true
        faas.invocation_id = ~
        faas.name = hello
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 13
        http.response.status_code = 200
        http.route = /hello/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /hello
        url.scheme = http
        user_agent.original = golden/1
      baton.admit
      baton.sandbox.lease
        baton.sandbox.activate
      baton.forward client
          container.id = ~
          network.transport = unix
          process.pid = ~
        baton.forward.connect
    ");
    insta::assert_snapshot!(linked(&collector, "baton.sandbox.prepare", &server(&collector, 1)), @r"
    baton.sandbox.prepare
        container.id = ~
        faas.name = hello
        process.pid = ~
        & the request
      baton.sandbox.activate
      baton.sandbox.ready
    ");
}

#[test]
fn a_request_to_a_warm_native_build() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().hybrid("hello")).start();
    let number = warm_native(&baton, &collector, "/hello");
    insta::assert_snapshot!(trace(&collector, number), @r"
    GET /hello/* server
        baton.tier = native
        baton.tier.reason = warm
        client.address = 127.0.0.1
        client.port = ~
        faas.coldstart = false
        faas.invocation_id = ~
        faas.name = hello
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 13
        http.response.status_code = 200
        http.route = /hello/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /hello
        url.scheme = http
        user_agent.original = golden/1
      baton.admit
      baton.sandbox.lease
      baton.forward client
          container.id = ~
          network.transport = unix
          process.pid = ~
    ");
}

#[test]
fn a_request_that_falls_back_on_wasm_for_want_of_a_warm_sandbox() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().hybrid("hello")).start();
    baton.until_parked();
    assert_eq!(tier_of(&ask(&baton, 1, "/hello")), "wasm");
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET /hello/* server
        baton.tier = wasm
        baton.tier.reason = no-warm-sandbox
        client.address = 127.0.0.1
        client.port = ~
        faas.coldstart = false
        faas.invocation_id = ~
        faas.name = hello
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 13
        http.response.status_code = 200
        http.route = /hello/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /hello
        url.scheme = http
        user_agent.original = golden/1
      baton.admit
      baton.component.instantiate
      baton.component.handle
    ");
    insta::assert_snapshot!(linked(&collector, "baton.sandbox.prepare", &server(&collector, 1)), @r"
    baton.sandbox.prepare
        container.id = ~
        faas.name = hello
        process.pid = ~
        & the request
      baton.sandbox.activate
      baton.sandbox.ready
    ");
}

#[test]
fn a_request_that_is_repeated_after_its_sandbox_failed_with_it() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().hybrid("misbehaving")).start();
    baton.until_native("/misbehaving");
    assert_eq!(tier_of(&ask(&baton, 1, "/misbehaving/garbage")), "wasm");
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET /misbehaving/* server
        baton.tier = wasm
        baton.tier.reason = sandbox-gone
        client.address = 127.0.0.1
        client.port = ~
        faas.coldstart = false
        faas.invocation_id = ~
        faas.name = misbehaving
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 5
        http.response.status_code = 200
        http.route = /misbehaving/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /misbehaving/garbage
        url.scheme = http
        user_agent.original = golden/1
        ! baton.fallback
        ! baton.retry
      baton.admit
      baton.sandbox.lease
      baton.forward client ERROR: sandbox-gone
          container.id = ~
          error.type = sandbox-gone
          network.transport = unix
          process.pid = ~
        baton.forward.connect
      baton.component.instantiate
      baton.component.handle
    ");
}

#[test]
fn a_request_whose_time_is_up_in_wasm() {
    let collector = Collector::start();
    let setup = Setup::new().wasm("misbehaving").with("limits.timeout = \"100ms\"");
    let baton = told(&collector, setup).start();
    assert_problem(&ask(&baton, 1, "/misbehaving/sleep"), "timeout", 504);
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET /misbehaving/* server ERROR: timeout
        baton.tier = wasm
        baton.tier.reason = policy
        client.address = 127.0.0.1
        client.port = ~
        error.type = timeout
        faas.coldstart = false
        faas.invocation_id = ~
        faas.name = misbehaving
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 218
        http.response.status_code = 504
        http.route = /misbehaving/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /misbehaving/sleep
        url.scheme = http
        user_agent.original = golden/1
      baton.admit
      baton.component.instantiate
      baton.component.handle ERROR: timeout
          error.type = timeout
    ");
}

#[test]
fn a_request_whose_time_is_up_in_a_sandbox() {
    let collector = Collector::start();
    let setup = Setup::new().native("misbehaving").with("limits.timeout = \"1s\"");
    let baton = told(&collector, setup).start();
    wait_until("a sandbox answers", || baton.get("/misbehaving").status() == 200);
    assert_problem(&ask(&baton, 1, "/misbehaving/sleep"), "timeout", 504);
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET /misbehaving/* server ERROR: timeout
        baton.tier = native
        baton.tier.reason = policy
        client.address = 127.0.0.1
        client.port = ~
        error.type = timeout
        faas.coldstart = false
        faas.invocation_id = ~
        faas.name = misbehaving
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 215
        http.response.status_code = 504
        http.route = /misbehaving/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /misbehaving/sleep
        url.scheme = http
        user_agent.original = golden/1
      baton.admit
      baton.sandbox.lease
      baton.forward client ERROR: timeout
          container.id = ~
          error.type = timeout
          network.transport = unix
          process.pid = ~
        baton.forward.connect
    ");
}

#[test]
fn a_request_that_traps() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().wasm("misbehaving")).start();
    assert_problem(&ask(&baton, 1, "/misbehaving/crash"), "trapped", 500);
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET /misbehaving/* server ERROR: trapped
        baton.tier = wasm
        baton.tier.reason = policy
        client.address = 127.0.0.1
        client.port = ~
        error.type = trapped
        faas.coldstart = false
        faas.invocation_id = ~
        faas.name = misbehaving
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 225
        http.response.status_code = 500
        http.route = /misbehaving/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /misbehaving/crash
        url.scheme = http
        user_agent.original = golden/1
      baton.admit
      baton.component.instantiate
      baton.component.handle ERROR: trapped
          error.type = trapped
    ");
}

#[test]
fn a_request_that_runs_out_of_memory() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().wasm("misbehaving")).start();
    assert_problem(&ask(&baton, 1, "/misbehaving/allocate"), "out-of-memory", 500);
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET /misbehaving/* server ERROR: out-of-memory
        baton.tier = wasm
        baton.tier.reason = policy
        client.address = 127.0.0.1
        client.port = ~
        error.type = out-of-memory
        faas.coldstart = false
        faas.invocation_id = ~
        faas.name = misbehaving
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 259
        http.response.status_code = 500
        http.route = /misbehaving/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /misbehaving/allocate
        url.scheme = http
        user_agent.original = golden/1
        ! baton.out_of_memory
      baton.admit
      baton.component.instantiate
      baton.component.handle ERROR: out-of-memory
          error.type = out-of-memory
    ");
}

#[test]
fn a_sandbox_that_runs_out_of_memory() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().native("misbehaving")).start();
    wait_until("a sandbox answers", || baton.get("/misbehaving").status() == 200);
    assert_problem(&ask(&baton, 1, "/misbehaving/allocate"), "crashed", 502);
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET /misbehaving/* server ERROR: out-of-memory
        baton.tier = native
        baton.tier.reason = policy
        client.address = 127.0.0.1
        client.port = ~
        error.type = out-of-memory
        faas.coldstart = false
        faas.invocation_id = ~
        faas.name = misbehaving
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 212
        http.response.status_code = 502
        http.route = /misbehaving/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /misbehaving/allocate
        url.scheme = http
        user_agent.original = golden/1
        ! baton.out_of_memory
      baton.admit
      baton.sandbox.lease
      baton.forward client ERROR: out-of-memory
          container.id = ~
          error.type = out-of-memory
          network.transport = unix
          process.pid = ~
        baton.forward.connect
    ");
    let spans = spans(&collector, 1);
    let forward = &spans.iter().find(|span| span.name == "baton.forward").unwrap().span_id;
    let names = BTreeMap::from([(forward.clone(), "the request's baton.forward")]);
    insta::assert_snapshot!(linked(&collector, "baton.sandbox.remove", &names), @r"
    baton.sandbox.remove
        baton.sandbox.reason = oom
        container.id = ~
        faas.name = misbehaving
        ! baton.out_of_memory
        & the request's baton.forward
    ");
}

#[test]
fn a_request_that_is_repeated_after_its_sandbox_ran_out_of_memory() {
    let collector = Collector::start();
    let setup = Setup::new().hybrid("misbehaving").with("retry = \"always\"");
    let baton = told(&collector, setup).start();
    baton.until_native("/misbehaving");
    assert_eq!(tier_of(&ask(&baton, 1, "/misbehaving/allocate-natively")), "wasm");
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET /misbehaving/* server
        baton.tier = wasm
        baton.tier.reason = sandbox-gone
        client.address = 127.0.0.1
        client.port = ~
        faas.coldstart = false
        faas.invocation_id = ~
        faas.name = misbehaving
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 5
        http.response.status_code = 200
        http.route = /misbehaving/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /misbehaving/allocate-natively
        url.scheme = http
        user_agent.original = golden/1
        ! baton.out_of_memory
        ! baton.fallback
        ! baton.retry
      baton.admit
      baton.sandbox.lease
      baton.forward client ERROR: out-of-memory
          container.id = ~
          error.type = out-of-memory
          network.transport = unix
          process.pid = ~
        baton.forward.connect
      baton.component.instantiate
      baton.component.handle
    ");
}

#[test]
fn a_sandbox_that_runs_out_of_memory_midway_through_its_answer() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().native("misbehaving")).start();
    wait_until("a sandbox answers", || baton.get("/misbehaving").status() == 200);
    let mut client = baton.raw();
    let head = "GET /misbehaving/allocate-midway HTTP/1.1\r\nHost: test.example\r\nTraceparent: ";
    client.write(format!("{head}{}\r\n\r\n", parent(1))).unwrap();
    assert!(client.rest().contains("some of it"));
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET /misbehaving/* server ERROR: out-of-memory
        baton.tier = native
        baton.tier.reason = policy
        client.address = 127.0.0.1
        client.port = ~
        error.type = out-of-memory
        faas.coldstart = false
        faas.invocation_id = ~
        faas.name = misbehaving
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 11
        http.response.status_code = 200
        http.route = /misbehaving/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /misbehaving/allocate-midway
        url.scheme = http
        ! baton.out_of_memory
      baton.admit
      baton.sandbox.lease
      baton.forward client ERROR: out-of-memory
          container.id = ~
          error.type = out-of-memory
          network.transport = unix
          process.pid = ~
        baton.forward.connect
    ");
}

#[test]
fn a_request_that_finds_all_places_taken() {
    let collector = Collector::start();
    let setup = Setup::new().wasm("misbehaving").with("limits.concurrency = 1\nlimits.queue = 0");
    let baton = told(&collector, setup).start();
    let mut first = baton.raw();
    first.write("POST /misbehaving/hold HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n").unwrap();
    wait_until("the place is taken", || baton.in_flight("misbehaving") == 1);
    assert_problem(&ask(&baton, 1, "/misbehaving"), "saturated", 503);
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET /misbehaving/* server ERROR: saturated
        client.address = 127.0.0.1
        client.port = ~
        error.type = saturated
        faas.coldstart = false
        faas.invocation_id = ~
        faas.name = misbehaving
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 213
        http.response.status_code = 503
        http.route = /misbehaving/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /misbehaving
        url.scheme = http
        user_agent.original = golden/1
      baton.admit ERROR: saturated
          error.type = saturated
    ");
}

#[test]
fn a_request_whose_client_leaves_before_the_answer() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().wasm("misbehaving")).start();
    let mut client = baton.raw();
    let head = "GET /misbehaving/sleep HTTP/1.1\r\nHost: test.example\r\nTraceparent: ";
    client.write(format!("{head}{}\r\n\r\n", parent(1))).unwrap();
    wait_until("it is in flight", || baton.in_flight("misbehaving") == 1);
    client.leave();
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET /misbehaving/* server
        baton.tier = wasm
        baton.tier.reason = policy
        client.address = 127.0.0.1
        client.port = ~
        error.type = client-gone
        faas.coldstart = false
        faas.invocation_id = ~
        faas.name = misbehaving
        faas.trigger = http
        faas.version = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 0
        http.route = /misbehaving/*
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /misbehaving/sleep
        url.scheme = http
      baton.admit
      baton.component.instantiate
      baton.component.handle
    ");
}

#[test]
fn a_request_that_no_route_matches() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().wasm("hello")).start();
    assert_problem(&ask(&baton, 1, "/nowhere"), "not-found", 404);
    insta::assert_snapshot!(trace(&collector, 1), @r"
    GET server
        client.address = 127.0.0.1
        client.port = ~
        http.request.body.size = 0
        http.request.method = GET
        http.response.body.size = 172
        http.response.status_code = 404
        network.peer.address = 127.0.0.1
        network.peer.port = ~
        network.protocol.version = 1.1
        server.address = test.example
        url.path = /nowhere
        url.scheme = http
        user_agent.original = golden/1
      baton.admit
    ");
}

#[test]
fn a_difference_of_the_builds_that_demotes_the_native_one() {
    let collector = Collector::start();
    let setup = Setup::new().hybrid("misbehaving").with("verify = { sample = 1.0, threshold = 1 }");
    let baton = told(&collector, setup).start();
    assert_eq!(ask(&baton, 1, "/misbehaving/divergent").status(), 200);
    insta::assert_snapshot!(linked(&collector, "baton.verify", &server(&collector, 1)), @r"
    baton.verify ERROR: body
        baton.tier = native
        error.type = differed
        faas.name = misbehaving
        ! baton.verify.differed
        ! baton.demoted
        & the request
    ");
}

#[test]
fn a_sandbox_that_ends_says_why() {
    let collector = Collector::start();
    let setup = Setup::new().native("hello").with("sandboxes.idle_timeout = \"50ms\"");
    let baton = told(&collector, setup).start();
    assert_eq!(ask(&baton, 1, "/hello").status(), 200);
    let is_it = |span: &Span| span.name == "baton.sandbox.remove";
    let mut spans = collector.wait_for(|spans| spans.iter().any(is_it), PATIENCE);
    spans.retain(is_it);
    insta::assert_snapshot!(golden(&spans[..1], &BTreeMap::new()), @r"
    baton.sandbox.remove
        baton.sandbox.reason = idle
        container.id = ~
        faas.name = hello
    ");
}
