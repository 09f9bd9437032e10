//! What functions write: to the host's log, to the collector as log records, and, where a line tells
//! of a span, into the request's trace.
//!
//! Both tiers come here, so a function is heard alike wherever it runs. A function may write
//! `RATE` lines a second after a burst of `BURST`; what is more is dropped and counted, and the
//! next line that passes says how many. Nothing here waits.
//!
//! **Told spans.** A line of standard error that begins with `TOLD` is a span of the function,
//! as the SDK's `tracing` writes it: one JSON object, at most as long as a line may be. Its trace must
//! be one that the writer has served, and its texts and attributes are bounded; what does not fit is
//! an ordinary line.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use baton_otel::names::attribute;
use baton_otel::{KeyValue, Log, Severity, Span, SpanId, Status, Trace, TraceId};
use serde::Deserialize;

use crate::observer::Observer;
use crate::tier::Tier;

/// Lines that a function may write in a second.
const RATE: f64 = 1_000.0;
/// Lines that it may write at once after a silence.
const BURST: f64 = 4_000.0;
/// How a line begins that tells of a span.
const TOLD: &[u8] = b"{\"baton.span\":";
/// Attributes of a told span, and bytes of its name and of each of its texts.
const ATTRIBUTES: usize = 32;
const TEXT: usize = 512;

/// Who wrote a line, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The function.
    pub function: &'a str,
    /// The digest of its revision.
    pub revision: &'a str,
    /// Its tier.
    pub tier: Tier,
    /// Its sandbox, or which invocation its instance was made for.
    pub instance: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// The request that it worked on, if that is known: its trace, and the span of its work.
    pub request: Option<(TraceId, SpanId)>,
    /// The traces that it may tell of.
    pub served: &'a [(TraceId, SpanId)],
}

/// How many lines may still be written, refilled with time.
#[derive(Debug)]
pub struct Bucket(Mutex<Level>);

#[derive(Debug)]
struct Level {
    tokens: f64,
    at: Option<Instant>,
    dropped: u64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self(Mutex::new(Level { tokens: BURST, at: None, dropped: 0 }))
    }
}

impl Bucket {
    /// Whether a line may be written at `now`, and how many were not since the last that might.
    fn take(&self, now: Instant) -> Option<u64> {
        let mut level = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = level.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        level.at = Some(now);
        level.tokens = (level.tokens + passed.as_secs_f64() * RATE).min(BURST);
        if level.tokens < 1.0 {
            level.dropped += 1;
            return None;
        }
        level.tokens -= 1.0;
        Some(std::mem::take(&mut level.dropped))
    }
}

impl Observer {
    /// Takes a line of a function's output.
    pub fn line(&self, writer: Writer<'_>, text: &[u8]) {
        let counts = self.metrics.of(writer.function);
        let Some(dropped) = counts.lines.bucket.take(Instant::now()) else {
            return counts.lines.count_dropped();
        };
        if dropped > 0 {
            let said = format!("{dropped} lines of this function were dropped: it writes too many");
            self.write(writer, &said, Severity::Warn);
        }
        if writer.stream == "stderr"
            && text.starts_with(TOLD)
            && let Some(trace) = told(text, &writer)
        {
            counts.lines.count_span();
            return self.trace(trace);
        }
        counts.lines.count_logged();
        self.write(writer, &String::from_utf8_lossy(text), Severity::Info);
    }

    fn write(&self, writer: Writer<'_>, text: &str, severity: Severity) {
        let Writer { function, revision, tier, instance, stream, request, .. } = writer;
        let trace_id = request.map(|(trace_id, _)| trace_id.to_string());
        tracing::info!(
            target: "function",
            function,
            tier = tier.name(),
            sandbox = (tier == Tier::Native).then_some(instance),
            invocation = (tier == Tier::Wasm).then_some(instance),
            stream,
            trace_id,
            "{text}"
        );
        if !self.telemetry.takes_logs() {
            return;
        }
        let instance_key = match tier {
            Tier::Wasm => attribute::FAAS_INVOCATION_ID,
            Tier::Native => attribute::CONTAINER_ID,
        };
        let attributes = vec![
            KeyValue::new(attribute::FAAS_NAME, function.to_owned()),
            KeyValue::new(attribute::FAAS_VERSION, revision.to_owned()),
            KeyValue::new(attribute::BATON_TIER, tier.name()),
            KeyValue::new(instance_key, instance.to_owned()),
            KeyValue::new(attribute::LOG_IOSTREAM, stream),
        ];
        self.telemetry.log(Log {
            time: SystemTime::now(),
            severity,
            body: text.to_owned(),
            attributes,
            trace_id: request.map(|(trace_id, _)| trace_id),
            span_id: request.map(|(_, span_id)| span_id),
        });
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(rename = "baton.span")]
    span: Told,
}

