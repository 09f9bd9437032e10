//! A trace as text that is the same in every run: what golden traces are compared with.
//!
//! A line for each span (its kind and error, unless internal and fine), below it its attributes by key, its
//! events with `!` and its links with `&`. What differs from run to run is `~`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::collector::{Attributes, Span, SpanKind, SpanStatus, children};

/// Attributes whose values differ from run to run.
const VARIABLE: [&str; 7] = [
    "client.port",
    "container.id",
    "faas.invocation_id",
    "faas.version",
    "network.peer.port",
    "oci.manifest.digest",
    "process.pid",
];

/// The trees whose roots have parents elsewhere or none, in the order of `spans`; `names` says what
/// ids of linked spans stand for.
#[must_use]
pub fn golden(spans: &[Span], names: &BTreeMap<String, &str>) -> String {
    let is_known = |id: &str| spans.iter().any(|span| span.span_id == id);
    let is_root = |span: &&Span| !span.parent.as_deref().is_some_and(is_known);
    let mut text = String::new();
    for root in spans.iter().filter(is_root) {
        draw(spans, root, 0, names, &mut text);
    }
    text
}

fn draw(
    spans: &[Span],
    span: &Span,
    depth: usize,
    names: &BTreeMap<String, &str>,
    text: &mut String,
) {
    let indent = "  ".repeat(depth);
    let kind = match span.kind {
        SpanKind::Internal => String::new(),
        kind => format!(" {}", kind.as_str_name().trim_start_matches("SPAN_KIND_").to_lowercase()),
    };
    let status = match &span.status {
        (SpanStatus::Unset, _) => String::new(),
        (status, message) => format!(" {}: {message}", status.as_str_name()),
    };
    let _ = writeln!(text, "{indent}{}{kind}{}", span.name, status.replace("STATUS_CODE_", ""));
    pairs(&span.attributes, &indent, text);
    for event in &span.events {
        let _ = writeln!(text, "{indent}    ! {}", event.name);
        pairs(&event.attributes, &format!("{indent}  "), text);
    }
    for (_, linked) in &span.links {
        let _ = writeln!(text, "{indent}    & {}", names.get(linked).copied().unwrap_or("?"));
    }
    for child in children(spans, span) {
        draw(spans, child, depth + 1, names, text);
    }
}

fn pairs(attributes: &Attributes, indent: &str, text: &mut String) {
    for (key, value) in attributes {
        let value = match value {
            _ if VARIABLE.contains(&key.as_str()) => "~".to_owned(),
            Value::String(value) => value.clone(),
            other => other.to_string(),
        };
        let _ = writeln!(text, "{indent}    {key} = {value}");
    }
}
