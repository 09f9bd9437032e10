//! The gate of a function: so many requests in flight, so many waiting, the others refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bounds of a function's gate.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Requests in flight at once.
    pub concurrency: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// How long each may wait.
    pub queue_timeout: Duration,
}

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many wait already as may.
    #[error("{concurrency} requests are in flight and {queue} wait already")]
    QueueFull {
        /// The bound of those in flight.
        concurrency: usize,
        /// The bound of those waiting.
        queue: usize,
    },
    /// The wait was too long.
    #[error("no place became free within {0:?}")]
    TimedOut(Duration),
}

/// Lets requests into a function.
pub struct Gate {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    bounds: Bounds,
}

impl Gate {
    /// A gate with `bounds`.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let places = bounds.concurrency.min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0), bounds }
    }

    /// A place, which is free again when the answer is dropped.
    ///
    /// # Errors
    /// When the queue is full or the wait took longer than `queue_timeout`.
    pub async fn enter(&self) -> Result<OwnedSemaphorePermit, Refused> {
        if let Some(place) = self.try_enter() {
            return Ok(place);
        }
        let _waiting = self.join_queue()?;
        match tokio::time::timeout(
            self.bounds.queue_timeout,
            Arc::clone(&self.places).acquire_owned(),
        )
        .await
        {
            Ok(Ok(place)) => Ok(place),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(Refused::TimedOut(self.bounds.queue_timeout)),
        }
    }

    /// A place, if one is free now.
    pub fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Requests that may be in flight at once.
    pub fn concurrency(&self) -> usize {
        self.bounds.concurrency
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.bounds.concurrency.saturating_sub(self.places.available_permits())
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn join_queue(&self) -> Result<Waiting<'_>, Refused> {
        let Bounds { concurrency, queue, .. } = self.bounds;
        self.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
                (waiting < queue).then_some(waiting + 1)
            })
            .map(|_| Waiting(&self.waiting))
            .map_err(|_| Refused::QueueFull { concurrency, queue })
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(concurrency: usize, queue: usize) -> Gate {
        Gate::new(Bounds { concurrency, queue, queue_timeout: Duration::from_secs(5) })
    }

    #[tokio::test]
    async fn a_request_past_the_queue_is_refused_with_the_bounds() {
        let gate = gate(1, 0);
        let _place = gate.enter().await.unwrap();
        assert_eq!(
            gate.enter().await.unwrap_err(),
            Refused::QueueFull { concurrency: 1, queue: 0 }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_the_queue_timeout() {
        let gate = gate(1, 1);
        let _place = gate.enter().await.unwrap();
        assert_eq!(gate.enter().await.unwrap_err(), Refused::TimedOut(Duration::from_secs(5)));
        assert_eq!(gate.waiting(), 0);
    }

    #[tokio::test]
    async fn a_waiter_gets_the_place_that_becomes_free() {
        let gate = gate(1, 1);
        let place = gate.enter().await.unwrap();
        let (second, ()) = tokio::join!(gate.enter(), async { drop(place) });
        assert!(second.is_ok());
        assert_eq!(gate.in_flight(), 1);
    }

    #[tokio::test]
    async fn a_client_that_leaves_the_queue_makes_room() {
        let gate = gate(1, 1);
        let _place = gate.enter().await.unwrap();
        let mut waiter = Box::pin(gate.enter());
        assert!(futures_util::poll!(&mut waiter).is_pending());
        assert_eq!(gate.waiting(), 1);
        drop(waiter);
        assert_eq!(gate.waiting(), 0);
    }
}