/// A span as a function tells of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    trace: String,
    id: String,
    /// The function's own span around it; without one that of the request.
    #[serde(default)]
    parent: Option<String>,
    name: String,
    /// Nanoseconds since 1970.
    start: u64,
    end: u64,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    attributes: serde_json::Map<String, serde_json::Value>,
}

/// The span of a line, as the part of a trace that it is.
fn told(text: &[u8], writer: &Writer<'_>) -> Option<Trace> {
    let Told { trace, id, parent, name, start, end, error, attributes } =
        serde_json::from_slice::<Line>(text).ok()?.span;
    let trace_id = TraceId::from_hex(&trace).ok()?;
    let served = writer.served.iter().rev().find(|(served, _)| *served == trace_id)?;
    let parent = match parent {
        Some(parent) => SpanId::from_hex(&parent).ok()?,
        None => served.1,
    };
    let time = |nanos| SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanos));
    let mut root = Span::new(cut(name), time(start)?, time(end.max(start))?);
    root.span_id = SpanId::from_hex(&id).ok()?;
    if root.span_id == SpanId::INVALID || attributes.len() > ATTRIBUTES {
        return None;
    }
    root.attributes = attributes.into_iter().map(|(key, value)| pair(key, value)).collect();
    root.attributes.push(KeyValue::new(attribute::FAAS_NAME, writer.function.to_owned()));
    root.attributes.push(KeyValue::new(attribute::BATON_TIER, writer.tier.name()));
    if let Some(error) = error {
        root.status = Status::Error(cut(error).into());
    }
    Some(Trace { trace_id, parent: Some(parent), root, tracestate: None })
}

fn pair(key: String, value: serde_json::Value) -> KeyValue {
    use serde_json::Value;
    let key = cut(key);
    match value {
        Value::Bool(flag) => KeyValue::new(key, flag),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => KeyValue::new(key, whole),
            None => KeyValue::new(key, number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => KeyValue::new(key, cut(text)),
        other => KeyValue::new(key, cut(other.to_string())),
    }
}

fn cut(mut text: String) -> String {
    let mut end = TEXT.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(served: &[(TraceId, SpanId)]) -> Writer<'_> {
        Writer {
            function: "hello",
            revision: "sha256:0",
            tier: Tier::Wasm,
            instance: "1",
            stream: "stderr",
            request: None,
            served,
        }
    }

    fn line(trace: u32, rest: &str) -> Vec<u8> {
        format!(
            "{{\"baton.span\":{{\"trace\":\"{trace:032x}\",\"id\":\"00000000000000aa\",\
             \"name\":\"work\",\"start\":5,\"end\":9{rest}}}}}"
        )
        .into_bytes()
    }

    #[test]
    fn a_told_span_is_a_part_of_its_requests_trace() {
        let served = [(1_u128.into(), 7_u64.into())];
        let trace = told(&line(1, ",\"attributes\":{\"n\":3}"), &writer(&served)).unwrap();
        assert_eq!(trace.parent, Some(7_u64.into()));
        assert_eq!(trace.root.duration(), Duration::from_nanos(4));
        assert_eq!(trace.root.attributes[0], KeyValue::new("n", 3));
    }

    #[test]
    fn a_function_tells_of_no_trace_but_those_that_it_served() {
        let served = [(1_u128.into(), 7_u64.into())];
        assert_eq!(told(&line(2, ""), &writer(&served)), None);
        assert_eq!(told(&line(1, ""), &writer(&[])), None);
    }

    #[test]
    fn what_is_no_span_or_too_much_is_an_ordinary_line() {
        let served = [(1_u128.into(), 7_u64.into())];
        let many: Vec<String> = (0..=ATTRIBUTES).map(|i| format!("\"k{i}\":1")).collect();
        for rest in [",\"x\":1", &format!(",\"attributes\":{{{}}}", many.join(","))] {
            assert_eq!(told(&line(1, rest), &writer(&served)), None);
        }
        assert_eq!(told(b"{\"baton.span\":{}", &writer(&served)), None);
    }

    #[test]
    fn a_function_that_writes_too_much_is_cut_off_and_what_is_dropped_is_told() {
        let (bucket, start) = (Bucket::default(), Instant::now());
        let passed = (0..10_000).filter(|_| bucket.take(start).is_some()).count();
        assert_eq!(passed, 4_000);
        assert_eq!(bucket.take(start + Duration::from_secs(1)), Some(6_000));
        assert_eq!(bucket.take(start + Duration::from_secs(1)), Some(0));
    }
}
