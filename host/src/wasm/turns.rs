//! The turns in which guests compute.
//!
//! ```text
//! turn ── over after an epoch ─▶ waits: whoever is ready, and whoever the kernel has news for, has one
//!   ▲                              │
//!   └──────────────────────────────┘
//! ```

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use wasmtime::UpdateDeadline;

/// Epochs that a guest's first turn has in it, the one that has begun included. It is at least a whole one then: a
/// guest that needs less is not interrupted by a tick that happens to come, to wait until another's turn is over.
pub(super) const FIRST: u64 = 2;

/// The guests of this process that wait for a turn.
pub static WAITING: Waiting = Waiting(AtomicUsize::new(0));

/// Guests whose turn is over and that have more to compute.
#[derive(Debug, Default)]
pub struct Waiting(AtomicUsize);

impl Waiting {
    /// Whether there are any. Whoever gives way now waits until each of them has had a turn.
    #[must_use]
    pub fn any(&self) -> bool {
        self.0.load(Relaxed) > 0
    }

    /// One more, for as long as what this returns lives.
    #[must_use]
    pub fn one(&self) -> impl Drop + '_ {
        self.0.fetch_add(1, Relaxed);
        One(self)
    }
}

struct One<'w>(&'w Waiting);

impl Drop for One<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// What becomes of a guest whose turn is over: it gets another one when whoever is ready, and whoever
/// the kernel has news for, has had one. Waking itself at once, as Wasmtime would have it, it would
/// be back before the runtime has looked at a single socket. Says how long that took.
pub(super) fn next_turn(waited: impl FnOnce(Duration) + Send + 'static) -> UpdateDeadline {
    let since = Instant::now();
    let others = async move {
        let one = WAITING.one();
        yield_now().await;
        drop(one);
        waited(since.elapsed());
    };
    UpdateDeadline::YieldCustom(1, Box::pin(others))
}

/// How long a guest that could go on has waited for its turns.
#[derive(Debug, Default)]
pub(super) struct Turns(AtomicU64);

impl Turns {
    pub(super) fn add(&self, waited: Duration) {
        self.0.fetch_add(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn waited(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }
}
