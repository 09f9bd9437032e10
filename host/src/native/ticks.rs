//! Ticks that all requests in sandboxes share, to be looked at now and then.
//!
//! ```text
//! nobody listens ── subscribe ─▶ a task ticks ── nobody listens any more ─▶ it ends
//! ```
//! A timer for each request would wake the I/O driver for most of them, which is one system call to
//! write and one to read: the timer that it sleeps until is further away than the new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Between two ticks.
pub(super) const TICK: Duration = Duration::from_millis(25);

/// Tells those who listen that time has passed.
pub(super) struct Ticks {
    tasks: TaskTracker,
    ticks: Arc<watch::Sender<()>>,
    running: Arc<AtomicBool>,
}

impl Ticks {
    /// Ticks whose task is one of `tasks`.
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self { tasks, ticks: Arc::default(), running: Arc::default() }
    }

    /// Changes every [`TICK`] for as long as somebody has one.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        let listener = self.ticks.subscribe();
        if !self.running.swap(true, SeqCst) {
            let (ticks, running) = (Arc::clone(&self.ticks), Arc::clone(&self.running));
            self.tasks.spawn(tick(ticks, running));
        }
        listener
    }
}

async fn tick(ticks: Arc<watch::Sender<()>>, running: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(TICK).await;
        ticks.send_replace(());
        if ticks.receiver_count() == 0 {
            running.store(false, SeqCst);
            // Who came meanwhile saw it running still, unless another was started for him.
            if ticks.receiver_count() == 0 || running.swap(true, SeqCst) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ticks_while_somebody_listens_and_begins_anew_later() {
        let tasks = TaskTracker::new();
        let ticks = Ticks::new(tasks.clone());
        for _ in 0..2 {
            let (mut one, mut other) = (ticks.subscribe(), ticks.subscribe());
            for _ in 0..3 {
                one.changed().await.unwrap();
                other.changed().await.unwrap();
            }
            assert_eq!(tasks.len(), 1);
            drop((one, other));
            tokio::time::sleep(2 * TICK).await;
            assert!(tasks.is_empty());
        }
    }
}
