//! Traces, metrics and log records as OTLP export requests. The numbers are those of the fields in
//! opentelemetry-proto 1.x, which do not change.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use opentelemetry::trace::SpanId;
use opentelemetry::{Array, KeyValue, Value};

use crate::log::{Log, Severity};
use crate::metrics::{Data, Kind as MetricKind, Metric};
use crate::proto::Writer;
use crate::span::{Kind, Span, Status};
use crate::traceable::Traceable;

/// Who sends: the resource, the name of the scope being Baton's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sender {
    pub(crate) resource: Vec<KeyValue>,
    pub(crate) version: String,
}

const SAMPLED: u32 = 1;
/// The lowest two bits above the W3C flags: whether a parent's remoteness is known, and that it is.
const REMOTE_KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;
const CUMULATIVE: u64 = 2;
/// Bytes that a request's spans take, or a little more.
const TRACE: usize = 2048;

impl Sender {
    /// The request for these traces, spans in order, parents before children.
    pub(crate) fn traces(&self, traces: &[Arc<dyn Traceable>]) -> Bytes {
        self.request(traces.len() * TRACE, |scope| {
            for trace in traces {
                let trace = trace.trace();
                let state = trace.tracestate.as_ref().and_then(|state| state.to_str().ok());
                let tracestate = state.map_or(Cow::Borrowed(""), tight);
                let common = Common { trace_id: trace.trace_id.to_bytes(), tracestate };
                common.span(scope, &trace.root, trace.parent, trace.parent.is_some());
            }
        })
    }

    /// The request for these metrics, as they have been since `start`.
    pub(crate) fn metrics(&self, metrics: &[Metric], start: SystemTime, now: SystemTime) -> Bytes {
        self.request(0, |scope| {
            for metric in metrics.iter().filter(|metric| !metric.points.is_empty()) {
                scope.message(2, |message| write_metric(message, metric, nanos(start), nanos(now)));
            }
        })
    }

    /// The request for these log records.
    pub(crate) fn logs(&self, logs: &[Log]) -> Bytes {
        self.request(0, |scope| {
            for log in logs {
                scope.message(2, |message| write_log(message, log));
            }
        })
    }

    /// What all three have in common: one resource, one scope.
    fn request(&self, about: usize, fill: impl FnOnce(&mut Writer)) -> Bytes {
        let mut writer = Writer::with_capacity(about);
        writer.message(1, |of_resource| {
            of_resource.message(1, |resource| attributes(resource, 1, &self.resource));
            of_resource.message(2, |of_scope| {
                of_scope.message(1, |scope| {
                    scope.string(1, "baton");
                    scope.string(2, &self.version);
                });
                fill(of_scope);
            });
        });
        writer.finish()
    }
}

/// A `tracestate` without white space between its members.
fn tight(state: &str) -> Cow<'_, str> {
    if state.contains([' ', '\t']) {
        state.split(',').map(str::trim).collect::<Vec<_>>().join(",").into()
    } else {
        state.into()
    }
}

/// What the spans of a trace have in common.
struct Common<'a> {
    trace_id: [u8; 16],
    tracestate: Cow<'a, str>,
}

impl Common<'_> {
    fn span(&self, scope: &mut Writer, span: &Span, parent: Option<SpanId>, remote: bool) {
        scope.message(2, |message| self.write(message, span, parent, remote));
        for child in &span.children {
            self.span(scope, child, Some(span.span_id), false);
        }
    }

    fn write(&self, message: &mut Writer, span: &Span, parent: Option<SpanId>, remote: bool) {
        message.bytes(1, &self.trace_id);
        message.bytes(2, &span.span_id.to_bytes());
        if !self.tracestate.is_empty() {
            message.string(3, &self.tracestate);
        }
        if let Some(parent) = parent {
            message.bytes(4, &parent.to_bytes());
        }
        message.string(5, &span.name);
        message.varint(
            6,
            match span.kind {
                Kind::Internal => 1,
                Kind::Server => 2,
                Kind::Client => 3,
            },
        );
        message.fixed64(7, nanos(span.start));
        message.fixed64(8, nanos(span.end));
        attributes(message, 9, &span.attributes);
        for event in &span.events {
            message.message(11, |inner| {
                inner.fixed64(1, nanos(event.time));
                inner.string(2, &event.name);
                attributes(inner, 3, &event.attributes);
            });
        }
        for (trace, span) in &span.links {
            message.message(13, |inner| {
                inner.bytes(1, &trace.to_bytes());
                inner.bytes(2, &span.to_bytes());
                inner.fixed32(6, SAMPLED | REMOTE_KNOWN);
            });
        }
        match &span.status {
            Status::Unset => {}
            Status::Ok => message.message(15, |inner| inner.varint(3, 1)),
            Status::Error(why) => message.message(15, |inner| {
                inner.string(2, why);
                inner.varint(3, 2);
            }),
        }
        let remote = if remote { REMOTE } else { 0 };
        message.fixed32(16, SAMPLED | REMOTE_KNOWN | remote);
    }
}

