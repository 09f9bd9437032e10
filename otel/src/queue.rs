//! What waits for its export: bounded in weight (a trace weighs its spans, a log record one), never
//! waited for, and counting what became of it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::settings::Batching;

/// What became of spans or log records so far.
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
pub(crate) struct Queue<T> {
    bounds: Batching,
    waiting: Mutex<Waiting<T>>,
    /// A batch is full, or the queue has been closed.
    ready: Notify,
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug)]
struct Waiting<T> {
    items: VecDeque<(usize, T)>,
    weight: usize,
    /// Weight that was ever let in.
    accepted: u64,
    closed: bool,
}

impl<T> Queue<T> {
    pub(crate) fn new(bounds: Batching) -> Self {
        Self {
            bounds,
            waiting: Mutex::new(Waiting {
                items: VecDeque::new(),
                weight: 0,
                accepted: 0,
                closed: false,
            }),
            ready: Notify::new(),
            exported: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Wakes the thread only when a batch becomes full: a wake-up costs more than all the rest.
    pub(crate) fn push(&self, item: T, weight: usize) {
        let mut waiting = lock(&self.waiting);
        if waiting.closed || waiting.weight + weight > self.bounds.queue {
            drop(waiting);
            count(&self.dropped, weight);
            return;
        }
        let before = waiting.weight;
        waiting.weight += weight;
        waiting.accepted += number(weight);
        waiting.items.push_back((weight, item));
        let after = waiting.weight;
        drop(waiting);
        if before < self.bounds.batch && after >= self.bounds.batch {
            self.ready.notify_one();
        }
    }

    /// The next items, as many as make a batch, and what they weigh.
    pub(crate) fn take(&self) -> (usize, Vec<T>) {
        let mut waiting = lock(&self.waiting);
        let (mut weight, mut items) = (0, vec![]);
        while weight < self.bounds.batch {
            let Some((more, item)) = waiting.items.pop_front() else { break };
            weight += more;
            items.push(item);
        }
        waiting.weight -= weight;
        (weight, items)
    }

    /// Lets nothing in any more.
    pub(crate) fn close(&self) {
        lock(&self.waiting).closed = true;
        self.ready.notify_one();
    }

    /// Gives up what waits and what is on its way.
    pub(crate) fn abandon(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.items.clear();
        waiting.weight = 0;
        self.failed.store(waiting.accepted - self.exported.load(Relaxed), Relaxed);
    }

    /// Waits until a batch is full, has waited long enough, or the queue is closed, and says whether
    /// it is closed.
    pub(crate) async fn ready(&self) -> bool {
        let _ = timeout(self.bounds.delay, self.ready.notified()).await;
        lock(&self.waiting).closed
    }

    /// Whether nothing is let in any more.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.waiting).closed
    }

    /// Counts what was sent or refused.
    pub(crate) fn settle(&self, weight: usize, exported: bool) {
        count(if exported { &self.exported } else { &self.failed }, weight);
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

fn count(counter: &AtomicU64, weight: usize) {
    counter.fetch_add(number(weight), Relaxed);
}

/// A weight as the counters have it.
fn number(weight: usize) -> u64 {
    u64::try_from(weight).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn queue(spans: usize, batch: usize) -> Queue<()> {
        Queue::new(Batching { queue: spans, batch, delay: Duration::ZERO })
    }

    #[test]
    fn the_queue_is_bounded_by_weight_and_counts_what_it_drops() {
        let queue = queue(10, 5);
        (0..4).for_each(|_| queue.push((), 4));
        assert_eq!(queue.counts(), Counts { exported: 0, dropped: 8, failed: 0 });
        queue.push((), 2);
        assert_eq!(queue.counts().dropped, 8, "a smaller one still fits");
    }

    #[test]
    fn a_batch_is_filled_with_whole_items() {
        let queue = queue(100, 5);
        (0..4).for_each(|_| queue.push((), 3));
        let batches = std::iter::repeat_with(|| queue.take().0).take(3);
        assert_eq!(batches.collect::<Vec<_>>(), [6, 6, 0]);
    }

    #[test]
    fn what_is_abandoned_counts_as_failed_even_on_its_way() {
        let queue = queue(100, 5);
        (0..4).for_each(|_| queue.push((), 3));
        let on_its_way = queue.take();
        queue.close();
        queue.abandon();
        queue.push((), 1);
        assert_eq!(on_its_way.0, 6);
        assert_eq!(queue.counts(), Counts { exported: 0, dropped: 1, failed: 12 });
        assert_eq!(queue.take().0, 0);
    }
}
