//! Metrics, as Prometheus reads them and as a collector receives them.

use std::collections::BTreeSet;
use std::time::Duration;

use baton_otel::metrics::{INSTRUMENTS, Instrument, Kind};
use baton_otel::prometheus;
use baton_tests::baton::{Baton, Setup};
use baton_tests::client::{request, tier_of};
use baton_tests::collector::Collector;
use baton_tests::wait_for;
use http::Method;

const PATIENCE: Duration = Duration::from_secs(30);

#[track_caller]
pub(crate) fn page(baton: &Baton) -> String {
    String::from_utf8(baton.ask_admin("/metrics").unwrap().body().to_vec()).unwrap()
}

/// The value of the first sample that begins like this.
fn sample(page: &str, begins: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.starts_with(begins))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// A Baton that has done everything that is counted.
fn busy(setup: Setup) -> Baton {
    let baton = setup.hybrid("misbehaving").with("verify = { sample = 0.000001 }").start();
    baton.until_native("/misbehaving");
    assert_eq!(baton.get("/nowhere").status(), 404);
    // A sandbox ends, and another is made.
    assert_eq!(tier_of(&baton.get("/misbehaving/garbage")), "wasm");
    baton.until_native("/misbehaving");
    wait_for("the end of the first sandbox is counted", || {
        page(&baton).contains("baton_pool_removals_total{").then_some(())
    });
    baton
}

#[test]
fn every_metric_of_the_table_is_in_the_page_and_none_besides() {
    let page = page(&busy(Setup::new()));
    let said: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let wanted: Vec<String> =
        INSTRUMENTS.iter().map(|instrument| prometheus::name(instrument)).collect();
    assert_eq!(said, wanted.iter().map(String::as_str).collect());
}

#[test]
fn every_metric_of_the_table_arrives_over_otlp_with_its_unit_attributes_and_buckets() {
    let collector = Collector::start();
    let setup = Setup::new()
        .telemetry(&format!("endpoint = \"{}\"", collector.endpoint()))
        .variable("OTEL_METRIC_EXPORT_INTERVAL", "50");
    let _baton = busy(setup);
    let missing = |collector: &Collector| {
        let points = collector.points();
        let is_there = |wanted: &&&Instrument| points.iter().any(|p| p.metric == wanted.name);
        INSTRUMENTS.iter().find(|wanted| !is_there(wanted)).map(|wanted| wanted.name)
    };
    collector.until(|collector| missing(collector).is_none().then_some(()), PATIENCE);
    for point in collector.points() {
        let instrument = INSTRUMENTS.iter().find(|known| known.name == point.metric).unwrap();
        assert_eq!(point.unit, instrument.unit, "{point:?}");
        for key in point.attributes.keys() {
            assert!(instrument.attributes.contains(&key.as_str()), "{key} of {point:?}");
        }
        if let Kind::Histogram(buckets) = instrument.kind {
            let bounds: Vec<f64> = point.buckets.iter().map(|(bound, _)| *bound).collect();
            assert_eq!(bounds, buckets.bounds().chain([f64::INFINITY]).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_request_is_counted_by_method_status_and_tier() {
    let baton = Setup::new().wasm("misbehaving").start();
    for _ in 0..3 {
        assert_eq!(baton.get("/misbehaving/headers").status(), 200);
    }
    let brew = request(Method::from_bytes(b"BREW").unwrap(), "/misbehaving/headers", "");
    assert_eq!(baton.ask(brew).status(), 200);
    assert_eq!(baton.get("/misbehaving/crash").status(), 500);
    let page = page(&baton);
    let count = |method: &str, status: u16| {
        let begins = format!(
            "http_server_request_duration_seconds_count{{http_request_method=\"{method}\",\
             http_response_status_code=\"{status}\","
        );
        sample(&page, &begins)
    };
    assert_eq!(count("GET", 200), Some(3.0), "{page}");
    assert_eq!(count("_OTHER", 200), Some(1.0), "{page}");
    assert_eq!(count("GET", 500), Some(1.0), "{page}");
    assert!(page.contains("error_type=\"trapped\""), "{page}");
    assert_eq!(sample(&page, "faas_errors_total{faas_name=\"misbehaving\"}"), Some(1.0));
    let invocations = "faas_invocations_total{faas_name=\"misbehaving\",baton_tier=\"wasm\"}";
    assert_eq!(sample(&page, invocations), Some(4.0), "{page}");
}

#[test]
fn a_thousand_functions_and_hostile_paths_make_no_more_series_than_the_manifest_has_functions() {
    let mut setup = Setup::new();
    for i in 0..1_000 {
        setup = setup.function(&format!("f{i}"), "wasm").component("hello");
    }
    let baton = setup.start();
    for i in 0..1_000 {
        assert_eq!(baton.get(&format!("/f{i}/{i}?secret={i}")).status(), 200);
        assert_eq!(baton.get(&format!("/{i}/nowhere")).status(), 404);
    }
    let page = page(&baton);
    let series = |name: &str| page.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(series("http_server_request_duration_seconds_count{"), 1_001);
    assert_eq!(series("faas_invocations_total{"), 1_000);
    assert!(!page.contains("secret") && !page.contains("nowhere"));
}
