//! Every metric of the table changes when something happens that it counts, by as much as it should.
//!
//! A cause is a Baton, what happens to it, and what that changes in `/metrics`; each is a test. One more
//! test finds the metrics that no cause changes.

use std::collections::BTreeSet;
use std::fmt;

use baton_otel::metrics::{INSTRUMENTS, Instrument, Kind, instrument as i};
use baton_otel::prometheus;
use baton_tests::baton::{Baton, Setup};
use baton_tests::client::{Raw, assert_problem, tier_of};
use baton_tests::collector::{Behaviour, Collector};
use baton_tests::origin::Origin;
use baton_tests::{wait_for, wait_until};
use serde_json::json;

use crate::metrics::page;

const MIB: f64 = 1_048_576.0;

/// Some samples of a metric, added up.
#[derive(Clone)]
struct Sample {
    instrument: &'static Instrument,
    /// `_count` or `_sum` of a histogram.
    part: &'static str,
    labels: &'static [(&'static str, &'static str)],
}

type Labels = &'static [(&'static str, &'static str)];

fn value(instrument: &'static Instrument, labels: Labels) -> Sample {
    assert!(!matches!(instrument.kind, Kind::Histogram(_)), "count or sum of {}", instrument.name);
    Sample { instrument, part: "", labels }
}

fn count(instrument: &'static Instrument, labels: Labels) -> Sample {
    Sample { instrument, part: "_count", labels }
}

fn sum(instrument: &'static Instrument, labels: Labels) -> Sample {
    Sample { instrument, part: "_sum", labels }
}

impl Sample {
    /// It grows by exactly so much.
    fn by(self, wanted: f64) -> Row {
        Row { sample: self, wanted: Change::By(wanted) }
    }

    /// It grows, by more than so much.
    fn up(self, least: f64) -> Row {
        Row { sample: self, wanted: Change::Up(least) }
    }

    /// It was something else, and is so much then.
    fn to(self, wanted: f64) -> Row {
        Row { sample: self, wanted: Change::To(wanted) }
    }

    /// It is so much from the start.
    fn is(self, wanted: f64) -> Row {
        Row { sample: self, wanted: Change::Is(wanted) }
    }

    fn read(&self, page: &str) -> f64 {
        let name = format!("{}{}", prometheus::name(self.instrument), self.part);
        let of_it = page.lines().filter_map(|line| line.strip_prefix(&name));
        let of_it = of_it.filter(|rest| rest.starts_with(['{', ' ']));
        let labels = self.labels.iter();
        let labels: Vec<String> =
            labels.map(|(key, value)| format!("{}=\"{value}\"", prometheus::label(key))).collect();
        let of_it = of_it.filter(|rest| labels.iter().all(|label| rest.contains(label)));
        of_it.filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} {:?}", self.instrument.name, self.part, self.labels)
    }
}

#[derive(Clone, Copy, Debug)]
enum Change {
    By(f64),
    Up(f64),
    To(f64),
    Is(f64),
}

impl Change {
    fn happened(self, before: f64, now: f64) -> bool {
        let is = |wanted: f64| (now - wanted).abs() < 1e-9;
        match self {
            Self::By(wanted) => is(before + wanted),
            Self::Up(least) => now > before + least,
            Self::To(wanted) => is(wanted) && now != before,
            Self::Is(wanted) => is(wanted),
        }
    }
}

/// What a cause changes.
struct Row {
    sample: Sample,
    wanted: Change,
}

/// Has something happen and sees it in the metrics, while what it made is there still.
#[track_caller]
fn check<T, H>(
    given: impl FnOnce() -> (Baton, T),
    happens: impl FnOnce(&Baton, &T) -> H,
    rows: &[Row],
) {
    let (baton, with) = given();
    let before = page(&baton);
    let _made = happens(&baton, &with);
    for Row { sample, wanted } in rows {
        let before = sample.read(&before);
        let mut last = before;
        let what = format!("{sample}: {wanted:?}, it was {before}");
        wait_until(&what, || {
            last = sample.read(&page(&baton));
            wanted.happened(before, last)
        });
    }
}

