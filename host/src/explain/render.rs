//! The explanation on a terminal.

use std::fmt::Write as _;

use serde_json::Value;

use crate::tier::chooser::Kind;

/// The document for people.
#[must_use]
pub fn render(document: &Value) -> String {
    let mut text = String::new();
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let _ = writeln!(text, "{}  policy {}", word(&document["function"]), word(&document["policy"]));
    let next = &document["next"];
    let _ = writeln!(text, "\nnext request: {} ({})", word(&next["tier"]), word(&next["reason"]));
    let _ = writeln!(text, "  {}", word(&next["because"]));
    if !next["expected_ms"].is_null() {
        let _ = writeln!(text, "  expected to take {} ms", number(&next["expected_ms"]));
    }
    if !next["prepares_for"].is_null() {
        let count = number(&next["prepares_for"]);
        let _ = writeln!(text, "  sandboxes for {count} requests at once are prepared behind");
    }
    render_estimates(&mut text, &document["estimates"]);
    render_break_even(&mut text, &document["break_even"]);
    render_reasons(&mut text, &document["reasons"]);
    render_decisions(&mut text, &document["decisions"]);
    text
}

fn render_estimates(text: &mut String, estimates: &Value) {
    let _ = writeln!(
        text,
        "\n{:<12} {:>10} {:>10} {:>10} {:>10} {:>9}",
        "ms", "expected", "p50", "p90", "p99", "samples"
    );
    for kind in Kind::ALL {
        let row = &estimates[kind.name()];
        if row.is_null() {
            let _ = writeln!(text, "{:<12} {:>10}", kind.name(), "not yet");
            continue;
        }
        let [expected, p50, p90, p99, samples] =
            ["expected_ms", "p50_ms", "p90_ms", "p99_ms", "samples"].map(|key| number(&row[key]));
        let _ = writeln!(
            text,
            "{:<12} {expected:>10} {p50:>10} {p90:>10} {p99:>10} {samples:>9}",
            kind.name()
        );
    }
}

fn render_break_even(text: &mut String, even: &Value) {
    if even.is_null() {
        return;
    }
    let _ = writeln!(
        text,
        "\na request loses {} ms in Wasm; a sandbox costs {} ms",
        number(&even["excess_ms"]),
        number(&even["sandbox_ms"])
    );
    let _ = match even["requests"].is_null() {
        true => writeln!(text, "no number of requests pays for one"),
        false => writeln!(
            text,
            "{} requests pay for one, {} are left",
            number(&even["requests"]),
            number(&even["requests_left"])
        ),
    };
}

fn render_reasons(text: &mut String, reasons: &Value) {
    let Some(rows) = reasons.as_array().filter(|rows| !rows.is_empty()) else { return };
    let _ = writeln!(text, "\n{:<8} {:<16} {:>9}", "tier", "reason", "requests");
    for row in rows {
        let (tier, reason) = (row["tier"].as_str(), row["reason"].as_str());
        let _ = writeln!(
            text,
            "{:<8} {:<16} {:>9}",
            tier.unwrap_or_default(),
            reason.unwrap_or_default(),
            number(&row["requests"])
        );
    }
}

fn render_decisions(text: &mut String, decisions: &Value) {
    let Some(rows) = decisions.as_array().filter(|rows| !rows.is_empty()) else { return };
    let _ = writeln!(
        text,
        "\nlast decisions, the newest first\n{:<8} {:<16} {:>9} {:>12} {:>10}  trace",
        "tier", "reason", "in flight", "expected ms", "took ms"
    );
    for row in rows.iter().rev() {
        let _ = writeln!(
            text,
            "{:<8} {:<16} {:>9} {:>12} {:>10}  {}",
            row["tier"].as_str().unwrap_or_default(),
            row["reason"].as_str().unwrap_or_default(),
            number(&row["in_flight"]),
            number(&row["expected_ms"]),
            number(&row["took_ms"]),
            row["trace_id"].as_str().unwrap_or_default()
        );
    }
}

/// A count as it is, a duration with three digits after the point.
fn number(value: &Value) -> String {
    match (value.as_u64(), value.as_f64()) {
        (Some(count), _) => count.to_string(),
        (None, Some(number)) => format!("{number:.3}"),
        (None, None) => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_document_is_shown_to_people() {
        let document = json!({
            "function": "hello",
            "policy": "adaptive",
            "estimates": {
                "wasm": {"samples": 3, "expected_ms": 4.5, "p50_ms": 4.0, "p90_ms": 6.25, "p99_ms": 6.25},
            },
            "break_even": {
                "excess_ms": 2.132, "sandbox_ms": 10.0, "requests": 5, "requests_left": 2,
            },
            "next": {
                "tier": "wasm", "reason": "not-worth", "because": "Because.", "expected_ms": 4.5,
                "prepares_for": null,
            },
            "reasons": [{"tier": "wasm", "reason": "not-worth", "requests": 3}],
            "decisions": [{
                "tier": "wasm", "reason": "not-worth", "in_flight": 1, "expected_ms": null,
                "took_ms": 6.25, "trace_id": "ab",
            }],
        });
        insta::assert_snapshot!(render(&document), @r"
        hello  policy adaptive

        next request: wasm (not-worth)
          Because.
          expected to take 4.500 ms

        ms             expected        p50        p90        p99   samples
        wasm              4.500      4.000      6.250      6.250         3
        native          not yet
        activation      not yet
        creation        not yet
        queue           not yet
        forward         not yet

        a request loses 2.132 ms in Wasm; a sandbox costs 10.000 ms
        5 requests pay for one, 2 are left

        tier     reason            requests
        wasm     not-worth                3

        last decisions, the newest first
        tier     reason           in flight  expected ms    took ms  trace
        wasm     not-worth                1            -      6.250  ab
        ");
    }
}
