//! The clock that interrupts guests.
//!
//! A thread raises the engine's epoch every [`EPOCH`] while guests run, and sleeps when none has run
//! for a while.
//!
//! ```text
//! ticking ── no guest for IDLE_TICKS ──▶ asleep
//!    ▲ └── dropped ──▶ stopped          │
//!    └──────── a guest starts ──────────┘
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

/// How long a guest may run before it yields to its neighbours.
///
/// It is what a neighbour waits for one guest that spins on its core, rarely twice: by `just bench wasm` 1.1 ms in the
/// median and 2.2 ms at the 99th percentile.
pub const EPOCH: Duration = Duration::from_millis(1);

/// After this many ticks without a guest the clock sleeps until one arrives.
const IDLE_TICKS: u32 = 1_000;

/// The thread that raises the engine's epoch every [`EPOCH`] while guests run.
pub(super) struct Clock {
    shared: Arc<ClockState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct ClockState {
    guests: AtomicUsize,
    asleep: AtomicBool,
    stop: AtomicBool,
}

impl Clock {
    #[expect(clippy::expect_used, reason = "without a thread for the clock no guest is bounded")]
    pub(super) fn start(engine: wasmtime::Engine) -> Self {
        let shared = Arc::new(ClockState::default());
        let state = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("baton-epoch".into())
            .spawn(move || state.run(&engine))
            .expect("a thread for the epoch clock");
        Self { shared, thread: Some(thread) }
    }

    pub(super) fn guest(&self) -> Running {
        self.shared.guests.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst)
            && let Some(thread) = self.thread.as_ref().map(JoinHandle::thread)
        {
            wake(&self.shared, thread);
        }
        Running { shared: Arc::clone(&self.shared) }
    }
}

fn wake(state: &ClockState, thread: &Thread) {
    state.asleep.store(false, Ordering::SeqCst);
    thread.unpark();
}

impl ClockState {
    fn run(&self, engine: &wasmtime::Engine) {
        let mut idle = 0;
        while !self.stop.load(Ordering::SeqCst) {
            thread::sleep(EPOCH);
            engine.increment_epoch();
            idle = if self.guests.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
            if idle >= IDLE_TICKS {
                self.asleep.store(true, Ordering::SeqCst);
                // A guest that came before `asleep` was set did not wake us: look once more.
                while self.asleep.load(Ordering::SeqCst)
                    && self.guests.load(Ordering::SeqCst) == 0
                    && !self.stop.load(Ordering::SeqCst)
                {
                    thread::park();
                }
                self.asleep.store(false, Ordering::SeqCst);
                idle = 0;
            }
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread holds nothing that could panic; its end is all that is waited for.
            let _ = thread.join();
        }
    }
}

/// A guest that runs: the clock ticks at least as long as one of these lives.
pub(super) struct Running {
    shared: Arc<ClockState>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.guests.fetch_sub(1, Ordering::SeqCst);
    }
}