/// Each cause as a test, and one for the metrics that none of them changes.
macro_rules! causes {
    ($($name:ident { given: $given:expr, happens: $happens:expr, changes: [$($row:expr),+ $(,)?] })+) => {
        $(#[test]
        fn $name() {
            check($given, $happens, &[$($row),+]);
        })+

        #[test]
        fn every_metric_of_the_table_has_a_cause_that_changes_it() {
            let rows = [$($($row),+),+];
            let named: BTreeSet<&str> = rows.iter().map(|row| row.sample.instrument.name).collect();
            let all: BTreeSet<&str> = INSTRUMENTS.iter().map(|instrument| instrument.name).collect();
            assert_eq!(named, all);
            for Row { sample, .. } in &rows {
                for (key, _) in sample.labels {
                    assert!(sample.instrument.attributes.contains(key), "{key} of {sample}");
                }
            }
        }
    };
}

fn alone(setup: Setup) -> (Baton, ()) {
    (setup.start(), ())
}

/// A request whose answer nobody waits for.
#[track_caller]
fn send(baton: &Baton, path: &str, body: &str) -> Raw {
    let mut raw = baton.raw();
    let length = body.len().max(1);
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
    raw.write(head).unwrap();
    raw
}

/// A request to `misbehaving` that is at work until its body ends, which it never does.
#[track_caller]
fn hold(baton: &Baton, function: &str) -> Raw {
    let raw = send(baton, &format!("/{function}/hold"), "");
    wait_until("it is at work", || baton.in_flight(function) == 1);
    raw
}

/// Two native functions, of whose sandboxes the budget holds one.
fn narrow() -> Setup {
    ["a", "b"]
        .into_iter()
        .fold(Setup::new().pool("parked = 1\nmemory = \"100MiB\""), |setup, name| {
            setup.function(name, "native").executable("misbehaving")
        })
}

/// A function whose traces and lines go to this collector.
fn told(collector: &Collector, setup: Setup) -> Setup {
    setup
        .telemetry(&format!("endpoint = \"{}\"", collector.endpoint()))
        .variable("OTEL_BSP_SCHEDULE_DELAY", "10")
        .variable("OTEL_BLRP_SCHEDULE_DELAY", "10")
}

/// Components that have never been compiled here, two of them the same.
fn compiled(cache: &tempfile::TempDir) -> Setup {
    let setup = Setup::new().host(&format!("cache.dir = {:?}", cache.path()));
    setup.wasm("hello").wasm("traced")
}

const NATIVE: (&str, &str) = ("baton.tier", "native");
const WASM: (&str, &str) = ("baton.tier", "wasm");

