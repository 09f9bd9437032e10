//! The dashboard and the alert rules name only metrics that are emitted.

use std::collections::BTreeSet;

use baton_otel::metrics::INSTRUMENTS;
use baton_otel::prometheus;

const DASHBOARD: &str = include_str!("../../docs/observability/grafana.json");
const ALERTS: &str = include_str!("../../docs/observability/alerts.yaml");

/// `text` without what stands between these two, brackets included.
fn without(text: &str, open: &str, close: char) -> String {
    let mut parts = text.split(open);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push(' ');
        kept.push_str(part.split_once(close).map_or("", |(_, rest)| rest));
    }
    kept
}

/// The metrics that a PromQL expression names.
fn metrics(expression: &str) -> BTreeSet<String> {
    let text = without(&without(expression, "{", '}'), "by (", ')');
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = ["http_", "faas_", "baton_", "process_"];
    words
        .filter(|word| ours.iter().any(|prefix| word.starts_with(prefix)))
        .map(|word| {
            let ends = ["_bucket", "_count", "_sum"];
            ends.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
        })
        .collect()
}

#[track_caller]
fn assert_emitted(expressions: &[String]) {
    let emitted: BTreeSet<String> =
        INSTRUMENTS.iter().map(|instrument| prometheus::name(instrument)).collect();
    for expression in expressions {
        let named = metrics(expression);
        assert!(!named.is_empty(), "{expression} names no metric");
        let unknown: Vec<_> = named.difference(&emitted).collect();
        assert!(unknown.is_empty(), "{expression} names {unknown:?}, which nothing emits");
    }
}

#[test]
fn the_dashboard_names_only_metrics_that_are_emitted() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions: Vec<String> =
        targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(expressions.len() > 20);
    assert_emitted(&expressions);
}

#[test]
fn the_alert_rules_name_only_metrics_that_are_emitted() {
    let lines = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let expressions: Vec<String> = lines.map(str::to_owned).collect();
    assert_eq!(expressions.len(), ALERTS.matches("- alert:").count());
    assert_emitted(&expressions);
}
