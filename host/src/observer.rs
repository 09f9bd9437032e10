//! To whom the end of a request is told: its function's counters, the access log, and the trace.

use std::sync::Arc;
use std::time::Instant;

use baton_otel::{Recent, Sampler, Telemetry, Trace};

use crate::access::AccessLog;
use crate::record::{Outcome, Record};

/// Takes the records of requests that have ended.
pub struct Observer {
    /// One line a request.
    pub access: AccessLog,
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
        if let Some(function) = &record.function {
            let tier = record.tier.map(|(tier, _)| tier);
            let duration = end - record.phases.began();
            let failed = outcome != Outcome::ClientGone && record.error_type(outcome).is_some();
            function.counts.add(tier, duration, failed, record.cold);
            if let Some(decision) = record.decision(end, outcome) {
                function.chooser.ended(end, decision);
            }
        }
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
