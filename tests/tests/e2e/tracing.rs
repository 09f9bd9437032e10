//! The trace of a request, as a collector receives it.

use std::time::Duration;

use baton_tests::baton::{Baton, Setup};
use baton_tests::client::{assert_problem, request, tier_of};
use baton_tests::collector::{Behaviour, Collector, Protocol, Span, SpanKind, SpanStatus};
use baton_tests::collector::{children, tree};
use baton_tests::wait_for;
use bytes::Bytes;
use http::{Method, Response};

/// Longer than any export takes.
const PATIENCE: Duration = Duration::from_secs(30);
const PARENT: &str = "00000000000000ab";

/// A setup that sends its spans to `collector` without waiting for more.
fn told(collector: &Collector, setup: Setup) -> Setup {
    setup
        .telemetry(&format!("endpoint = \"{}\"", collector.endpoint()))
        .variable("OTEL_BSP_SCHEDULE_DELAY", "10")
}

/// Asks as a part of the trace of this number.
#[track_caller]
fn ask(baton: &Baton, trace: u32, path: &str) -> Response<Bytes> {
    let mut asked = request(Method::GET, path, "");
    let parent = format!("00-{trace:032x}-{PARENT}-01");
    asked.headers_mut().insert("traceparent", parent.parse().unwrap());
    asked.headers_mut().insert("tracestate", "vendor=value".parse().unwrap());
    baton.ask(asked)
}

/// The server span of the trace of this number, with all that has arrived.
#[track_caller]
fn server_span(collector: &Collector, trace: u32) -> (Span, Vec<Span>) {
    let trace_id = format!("{trace:032x}");
    let is_it = |span: &&Span| span.trace_id == trace_id && span.kind == SpanKind::Server;
    let spans = collector.wait_for(|spans| spans.iter().any(|span| is_it(&span)), PATIENCE);
    (spans.iter().find(is_it).unwrap().clone(), spans)
}

/// Asks, in traces from 100 on, until the native build answers; returns that trace's number.
#[track_caller]
fn native_trace(baton: &Baton, path: &str) -> u32 {
    let mut trace = 99;
    wait_for("the native build answers", || {
        trace += 1;
        (tier_of(&ask(baton, trace, path)) == "native").then_some(trace)
    })
}

