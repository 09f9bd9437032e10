//! One guest answering one request.
//!
//! No task is spawned: a [`Call`] is polled inside the request's own future, then owned by the
//! response body, and dropping it ends the guest wherever it is.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Response;
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Trap};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::body::GuestBody;
use super::engine::TABLE_ELEMENTS;
use super::outgoing::Outgoing;

/// Why a guest gave no answer, or stopped in the middle of one.
#[derive(Debug, thiserror::Error)]
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
    #[error("no WebAssembly instance is free")]
    NoInstance,
    /// The component could not be instantiated.
    #[error("the component cannot be instantiated: {0}")]
    Instantiate(String),
}

/// The state of a guest's store.
pub(super) struct Guest {
    pub wasi: WasiCtx,
    pub http: WasiHttpCtx,
    pub table: ResourceTable,
    pub outgoing: Outgoing,
    pub memory: MemoryLimit,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outgoing }
    }
}

/// Bounds the linear memory of an instance, summed over its memories, and its tables.
pub(super) struct MemoryLimit {
    pub limit: usize,
    pub used: usize,
    pub progress: Arc<Progress>,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        let allowed = used <= self.limit;
        if allowed {
            self.used = used;
        } else {
            self.progress.memory_refused.store(true, Ordering::Relaxed);
        }
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }
}

/// What a guest tells the request that waits for it.
#[derive(Default)]
pub(super) struct Progress {
    pub instantiated: OnceLock<Instant>,
    pub memory_refused: AtomicBool,
    answer: Mutex<Option<Result<Response<HyperOutgoingBody>, ErrorCode>>>,
}

impl Progress {
    pub(super) fn answer(&self, answer: Result<Response<HyperOutgoingBody>, ErrorCode>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }

    fn take_answer(&self) -> Option<Result<Response<HyperOutgoingBody>, ErrorCode>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

pub(super) type GuestFuture = Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send>>;

/// A guest at work on a request.
///
/// ```text
/// starting ── head() ──▶ answered ── into_body() ──▶ GuestBody
///     └──────── trap, no answer, limit ──▶ Failure
/// ```
pub struct Call {
    /// `None` once the guest has returned.
    guest: Option<GuestFuture>,
    progress: Arc<Progress>,
    cpu: Cpu,
    memory: usize,
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
    pub(super) fn new(
        guest: GuestFuture,
        progress: Arc<Progress>,
        cpu: Duration,
        memory: usize,
    ) -> Self {
        Self { guest: Some(guest), progress, cpu: Cpu { used: Duration::ZERO, limit: cpu }, memory }
    }

    /// Runs the guest until it has set its response's head.
    ///
    /// # Errors
    /// When the guest ends without one or passes a limit.
    pub async fn head(&mut self) -> Result<Response<HyperOutgoingBody>, Failure> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<HyperOutgoingBody>, Failure>> {
        let ended = self.poll_guest(cx);
        match (self.progress.take_answer(), ended) {
            // Even after it has set a head: none of it has been sent, and it will not be whole.
            (_, Poll::Ready(Err(failure))) => Poll::Ready(Err(failure)),
            (Some(Ok(response)), _) => Poll::Ready(Ok(response)),
            (Some(Err(code)), _) => Poll::Ready(Err(Failure::InvalidResponse(format!("{code:?}")))),
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
                Poll::Ready(result.map_err(|error| self.failure(&error)))
            }
        }
    }

    fn failure(&self, error: &wasmtime::Error) -> Failure {
        if self.progress.memory_refused.load(Ordering::Relaxed) {
            return Failure::OutOfMemory { limit: self.memory };
        }
        if error.is::<wasmtime::PoolConcurrencyLimitError>() {
            return Failure::NoInstance;
        }
        if self.progress.instantiated.get().is_none() && !error.is::<Trap>() {
            return Failure::Instantiate(format!("{error:#}"));
        }
        let detail = error.downcast_ref::<Trap>().map_or_else(
            || error.root_cause().to_string(),
            |trap| trap.to_string().trim_start_matches("wasm trap: ").to_owned(),
        );
        Failure::Trapped(detail)
    }

    /// The body of the response that `head` returned; it owns the guest.
    #[must_use]
    pub fn into_body(self, body: HyperOutgoingBody) -> GuestBody {
        GuestBody::new(self, body)
    }

    /// When the instance was ready, if it is.
    #[must_use]
    pub fn instantiated(&self) -> Option<Instant> {
        self.progress.instantiated.get().copied()
    }

    /// Time that the guest has computed so far.
    #[must_use]
    pub fn cpu_used(&self) -> Duration {
        self.cpu.used
    }

    /// Whether the guest has returned.
    pub(super) fn is_done(&self) -> bool {
        self.guest.is_none()
    }
}
