//! Log records as plain values.

use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, TraceId};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// To be known.
    Info,
    /// To be looked at.
    Warn,
    /// Something failed.
    Error,
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// When it was read.
    pub time: SystemTime,
    /// How bad it is.
    pub severity: Severity,
    /// The line.
    pub body: String,
    /// Who wrote it, by the keys of [`crate::names::attribute`].
    pub attributes: Vec<KeyValue>,
    /// The trace that it belongs to, if that is known.
    pub trace_id: Option<TraceId>,
    /// The span that it belongs to, if that is known.
    pub span_id: Option<SpanId>,
}
