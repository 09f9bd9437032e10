//! What the host keeps for a guest: the state of its store, and what bounds it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use baton_otel::SpanId;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::engine::{Engine, TABLE_ELEMENTS};
use super::instance::Progress;
use super::outgoing::Outgoing;
use super::output::{Log, Output, Stream};
use super::program::Settings;
use super::turns::{FIRST, next_turn};
use crate::egress::Caller;
use crate::scratch::Held;

/// Host resources (streams, bodies, header maps, pollables) that a guest may hold at once.
const HANDLES: usize = 10_000;

/// Bytes that one host call may copy out of a guest (strings, lists of headers).
pub(super) const HOSTCALL_BYTES: usize = 128 << 20;

/// Whom a guest works for.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Marks the lines that it prints, with the caller's trace.
    pub id: SpanId,
    /// For whom its outgoing requests are made.
    pub caller: Caller,
}

/// The state of a guest's store.
pub(super) struct Guest {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    outgoing: Outgoing,
    log: Arc<Log>,
    config: Arc<WasiConfigVariables>,
    pub(super) limit: Limit,
    /// Its `/tmp`, which goes after all that may have files open in it.
    _scratch: Option<Held>,
    /// Its slot in the engine's pool.
    slot: Option<OwnedSemaphorePermit>,
}

impl Guest {
    /// A store for an instance that has taken `slot` and works for nobody yet, once there is a place
    /// for its `/tmp`, if it is to have one.
    ///
    /// # Errors
    /// When the `/tmp` cannot be made.
    pub(super) async fn store(
        engine: &Engine,
        settings: &Settings,
        slot: OwnedSemaphorePermit,
        progress: &Arc<Progress>,
    ) -> wasmtime::Result<Store<Self>> {
        let log = Arc::new(Log::new(Arc::clone(&settings.sink)));
        let output = |stream| Output { stream, log: Arc::clone(&log) };
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(output(Stream::Stdout)).stderr(output(Stream::Stderr));
        for (name, value) in settings.env.iter() {
            wasi.env(name, value);
        }
        let mut scratch = None;
        if let Some(places) = &settings.scratch {
            let held = scratch.insert(places.take().await?);
            // It is memory: what is done there is over sooner than it could be given to others.
            wasi.allow_blocking_current_thread(true);
            wasi.preopened_dir(held.path(), "/tmp", FsPerms::ReadWrite)?;
        }
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(settings.headers);
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES);
        let guest = Self {
            wasi: wasi.build(),
            http,
            table,
            outgoing: Outgoing { egress: Arc::clone(&settings.egress), caller: None },
            log,
            config: Arc::clone(&settings.config),
            limit: Limit::new(settings.memory, Arc::clone(progress)),
            _scratch: scratch,
            slot: Some(slot),
        };
        let mut store = Store::new(engine.wasmtime(), guest);
        store.limiter(|guest| &mut guest.limit);
        store.epoch_deadline_callback(|store| {
            let progress = Arc::clone(&store.data().limit.progress);
            Ok(next_turn(move |waited| progress.turns.add(waited)))
        });
        refresh(&mut store);
        Ok(store)
    }

    /// What it may ask by `wasi:config`.
    pub(super) fn config(&mut self) -> WasiConfig<'_> {
        WasiConfig::new(&self.config)
    }

    /// Another instance may have its slot.
    pub(super) fn leave_slot(&mut self) {
        self.slot = None;
    }

    /// From here on the guest works for `invocation`.
    pub(super) fn work_for(&mut self, invocation: Invocation) {
        let Invocation { id, caller } = invocation;
        self.log.belongs_to(caller.parent.trace_id, id);
        self.outgoing.caller = Some(caller);
    }
}

/// What each request has anew: a first turn, and the bytes that host calls may copy.
pub(super) fn refresh(store: &mut Store<Guest>) {
    store.set_hostcall_fuel(HOSTCALL_BYTES);
    store.set_epoch_deadline(FIRST);
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

/// Bounds the linear memory of an instance, summed over its memories, and its tables likewise.
pub(super) struct Limit {
    memory: usize,
    used: usize,
    elements: usize,
    /// Is told when memory is refused.
    pub(super) progress: Arc<Progress>,
}

impl Limit {
    fn new(memory: usize, progress: Arc<Progress>) -> Self {
        Self { memory, used: 0, elements: 0, progress }
    }
}

impl ResourceLimiter for Limit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        let allowed = used <= self.memory;
        if allowed {
            self.used = used;
        } else {
            self.progress.memory_refused.store(true, Ordering::Relaxed);
        }
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self.elements.saturating_add(desired.saturating_sub(current));
        let allowed = elements <= TABLE_ELEMENTS;
        if allowed {
            self.elements = elements;
        }
        Ok(allowed)
    }
}
