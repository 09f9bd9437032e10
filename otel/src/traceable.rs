//! What can become a trace.
//!
//! Most traces are looked at by nobody, and those that are exported are needed later, on another
//! thread. So what happened is kept as small as it came, as a [`Traceable`], in the export's queue and
//! among the last traces, and becomes spans when it is sent or asked for.

use std::borrow::Cow;
use std::fmt;

use opentelemetry::trace::TraceId;
use opentelemetry::{KeyValue, Value};

use crate::span::{Span, Status, Trace};

/// Work that is over and of which a trace can be made.
pub trait Traceable: fmt::Debug + Send + Sync {
    /// The trace that it belongs to.
    fn trace_id(&self) -> TraceId;

    /// How many spans [`Traceable::trace`] has.
    fn spans(&self) -> usize;

    /// About how many bytes it takes in memory.
    fn bytes(&self) -> usize;

    /// The trace: each time the same one, the ids of its spans included.
    fn trace(&self) -> Cow<'_, Trace>;
}

impl Traceable for Trace {
    fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    fn spans(&self) -> usize {
        self.root.count()
    }

    fn bytes(&self) -> usize {
        span_bytes(&self.root)
    }

    fn trace(&self) -> Cow<'_, Trace> {
        Cow::Borrowed(self)
    }
}

/// A span with everything inside of it.
fn span_bytes(span: &Span) -> usize {
    let message = if let Status::Error(why) = &span.status { why.len() } else { 0 };
    let events: usize = span
        .events
        .iter()
        .map(|event| size_of_val(event) + event.name.len() + attribute_bytes(&event.attributes))
        .sum();
    let children: usize = span.children.iter().map(span_bytes).sum();
    size_of_val(span)
        + span.name.len()
        + message
        + attribute_bytes(&span.attributes)
        + events
        + size_of_val(span.links.as_slice())
        + children
}

fn attribute_bytes(attributes: &[KeyValue]) -> usize {
    let strings: usize = attributes
        .iter()
        .map(|pair| match &pair.value {
            Value::String(text) => text.as_str().len(),
            _ => 0,
        })
        .sum();
    size_of_val(attributes) + strings
}