causes! {
    a_request_to_wasm {
        given: || alone(Setup::new().wasm("misbehaving")),
        happens: |baton, ()| {
            assert_eq!(baton.post("/misbehaving/hold", vec![b'x'; 100]).body(), "held\n");
        },
        changes: [
            count(&i::HTTP_SERVER_REQUEST_DURATION, &[
                ("http.request.method", "POST"),
                ("http.response.status_code", "200"),
                ("http.route", "/misbehaving/*"),
                ("url.scheme", "http"),
                ("network.protocol.version", "1.1"),
                WASM,
            ]).by(1.0),
            sum(&i::HTTP_SERVER_REQUEST_DURATION, &[]).up(0.0),
            count(&i::HTTP_SERVER_REQUEST_BODY_SIZE, &[WASM]).by(1.0),
            sum(&i::HTTP_SERVER_REQUEST_BODY_SIZE, &[WASM]).by(100.0),
            count(&i::HTTP_SERVER_RESPONSE_BODY_SIZE, &[WASM]).by(1.0),
            sum(&i::HTTP_SERVER_RESPONSE_BODY_SIZE, &[WASM]).by(5.0),
            count(&i::FAAS_INVOKE_DURATION, &[WASM]).by(1.0),
            sum(&i::FAAS_INVOKE_DURATION, &[WASM]).up(0.0),
            value(&i::FAAS_INVOCATIONS, &[WASM]).by(1.0),
            count(&i::FAAS_CPU_USAGE, &[WASM]).by(1.0),
            count(&i::BATON_QUEUE_WAIT, &[]).by(1.0),
            value(&i::BATON_TIER_DECISIONS, &[WASM, ("baton.tier.reason", "policy")]).by(1.0),
            value(&i::FAAS_ERRORS, &[]).by(0.0),
        ]
    }

    a_request_for_nothing {
        given: || alone(Setup::new().wasm("hello")),
        happens: |baton, ()| assert_eq!(baton.get("/nowhere").status(), 404),
        changes: [
            count(&i::HTTP_SERVER_REQUEST_DURATION, &[("http.response.status_code", "404")]).by(1.0),
            value(&i::FAAS_INVOCATIONS, &[]).by(0.0),
        ]
    }

    a_trap {
        given: || alone(Setup::new().wasm("misbehaving")),
        happens: |baton, ()| drop(assert_problem(&baton.get("/misbehaving/crash"), "trapped", 500)),
        changes: [
            value(&i::FAAS_ERRORS, &[("faas.name", "misbehaving")]).by(1.0),
            value(&i::FAAS_INVOCATIONS, &[]).by(0.0),
            count(&i::HTTP_SERVER_REQUEST_DURATION, &[
                ("http.response.status_code", "500"),
                ("error.type", "trapped"),
            ]).by(1.0),
        ]
    }

    a_timeout {
        given: || alone(Setup::new().wasm("misbehaving").with("limits.timeout = \"100ms\"")),
        happens: |baton, ()| drop(assert_problem(&baton.get("/misbehaving/sleep"), "timeout", 504)),
        changes: [
            value(&i::FAAS_TIMEOUTS, &[("faas.name", "misbehaving")]).by(1.0),
            value(&i::FAAS_ERRORS, &[("faas.name", "misbehaving")]).by(1.0),
            count(&i::FAAS_INVOKE_DURATION, &[WASM]).by(1.0),
            sum(&i::FAAS_INVOKE_DURATION, &[WASM]).up(0.05),
        ]
    }

    a_function_that_computes {
        given: || {
            alone(Setup::new().wasm("misbehaving").with("limits.cpu_time = \"500ms\""))
        },
        happens: |baton, ()| drop(assert_problem(&baton.get("/misbehaving/loop"), "timeout", 504)),
        changes: [
            sum(&i::FAAS_CPU_USAGE, &[WASM]).up(0.4),
            value(&i::PROCESS_CPU_TIME, &[("cpu.mode", "user")]).up(0.2),
            value(&i::BATON_RUNTIME_BUSY_TIME, &[]).up(0.4),
            value(&i::PROCESS_UPTIME, &[]).up(0.4),
        ]
    }

    requests_past_a_functions_places {
        given: || {
            let limits = "limits.concurrency = 1\nlimits.queue = 1";
            alone(Setup::new().wasm("misbehaving").with(limits))
        },
        happens: |baton, ()| {
            let first = hold(baton, "misbehaving");
            let waits = send(baton, "/misbehaving", "x");
            let waiting = || baton.administration("/v1/functions/misbehaving")["waiting"].clone();
            wait_until("one waits", || waiting() == 1);
            assert_problem(&baton.get("/misbehaving"), "saturated", 503);
            (first, waits)
        },
        changes: [
            value(&i::HTTP_SERVER_ACTIVE_REQUESTS, &[("faas.name", "misbehaving")]).to(1.0),
            value(&i::BATON_QUEUE_LENGTH, &[("faas.name", "misbehaving")]).to(1.0),
            value(&i::BATON_REQUESTS_REFUSED, &[("faas.name", "misbehaving")]).by(1.0),
            value(&i::BATON_WASM_INSTANCES, &[]).to(1.0),
            value(&i::BATON_WASM_INSTANCES_LIMIT, &[]).is(1.0),
        ]
    }

    functions_that_need_more_instances {
        given: || alone(Setup::new().wasm("hello").with("limits.concurrency = 3")),
        happens: |baton, ()| {
            let more = Setup::new().wasm("hello").with("limits.concurrency = 7");
            baton.reload(&more);
            baton.until_logged("replaced");
        },
        changes: [value(&i::BATON_WASM_INSTANCES_LIMIT, &[]).to(7.0)]
    }

    the_first_request_to_a_native_build {
        given: || {
            let (baton, ()) = alone(Setup::new().native("hello").pool("parked = 2"));
            wait_until("two are parked", || {
                baton.sandboxes().iter().filter(|sandbox| sandbox.state == "parked").count() == 2
            });
            (baton, ())
        },
        happens: |baton, ()| assert_eq!(tier_of(&baton.get("/hello")), "native"),
        changes: [
            value(&i::FAAS_COLDSTARTS, &[("faas.name", "hello")]).by(1.0),
            value(&i::BATON_POOL_LEASES, &[("faas.name", "hello")]).by(1.0),
            count(&i::BATON_POOL_LEASE_WAIT, &[("faas.name", "hello")]).by(1.0),
            sum(&i::BATON_POOL_LEASE_WAIT, &[("faas.name", "hello")]).up(0.0),
            count(&i::HTTP_CLIENT_REQUEST_DURATION, &[("baton.client", "forward")]).by(1.0),
            count(&i::FAAS_INIT_DURATION, &[NATIVE]).by(1.0),
            sum(&i::FAAS_INIT_DURATION, &[NATIVE]).up(0.0),
            count(&i::FAAS_INVOKE_DURATION, &[NATIVE]).by(1.0),
            value(&i::FAAS_INVOCATIONS, &[NATIVE]).by(1.0),
            value(&i::BATON_TIER_DECISIONS, &[NATIVE, ("baton.tier.reason", "policy")]).by(1.0),
            value(&i::BATON_POOL_STARTS, &[("baton.outcome", "ready")]).by(1.0),
            value(&i::BATON_POOL_STARTS, &[("baton.outcome", "failed")]).by(0.0),
            value(&i::BATON_POOL_PARKED_MISSES, &[]).by(0.0),
            value(&i::BATON_SANDBOXES, &[("baton.sandbox.state", "warm")]).to(1.0),
            // Another was created and parked in its stead.
            value(&i::BATON_POOL_CREATIONS, &[]).by(1.0),
            value(&i::BATON_POOL_MEMORY, &[]).by(64.0 * MIB),
        ]
    }

    a_request_for_which_nothing_is_parked {
        given: || alone(Setup::new().native("hello").pool("parked = 0")),
        happens: |baton, ()| assert_eq!(tier_of(&baton.get("/hello")), "native"),
        changes: [
            value(&i::BATON_POOL_PARKED_MISSES, &[]).by(1.0),
            value(&i::BATON_POOL_CREATIONS, &[]).by(1.0),
        ]
    }

    a_native_build_that_does_not_start {
        given: || alone(Setup::new().native("misbehaving").with("env.MISBEHAVE = \"exit\"")),
        happens: |baton, ()| drop(assert_problem(&baton.get("/misbehaving"), "crashed", 502)),
        changes: [value(&i::BATON_POOL_STARTS, &[("baton.outcome", "failed")]).up(0.0)]
    }

    a_sandbox_that_nobody_needs {
        given: || {
            alone(Setup::new().native("hello").with("sandboxes.idle_timeout = \"50ms\""))
        },
        happens: |baton, ()| assert_eq!(tier_of(&baton.get("/hello")), "native"),
        changes: [
            value(&i::BATON_POOL_REMOVALS, &[("baton.sandbox.reason", "idle")]).by(1.0),
            count(&i::FAAS_MEM_USAGE, &[NATIVE]).by(1.0),
            sum(&i::FAAS_MEM_USAGE, &[NATIVE]).up(10_000.0),
            count(&i::FAAS_CPU_USAGE, &[NATIVE]).by(1.0),
            sum(&i::FAAS_CPU_USAGE, &[NATIVE]).up(0.0),
        ]
    }

    a_sandbox_past_its_memory {
        given: || alone(Setup::new().native("misbehaving")),
        happens: |baton, ()| drop(assert_problem(&baton.get("/misbehaving/allocate"), "crashed", 502)),
        changes: [
            value(&i::BATON_POOL_OOM_KILLS, &[]).by(1.0),
            value(&i::BATON_POOL_REMOVALS, &[("baton.sandbox.reason", "oom")]).by(1.0),
            count(&i::HTTP_SERVER_REQUEST_DURATION, &[
                ("http.response.status_code", "502"),
                ("error.type", "out-of-memory"),
            ]).by(1.0),
            sum(&i::FAAS_MEM_USAGE, &[NATIVE]).up(60.0 * MIB),
        ]
    }

    a_sandbox_that_makes_room_for_another {
        given: || alone(narrow()),
        happens: |baton, ()| {
            assert_eq!(tier_of(&baton.get("/a")), "native");
            assert_eq!(tier_of(&baton.get("/b")), "native");
        },
        changes: [
            value(&i::BATON_POOL_REMOVALS, &[("baton.sandbox.reason", "evicted")]).by(1.0),
            value(&i::BATON_POOL_MEMORY_LIMIT, &[]).is(100.0 * MIB),
        ]
    }

    a_start_that_waits_for_memory {
        given: || alone(narrow()),
        happens: |baton, ()| (hold(baton, "a"), send(baton, "/b", "x")),
        changes: [value(&i::BATON_POOL_QUEUE_LENGTH, &[]).to(1.0)]
    }

    a_sandbox_that_fails_with_a_request {
        given: || {
            let verify = "verify = { sample = 1.0, threshold = 1000 }";
            let (baton, ()) = alone(Setup::new().hybrid("misbehaving").with(verify));
            baton.until_native("/misbehaving");
            (baton, ())
        },
        happens: |baton, ()| assert_eq!(tier_of(&baton.get("/misbehaving/garbage")), "wasm"),
        changes: [
            count(&i::HTTP_CLIENT_REQUEST_DURATION, &[
                ("baton.client", "forward"),
                ("error.type", "sandbox-gone"),
            ]).by(1.0),
            value(&i::BATON_TIER_DECISIONS, &[WASM, ("baton.tier.reason", "sandbox-gone")]).by(1.0),
            value(&i::BATON_VERIFY_COMPARISONS, &[("baton.outcome", "skipped")]).by(1.0),
        ]
    }

    answers_that_are_compared {
        given: || {
            let verify = "verify = { sample = 1.0, threshold = 1 }";
            let (baton, ()) = alone(Setup::new().hybrid("misbehaving").with(verify));
            baton.until_parked();
            (baton, ())
        },
        happens: |baton, ()| {
            assert_eq!(baton.get("/misbehaving").status(), 200);
            wait_until("the answers were compared", || {
                baton.administration("/v1/functions/misbehaving")["verify"]["agreed"] == 1
            });
            assert_eq!(baton.get("/misbehaving/divergent").status(), 200);
        },
        changes: [
            value(&i::BATON_VERIFY_COMPARISONS, &[("baton.outcome", "agreed")]).by(1.0),
            value(&i::BATON_VERIFY_COMPARISONS, &[("baton.outcome", "differed")]).by(1.0),
            value(&i::BATON_VERIFY_DEMOTED, &[("faas.name", "misbehaving")]).to(1.0),
        ]
    }

    requests_that_are_learnt_from {
        given: || alone(Setup::new().function("hello", "adaptive").component("hello").executable("hello")),
        happens: |baton, ()| (0..20).for_each(|_| drop(baton.get("/hello"))),
        changes: [
            value(&i::BATON_TIER_ESTIMATE, &[("baton.tier.estimate.of", "wasm")]).up(0.0),
        ]
    }

    a_request_to_elsewhere {
        given: || {
            let origin = Origin::saying("hello");
            let allow = format!("egress.allow = [\"http://{}\"]", origin.address);
            (Setup::new().wasm("server-reply").with(&allow).start(), origin)
        },
        happens: |baton, origin| {
            let asked = json!({ "server": origin.url("/"), "message": "hi", "measure": false });
            assert_eq!(baton.post("/server-reply", asked.to_string()).status(), 200);
        },
        changes: [
            count(&i::HTTP_CLIENT_REQUEST_DURATION, &[("baton.client", "egress")]).by(1.0),
        ]
    }

    components_that_are_compiled {
        given: || {
            let cache = tempfile::tempdir().unwrap();
            (compiled(&cache).start(), cache)
        },
        happens: |_, _| {},
        changes: [
            value(&i::BATON_COMPONENT_LOADS, &[("baton.component.source", "compile")]).is(2.0),
            value(&i::BATON_COMPONENT_LOADS, &[("baton.component.source", "cache")]).is(0.0),
            count(&i::BATON_COMPONENT_LOAD_DURATION, &[("baton.component.source", "compile")]).is(2.0),
            sum(&i::BATON_COMPONENT_LOAD_DURATION, &[]).up(-1.0),
            count(&i::FAAS_INIT_DURATION, &[WASM]).is(2.0),
        ]
    }

    components_that_were_compiled_before {
        given: || {
            let cache = tempfile::tempdir().unwrap();
            assert!(compiled(&cache).start().stop().success());
            (compiled(&cache).start(), cache)
        },
        happens: |_, _| {},
        changes: [
            value(&i::BATON_COMPONENT_LOADS, &[("baton.component.source", "compile")]).is(0.0),
            value(&i::BATON_COMPONENT_LOADS, &[("baton.component.source", "cache")]).is(2.0),
            count(&i::BATON_COMPONENT_LOAD_DURATION, &[("baton.component.source", "cache")]).is(2.0),
        ]
    }

    what_a_function_says {
        given: || {
            let collector = Collector::start();
            (told(&collector, Setup::new().wasm("traced")).start(), collector)
        },
        happens: |baton, _| assert_eq!(baton.get("/traced").status(), 200),
        changes: [
            value(&i::BATON_FUNCTION_LINES, &[("baton.outcome", "span")]).by(2.0),
            value(&i::BATON_FUNCTION_LINES, &[("baton.outcome", "logged")]).up(0.0),
            // The request's four, and the function's own two.
            value(&i::BATON_TELEMETRY_SPANS, &[("baton.outcome", "exported")]).by(6.0),
            value(&i::BATON_TELEMETRY_LOGS, &[("baton.outcome", "exported")]).up(0.0),
            value(&i::BATON_TELEMETRY_SPANS, &[("baton.outcome", "dropped")]).by(0.0),
            value(&i::BATON_TELEMETRY_SPANS, &[("baton.outcome", "failed")]).by(0.0),
        ]
    }

    a_collector_that_takes_nothing {
        given: || {
            let collector = Collector::start();
            collector.behave(Behaviour::Fail);
            (told(&collector, Setup::new().wasm("traced")).start(), collector)
        },
        happens: |baton, _| assert_eq!(baton.get("/traced").status(), 200),
        changes: [
            value(&i::BATON_TELEMETRY_SPANS, &[("baton.outcome", "failed")]).by(6.0),
            value(&i::BATON_TELEMETRY_LOGS, &[("baton.outcome", "failed")]).up(0.0),
        ]
    }

    a_queue_that_is_too_short {
        given: || {
            let collector = Collector::start();
            let setup = told(&collector, Setup::new().wasm("hello"));
            (setup.variable("OTEL_BSP_MAX_QUEUE_SIZE", "3").start(), collector)
        },
        happens: |baton, _| assert_eq!(baton.get("/hello").status(), 200),
        changes: [
            value(&i::BATON_TELEMETRY_SPANS, &[("baton.outcome", "dropped")]).by(4.0),
        ]
    }

    a_log_that_nobody_reads {
        given: || {
            let (unread, log) = std::io::pipe().unwrap();
            (Setup::new().wasm("hello").log_to(log.into()).start(), unread)
        },
        happens: |baton, _| {
            let long = "x".repeat(30_000);
            wait_for("its buffer is full", || {
                let _ = baton.get(&format!("/{long}"));
                let sample = value(&i::BATON_LOG_DROPPED, &[("baton.log", "access")]);
                (sample.read(&page(baton)) > 0.0).then_some(())
            });
        },
        changes: [value(&i::BATON_LOG_DROPPED, &[("baton.log", "access")]).up(0.0)]
    }

    connections_that_stay_open {
        given: || alone(Setup::new().wasm("hello")),
        happens: |baton, ()| {
            let head = format!("GET /hello HTTP/1.1\r\nHost: a\r\nX-Long: {}", "x".repeat(50_000));
            let mut all: Vec<Raw> = (0..200).map(|_| baton.raw()).collect();
            all.iter_mut().for_each(|raw| raw.write(&head).unwrap());
            all
        },
        changes: [
            value(&i::PROCESS_UNIX_FILE_DESCRIPTOR_COUNT, &[]).up(190.0),
            value(&i::BATON_RUNTIME_TASKS, &[]).up(190.0),
            value(&i::PROCESS_MEMORY_USAGE, &[]).up(5.0 * MIB),
        ]
    }

    components_that_are_loaded_at_once {
        given: || alone(Setup::new().wasm("hello")),
        happens: |baton, ()| {
            let add = |setup: Setup, n| setup.function(&format!("f{n}"), "wasm").component("hello");
            baton.reload(&(0..20).fold(Setup::new().wasm("hello"), add));
            wait_until("all are there", || baton.get("/f19").status() == 200);
        },
        changes: [value(&i::PROCESS_THREAD_COUNT, &[]).up(0.0)]
    }

    a_machine_with_one_thread_and_more_guests_than_its_queue_holds {
        given: || {
            let setup = Setup::new().wasm("misbehaving").with("limits.concurrency = 400");
            alone(setup.variable("TOKIO_WORKER_THREADS", "1"))
        },
        happens: |baton, ()| {
            let all: Vec<Raw> = (0..400).map(|_| send(baton, "/misbehaving/loop", "x")).collect();
            all
        },
        changes: [
            value(&i::BATON_RUNTIME_WORKERS, &[]).is(1.0),
            value(&i::BATON_RUNTIME_QUEUE_LENGTH, &[]).up(0.0),
        ]
    }
}
