//! The last traces, kept in memory so that nobody needs a backend to see one.
//!
//! Bounded by number and by bytes; the oldest make room. What is kept becomes a trace when somebody
//! asks. The lock is held for a push or a copy of the pointers, never while a trace is made or freed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry::trace::TraceId;

use crate::span::Trace;
use crate::traceable::Traceable;

/// Traces kept unless told otherwise.
pub const TRACES: usize = 256;
/// Bytes that they may take unless told otherwise.
pub const BYTES: usize = 4 << 20;

/// A ring of the last traces.
#[derive(Debug)]
pub struct Recent {
    traces_max: usize,
    bytes_max: usize,
    ring: Mutex<Ring>,
}

/// Newest at the back.
#[derive(Debug, Default)]
struct Ring {
    traces: VecDeque<(usize, Arc<dyn Traceable>)>,
    bytes: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self::new(TRACES, BYTES)
    }
}

impl Recent {
    /// An empty ring for at most `traces_max` traces of together at most `bytes_max` bytes.
    #[must_use]
    pub fn new(traces_max: usize, bytes_max: usize) -> Self {
        Self { traces_max, bytes_max, ring: Mutex::default() }
    }

    /// Keeps a trace; one that is larger than the whole ring may be is not kept.
    pub fn push(&self, trace: Arc<dyn Traceable>) {
        let bytes = trace.bytes();
        if bytes > self.bytes_max || self.traces_max == 0 {
            return;
        }
        // Mostly one goes as one comes.
        let (mut evicted, mut more) = (None, Vec::new());
        let mut ring = self.lock();
        while ring.traces.len() >= self.traces_max || ring.bytes + bytes > self.bytes_max {
            let Some((oldest_bytes, oldest)) = ring.traces.pop_front() else { break };
            ring.bytes -= oldest_bytes;
            more.extend(evicted.replace(oldest));
        }
        ring.bytes += bytes;
        ring.traces.push_back((bytes, trace));
        drop(ring);
        drop((evicted, more));
    }

    /// The traces, newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Trace> {
        self.matching(|_| true)
    }

    /// What is known of one trace, newest first: several requests may belong to it.
    #[must_use]
    pub fn get(&self, trace_id: TraceId) -> Vec<Trace> {
        self.matching(|trace| trace.trace_id() == trace_id)
    }

    fn matching(&self, is_wanted: impl Fn(&dyn Traceable) -> bool) -> Vec<Trace> {
        let ring = self.lock();
        let traces = ring.traces.iter().rev().map(|(_, trace)| trace);
        let wanted: Vec<_> = traces.filter(|trace| is_wanted(&***trace)).map(Arc::clone).collect();
        drop(ring);
        wanted.iter().map(|trace| trace.trace().into_owned()).collect()
    }

    /// Nothing in here panics halfway, so a poisoned lock guards a whole ring.
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{attribute, span};
    use crate::span::Span;
    use opentelemetry::KeyValue;
    use std::time::SystemTime;

    fn trace(id: u128, path_bytes: usize) -> Arc<Trace> {
        let now = SystemTime::UNIX_EPOCH;
        let mut root = Span::new(span::ADMIT, now, now);
        root.attributes = vec![KeyValue::new(attribute::URL_PATH, "x".repeat(path_bytes))];
        Arc::new(Trace { trace_id: id.into(), parent: None, root, tracestate: None })
    }

    fn ids(recent: &Recent) -> Vec<u128> {
        recent.list().iter().map(|trace| u128::from_be_bytes(trace.trace_id.to_bytes())).collect()
    }

    #[test]
    fn the_newest_traces_are_kept_and_listed_first() {
        let recent = Recent::new(3, usize::MAX);
        (1..=5).for_each(|id| recent.push(trace(id, 0)));
        assert_eq!(ids(&recent), [5, 4, 3]);
    }

    #[test]
    fn large_traces_leave_room_for_fewer() {
        let recent = Recent::new(100, 10_000);
        (1..=5).for_each(|id| recent.push(trace(id, 4_000)));
        assert_eq!(ids(&recent), [5, 4]);
        recent.push(trace(6, 20_000));
        assert_eq!(ids(&recent), [5, 4], "what is too large evicts nothing");
    }

    #[test]
    fn every_part_of_a_trace_is_found_by_its_id() {
        let recent = Recent::default();
        [1, 2, 1].into_iter().for_each(|id| recent.push(trace(id, 0)));
        assert_eq!(recent.get(1_u128.into()).len(), 2);
        assert_eq!(recent.get(3_u128.into()).len(), 0);
    }
}
