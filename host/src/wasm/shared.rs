//! Components of wasi:http 0.3 whose instances serve many requests, several at once.
//!
//! The crate's `ProxyHandler` runs one task for each instance and hands it requests; here is what it
//! asks: how many, for how long, and what becomes of an instance. A request that nobody waits for
//! any more ends its instance as soon as no other request is left in it: wasmtime cannot cancel one
//! task of a store alone.
//!
//! ```text
//! idle ⇄ serving ── trapped, out of time, abandoned by all ──▶ ended (every request in it fails)
//!   └── `requests` served, or `idle` over ──▶ ended
//! ```

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::Request;
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use wasmtime::component::{Component, GuestTaskId};
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, InstantiationError, Proxy, ProxyHandler, ShouldAccept,
    TrapOrPanicError, WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, WasiHttpView};

use super::clock::{EPOCH, Running};
use super::engine::Engine;
use super::guest::{Guest, Invocation};
use super::instance::{Failure, GuestFuture, Progress, failure};
use super::program::Settings;
use super::turns::{Turns, next_turn};

/// What an instance has beyond the time of a request, whose own deadline comes first.
const MARGIN: Duration = Duration::from_secs(1);

/// How often and how long instances are used.
#[derive(Clone, Copy)]
pub(super) struct Reuse {
    pub(super) requests: u64,
    pub(super) concurrent: usize,
    pub(super) idle: Duration,
}

pub(super) struct Shared {
    handler: ProxyHandler<Workers>,
}

impl Shared {
    pub(super) fn new(
        engine: Arc<Engine>,
        component: &Component,
        settings: Settings,
        reuse: Reuse,
    ) -> wasmtime::Result<Self> {
        let pre = ServicePre::new(engine.linker().instantiate_pre(component)?)?;
        Ok(Self { handler: ProxyHandler::new(Workers { engine, settings, pre, reuse }) })
    }

    /// Answers one request; nothing runs until the future is polled.
    pub(super) fn start<B>(
        &self,
        request: Request<B>,
        invocation: Invocation,
        progress: &Arc<Progress>,
    ) -> GuestFuture
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Error>,
    {
        let (handler, progress) = (self.handler.clone(), Arc::clone(progress));
        Box::pin(async move {
            let left = CancellationToken::new();
            let passenger =
                Passenger { invocation, progress: Arc::clone(&progress), left: left.clone() };
            let _leaves = Leaves { progress: Arc::clone(&progress), left };
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            match handler.handle(passenger, request).await {
                Ok(response) => progress.answer(Ok(response)),
                Err(error) => match error.downcast_ref::<ErrorCode>() {
                    Some(code) => {
                        progress.answer(Err(format!("{code:?}")));
                        return Ok(());
                    }
                    None => return Err(reason(error, &progress).await),
                },
            }
            let ended = poll_fn(|_| match progress.ride.get().and_then(|ride| ride.why.get()) {
                Some(why) => Poll::Ready(Err(why.clone())),
                None if progress.is_written() => Poll::Ready(Ok(())),
                None => Poll::Pending,
            });
            ended.await.map_err(wasmtime::Error::new)
        })
    }
}

/// Why an instance did not answer: what it was found to have ended by, not that it ended.
async fn reason(error: wasmtime::Error, progress: &Progress) -> wasmtime::Error {
    if let Some(failed) = error.downcast_ref::<InstantiationError<Passenger>>() {
        return wasmtime::Error::new(failure(&failed.error, progress));
    }
    if error.is::<TrapOrPanicError>()
        && let Some(ride) = progress.ride.get()
    {
        ride.ended.cancelled().await;
        if let Some(why) = ride.why.get() {
            return wasmtime::Error::new(why.clone());
        }
    }
    error
}

/// What a request brings to the instance that takes it.
pub(super) struct Passenger {
    invocation: Invocation,
    progress: Arc<Progress>,
    /// Cancelled when nobody waits for the request any more, whether it was answered or not.
    left: CancellationToken,
}

/// Says that nobody waits for a request any more.
struct Leaves {
    progress: Arc<Progress>,
    left: CancellationToken,
}

impl Drop for Leaves {
    fn drop(&mut self) {
        self.left.cancel();
        if let Some(ride) = self.progress.ride.get() {
            ride.waiting.fetch_sub(1, Ordering::Relaxed);
            ride.abandoned.fetch_or(!self.progress.is_written(), Ordering::Relaxed);
            ride.worker.wake();
        }
    }
}

