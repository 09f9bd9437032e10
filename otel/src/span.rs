//! A finished trace as a plain value: a tree of spans, made when the work is over.
//!
//! [`Trace`] is what is exported and shown: [`Trace::render`] draws the tree with durations for people,
//! [`Trace::to_json`] is the form of the administration interface.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry::{KeyValue, Value};
use serde_json::{Map, json};

use crate::names::attribute;

/// Whose view of the work a span is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Work inside of Baton.
    #[default]
    Internal,
    /// A request that Baton received.
    Server,
    /// A request that Baton sent.
    Client,
}

/// How the work of a span ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Nothing is said, which by the conventions is what success looks like.
    #[default]
    Unset,
    /// Explicitly good.
    Ok,
    /// Failed, and why in words.
    Error(Cow<'static, str>),
}

/// Something that happened at one moment of a span.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// A name of [`crate::names::event`].
    pub name: Cow<'static, str>,
    /// When.
    pub time: SystemTime,
    /// More about it.
    pub attributes: Vec<KeyValue>,
}

/// One phase of the work and the phases inside of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// A name of [`crate::names::span`], or `{method} {route}`.
    pub name: Cow<'static, str>,
    /// Whose view it is.
    pub kind: Kind,
    /// Its id.
    pub span_id: SpanId,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// More about it, by the keys of [`crate::names::attribute`].
    pub attributes: Vec<KeyValue>,
    /// What happened meanwhile.
    pub events: Vec<Event>,
    /// How it ended.
    pub status: Status,
    /// Spans of other traces that this one has to do with, such as the request that caused it.
    pub links: Vec<(TraceId, SpanId)>,
    /// The spans inside of it.
    pub children: Vec<Span>,
}

impl Span {
    /// A span of internal work with a new id and nothing else said about it.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>, start: SystemTime, end: SystemTime) -> Self {
        Self::with_id(crate::context::new_span_id(), name, start, end)
    }

    /// A span of internal work with this id and nothing else said about it.
    #[must_use]
    pub fn with_id(
        span_id: SpanId,
        name: impl Into<Cow<'static, str>>,
        start: SystemTime,
        end: SystemTime,
    ) -> Self {
        Self {
            name: name.into(),
            kind: Kind::Internal,
            span_id,
            start,
            end,
            attributes: Vec::new(),
            events: Vec::new(),
            status: Status::Unset,
            links: Vec::new(),
            children: Vec::new(),
        }
    }

    /// How long it took; zero when the clock was set back meanwhile.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.end.duration_since(self.start).unwrap_or_default()
    }

    /// How many spans there are, this one and everything inside of it.
    #[must_use]
    pub fn count(&self) -> usize {
        1 + self.children.iter().map(Self::count).sum::<usize>()
    }

    /// This span and everything inside of it, each with its parent, parents before children.
    pub fn walk<'a>(
        &'a self,
        parent: Option<&'a Self>,
        visit: &mut impl FnMut(&'a Self, Option<&'a Self>),
    ) {
        visit(self, parent);
        for child in &self.children {
            child.walk(Some(self), visit);
        }
    }
}

/// A trace, or the part of one that happened in Baton.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Its id.
    pub trace_id: TraceId,
    /// The caller's span, the parent of the root.
    pub parent: Option<SpanId>,
    /// The outermost span.
    pub root: Span,
    /// The caller's `tracestate`.
    pub tracestate: Option<HeaderValue>,
}

/// Attributes that [`Trace::render`] shows; everything is in the JSON and in the export.
const RENDERED: &[&str] = &[
    attribute::HTTP_RESPONSE_STATUS_CODE,
    attribute::ERROR_TYPE,
    attribute::FAAS_NAME,
    attribute::FAAS_COLDSTART,
    attribute::CONTAINER_ID,
    attribute::BATON_TIER,
    attribute::BATON_TIER_REASON,
    attribute::BATON_COMPONENT_SOURCE,
    attribute::BATON_SANDBOX_REASON,
];

