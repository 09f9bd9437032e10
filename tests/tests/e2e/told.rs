//! What functions tell of themselves: their spans in their requests' traces, their lines as log records.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_tests::baton::{Baton, Setup};
use baton_tests::client::request;
use baton_tests::collector::{Collector, LogRecord, Span};
use baton_tests::golden::golden;
use baton_tests::{wait_for, wait_until};
use http::Method;
use serde_json::Value;

/// Longer than any export takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Baton that serves this function in this tier, and whose collector has all at once.
fn told(collector: &Collector, name: &str, tier: &str) -> Baton {
    let setup = Setup::new()
        .function(name, tier)
        .component(name)
        .executable(name)
        .telemetry(&format!("endpoint = \"{}\"", collector.endpoint()))
        .variable("OTEL_BSP_SCHEDULE_DELAY", "10")
        .variable("OTEL_BLRP_SCHEDULE_DELAY", "10");
    let baton = setup.start();
    wait_until("it answers", || baton.get(&format!("/{name}")).status().is_success());
    baton
}

#[track_caller]
fn ask(baton: &Baton, trace: u32, path: &str, sampled: bool) -> u16 {
    let mut asked = request(Method::GET, path, "");
    let parent = format!("00-{trace:032x}-00000000000000ab-0{}", u8::from(sampled));
    asked.headers_mut().insert("traceparent", parent.parse().unwrap());
    baton.ask(asked).status().as_u16()
}

/// The function's part of the trace of this number, below the span of the host's that called it.
#[track_caller]
fn work(collector: &Collector, trace: u32, caller: &str) -> String {
    let trace_id = format!("{trace:032x}");
    let is_there = |spans: &[Span], name: &str| {
        spans.iter().any(|span| span.trace_id == trace_id && span.name == name)
    };
    let mut spans = collector.wait_for(|s| is_there(s, "work") && is_there(s, caller), PATIENCE);
    spans.retain(|span| span.trace_id == trace_id);
    let caller = spans.iter().find(|span| span.name == caller).unwrap().clone();
    let work = spans.iter().find(|span| span.name == "work").unwrap();
    assert_eq!(work.parent.as_ref(), Some(&caller.span_id));
    assert!(caller.start <= work.start && work.end <= caller.end, "{caller:#?} {work:#?}");
    let told: Vec<Span> =
        spans.into_iter().filter(|span| ["work", "add"].contains(&span.name.as_str())).collect();
    golden(&told, &BTreeMap::new())
}

