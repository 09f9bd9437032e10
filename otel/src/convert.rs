//! Our traces as the SDK's span data, which the OTLP exporter takes.

use std::sync::Arc;

use opentelemetry::InstrumentationScope;
use opentelemetry::trace::{
    Event, Link, SpanContext, SpanId, SpanKind, TraceFlags, TraceId, TraceState,
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::span::{self, Kind, Span, Trace};

/// All spans of these traces, parents before children.
pub(crate) fn spans(traces: Vec<Arc<Trace>>, scope: &InstrumentationScope) -> Vec<SpanData> {
    let mut spans = vec![];
    for trace in traces {
        // The ring of recent traces may hold it too, and then it is copied: here, not on the request path.
        let Trace { trace_id, parent, root, tracestate } = Arc::unwrap_or_clone(trace);
        let tracestate = tracestate.as_ref().and_then(|state| state.to_str().ok()?.parse().ok());
        let common = Common { trace_id, tracestate: tracestate.unwrap_or_default(), scope };
        common.push(root, parent.unwrap_or(SpanId::INVALID), parent.is_some(), &mut spans);
    }
    spans
}

/// What the spans of a trace have in common.
struct Common<'a> {
    trace_id: TraceId,
    tracestate: TraceState,
    scope: &'a InstrumentationScope,
}

impl Common<'_> {
    fn push(&self, span: Span, parent: SpanId, parent_is_remote: bool, spans: &mut Vec<SpanData>) {
        let (span_id, children) = (span.span_id, span.children);
        let (mut events, mut links) = (SpanEvents::default(), SpanLinks::default());
        let event = |event: span::Event| Event::new(event.name, event.time, event.attributes, 0);
        events.events = span.events.into_iter().map(event).collect();
        links.links = span.links.into_iter().map(link).collect();
        spans.push(SpanData {
            span_context: SpanContext::new(
                self.trace_id,
                span_id,
                TraceFlags::SAMPLED,
                false,
                self.tracestate.clone(),
            ),
            parent_span_id: parent,
            parent_span_is_remote: parent_is_remote,
            span_kind: match span.kind {
                Kind::Internal => SpanKind::Internal,
                Kind::Server => SpanKind::Server,
                Kind::Client => SpanKind::Client,
            },
            name: span.name,
            start_time: span.start,
            end_time: span.end,
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events,
            links,
            status: match span.status {
                span::Status::Unset => opentelemetry::trace::Status::Unset,
                span::Status::Ok => opentelemetry::trace::Status::Ok,
                span::Status::Error(why) => opentelemetry::trace::Status::error(why),
            },
            instrumentation_scope: self.scope.clone(),
        });
        for child in children {
            self.push(child, span_id, false, spans);
        }
    }
}

/// A link to a span that Baton itself recorded.
fn link((trace_id, span_id): (TraceId, SpanId)) -> Link {
    let flags = TraceFlags::SAMPLED;
    Link::with_context(SpanContext::new(trace_id, span_id, flags, false, TraceState::NONE))
}
