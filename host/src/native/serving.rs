//! Which requests a sandbox served last: whose lines are it writes, and of which traces it may tell.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use baton_otel::{SpanId, TraceId};
use baton_pool::protocol::SandboxId;

/// Requests that are remembered of a sandbox.
const REMEMBERED: usize = 16;

/// The last requests of each sandbox: their traces, and the spans of the work on them.
#[derive(Default)]
pub(super) struct Serving(Mutex<BTreeMap<SandboxId, Vec<(TraceId, SpanId)>>>);

impl Serving {
    /// Notes that `sandbox` serves a request from now on.
    pub(super) fn note(&self, sandbox: SandboxId, request: (TraceId, SpanId)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let served = all.entry(sandbox).or_default();
        if served.len() == REMEMBERED {
            served.remove(0);
        }
        served.push(request);
    }

    /// What `sandbox` served last, the latest at the end.
    pub(super) fn of(&self, sandbox: SandboxId) -> Vec<(TraceId, SpanId)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&sandbox).cloned().unwrap_or_default()
    }

    /// Forgets a sandbox that is gone.
    pub(super) fn forget(&self, sandbox: SandboxId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&sandbox);
    }
}
