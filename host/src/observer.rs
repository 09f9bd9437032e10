//! To whom the end of a request is told: its function's counters, the access log, and the trace.

use std::sync::Arc;
use std::time::Instant;

use baton_otel::{Recent, Sampler, Telemetry, Trace};

use crate::access::AccessLog;
use crate::metrics::Metrics;
use crate::record::{Outcome, Record};

/// Takes the records of requests that have ended.
pub struct Observer {
    /// One line a request.
    pub access: AccessLog,
    /// What is counted of the host as a whole.
    pub metrics: Metrics,
    /// Exports spans.
    pub telemetry: Telemetry,
    /// Which traces are recorded.
    pub sampler: Sampler,
    /// The last traces, for those without a backend.
    pub recent: Recent,
}

impl Observer {
    /// A request has ended now.
    pub fn ended(&self, record: &Record, outcome: Outcome) {
        let end = Instant::now();
        let counts = record.function.as_ref().map(|function| &*function.counts);
        counts.unwrap_or(&self.metrics.unrouted).ended(record, end, outcome);
        self.access.write(record, end, outcome);
        if record.context.sampled {
            self.trace(record.trace(end, outcome));
        }
    }

    /// Keeps and exports a trace.
    pub fn trace(&self, trace: Trace) {
        let trace = Arc::new(trace);
        self.recent.push(Arc::clone(&trace));
        self.telemetry.export(trace);
    }
}