/// An instance as the requests in it see it.
#[derive(Default)]
pub(super) struct Ride {
    /// Requests for which somebody waits.
    waiting: AtomicUsize,
    /// Whether somebody left before the end.
    abandoned: AtomicBool,
    /// The instance's task.
    worker: AtomicWaker,
    /// What the instance has waited for its turns, and with it each request in it.
    pub(super) turns: Turns,
    /// Ticks of the clock since a request was taken.
    ticks: AtomicU64,
    ended: CancellationToken,
    why: OnceLock<Failure>,
}

struct Workers {
    engine: Arc<Engine>,
    settings: Settings,
    pre: ServicePre<Guest>,
    reuse: Reuse,
}

impl HandlerState for Workers {
    type StoreData = Guest;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Guest, Expiration, Worker>> {
        let running = self.engine.running();
        let slot = self.engine.slot().await?;
        let progress = Arc::new(Progress::new(self.settings.memory));
        let mut store = Guest::store(&self.engine, &self.settings, slot, &progress).await?;
        let ride = Arc::new(Ride::default());
        bound_cpu(&mut store, &ride, self.settings.cpu_time);
        let service = self.pre.instantiate_async(&mut store).await?;
        let _ = progress.instantiated.set(Instant::now());
        let expiration = Expiration {
            ride: Arc::clone(&ride),
            timeout: self.settings.timeout,
            idle: self.reuse.idle,
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        };
        let state = Worker { ride, progress, reuse: self.reuse, _running: running };
        Ok(Instance { store, proxy: Proxy::P3(service), view: Guest::http, expiration, state })
    }
}

/// Ends a guest that computes for `limit` without a new request being taken. Its requests share
/// their turns, so it is the instance that is bounded; a tick that finds it at work counts whole.
fn bound_cpu(store: &mut Store<Guest>, ride: &Arc<Ride>, limit: Duration) {
    let ride = Arc::clone(ride);
    let most = u64::try_from(limit.as_micros() / EPOCH.as_micros()).unwrap_or(u64::MAX);
    store.epoch_deadline_callback(move |_| {
        match ride.ticks.fetch_add(1, Ordering::Relaxed) < most {
            true => {
                let ride = Arc::clone(&ride);
                Ok(next_turn(move |waited| ride.turns.add(waited)))
            }
            false => Err(wasmtime::Error::new(Failure::CpuTime { limit })),
        }
    });
}

struct Worker {
    ride: Arc<Ride>,
    progress: Arc<Progress>,
    reuse: Reuse,
    _running: Running,
}

impl WorkerState for Worker {
    type StoreData = Guest;
    type RequestData = Passenger;

    fn should_accept_request(&self, concurrent_count: usize, total_count: usize) -> ShouldAccept {
        if total_count as u64 >= self.reuse.requests {
            ShouldAccept::Never
        } else if concurrent_count >= self.reuse.concurrent {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        mut store: StoreContextMut<'_, Guest>,
        passenger: Passenger,
        _task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        let Passenger { invocation, progress, left } = passenger;
        store.data_mut().work_for(invocation);
        self.ride.ticks.store(0, Ordering::Relaxed);
        self.ride.waiting.fetch_add(1, Ordering::Relaxed);
        let _ = progress.instantiated.set(Instant::now());
        let _ = progress.boarded.set(self.ride.turns.waited());
        let _ = progress.ride.set(Arc::clone(&self.ride));
        Box::pin(left.cancelled_owned())
    }

    fn drop(&self, store: Store<Guest>, result: Result<(), wasmtime::Error>) {
        if let Err(error) = result {
            let _ = self.ride.why.set(failure(&error, &self.progress));
        }
        self.ride.ended.cancel();
        drop(store);
    }
}

/// Ends an instance in time.
struct Expiration {
    ride: Arc<Ride>,
    timeout: Duration,
    idle: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl WorkerExpiration for Expiration {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        state: WorkerStatus,
        start: Instant,
    ) -> Poll<()> {
        self.ride.worker.register(cx.waker());
        let at_work = state != WorkerStatus::Idle;
        let nobody = self.ride.waiting.load(Ordering::Relaxed) == 0;
        if at_work && nobody && self.ride.abandoned.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let time = if at_work { self.timeout + MARGIN } else { self.idle };
        let at = (start + time).into();
        if self.sleep.deadline() != at {
            self.sleep.as_mut().reset(at);
        }
        self.sleep.as_mut().poll(cx)
    }
}