#[test]
fn a_functions_spans_nest_below_the_hosts_in_wasm() {
    let collector = Collector::start();
    let baton = told(&collector, "traced", "wasm");
    assert_eq!(ask(&baton, 1, "/traced/broken", true), 200);
    insta::assert_snapshot!(work(&collector, 1, "baton.component.handle"), @r"
    work
        baton.tier = wasm
        broken = true
        faas.name = traced
      add ERROR: it broke
          a = 1
          b = 1
          baton.tier = wasm
          faas.name = traced
    ");
}

#[test]
fn the_last_traces_show_a_functions_spans_in_their_place() {
    for (tier, caller) in [("wasm", "baton.component.handle"), ("native", "baton.forward")] {
        let baton = Setup::new().function("traced", tier).component("traced").executable("traced");
        let baton = baton.start();
        wait_until("it answers", || ask(&baton, 1, "/traced", true) == 200);
        assert_eq!(ask(&baton, 2, "/traced", true), 200);
        let path = format!("/v1/traces/{:032x}", 2);
        // What a native function writes is read a little later.
        let root = wait_for("all is there", || {
            let found = baton.administration(&path);
            let traces = found["traces"].as_array().unwrap().clone();
            let [trace] = traces.try_into().ok()?;
            trace.to_string().contains("\"work\"").then(|| trace["root"].clone())
        });
        let last = root["children"].as_array().unwrap().last().unwrap();
        assert_eq!(last["name"], caller, "{root:#}");
        let work = last["children"].as_array().unwrap().last().unwrap();
        assert_eq!((&work["name"], &work["children"][0]["name"]), (&"work".into(), &"add".into()));
    }
}

#[test]
fn a_functions_spans_nest_below_the_hosts_natively() {
    let collector = Collector::start();
    let baton = told(&collector, "traced", "native");
    assert_eq!(ask(&baton, 1, "/traced/broken", true), 200);
    insta::assert_snapshot!(work(&collector, 1, "baton.forward"), @r"
    work
        baton.tier = native
        broken = true
        faas.name = traced
      add ERROR: it broke
          a = 1
          b = 1
          baton.tier = native
          faas.name = traced
    ");
}

#[test]
fn a_function_tells_of_no_trace_that_is_not_recorded() {
    for tier in ["wasm", "native"] {
        let collector = Collector::start();
        let mut baton = told(&collector, "traced", tier);
        assert_eq!(ask(&baton, 1, "/traced", false), 200);
        assert!(baton.stop().success());
        let unrecorded = format!("{:032x}", 1);
        assert!(collector.spans().iter().all(|span| span.trace_id != unrecorded), "{tier}");
        assert!(collector.spans().iter().any(|span| span.name == "work"), "{tier}");
    }
}

/// The line of the request of this trace.
#[track_caller]
fn line(collector: &Collector, trace: u32) -> LogRecord {
    let trace_id = format!("{trace:032x}");
    collector.until(|c| c.logs().into_iter().find(|line| line.trace_id == trace_id), PATIENCE)
}

#[test]
fn a_line_of_either_build_is_a_log_record_bound_to_its_request() {
    for (tier, instance) in [("wasm", "faas.invocation_id"), ("native", "container.id")] {
        let collector = Collector::start();
        let baton = told(&collector, "traced", tier);
        assert_eq!(ask(&baton, 1, "/traced", true), 200);
        let line = line(&collector, 1);
        assert_eq!(line.body.as_str().map(|text| text.contains("adding")), Some(true), "{line:?}");
        assert_eq!(line.attributes["faas.name"], "traced");
        assert_eq!(line.attributes["baton.tier"], tier);
        assert_eq!(line.attributes["log.iostream"], "stderr");
        assert!(line.attributes["faas.version"].as_str().unwrap().starts_with("sha256:"));
        assert!(!line.attributes[instance].as_str().unwrap().is_empty());
    }
}

#[test]
fn native_requests_that_share_a_sandbox_share_no_lines() {
    let collector = Collector::start();
    let setup = Setup::new()
        .native("traced")
        .with("sandboxes.concurrency = 2")
        .telemetry(&format!("endpoint = \"{}\"", collector.endpoint()))
        .variable("OTEL_BLRP_SCHEDULE_DELAY", "10");
    let baton = setup.start();
    wait_until("it answers", || ask(&baton, 1, "/traced", true) == 200);
    let is_it = |line: &LogRecord| line.body.as_str().is_some_and(|text| text.contains("adding"));
    let line = collector.until(|c| c.logs().into_iter().find(is_it), PATIENCE);
    assert_eq!(line.trace_id, "", "whose it is cannot be known");
}

#[test]
fn every_line_of_the_json_log_is_an_object_that_names_its_request() {
    let setup = Setup::new().wasm("traced").wasm("misbehaving").host("log = \"json\"");
    let mut baton = setup.start();
    assert_eq!(ask(&baton, 1, "/traced/a\"b?c=d", true), 404);
    assert_eq!(ask(&baton, 2, "/traced", true), 200);
    assert_eq!(ask(&baton, 3, "/misbehaving/crash", true), 500);
    assert!(baton.stop().success());
    let log = baton.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let of = |trace: u32| format!("{trace:032x}");
    let access = |trace: u32| {
        let is_it = |line: &&Value| line["trace_id"] == of(trace) && line["method"].is_string();
        lines.iter().find(is_it).unwrap_or_else(|| panic!("no access line in {log}"))
    };
    for (trace, status, function) in
        [(1, 404, "traced"), (2, 200, "traced"), (3, 500, "misbehaving")]
    {
        let line = access(trace);
        assert_eq!((&line["status"], &line["function"]), (&status.into(), &function.into()));
        assert_eq!((&line["method"], &line["tier"]), (&"GET".into(), &"wasm".into()));
        assert!(line["duration_ms"].is_f64() && line["bytes"].is_u64(), "{line}");
        assert!(line["time"].is_string() && line["client"].is_string(), "{line}");
    }
    assert_eq!(access(3)["error"], "trapped");
    let said = |text: &str| lines.iter().any(|line| line.to_string().contains(text));
    assert!(said("adding") && said("a request failed"), "{log}");
}

#[test]
fn what_a_function_writes_too_much_of_is_dropped_and_counted() {
    let baton = Setup::new().wasm("traced").start();
    let lines = |outcome: &str| {
        let page = crate::metrics::page(&baton);
        let begins = format!(
            "baton_function_lines_total{{faas_name=\"traced\",baton_outcome=\"{outcome}\"}} "
        );
        let found = page.lines().find_map(|line| line.strip_prefix(&begins)?.parse::<f64>().ok());
        found.unwrap_or_default()
    };
    // Each request is a line or more, and a thousand of them may be written in a second.
    wait_for("the bucket is empty", || {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| drop(baton.get("/traced/broken"))));
            }
        });
        (lines("dropped") > 0.0).then_some(())
    });
    // A span that a function tells of is a line of its as well.
    assert!(lines("logged") + lines("span") >= 4_000.0);
}
