//! One guest answering one request.
//!
//! No task is spawned: a [`Call`] is polled inside the request's own future, then owned by the
//! response body, and dropping it ends the guest wherever it is.

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::Response;
use wasmtime::Trap;
use wasmtime_wasi_http::WasiBody;

use super::body::GuestBody;
use super::shared::Ride;
use super::turns::Turns;
use crate::gate::Refused;

/// Why a guest gave no answer, or stopped in the middle of one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The guest trapped.
    #[error("the component trapped: {0}")]
    Trapped(String),
    /// The guest trapped after it had been refused memory.
    #[error("the component asked for more memory than its limit of {limit} bytes and trapped")]
    OutOfMemory {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The guest returned without setting a response.
    #[error("the component returned without an answer")]
    NoResponse,
    /// The guest answered with an error instead of a response, or one that HTTP cannot carry.
    #[error("the component's answer is not a valid response: {0}")]
    InvalidResponse(String),
    /// The guest computed for longer than `limits.cpu_time`.
    #[error("the component used its {limit:?} of CPU time")]
    CpuTime {
        /// The limit.
        limit: Duration,
    },
    /// No instance was free in the engine's pool.
    #[error("no WebAssembly instance is free: {0}")]
    NoInstance(String),
    /// The component could not be instantiated.
    #[error("the component cannot be instantiated: {0}")]
    Instantiate(String),
}

/// What a guest tells the request that waits for it.
#[derive(Default)]
pub(super) struct Progress {
    pub instantiated: OnceLock<Instant>,
    pub memory_refused: AtomicBool,
    /// What an instance of this request's own has waited for its turns.
    pub turns: Turns,
    /// The instance that serves other requests beside this one.
    pub ride: OnceLock<Arc<Ride>>,
    /// What it had waited for its turns when it took this one.
    pub boarded: OnceLock<Duration>,
    /// Bytes of memory that the instance may have.
    memory: usize,
    written: AtomicBool,
    answer: Mutex<Option<Result<Response<WasiBody>, String>>>,
}

impl Progress {
    pub(super) fn new(memory: usize) -> Self {
        Self { memory, ..Self::default() }
    }

    /// The instance is ready: ends the turn, and goes on in the next, for which nobody is woken.
    pub(super) async fn ready(&self) {
        let mut paused = self.instantiated.set(Instant::now()).is_err();
        poll_fn(|_| if mem::replace(&mut paused, true) { Poll::Ready(()) } else { Poll::Pending })
            .await;
    }

    /// The guest's response, or its own word for what it answers instead.
    pub(super) fn answer(&self, answer: Result<Response<WasiBody>, String>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }

    fn take_answer(&self) -> Option<Result<Response<WasiBody>, String>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How long the guest could have gone on and was not let.
    fn waited(&self) -> Duration {
        let boarded = self.boarded.get().copied().unwrap_or_default();
        let ride = self.ride.get().map(|ride| ride.turns.waited().saturating_sub(boarded));
        self.turns.waited() + ride.unwrap_or_default()
    }

    /// Every byte of the response was taken.
    pub(super) fn set_written(&self) {
        self.written.store(true, Ordering::Release);
    }

    pub(super) fn is_written(&self) -> bool {
        self.written.load(Ordering::Acquire)
    }
}

/// Why an instance failed, from what it failed with.
pub(super) fn failure(error: &wasmtime::Error, progress: &Progress) -> Failure {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.clone();
    }
    if progress.memory_refused.load(Ordering::Relaxed) {
        return Failure::OutOfMemory { limit: progress.memory };
    }
    if let Some(refused) = error.downcast_ref::<Refused>() {
        return Failure::NoInstance(refused.to_string());
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return Failure::NoInstance(error.to_string());
    }
    if progress.instantiated.get().is_none() && !error.is::<Trap>() {
        return Failure::Instantiate(format!("{error:#}"));
    }
    let detail = error.downcast_ref::<Trap>().map_or_else(
        || error.root_cause().to_string(),
        |trap| trap.to_string().trim_start_matches("wasm trap: ").to_owned(),
    );
    Failure::Trapped(detail)
}