impl Trace {
    /// The trace as an indented tree: for every span when it began since the start of the trace,
    /// how long it took, and the attributes that matter to a reader. Ends with a line feed.
    #[must_use]
    pub fn render(&self) -> String {
        let mut lines = vec![];
        draw(&self.root, "", "", &mut lines);
        let width = lines.iter().map(|line| line.tree.chars().count()).max().unwrap_or(0);
        let mut text = format!("trace {}", self.trace_id);
        if let Some(parent) = self.parent {
            let _ = write!(text, " of caller {parent}");
        }
        text.push('\n');
        for line in lines {
            let offset = line.at.duration_since(self.root.start).unwrap_or_default();
            let duration = line.duration.map(milliseconds).unwrap_or_default();
            let row = format!(
                "{:width$}  {:>12}  {duration:>11}  {}",
                line.tree,
                format!("+{}", milliseconds(offset)),
                line.notes.join(" ")
            );
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }

    /// The trace as JSON: ids in hexadecimal, times in nanoseconds since 1970 as strings (they do
    /// not fit a JavaScript number), durations in nanoseconds, attributes as an object.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "trace_id": self.trace_id.to_string(),
            "parent": self.parent.map(|id| id.to_string()),
            "tracestate": self.tracestate.as_ref().and_then(|state| state.to_str().ok()),
            "root": span_json(&self.root),
        })
    }

    /// One line about the trace as JSON, for a list of traces.
    #[must_use]
    pub fn summary_json(&self) -> serde_json::Value {
        json!({
            "trace_id": self.trace_id.to_string(),
            "name": self.root.name,
            "start_unix_nano": unix_nanos(self.root.start).to_string(),
            "duration_ns": nanos(self.root.duration()),
            "spans": self.root.count(),
            "attributes": attributes_json(
                self.root.attributes.iter().filter(|pair| RENDERED.contains(&pair.key.as_str())),
            ),
        })
    }
}

/// A line of the drawing.
struct Line {
    /// Branches and the name.
    tree: String,
    at: SystemTime,
    /// None for an event.
    duration: Option<Duration>,
    notes: Vec<String>,
}

