//! To whom the end of a request is told: its function's counters, the access log, and the trace.

use std::sync::Arc;
use std::time::Instant;

use baton_otel::{Recent, Sampler, Telemetry, Traceable};

use crate::access::AccessLog;
use crate::manifest::Keep;
use crate::metrics::Metrics;
use crate::record::{Ended, Outcome, Record};

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
    /// Which requests are recorded although they were not sampled.
    pub keep: Keep,
    /// Whether also those whose caller said no.
    pub keep_unsampled: bool,
    /// The last traces, for those without a backend.
    pub recent: Recent,
}

impl Observer {
    /// A request has ended now.
    pub fn ended(&self, record: &Record, outcome: Outcome) {
        let end = Instant::now();
        let counts = record.function.as_ref().map(|function| &*function.counts);
        counts.unwrap_or(&self.metrics.unrouted).ended(record, end, outcome);
        if let Some(function) = &record.function
            && let Some(decision) = record.decision(end, outcome)
        {
            function.chooser.ended(end, decision);
        }
        self.access.write(record, end, outcome);
        let tail = if record.context.sampled { None } else { self.kept(record, end, outcome) };
        if record.context.sampled || tail.is_some() {
            self.trace(Ended::new(record, end, outcome, tail));
        }
    }

    /// Why a request is recorded that was not sampled, if it is.
    fn kept(&self, record: &Record, end: Instant, outcome: Outcome) -> Option<&'static str> {
        if record.context.parent.is_some() && !self.keep_unsampled {
            return None;
        }
        let of_function = record.function.as_ref().map(|function| function.spec.telemetry);
        let keep = of_function.unwrap_or_default().keep(self.keep);
        let took = end.saturating_duration_since(record.phases.began());
        match record.error_type(outcome) {
            Some(_) if keep.keep_errors && outcome != Outcome::ClientGone => Some("error"),
            _ => (took >= keep.keep_slow).then_some("slow"),
        }
    }

    /// Keeps and exports what can become a trace.
    pub fn trace(&self, trace: impl Traceable + 'static) {
        let trace: Arc<dyn Traceable> = Arc::new(trace);
        if self.telemetry.exports() {
            self.telemetry.export(Arc::clone(&trace));
        }
        self.recent.push(trace);
    }
}