pub(super) type GuestFuture = Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send>>;

/// A guest at work on a request.
///
/// ```text
/// starting ── instance() ──▶ ready ── head() ──▶ answered ── into_body() ──▶ GuestBody
///     └───────────────────────┴──── trap, no answer, limit ──▶ Failure
/// ```
pub struct Call {
    /// `None` once the guest has returned.
    guest: Option<GuestFuture>,
    progress: Arc<Progress>,
    cpu: Cpu,
}

/// What a guest has spent on a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Computing.
    pub computed: Duration,
    /// Ready to go on, but others had their turns.
    pub waited: Duration,
}

/// The time that a guest has computed, and how much it may.
///
/// Counted is the wall-clock time that a thread spent inside the guest, of which each turn is
/// at most an epoch long; on a crowded machine it is an upper bound of the CPU time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpu {
    pub used: Duration,
    pub limit: Duration,
}

impl Call {
    pub(super) fn new(guest: GuestFuture, progress: Arc<Progress>, cpu: Duration) -> Self {
        Self { guest: Some(guest), progress, cpu: Cpu { used: Duration::ZERO, limit: cpu } }
    }

    /// Runs the guest until it has set its response's head.
    ///
    /// # Errors
    /// When the guest ends without one or passes a limit.
    pub async fn head(&mut self) -> Result<Response<WasiBody>, Failure> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    /// Makes the instance; the guest does not run before the next turn.
    ///
    /// # Errors
    /// When none can be made, or making it passes a limit.
    pub fn poll_instance(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if self.instantiated().is_some() {
            return Poll::Ready(Ok(()));
        }
        match self.poll_guest(cx) {
            // It pauses, and waits for nothing.
            Poll::Pending if self.instantiated().is_some() => Poll::Ready(Ok(())),
            polled => polled,
        }
    }

    /// One turn of [`Call::head`].
    ///
    /// # Errors
    /// As [`Call::head`].
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<WasiBody>, Failure>> {
        ready!(self.poll_instance(cx))?;
        let ended = self.poll_guest(cx);
        match (self.progress.take_answer(), ended) {
            // Even after it has set a head: none of it has been sent, and it will not be whole.
            (_, Poll::Ready(Err(failure))) => Poll::Ready(Err(failure)),
            (Some(Ok(response)), _) => Poll::Ready(Ok(response)),
            (Some(Err(code)), _) => Poll::Ready(Err(Failure::InvalidResponse(code))),
            (None, Poll::Ready(Ok(()))) => Poll::Ready(Err(Failure::NoResponse)),
            (None, Poll::Pending) => Poll::Pending,
        }
    }

    /// Gives the guest one turn. Ready once it has returned, and from then on.
    pub(super) fn poll_guest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let Some(guest) = &mut self.guest else { return Poll::Ready(Ok(())) };
        let turn = Instant::now();
        let polled = guest.as_mut().poll(cx);
        self.cpu.used += turn.elapsed();
        match polled {
            Poll::Pending if self.cpu.used > self.cpu.limit => {
                self.guest = None;
                Poll::Ready(Err(Failure::CpuTime { limit: self.cpu.limit }))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => {
                self.guest = None;
                Poll::Ready(result.map_err(|error| failure(&error, &self.progress)))
            }
        }
    }

    /// The body of the response that `head` returned; it owns the guest.
    #[must_use]
    pub fn into_body(self, body: WasiBody) -> GuestBody {
        GuestBody::new(self, body)
    }

    /// When the instance was ready, if it is.
    #[must_use]
    pub fn instantiated(&self) -> Option<Instant> {
        self.progress.instantiated.get().copied()
    }

    /// What the guest has spent so far.
    #[must_use]
    pub fn spent(&self) -> Spent {
        Spent { computed: self.cpu.used, waited: self.progress.waited() }
    }

    /// Tells the guest's side that every byte of the response was taken.
    pub(super) fn set_written(&self) {
        self.progress.set_written();
    }

    /// Whether the guest has returned.
    pub(super) fn is_done(&self) -> bool {
        self.guest.is_none()
    }
}