fn draw(span: &Span, branch: &str, indent: &str, lines: &mut Vec<Line>) {
    let mut notes: Vec<String> = rendered(&span.attributes).collect();
    if let Status::Error(why) = &span.status {
        notes.push(format!("error: {why}"));
    }
    notes.extend(span.links.iter().map(|(trace, _)| format!("linked to trace {trace}")));
    lines.push(Line {
        tree: format!("{branch}{}", span.name),
        at: span.start,
        duration: Some(span.duration()),
        notes,
    });
    let bar = if span.children.is_empty() { " " } else { "│" };
    lines.extend(span.events.iter().map(|event| Line {
        tree: format!("{indent}{bar}  ! {}", event.name),
        at: event.time,
        duration: None,
        notes: rendered(&event.attributes).collect(),
    }));
    for (position, child) in span.children.iter().enumerate() {
        let (branch, deeper) = if position + 1 == span.children.len() {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        draw(child, &format!("{indent}{branch}"), &format!("{indent}{deeper}"), lines);
    }
}

fn rendered(attributes: &[KeyValue]) -> impl Iterator<Item = String> {
    attributes
        .iter()
        .filter(|pair| RENDERED.contains(&pair.key.as_str()))
        .map(|pair| format!("{}={}", pair.key, pair.value))
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1e3)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn unix_nanos(time: SystemTime) -> u64 {
    nanos(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn span_json(span: &Span) -> serde_json::Value {
    let (status, message) = match &span.status {
        Status::Unset => ("unset", None),
        Status::Ok => ("ok", None),
        Status::Error(why) => ("error", Some(why)),
    };
    let kind = match span.kind {
        Kind::Internal => "internal",
        Kind::Server => "server",
        Kind::Client => "client",
    };
    json!({
        "name": span.name,
        "kind": kind,
        "span_id": span.span_id.to_string(),
        "start_unix_nano": unix_nanos(span.start).to_string(),
        "duration_ns": nanos(span.duration()),
        "status": status,
        "message": message,
        "attributes": attributes_json(&span.attributes),
        "events": span.events.iter().map(|event| json!({
            "name": event.name,
            "time_unix_nano": unix_nanos(event.time).to_string(),
            "attributes": attributes_json(&event.attributes),
        })).collect::<Vec<_>>(),
        "links": span.links.iter().map(|(trace, span)| json!({
            "trace_id": trace.to_string(),
            "span_id": span.to_string(),
        })).collect::<Vec<_>>(),
        "children": span.children.iter().map(span_json).collect::<Vec<_>>(),
    })
}

fn attributes_json<'a>(
    attributes: impl IntoIterator<Item = &'a KeyValue>,
) -> Map<String, serde_json::Value> {
    attributes
        .into_iter()
        .map(|pair| {
            let value = match &pair.value {
                Value::Bool(value) => json!(value),
                Value::I64(value) => json!(value),
                Value::F64(value) => json!(value),
                other => json!(other.as_str()),
            };
            (pair.key.to_string(), value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{event, span};

    fn at(micros: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_micros(micros)
    }

    fn part(id: u64, name: &'static str, start: u64, end: u64) -> Span {
        Span { span_id: id.into(), ..Span::new(name, at(start), at(end)) }
    }

    /// A request that a sandbox failed and Wasm answered.
    fn fallback() -> Trace {
        let mut forward = part(3, span::FORWARD, 40, 120);
        forward.kind = Kind::Client;
        forward.status = Status::Error("nobody accepts".into());
        forward.attributes = vec![
            KeyValue::new(attribute::NETWORK_TRANSPORT, "unix"),
            KeyValue::new(attribute::ERROR_TYPE, "crashed"),
        ];
        forward.children = vec![part(4, span::FORWARD_CONNECT, 45, 118)];
        let mut root = part(1, "GET /hello", 0, 1_530);
        root.kind = Kind::Server;
        root.attributes = vec![
            KeyValue::new(attribute::FAAS_NAME, "hello"),
            KeyValue::new(attribute::URL_PATH, "/hello"),
            KeyValue::new(attribute::HTTP_RESPONSE_STATUS_CODE, 200),
            KeyValue::new(attribute::BATON_TIER, "wasm"),
        ];
        root.events =
            vec![Event { name: event::FALLBACK.into(), time: at(121), attributes: vec![] }];
        root.links = vec![(0xfeed_u128.into(), 0xbee_u64.into())];
        root.children =
            vec![part(2, span::ADMIT, 0, 2), forward, part(5, span::COMPONENT_HANDLE, 130, 1_520)];
        Trace {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.into(),
            parent: Some(0xf0_67aa_0ba9_02b7_u64.into()),
            root,
            tracestate: Some(HeaderValue::from_static("a=1")),
        }
    }

    #[test]
    fn a_trace_is_drawn_as_a_tree_with_offsets_and_durations() {
        insta::assert_snapshot!(fallback().render(), @r"
        trace 4bf92f3577b34da6a3ce929d0e0e4736 of caller 00f067aa0ba902b7
        GET /hello                      +0.000 ms     1.530 ms  faas.name=hello http.response.status_code=200 baton.tier=wasm linked to trace 0000000000000000000000000000feed
        │  ! baton.fallback             +0.121 ms
        ├─ baton.admit                  +0.000 ms     0.002 ms
        ├─ baton.forward                +0.040 ms     0.080 ms  error.type=crashed error: nobody accepts
        │  └─ baton.forward.connect     +0.045 ms     0.073 ms
        └─ baton.component.handle       +0.130 ms     1.390 ms
        ");
    }

    #[test]
    fn a_trace_is_told_whole_in_json() {
        let mut trace = fallback();
        trace.root.children.clear();
        assert_eq!(
            trace.to_json(),
            json!({
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                "parent": "00f067aa0ba902b7",
                "tracestate": "a=1",
                "root": {
                    "name": "GET /hello",
                    "kind": "server",
                    "span_id": "0000000000000001",
                    "start_unix_nano": "1700000000000000000",
                    "duration_ns": 1_530_000,
                    "status": "unset",
                    "message": null,
                    "attributes": {
                        "baton.tier": "wasm",
                        "faas.name": "hello",
                        "http.response.status_code": 200,
                        "url.path": "/hello",
                    },
                    "events": [{
                        "name": "baton.fallback",
                        "time_unix_nano": "1700000000000121000",
                        "attributes": {},
                    }],
                    "links": [{
                        "trace_id": "0000000000000000000000000000feed",
                        "span_id": "0000000000000bee",
                    }],
                    "children": [],
                },
            })
        );
    }

    #[test]
    fn a_list_of_traces_says_of_each_what_a_reader_chooses_by() {
        assert_eq!(
            fallback().summary_json(),
            json!({
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                "name": "GET /hello",
                "start_unix_nano": "1700000000000000000",
                "duration_ns": 1_530_000,
                "spans": 5,
                "attributes": {
                    "baton.tier": "wasm",
                    "faas.name": "hello",
                    "http.response.status_code": 200,
                },
            })
        );
    }

    #[test]
    fn walking_a_trace_visits_parents_before_children() {
        let (trace, mut visited) = (fallback(), vec![]);
        trace.root.walk(None, &mut |span, parent| {
            visited.push((span.span_id, parent.map(|parent| parent.span_id)));
        });
        let id = SpanId::from;
        let root = Some(id(1));
        assert_eq!(
            visited,
            [(id(1), None), (id(2), root), (id(3), root), (id(4), Some(id(3))), (id(5), root)]
        );
        assert_eq!(trace.root.count(), visited.len());
    }
}