fn write_metric(message: &mut Writer, metric: &Metric, start: u64, now: u64) {
    let instrument = metric.instrument;
    message.string(1, instrument.name);
    message.string(2, instrument.doc);
    message.string(3, instrument.unit);
    let number = |data: &mut Writer, point: &crate::metrics::Point| {
        data.message(1, |inner| {
            inner.fixed64(2, start);
            inner.fixed64(3, now);
            match &point.data {
                Data::Whole(value) => inner.fixed64(6, *value),
                Data::Real(value) => inner.double(4, *value),
                Data::Histogram(shot) => inner.fixed64(6, shot.count()),
            }
            attributes(inner, 7, &point.attributes);
        });
    };
    match instrument.kind {
        MetricKind::Gauge => message.message(5, |data| {
            metric.points.iter().for_each(|point| number(data, point));
        }),
        MetricKind::Counter | MetricKind::UpDownCounter => message.message(7, |data| {
            metric.points.iter().for_each(|point| number(data, point));
            data.varint(2, CUMULATIVE);
            data.varint(3, u64::from(instrument.kind == MetricKind::Counter));
        }),
        MetricKind::Histogram(buckets) => message.message(9, |data| {
            for point in &metric.points {
                let Data::Histogram(shot) = &point.data else { continue };
                data.message(1, |inner| {
                    inner.fixed64(2, start);
                    inner.fixed64(3, now);
                    inner.fixed64(4, shot.count());
                    inner.double(5, shot.sum);
                    inner.packed(6, shot.counts.iter().copied());
                    let bounds: Vec<u64> = buckets.bounds().map(f64::to_bits).collect();
                    inner.packed(7, bounds.into_iter());
                    attributes(inner, 9, &point.attributes);
                });
            }
            data.varint(2, CUMULATIVE);
        }),
    }
}

fn write_log(message: &mut Writer, log: &Log) {
    let (number, text) = match log.severity {
        Severity::Info => (9, "INFO"),
        Severity::Warn => (13, "WARN"),
        Severity::Error => (17, "ERROR"),
    };
    message.fixed64(1, nanos(log.time));
    message.varint(2, number);
    message.string(3, text);
    message.message(5, |body| body.string(1, &log.body));
    attributes(message, 6, &log.attributes);
    if let Some(trace_id) = log.trace_id {
        message.bytes(9, &trace_id.to_bytes());
    }
    if let Some(span_id) = log.span_id {
        message.bytes(10, &span_id.to_bytes());
    }
    message.fixed64(11, nanos(log.time));
}

fn attributes(message: &mut Writer, field: u32, attributes: &[KeyValue]) {
    for pair in attributes {
        message.message(field, |inner| {
            inner.string(1, pair.key.as_str());
            inner.message(2, |any| value(any, &pair.value));
        });
    }
}

fn value(any: &mut Writer, value: &Value) {
    match value {
        Value::Bool(flag) => any.varint(2, u64::from(*flag)),
        Value::I64(number) => any.varint(3, number.cast_unsigned()),
        Value::F64(number) => any.double(4, *number),
        Value::String(text) => any.string(1, text.as_str()),
        Value::Array(Array::String(texts)) => any.message(5, |array| {
            for text in texts {
                array.message(1, |any| any.string(1, text.as_str()));
            }
        }),
        // Nothing of ours says other arrays.
        other => any.string(1, &other.as_str()),
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since: Duration = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
