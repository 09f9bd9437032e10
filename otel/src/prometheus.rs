//! Metrics in the Prometheus text format, named as the OpenTelemetry specification translates them:
//! dots become underscores, the unit is appended, counters end in `_total`.

use std::fmt::Write as _;

use opentelemetry::KeyValue;

use crate::metrics::{Data, Instrument, Kind, Metric, Shot};

/// The content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page for these metrics.
#[must_use]
pub fn render(metrics: &[Metric]) -> String {
    let mut text = String::new();
    for Metric { instrument, points } in metrics {
        let name = name(instrument);
        let kind = match instrument.kind {
            Kind::Counter => "counter",
            Kind::UpDownCounter | Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", instrument.doc);
        for point in points {
            let labels = labels(&point.attributes);
            match &point.data {
                Data::Whole(value) => sample(&mut text, &name, &labels, value),
                Data::Real(value) => sample(&mut text, &name, &labels, value),
                Data::Histogram(shot) => histogram(&mut text, &name, &labels, shot),
            }
        }
    }
    text
}

/// The name of a metric, of histograms without `_bucket`, `_sum` and `_count`.
#[must_use]
pub fn name(instrument: &Instrument) -> String {
    let mut name = instrument.name.replace('.', "_");
    name.push_str(match instrument.unit {
        "s" => "_seconds",
        "By" => "_bytes",
        _ => "",
    });
    if instrument.kind == Kind::Counter {
        name.push_str("_total");
    }
    name
}

/// The label that stands for an attribute.
#[must_use]
pub fn label(key: &str) -> String {
    key.replace('.', "_")
}

fn labels(attributes: &[KeyValue]) -> String {
    let label = |pair: &KeyValue| {
        let value = pair.value.as_str();
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{}=\"{value}\"", label(pair.key.as_str()))
    };
    attributes.iter().map(label).collect::<Vec<_>>().join(",")
}

fn sample(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = match labels {
        "" => writeln!(text, "{name} {value}"),
        _ => writeln!(text, "{name}{{{labels}}} {value}"),
    };
}

fn histogram(text: &mut String, name: &str, labels: &str, shot: &Shot) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut count = 0;
    for (bucket, bound) in shot.counts.iter().zip(shot.buckets.bounds()) {
        count += bucket;
        let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
    }
    let count = shot.count();
    let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    sample(text, &format!("{name}_sum"), labels, shot.sum);
    sample(text, &format!("{name}_count"), labels, count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Histogram, Reading, SIZES, instrument};

    #[test]
    fn a_histogram_becomes_cumulative_buckets_and_text_is_escaped() {
        let histogram = Histogram::new(&SIZES);
        [64, 65, u64::MAX / 2].into_iter().for_each(|size| histogram.add(size));
        let mut reading = Reading::default();
        let name = || vec![KeyValue::new("faas.name", "a\"b")];
        reading.push(&instrument::HTTP_SERVER_REQUEST_BODY_SIZE, name(), histogram.shot());
        reading.push(&instrument::FAAS_ERRORS, name(), 3_u64);
        reading.push(&instrument::PROCESS_UPTIME, vec![], 1.5);
        let page = render(&reading.finish());
        let first: Vec<&str> = page.lines().take(4).collect();
        insta::assert_snapshot!(first.join("\n"), @r#"
        # HELP http_server_request_body_size_bytes Bytes of request bodies, as far as they were read.
        # TYPE http_server_request_body_size_bytes histogram
        http_server_request_body_size_bytes_bucket{faas_name="a\"b",le="64"} 1
        http_server_request_body_size_bytes_bucket{faas_name="a\"b",le="256"} 2
        "#);
        let last: Vec<&str> = page.lines().skip(15).collect();
        insta::assert_snapshot!(last.join("\n"), @r#"
        http_server_request_body_size_bytes_bucket{faas_name="a\"b",le="+Inf"} 3
        http_server_request_body_size_bytes_sum{faas_name="a\"b"} 9223372036854776000
        http_server_request_body_size_bytes_count{faas_name="a\"b"} 3
        # HELP faas_errors_total Requests that failed on the server's side; clients that left are none of them.
        # TYPE faas_errors_total counter
        faas_errors_total{faas_name="a\"b"} 3
        # HELP process_uptime_seconds Time since the host process began to serve.
        # TYPE process_uptime_seconds gauge
        process_uptime_seconds 1.5
        "#);
    }
}
