//! What waits for its export: bounded in spans, never waited for, and counting what became of them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::settings::Batching;
use crate::span::Trace;

/// What became of the spans so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted by the collector.
    pub exported: u64,
    /// Did not fit the queue, or came after its end.
    pub dropped: u64,
    /// Refused by the collector or not taken in time.
    pub failed: u64,
}

/// What waits for its export.
#[derive(Debug)]
pub(crate) struct Queue {
    bounds: Batching,
    waiting: Mutex<Waiting>,
    /// A batch is full, or the queue has been closed.
    ready: Notify,
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    traces: VecDeque<(usize, Arc<Trace>)>,
    spans: usize,
    /// Spans that were ever let in.
    accepted: u64,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(bounds: Batching) -> Self {
        Self {
            bounds,
            waiting: Mutex::default(),
            ready: Notify::new(),
            exported: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Wakes the thread only when a batch becomes full: a wake-up costs more than all the rest.
    pub(crate) fn push(&self, trace: Arc<Trace>) {
        let spans = trace.root.count();
        let mut waiting = lock(&self.waiting);
        if waiting.closed || waiting.spans + spans > self.bounds.queue {
            drop(waiting);
            count(&self.dropped, spans);
            return;
        }
        let before = waiting.spans;
        waiting.spans += spans;
        waiting.accepted += number(spans);
        waiting.traces.push_back((spans, trace));
        let after = waiting.spans;
        drop(waiting);
        if before < self.bounds.batch && after >= self.bounds.batch {
            self.ready.notify_one();
        }
    }

    /// The next traces, as many as make a batch, and how many spans they have.
    pub(crate) fn take(&self) -> (usize, Vec<Arc<Trace>>) {
        let mut waiting = lock(&self.waiting);
        let (mut spans, mut traces) = (0, vec![]);
        while spans < self.bounds.batch {
            let Some((more, trace)) = waiting.traces.pop_front() else { break };
            spans += more;
            traces.push(trace);
        }
        waiting.spans -= spans;
        (spans, traces)
    }

    /// Lets nothing in any more.
    pub(crate) fn close(&self) {
        lock(&self.waiting).closed = true;
        self.ready.notify_one();
    }

    /// Gives up what waits and what is on its way.
    pub(crate) fn abandon(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.traces.clear();
        waiting.spans = 0;
        self.failed.store(waiting.accepted - self.exported.load(Relaxed), Relaxed);
    }

    /// Waits until a batch is full, has waited long enough, or the queue is closed, and says whether
    /// it is closed.
    pub(crate) async fn ready(&self) -> bool {
        let _ = timeout(self.bounds.delay, self.ready.notified()).await;
        lock(&self.waiting).closed
    }

    /// Counts spans that were sent or refused.
    pub(crate) fn settle(&self, spans: usize, exported: bool) {
        count(if exported { &self.exported } else { &self.failed }, spans);
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            exported: self.exported.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }
}

/// Nothing in here panics while it holds a lock, so a poisoned one guards a whole value.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(counter: &AtomicU64, spans: usize) {
    counter.fetch_add(number(spans), Relaxed);
}

/// A number of spans as the counters have it.
fn number(spans: usize) -> u64 {
    u64::try_from(spans).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::span;
    use crate::span::Span;
    use std::time::{Duration, SystemTime};

    fn trace(spans: usize) -> Arc<Trace> {
        let part = || Span::new(span::ADMIT, SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
        let mut root = part();
        root.children = (1..spans).map(|_| part()).collect();
        Arc::new(Trace { trace_id: 1_u128.into(), parent: None, root, tracestate: None })
    }

    fn queue(spans: usize, batch: usize) -> Queue {
        Queue::new(Batching { queue: spans, batch, delay: Duration::ZERO })
    }

    #[test]
    fn the_queue_is_bounded_by_spans_and_counts_what_it_drops() {
        let queue = queue(10, 5);
        (0..4).for_each(|_| queue.push(trace(4)));
        assert_eq!(queue.counts(), Counts { exported: 0, dropped: 8, failed: 0 });
        queue.push(trace(2));
        assert_eq!(queue.counts().dropped, 8, "a smaller one still fits");
    }

    #[test]
    fn a_batch_is_filled_with_whole_traces() {
        let queue = queue(100, 5);
        (0..4).for_each(|_| queue.push(trace(3)));
        let batches = std::iter::repeat_with(|| queue.take().0).take(3);
        assert_eq!(batches.collect::<Vec<_>>(), [6, 6, 0]);
    }

    #[test]
    fn what_is_abandoned_counts_as_failed_even_on_its_way() {
        let queue = queue(100, 5);
        (0..4).for_each(|_| queue.push(trace(3)));
        let on_its_way = queue.take();
        queue.close();
        queue.abandon();
        queue.push(trace(1));
        assert_eq!(on_its_way.0, 6);
        assert_eq!(queue.counts(), Counts { exported: 0, dropped: 1, failed: 12 });
        assert_eq!(queue.take().0, 0);
    }
}
