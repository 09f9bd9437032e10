//! `GET /metrics`: the host's counters in the Prometheus text format.
//!
//! Names follow the OpenTelemetry semantic conventions as Prometheus spells them. Labels are the
//! function's name and the tier, so there are as many series as the manifest has functions, whatever
//! clients send.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::function::Function;
use crate::host::Host;
use crate::tier::Tier;

/// Upper bounds of the duration buckets in microseconds, from 10 µs to 600 s.
const BOUNDS: [u64; 24] = [
    10,
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
    600_000_000,
];

/// Durations, counted by bucket.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len()],
    /// Those past the last bound.
    beyond: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS.partition_point(|bound| *bound < us);
        self.buckets.get(at).unwrap_or(&self.beyond).fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn render(&self, name: &str, labels: &str, text: &mut String) {
        let mut count = 0;
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS) {
            count += bucket.load(Ordering::Relaxed);
            let le = Duration::from_micros(bound).as_secs_f64();
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{le}\"}} {count}");
        }
        count += self.beyond.load(Ordering::Relaxed);
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}");
        let _ = writeln!(text, "{name}_count{{{labels}}} {count}");
    }
}

/// The whole page.
#[must_use]
pub fn render(host: &Host) -> String {
    let functions = host.functions.load();
    let mut page = Page(String::new());
    page.family("http_server_request_duration_seconds", "histogram", "Duration of requests.");
    for function in functions.list() {
        for tier in [Tier::Wasm, Tier::Native] {
            let labels = format!("{},baton_tier=\"{}\"", label(function), tier.name());
            let durations = function.counts.durations(tier);
            durations.render("http_server_request_duration_seconds", &labels, &mut page.0);
        }
    }
    let each = |read: fn(&Function) -> u64| {
        functions.list().iter().map(move |f| (label(f), read(f))).collect::<Vec<_>>()
    };
    page.series(
        "http_server_active_requests",
        "gauge",
        "Requests in flight.",
        each(|f| f.gate.in_flight() as u64),
    );
    page.series(
        "baton_queue_length",
        "gauge",
        "Requests that wait for a place in their function.",
        each(|f| f.gate.waiting() as u64),
    );
    page.series(
        "faas_coldstarts_total",
        "counter",
        "Requests that waited for a load, an activation or a creation.",
        each(|f| f.counts.cold()),
    );
    page.series(
        "faas_errors_total",
        "counter",
        "Requests that failed on the server's side.",
        each(|f| f.counts.failed()),
    );
    page.series(
        "baton_requests_refused_total",
        "counter",
        "Requests that no tier answered.",
        each(|f| f.counts.refused()),
    );
    let guarded = || functions.list().iter().filter_map(|f| Some((f, f.guard.as_ref()?)));
    page.series(
        "baton_verify_total",
        "counter",
        "Requests that both tiers were to answer, by how the answers compared.",
        guarded().flat_map(|(f, guard)| {
            let row = |(outcome, count)| (format!("{},outcome=\"{outcome}\"", label(f)), count);
            guard.counts().map(row)
        }),
    );
    page.series(
        "baton_demoted",
        "gauge",
        "Whether Wasm alone answers because the builds differed.",
        guarded().map(|(f, guard)| (label(f), u64::from(guard.is_demoted()))),
    );
    let spans = host.observer.telemetry.counts();
    page.series(
        "baton_telemetry_spans_total",
        "counter",
        "Spans by what became of them.",
        [("exported", spans.exported), ("dropped", spans.dropped), ("failed", spans.failed)]
            .map(|(outcome, count)| (format!("outcome=\"{outcome}\""), count)),
    );
    if let Some(sandboxing) = &host.sandboxing {
        let (states, memory) = sandboxing.gauges();
        page.series("baton_sandboxes", "gauge", "Sandboxes by state.", states);
        let memory = [(String::new(), memory)];
        page.series("baton_pool_memory_bytes", "gauge", "Bytes of the budget in use.", memory);
    }
    page.0
}

fn label(function: &Function) -> String {
    let name = function.name().replace('\\', "\\\\").replace('"', "\\\"");
    format!("faas_name=\"{name}\"")
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn series(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        rows: impl IntoIterator<Item = (String, u64)>,
    ) {
        self.family(name, kind, help);
        for (labels, value) in rows {
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_its_bucket_and_all_above() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_micros(10));
        histogram.record(Duration::from_micros(11));
        histogram.record(Duration::from_secs(601));
        let mut text = String::new();
        histogram.render("d", "a=\"b\"", &mut text);
        assert!(text.contains("d_bucket{a=\"b\",le=\"0.00001\"} 1\n"), "{text}");
        assert!(text.contains("d_bucket{a=\"b\",le=\"0.000025\"} 2\n"), "{text}");
        assert!(text.contains("d_bucket{a=\"b\",le=\"600\"} 2\n"), "{text}");
        assert!(text.contains("d_bucket{a=\"b\",le=\"+Inf\"} 3\n"), "{text}");
        assert!(text.ends_with("d_count{a=\"b\"} 3\n"), "{text}");
    }
}
