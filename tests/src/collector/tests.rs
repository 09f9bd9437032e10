//! The telemetry's pipeline against the collector: what is exported arrives whole over both
//! protocols, and a collector that misbehaves costs spans and nothing else.

use std::sync::Arc;
use std::time::SystemTime;

use baton_otel::metrics::{DURATIONS, Histogram, Metric, Reading, instrument};
use baton_otel::names::{attribute, event, span as name};
use baton_otel::{
    Config, Counts, Environment, KeyValue, Kind, Log, Severity, Status, Telemetry, Trace,
};
use serde_json::json;

use super::*;

const LONG: Duration = Duration::from_secs(30);
const AN_HOUR_MS: &str = "3600000";
const PROTOCOLS: [(&str, Protocol); 2] =
    [("grpc", Protocol::Grpc), ("http/protobuf", Protocol::HttpProtobuf)];

fn start(endpoint: &str, protocol: &str, variables: &[(&str, &str)]) -> Telemetry {
    let config = Config {
        endpoint: Some(endpoint.to_owned()),
        service_name: "baton".into(),
        service_version: "1.2.3".into(),
        sample: 1.0,
    };
    let protocol = [("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)];
    let environment: Environment = variables.iter().copied().chain(protocol).collect();
    Telemetry::start(&config, &environment).unwrap()
}

/// Shuts down on a runtime of the test, as the host does on its own.
fn shutdown(telemetry: &Telemetry, grace: Duration) -> Counts {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(telemetry.shutdown(grace))
}

fn at(micros: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_micros(micros)
}

fn nanos(micros: u64) -> u64 {
    1_700_000_000_000_000_000 + 1_000 * micros
}

fn part(id: u64, name: &'static str, start: u64, end: u64) -> baton_otel::Span {
    baton_otel::Span { span_id: id.into(), ..baton_otel::Span::new(name, at(start), at(end)) }
}

fn small(id: u128) -> Arc<Trace> {
    let root = part(1, name::ADMIT, 0, 1);
    Arc::new(Trace { trace_id: id.into(), parent: None, root, tracestate: None })
}

/// A trace with everything that a trace can have.
fn full() -> Arc<Trace> {
    let mut forward = part(3, name::FORWARD, 10, 90);
    forward.kind = Kind::Client;
    forward.status = Status::Error("nobody accepts".into());
    forward.children = vec![part(4, name::FORWARD_CONNECT, 11, 12)];
    let mut root = part(1, "GET /hello", 0, 100);
    root.kind = Kind::Server;
    root.attributes = vec![
        KeyValue::new(attribute::FAAS_NAME, "hello"),
        KeyValue::new(attribute::FAAS_COLDSTART, true),
        KeyValue::new(attribute::HTTP_RESPONSE_STATUS_CODE, 200),
    ];
    root.events = vec![baton_otel::Event {
        name: event::FALLBACK.into(),
        time: at(91),
        attributes: vec![KeyValue::new(attribute::ERROR_TYPE, "crashed")],
    }];
    root.links = vec![(0xfeed_u128.into(), 0xbee_u64.into())];
    root.children = vec![part(2, name::ADMIT, 0, 2), forward];
    Arc::new(Trace {
        trace_id: 0xabc_u128.into(),
        parent: Some(0xdef_u64.into()),
        root,
        tracestate: Some("vendor=1, other=2".try_into().unwrap()),
    })
}

#[test]
fn a_trace_arrives_whole_over_both_protocols() {
    for (variable, protocol) in PROTOCOLS {
        let collector = Collector::start();
        let telemetry = start(&collector.endpoint(), variable, &[]);
        telemetry.export(full());
        let counts = shutdown(&telemetry, LONG);
        assert_eq!(counts, Counts { exported: 4, dropped: 0, failed: 0 });
        let spans = collector.spans();
        assert_eq!(
            tree(&spans),
            "GET /hello\n  baton.admit\n  baton.forward (error)\n    baton.forward.connect\n"
        );
        let [root, admit, forward, connect] = <[Span; 4]>::try_from(spans).unwrap();
        let expected = Span {
            protocol,
            resource: root.resource.clone(),
            scope: "baton".into(),
            trace_id: "00000000000000000000000000000abc".into(),
            span_id: "0000000000000001".into(),
            parent: Some("0000000000000def".into()),
            tracestate: "vendor=1,other=2".into(),
            flags: 0x301,
            name: "GET /hello".into(),
            kind: SpanKind::Server,
            start: nanos(0),
            end: nanos(100),
            attributes: [
                (attribute::FAAS_NAME.into(), json!("hello")),
                (attribute::FAAS_COLDSTART.into(), json!(true)),
                (attribute::HTTP_RESPONSE_STATUS_CODE.into(), json!(200)),
            ]
            .into(),
            events: vec![Event {
                name: event::FALLBACK.into(),
                time: nanos(91),
                attributes: [(attribute::ERROR_TYPE.into(), json!("crashed"))].into(),
            }],
            links: vec![("0000000000000000000000000000feed".into(), "0000000000000bee".into())],
            status: (SpanStatus::Unset, String::new()),
        };
        assert_eq!(root, expected);
        assert_eq!((forward.kind, forward.flags), (SpanKind::Client, 0x101));
        assert_eq!(forward.status, (SpanStatus::Error, "nobody accepts".into()));
        assert_eq!((connect.start, connect.end), (nanos(11), nanos(12)));
        assert_eq!((admit.kind, admit.tracestate), (SpanKind::Internal, root.tracestate));
    }
}

#[test]
fn the_resource_says_who_sends() {
    let collector = Collector::start();
    let telemetry =
        start(&collector.endpoint(), "grpc", &[("OTEL_RESOURCE_ATTRIBUTES", "deployment=test")]);
    telemetry.export(small(1));
    shutdown(&telemetry, LONG);
    let resource = collector.spans().remove(0).resource;
    assert_eq!(resource[attribute::SERVICE_NAME], "baton");
    assert_eq!(resource[attribute::SERVICE_VERSION], "1.2.3");
    assert_eq!(resource[attribute::PROCESS_PID], std::process::id());
    assert_eq!(resource[attribute::TELEMETRY_SDK_LANGUAGE], "rust");
    assert_eq!(resource["deployment"], "test");
    for key in
        [attribute::HOST_NAME, attribute::TELEMETRY_SDK_NAME, attribute::TELEMETRY_SDK_VERSION]
    {
        assert!(resource[key].as_str().is_some_and(|text| !text.is_empty()), "{resource:?}");
    }
}

#[test]
fn the_headers_of_the_variable_are_sent_over_both_protocols() {
    for (variable, _) in PROTOCOLS {
        let collector = Collector::start();
        let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret%20one");
        let telemetry = start(&collector.endpoint(), variable, &[headers]);
        telemetry.export(small(1));
        shutdown(&telemetry, LONG);
        assert_eq!(collector.requests()[0]["api-key"], "secret one");
    }
}

#[test]
fn shutdown_sends_everything_that_waits() {
    let collector = Collector::start();
    let patient =
        [("OTEL_BSP_SCHEDULE_DELAY", AN_HOUR_MS), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "300")];
    let telemetry = start(&collector.endpoint(), "grpc", &patient);
    (1..=1_000).for_each(|id| telemetry.export(small(id)));
    let counts = shutdown(&telemetry, LONG);
    assert_eq!(counts, Counts { exported: 1_000, dropped: 0, failed: 0 });
    assert_eq!(collector.spans().len(), 1_000);
    assert_eq!(collector.requests().len(), 4, "in batches");
}

#[test]
fn a_full_batch_is_sent_before_its_time() {
    let collector = Collector::start();
    let patient =
        [("OTEL_BSP_SCHEDULE_DELAY", AN_HOUR_MS), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")];
    let telemetry = start(&collector.endpoint(), "http/protobuf", &patient);
    telemetry.export(full());
    collector.wait_for(|spans| spans.len() == 4, LONG);
}

#[test]
fn a_batch_that_is_not_full_is_sent_after_its_time() {
    let collector = Collector::start();
    let telemetry = start(&collector.endpoint(), "grpc", &[("OTEL_BSP_SCHEDULE_DELAY", "1")]);
    telemetry.export(full());
    collector.wait_for(|spans| spans.len() == 4, LONG);
}

#[test]
fn a_collector_that_hangs_costs_spans_and_no_time_of_the_caller() {
    for (variable, _) in PROTOCOLS {
        let collector = Collector::start();
        collector.behave(Behaviour::Hang);
        let bounds = [("OTEL_BSP_MAX_QUEUE_SIZE", "50"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")];
        let telemetry = start(&collector.endpoint(), variable, &bounds);
        (1..=1_000).for_each(|id| telemetry.export(small(id)));
        assert!(telemetry.counts().dropped >= 900, "{:?}", telemetry.counts());
        let counts = shutdown(&telemetry, Duration::from_millis(50));
        assert_eq!((counts.exported, counts.failed + counts.dropped), (0, 1_000), "{counts:?}");
    }
}

#[test]
fn a_batch_that_hangs_is_given_up_and_the_next_one_arrives() {
    for (variable, _) in PROTOCOLS {
        let collector = Collector::start();
        collector.behave(Behaviour::Hang);
        let quick = [("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"), ("OTEL_BSP_SCHEDULE_DELAY", "1")];
        let telemetry = start(&collector.endpoint(), variable, &quick);
        telemetry.export(small(1));
        wait_until(|| telemetry.counts().failed == 1);
        collector.behave(Behaviour::Accept);
        telemetry.export(small(2));
        let spans = collector.wait_for(|spans| !spans.is_empty(), LONG);
        assert!(spans[0].trace_id.ends_with('2'), "{spans:?}");
    }
}

#[test]
fn a_collector_that_fails_costs_only_the_spans_of_that_time() {
    for (variable, _) in PROTOCOLS {
        let collector = Collector::start();
        collector.behave(Behaviour::Fail);
        let telemetry = start(&collector.endpoint(), variable, &[("OTEL_BSP_SCHEDULE_DELAY", "1")]);
        telemetry.export(small(1));
        wait_until(|| telemetry.counts().failed == 1);
        collector.behave(Behaviour::Accept);
        telemetry.export(full());
        let counts = shutdown(&telemetry, LONG);
        assert_eq!(counts, Counts { exported: 4, dropped: 0, failed: 1 });
    }
}

#[test]
fn a_collector_that_is_not_there_costs_only_spans() {
    for (variable, _) in PROTOCOLS {
        let gone = Collector::start().endpoint();
        let telemetry = start(&gone, variable, &[]);
        telemetry.export(full());
        let counts = shutdown(&telemetry, LONG);
        assert_eq!(counts, Counts { exported: 0, dropped: 0, failed: 4 });
    }
}

#[test]
fn what_a_busy_collector_did_not_take_is_sent_again_and_nothing_is_lost() {
    for (variable, _) in PROTOCOLS {
        for behaviour in [Behaviour::Busy, Behaviour::Reset] {
            let collector = Collector::start();
            collector.behave(behaviour);
            let delay = [("OTEL_BSP_SCHEDULE_DELAY", "1")];
            let telemetry = start(&collector.endpoint(), variable, &delay);
            telemetry.export(full());
            wait_until(|| !collector.requests().is_empty());
            collector.behave(Behaviour::Accept);
            telemetry.export(small(2));
            let counts = shutdown(&telemetry, LONG);
            assert_eq!(counts, Counts { exported: 5, dropped: 0, failed: 0 }, "{behaviour:?}");
            assert_eq!(collector.spans().len(), 5);
        }
    }
}

fn log(body: &str) -> Log {
    Log {
        time: at(5),
        severity: Severity::Info,
        body: body.into(),
        attributes: vec![KeyValue::new(attribute::FAAS_NAME, "hello")],
        trace_id: Some(0xabc_u128.into()),
        span_id: None,
    }
}

fn reading() -> Vec<Metric> {
    let durations = Histogram::new(&DURATIONS);
    durations.record(Duration::from_micros(12));
    let mut reading = Reading::default();
    reading.push(
        &instrument::HTTP_SERVER_REQUEST_DURATION,
        vec![KeyValue::new(attribute::HTTP_RESPONSE_STATUS_CODE, 200)],
        durations.shot(),
    );
    reading.push(&instrument::FAAS_COLDSTARTS, vec![], 3_u64);
    reading.push(&instrument::PROCESS_UPTIME, vec![], 1.5);
    reading.finish()
}

#[test]
fn metrics_and_logs_arrive_whole_over_both_protocols() {
    for (variable, _) in PROTOCOLS {
        let collector = Collector::start();
        let telemetry = start(&collector.endpoint(), variable, &[]);
        telemetry.observe(Arc::new(reading));
        telemetry.log(log("hello"));
        shutdown(&telemetry, LONG);
        let [duration, coldstarts, uptime] = <[Point; 3]>::try_from(collector.points()).unwrap();
        assert_eq!(
            (duration.metric.as_str(), duration.unit.as_str()),
            ("http.server.request.duration", "s")
        );
        assert_eq!(duration.attributes, [("http.response.status_code".into(), json!(200))].into());
        assert_eq!(duration.value, 1.0);
        assert_eq!(duration.buckets[1], (25e-6, 1));
        assert_eq!(duration.buckets[23], (600.0, 0));
        assert_eq!((coldstarts.value, uptime.value), (3.0, 1.5));
        let expected = LogRecord {
            body: json!("hello"),
            severity: "INFO".into(),
            attributes: [("faas.name".into(), json!("hello"))].into(),
            trace_id: "00000000000000000000000000000abc".into(),
        };
        assert_eq!(collector.logs(), [expected]);
        assert_eq!(telemetry.log_counts(), Counts { exported: 1, dropped: 0, failed: 0 });
    }
}

#[test]
fn metrics_are_sent_time_after_time() {
    let collector = Collector::start();
    let often = [("OTEL_METRIC_EXPORT_INTERVAL", "1")];
    let telemetry = start(&collector.endpoint(), "grpc", &often);
    telemetry.observe(Arc::new(reading));
    wait_until(|| collector.requests().len() >= 3);
}

#[test]
fn whatever_the_collector_does_metrics_and_logs_cost_the_caller_nothing() {
    for behaviour in [Behaviour::Hang, Behaviour::Fail, Behaviour::Busy, Behaviour::Reset] {
        let collector = Collector::start();
        collector.behave(behaviour);
        let settings = [
            ("OTEL_METRIC_EXPORT_INTERVAL", "1"),
            ("OTEL_BLRP_MAX_QUEUE_SIZE", "50"),
            ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "10"),
        ];
        let telemetry = start(&collector.endpoint(), "grpc", &settings);
        telemetry.observe(Arc::new(reading));
        (0..1_000).for_each(|_| telemetry.log(log("hello")));
        shutdown(&telemetry, Duration::from_millis(50));
        let counts = telemetry.log_counts();
        assert_eq!((counts.exported, counts.failed + counts.dropped), (0, 1_000), "{counts:?}");
        assert!(counts.dropped > 0, "{counts:?}");
    }
}

#[test]
fn what_comes_after_the_end_is_dropped_and_a_second_end_returns_at_once() {
    let collector = Collector::start();
    let telemetry = start(&collector.endpoint(), "grpc", &[]);
    shutdown(&telemetry, LONG);
    telemetry.export(small(1));
    let counts = shutdown(&telemetry, LONG);
    assert_eq!(counts, Counts { exported: 0, dropped: 1, failed: 0 });
}

#[test]
fn dropping_the_handle_ends_its_thread() {
    let collector = Collector::start();
    let telemetry = start(&collector.endpoint(), "grpc", &[]);
    let runs = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let mut names =
            tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.any(|name| name.trim() == "telemetry")
    };
    wait_until(runs);
    telemetry.export(small(1));
    drop(telemetry);
    wait_until(|| !runs());
}

#[test]
fn without_an_endpoint_nothing_runs_and_nothing_is_counted() {
    let config = Config {
        endpoint: None,
        service_name: "baton".into(),
        service_version: "1.2.3".into(),
        sample: 1.0,
    };
    let telemetry = Telemetry::start(&config, &Environment::default()).unwrap();
    telemetry.export(full());
    assert!(!telemetry.exports());
    assert_eq!(shutdown(&telemetry, LONG), Counts::default());
}

/// Waits for what nothing announces.
fn wait_until(is_so: impl Fn() -> bool) {
    while !is_so() {
        std::thread::yield_now();
    }
}