#[track_caller]
fn assert_server_span(collector: &Collector, baton: &Baton, protocol: Protocol) {
    assert_eq!(ask(baton, 1, "/hello/you?a=b").body(), "hello, you\n");
    let (span, _) = server_span(collector, 1);
    assert_eq!(span.protocol, protocol);
    assert_eq!(span.name, "GET /hello/*");
    assert_eq!(span.parent.as_deref(), Some(PARENT));
    assert_eq!(span.tracestate, "vendor=value");
    assert_eq!(span.resource["service.name"], "baton");
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/hello/*"),
        ("url.path", "/hello/you"),
        ("url.query", "a=b"),
        ("faas.name", "hello"),
        ("faas.trigger", "http"),
        ("baton.tier", "wasm"),
        ("baton.tier.reason", "policy"),
    ] {
        assert_eq!(span.attributes[key], value, "{key}");
    }
    assert_eq!(span.attributes["http.response.status_code"], 200);
    assert_eq!(span.attributes["faas.coldstart"], false);
}

#[test]
fn a_request_is_a_server_span_below_its_callers_over_grpc() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().wasm("hello")).start();
    assert_server_span(&collector, &baton, Protocol::Grpc);
}

#[test]
fn a_request_is_a_server_span_below_its_callers_over_http() {
    let collector = Collector::start();
    // The variables win over the manifest.
    let baton = Setup::new()
        .wasm("hello")
        .telemetry(r#"endpoint = "http://127.0.0.1:1""#)
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
        .variable("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .start();
    assert_server_span(&collector, &baton, Protocol::HttpProtobuf);
}

#[test]
fn a_request_without_a_parent_begins_a_trace() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().wasm("hello")).start();
    assert_eq!(baton.get("/hello").status(), 200);
    let spans = collector.wait_for(|spans| !spans.is_empty(), PATIENCE);
    assert_eq!(spans[0].parent, None);
}

/// The parts of a span follow each other without a gap, from its beginning to its end.
#[track_caller]
fn assert_tiled(spans: &[Span], span: &Span) {
    let parts = children(spans, span);
    assert_eq!(parts[0].start, span.start, "{}", tree(spans));
    assert_eq!(parts.last().unwrap().end, span.end, "{}", tree(spans));
    for pair in parts.windows(2) {
        assert_eq!(pair[0].end, pair[1].start, "{}", tree(spans));
    }
}

#[test]
fn the_phases_of_a_request_tile_it_in_both_tiers() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().hybrid("hello")).start();
    assert_eq!(tier_of(&ask(&baton, 1, "/hello")), "wasm");
    let native = native_trace(&baton, "/hello");
    for (trace, tier) in [(1, "wasm"), (native, "native")] {
        let (span, spans) = server_span(&collector, trace);
        assert_eq!(span.attributes["baton.tier"], tier);
        assert_tiled(&spans, &span);
    }
}

#[test]
fn the_trace_of_the_wasm_tier_has_these_phases() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().wasm("hello")).start();
    ask(&baton, 1, "/hello");
    let (_, spans) = server_span(&collector, 1);
    let wanted =
        "GET /hello/*\n  baton.admit\n  baton.component.instantiate\n  baton.component.handle\n";
    assert_eq!(tree(&spans), wanted);
}

#[test]
fn the_trace_of_the_native_tier_has_these_phases() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().hybrid("hello")).start();
    let native = native_trace(&baton, "/hello");
    let (span, spans) = server_span(&collector, native);
    let of_it: Vec<Span> =
        spans.into_iter().filter(|other| other.trace_id == span.trace_id).collect();
    let wanted = "GET /hello/*\n  baton.admit\n  baton.sandbox.lease\n  baton.forward\n";
    assert_eq!(tree(&of_it).replace("    baton.forward.connect\n", ""), wanted);
    let forward = of_it.iter().find(|span| span.name == "baton.forward").unwrap();
    assert_eq!(forward.kind, SpanKind::Client);
    assert_eq!(forward.attributes["network.transport"], "unix");
}

#[test]
fn the_preparation_of_a_sandbox_is_linked_to_the_request_that_caused_it() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().hybrid("hello")).start();
    baton.until_parked();
    ask(&baton, 1, "/hello");
    let (cause, _) = server_span(&collector, 1);
    let is_it = |span: &Span| span.name == "baton.sandbox.prepare";
    let spans = collector.wait_for(|spans| spans.iter().any(is_it), PATIENCE);
    let prepare = spans.iter().find(|span| is_it(span)).unwrap();
    assert_eq!(prepare.links, [(cause.trace_id.clone(), cause.span_id.clone())]);
    assert_ne!(prepare.trace_id, cause.trace_id, "it outlives the request");
    assert_eq!(prepare.parent, None);
    assert_eq!(prepare.attributes["faas.name"], "hello");
    let parts: Vec<&str> =
        children(&spans, prepare).into_iter().map(|part| part.name.as_str()).collect();
    // It was parked, so it was not created for this.
    assert_eq!(parts, ["baton.sandbox.activate", "baton.sandbox.ready"], "{}", tree(&spans));
}

#[test]
fn a_request_that_waits_for_its_sandbox_is_cold_and_shows_the_activation() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().native("hello")).start();
    ask(&baton, 1, "/hello");
    let (span, spans) = server_span(&collector, 1);
    assert_eq!(span.attributes["faas.coldstart"], true);
    assert_tiled(&spans, &span);
    let parts = children(&spans, &span);
    let lease = parts.iter().find(|part| part.name == "baton.sandbox.lease").unwrap();
    let inside: Vec<&str> =
        children(&spans, lease).into_iter().map(|part| part.name.as_str()).collect();
    assert!(inside.contains(&"baton.sandbox.activate"), "{}", tree(&spans));
    ask(&baton, 2, "/hello");
    assert_eq!(server_span(&collector, 2).0.attributes["faas.coldstart"], false);
}

/// The `traceparent` that a function saw, in parts.
#[track_caller]
fn seen(answer: &Response<Bytes>) -> Vec<String> {
    let text = String::from_utf8(answer.body().to_vec()).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    let mut parents = lines.filter(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
    let (_, parent) = parents.next().unwrap_or_else(|| panic!("no traceparent in {text}"));
    assert_eq!(parents.count(), 0, "more than one traceparent in {text}");
    parent.split('-').map(str::to_owned).collect()
}

#[test]
fn the_function_sees_the_span_that_called_it_in_both_tiers() {
    for (setup, name) in [
        (Setup::new().wasm("misbehaving"), "baton.component.handle"),
        (Setup::new().native("misbehaving"), "baton.forward"),
    ] {
        let collector = Collector::start();
        let baton = told(&collector, setup).start();
        let seen = seen(&ask(&baton, 1, "/misbehaving/headers"));
        let (_, spans) = server_span(&collector, 1);
        let caller = spans.iter().find(|span| span.name == name).unwrap();
        assert_eq!(seen, ["00", caller.trace_id.as_str(), caller.span_id.as_str(), "01"]);
    }
}

#[test]
fn a_trace_that_its_caller_does_not_record_is_passed_on_and_not_exported() {
    let collector = Collector::start();
    let mut baton = told(&collector, Setup::new().wasm("misbehaving")).start();
    let mut asked = request(Method::GET, "/misbehaving/headers", "");
    let parent = format!("00-{:032x}-{PARENT}-00", 1);
    asked.headers_mut().insert("traceparent", parent.parse().unwrap());
    let seen = seen(&baton.ask(asked));
    assert_eq!((seen[1].as_str(), seen[3].as_str()), (format!("{:032x}", 1).as_str(), "00"));
    assert!(baton.stop().success());
    assert!(collector.spans().is_empty(), "{}", tree(&collector.spans()));
}

#[test]
fn the_last_spans_are_exported_before_the_host_ends() {
    let collector = Collector::start();
    let setup = told(&collector, Setup::new().wasm("hello"));
    let mut baton = setup.variable("OTEL_BSP_SCHEDULE_DELAY", "3600000").start();
    for _ in 0..200 {
        assert_eq!(baton.get("/hello").status(), 200);
    }
    assert!(baton.stop().success());
    // More than a full batch, and a rest for which nothing but the end is a reason to be sent.
    assert_eq!(numbers(&collector), (800, 800, 200));
}

/// How many spans have arrived, how many different ones, and how many of servers.
fn numbers(collector: &Collector) -> (usize, usize, usize) {
    let spans = collector.spans();
    let ids: std::collections::BTreeSet<_> =
        spans.iter().map(|span| (&span.trace_id, &span.span_id)).collect();
    let servers = spans.iter().filter(|span| span.kind == SpanKind::Server).count();
    (spans.len(), ids.len(), servers)
}

#[test]
fn a_collector_that_hangs_refuses_fails_or_is_not_there_changes_nothing_for_clients() {
    for behaviour in [Behaviour::Hang, Behaviour::Busy, Behaviour::Fail, Behaviour::Reset] {
        let collector = Collector::start();
        collector.behave(behaviour);
        assert_undisturbed(&mut told(&collector, Setup::new().wasm("hello")).start());
        assert!(!collector.requests().is_empty(), "{behaviour:?}");
    }
    let nobody = Setup::new().wasm("hello").telemetry(r#"endpoint = "http://127.0.0.1:1""#);
    assert_undisturbed(&mut nobody.start());
}

#[track_caller]
fn assert_undisturbed(baton: &mut Baton) {
    for _ in 0..100 {
        assert_eq!(baton.get("/hello").body(), "hello, world\n");
    }
    assert!(baton.stop().success());
}

#[test]
fn what_a_collector_does_not_take_at_first_arrives_later_and_once() {
    for behaviour in [Behaviour::Busy, Behaviour::Reset] {
        let collector = Collector::start();
        collector.behave(behaviour);
        let mut baton = told(&collector, Setup::new().wasm("hello")).start();
        for _ in 0..50 {
            assert_eq!(baton.get("/hello").status(), 200);
        }
        wait_for("it was refused", || (!collector.requests().is_empty()).then_some(()));
        collector.behave(Behaviour::Accept);
        for _ in 0..50 {
            assert_eq!(baton.get("/hello").status(), 200);
        }
        assert!(baton.stop().success());
        assert_eq!(numbers(&collector), (400, 400, 100), "{behaviour:?}");
    }
}

#[test]
fn a_failure_names_its_problem_in_the_trace() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().wasm("misbehaving")).start();
    let document = assert_problem(&ask(&baton, 1, "/misbehaving/crash"), "trapped", 500);
    assert_eq!(document["trace_id"], format!("{:032x}", 1));
    let (span, _) = server_span(&collector, 1);
    assert_eq!(span.attributes["error.type"], "trapped");
    assert_eq!(span.status.0, SpanStatus::Error);
}

#[test]
fn a_fallback_is_an_event_and_a_reason_in_the_trace() {
    let collector = Collector::start();
    let baton = told(&collector, Setup::new().hybrid("misbehaving")).start();
    baton.until_native("/misbehaving");
    assert_eq!(tier_of(&ask(&baton, 1, "/misbehaving/garbage")), "wasm");
    let (span, spans) = server_span(&collector, 1);
    assert_eq!(span.attributes["baton.tier.reason"], "sandbox-gone");
    let events: Vec<&str> = span.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["baton.fallback", "baton.retry"]);
    assert_tiled(&spans, &span);
}

#[test]
fn a_failed_request_is_recorded_although_it_was_not_sampled_and_says_so() {
    let collector = Collector::start();
    let setup = Setup::new()
        .wasm("misbehaving")
        .telemetry(&format!("endpoint = \"{}\"\nsample = 0.0", collector.endpoint()))
        .variable("OTEL_BSP_SCHEDULE_DELAY", "10");
    let mut baton = setup.start();
    assert_eq!(baton.get("/misbehaving").status(), 200);
    assert_problem(&baton.get("/misbehaving/crash"), "trapped", 500);
    // What the caller does not record stays unrecorded.
    let mut asked = request(Method::GET, "/misbehaving/crash", "");
    let parent = format!("00-{:032x}-{PARENT}-00", 1);
    asked.headers_mut().insert("traceparent", parent.parse().unwrap());
    assert_problem(&baton.ask(asked), "trapped", 500);
    assert!(baton.stop().success());
    let spans = collector.spans();
    let servers: Vec<&Span> = spans.iter().filter(|span| span.kind == SpanKind::Server).collect();
    assert_eq!(servers.len(), 1, "{}", tree(&spans));
    assert_eq!(servers[0].attributes["error.type"], "trapped");
    assert_eq!(servers[0].attributes["baton.tail"], "error");
}

#[test]
fn a_failed_request_that_its_caller_does_not_record_is_recorded_where_the_manifest_says_so() {
    let collector = Collector::start();
    let setup = Setup::new().wasm("misbehaving").telemetry("keep_unsampled = true");
    let mut baton = told(&collector, setup).start();
    for (trace, path) in [(1, "/misbehaving"), (2, "/misbehaving/crash")] {
        let mut asked = request(Method::GET, path, "");
        let parent = format!("00-{trace:032x}-{PARENT}-00");
        asked.headers_mut().insert("traceparent", parent.parse().unwrap());
        assert!(matches!(baton.ask(asked).status().as_u16(), 200 | 500));
    }
    assert!(baton.stop().success());
    let spans = collector.spans();
    let servers: Vec<&Span> = spans.iter().filter(|span| span.kind == SpanKind::Server).collect();
    let [server] = servers[..] else { panic!("{}", tree(&spans)) };
    assert_eq!(
        (&*server.trace_id, server.parent.as_deref()),
        (&*format!("{:032x}", 2), Some(PARENT))
    );
    // Neither the caller nor the function has recorded its part, and the trace says so.
    assert_eq!(server.attributes["baton.tail"], "error");
}

#[test]
fn a_function_has_a_share_of_sampled_traces_and_an_idea_of_slowness_of_its_own() {
    let collector = Collector::start();
    let setup = Setup::new()
        .wasm("misbehaving")
        .with("telemetry = { sample = 0.0, keep_slow = \"5ms\" }")
        .wasm("hello")
        .with("telemetry = { sample = 0.0, keep_slow = \"1h\" }")
        .telemetry(&format!("endpoint = \"{}\"", collector.endpoint()));
    let mut baton = setup.start();
    let mut raw = baton.raw();
    let head = "POST /misbehaving/hold HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
    raw.write(format!("{head}1")).unwrap();
    // This is how long the request takes at least.
    std::thread::sleep(Duration::from_millis(6));
    raw.write("2").unwrap();
    assert!(raw.until("held\n").contains(" 200 "));
    assert_eq!(baton.get("/hello").status(), 200);
    assert!(baton.stop().success());
    let spans = collector.spans();
    let servers: Vec<&Span> = spans.iter().filter(|span| span.kind == SpanKind::Server).collect();
    assert_eq!(servers.len(), 1, "{}", tree(&spans));
    assert_eq!(servers[0].attributes["baton.tail"], "slow");
}

#[test]
fn a_functions_line_is_a_log_record_bound_to_its_trace() {
    let collector = Collector::start();
    let setup = told(&collector, Setup::new().wasm("misbehaving"));
    let baton = setup.variable("OTEL_BLRP_SCHEDULE_DELAY", "10").start();
    ask(&baton, 1, "/misbehaving/crash");
    let line = collector.until(
        |collector| {
            let mut lines = collector.logs().into_iter();
            lines.find(|line| line.body.as_str().is_some_and(|text| text.contains("told to")))
        },
        PATIENCE,
    );
    assert_eq!(line.trace_id, format!("{:032x}", 1));
    assert_eq!(line.attributes["faas.name"], "misbehaving");
    assert_eq!(line.attributes["baton.tier"], "wasm");
    assert_eq!(line.attributes["log.iostream"], "stderr");
}
