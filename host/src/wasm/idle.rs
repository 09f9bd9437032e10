//! Instances of a function that wait for its next request (`instances = { reuse = … }`).
//!
//! The one used last is used next, so that those in excess stay idle and end. An instance that
//! trapped, passed a limit or was left by its client in the middle never comes back here.
//!
//! ```text
//! fresh ──▶ at work ── returned, requests left ──▶ idle ── idle time over, or its slot is needed ──▶ gone
//!             ▲ └──── otherwise ──▶ gone             │
//!             └────────────────────────────────────┘
//! ```

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;

use super::guest::Guest;

/// An instance of a component of 0.2, and how many requests it has served.
pub(super) struct Instance {
    pub(super) store: Store<Guest>,
    pub(super) proxy: Proxy,
    pub(super) served: u64,
}

/// A function's idle instances.
pub(super) struct Idle {
    requests: u64,
    time: Duration,
    /// Idle for longest first.
    waiting: Mutex<VecDeque<(Instant, Instance)>>,
}

impl Idle {
    /// None yet; each may serve `requests` and wait for `time`.
    pub(super) fn new(requests: u64, time: Duration) -> Self {
        Self { requests, time, waiting: Mutex::default() }
    }

    pub(super) fn take(&self) -> Option<Instance> {
        self.waiting().pop_back().map(|(_, instance)| instance)
    }

    /// Takes back an instance that has served another request well.
    pub(super) fn give(&self, mut instance: Instance) {
        instance.served += 1;
        if instance.served < self.requests {
            self.waiting().push_back((Instant::now(), instance));
        }
    }

    /// The instance that was idle for longest, to be dropped.
    pub(super) fn evict(&self) -> Option<Instance> {
        self.waiting().pop_front().map(|(_, instance)| instance)
    }

    /// Drops what has been idle for long enough; says when the next one will have been.
    fn expire(&self, now: Instant) -> Instant {
        let fresh = |since: Instant| now.saturating_duration_since(since) < self.time;
        let mut waiting = self.waiting();
        let expired = waiting.iter().take_while(|(since, _)| !fresh(*since)).count();
        let gone: Vec<_> = waiting.drain(..expired).collect();
        let next = waiting.front().map_or(now, |(since, _)| *since) + self.time;
        drop(waiting);
        drop(gone);
        next
    }

    /// Drops idle instances in time for as long as the function is there.
    pub(super) async fn reap(idle: Weak<Self>) {
        while let Some(next) = idle.upgrade().map(|idle| idle.expire(Instant::now())) {
            tokio::time::sleep_until(next.into()).await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(Instant, Instance)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
