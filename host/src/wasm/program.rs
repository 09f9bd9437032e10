//! A component ready to be instantiated.

use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_otel::SpanId;
use bytes::Bytes;
use http::Request;
use http_body::Body;
use wasmtime::Store;
use wasmtime::component::{Component, ResourceTable};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{Error, WasiHttpCtx, WasiHttpView};

use super::engine::Engine;
use super::instance::{Call, Guest, MemoryLimit, Progress};
use super::outgoing::Outgoing;
use super::output::{LineSink, Output, Stream};
use crate::egress::{Caller, Egress};

/// Host resources (streams, bodies, header maps, pollables) that a guest may hold at once.
const HANDLES: usize = 10_000;

/// Bytes that one host call may copy out of a guest (strings, lists of headers).
const HOSTCALL_BYTES: usize = 128 << 20;

/// Where a component's machine code came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was loaded before the request came.
    Memory,
    /// Mapped from the cache on disk.
    Cache,
    /// Compiled.
    Compile,
}

impl Source {
    /// The value of `baton.component.source`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cache => "cache",
            Self::Compile => "compile",
        }
    }
}

/// How a function's instances are made and bounded.
#[derive(Clone)]
pub struct Settings {
    /// Bytes of linear memory of one instance.
    pub memory: usize,
    /// Time that one request may compute.
    pub cpu_time: Duration,
    /// Bytes of one header map made by the guest.
    pub headers: usize,
    /// Environment variables.
    pub env: Arc<[(String, String)]>,
    /// What the guest may connect to.
    pub egress: Arc<Egress>,
    /// Where its output goes.
    pub sink: LineSink,
}

/// Why a component cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Wasmtime refuses it.
    #[error("the component cannot be compiled: {0}")]
    Compile(String),
    /// It is machine code of another Wasmtime or other settings.
    #[error("the precompiled component does not fit this Baton: {0}; compile it again")]
    Precompiled(String),
    /// It imports something that Baton does not offer, or exports no HTTP handler.
    #[error("the component cannot be linked: {0}")]
    Link(String),
    /// It needs more than the engine's pool gives.
    #[error("the component does not fit the pool of instances: {0}")]
    TooLarge(String),
}

/// A component, compiled and linked, with the settings of its function.
pub struct Program {
    engine: Arc<Engine>,
    pre: ProxyPre<Guest>,
    settings: Settings,
}

impl Program {
    /// Links `component`.
    ///
    /// # Errors
    /// When an import is unknown, the handler is missing, or the pool cannot hold an instance.
    pub fn new(
        engine: Arc<Engine>,
        component: &Component,
        settings: Settings,
    ) -> Result<Self, LoadError> {
        engine.admits(component).map_err(LoadError::TooLarge)?;
        let pre = engine
            .linker()
            .instantiate_pre(component)
            .and_then(ProxyPre::new)
            .map_err(|error| LoadError::Link(format!("{error:#}")))?;
        Ok(Self { engine, pre, settings })
    }

    /// Begins to answer `request` in a fresh instance; nothing runs until the call is polled.
    ///
    /// `invocation` and the caller's trace mark the lines that the guest prints; its outgoing
    /// requests are made for `caller`.
    pub fn start<B>(
        &self,
        request: Request<B>,
        scheme: Scheme,
        invocation: SpanId,
        caller: Caller,
    ) -> Call
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Error>,
    {
        let progress = Arc::new(Progress::default());
        let mut store = self.store(&progress, invocation, caller);
        let pre = self.pre.clone();
        let running = self.engine.running();
        let shared = Arc::clone(&progress);
        let guest = Box::pin(async move {
            let _running = running;
            let proxy = pre.instantiate_async(&mut store).await?;
            let _ = shared.instantiated.set(Instant::now());
            let request = store.data_mut().http().new_incoming_request(scheme, request)?;
            let outparam = store
                .data_mut()
                .http()
                .new_response_outparam_from_callback(move |answer| shared.answer(answer))?;
            proxy.wasi_http_incoming_handler().call_handle(&mut store, request, outparam).await
        });
        Call::new(guest, progress, self.settings.cpu_time, self.settings.memory)
    }

    fn store(&self, progress: &Arc<Progress>, invocation: SpanId, caller: Caller) -> Store<Guest> {
        let settings = &self.settings;
        let trace_id = caller.parent.trace_id;
        let output =
            |stream| Output { stream, trace_id, invocation, sink: Arc::clone(&settings.sink) };
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(output(Stream::Stdout)).stderr(output(Stream::Stderr));
        for (name, value) in settings.env.iter() {
            wasi.env(name, value);
        }
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(settings.headers);
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES);
        let guest = Guest {
            wasi: wasi.build(),
            http,
            table,
            outgoing: Outgoing { egress: Arc::clone(&settings.egress), caller },
            memory: MemoryLimit { limit: settings.memory, used: 0, progress: Arc::clone(progress) },
        };
        let mut store = Store::new(self.engine.wasmtime(), guest);
        store.limiter(|guest| &mut guest.memory);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        store
    }
}
