//! Components of wasi:http 0.2: an instance serves one request at a time.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body::Body;
use wasmtime::component::Component;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{Error, WasiHttpView};

use super::engine::Engine;
use super::guest::{Guest, Invocation, refresh};
use super::idle::{Idle, Instance};
use super::instance::{GuestFuture, Progress};
use super::program::Settings;
use crate::manifest::Instances;

pub(super) struct Second {
    engine: Arc<Engine>,
    settings: Settings,
    pre: ProxyPre<Guest>,
    idle: Option<Arc<Idle>>,
}

impl Second {
    pub(super) fn new(
        engine: Arc<Engine>,
        component: &Component,
        settings: Settings,
    ) -> wasmtime::Result<Self> {
        let pre = ProxyPre::new(engine.linker().instantiate_pre(component)?)?;
        let idle = match settings.instances {
            Instances::Fresh => None,
            Instances::Reuse { requests, idle, .. } => Some(Arc::new(Idle::new(requests, idle))),
        };
        if let Some(idle) = &idle {
            engine.evictable(idle);
        }
        Ok(Self { engine, settings, pre, idle })
    }

    /// The instances that wait for a request, where they are used again.
    pub(super) fn idle(&self) -> Option<&Arc<Idle>> {
        self.idle.as_ref()
    }

    /// Answers one request; nothing runs until the future is polled.
    pub(super) fn start<B>(
        self: &Arc<Self>,
        request: Request<B>,
        scheme: Scheme,
        invocation: Invocation,
        progress: &Arc<Progress>,
    ) -> GuestFuture
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Error>,
    {
        let (this, progress) = (Arc::clone(self), Arc::clone(progress));
        Box::pin(async move {
            let _running = this.engine.running();
            let mut instance = this.instance(&progress).await?;
            progress.ready().await;
            refresh(&mut instance.store);
            let Instance { store, proxy, .. } = &mut instance;
            store.data_mut().work_for(invocation);
            let mut http = store.data_mut().http();
            let request = http.new_incoming_request(scheme, request)?;
            let outparam = http.new_response_outparam_from_callback(move |answer| {
                progress.answer(answer.map_err(|code| format!("{code:?}")));
            })?;
            proxy.wasi_http_incoming_handler().call_handle(store, request, outparam).await?;
            match &this.idle {
                Some(idle) => idle.give(instance),
                None => this.engine.retire(instance.store),
            }
            Ok(())
        })
    }

    /// One that waits for a request, or a fresh one.
    async fn instance(&self, progress: &Arc<Progress>) -> wasmtime::Result<Instance> {
        if let Some(mut instance) = self.idle.as_ref().and_then(|idle| idle.take()) {
            instance.store.data_mut().limit.progress = Arc::clone(progress);
            return Ok(instance);
        }
        let slot = self.engine.slot().await?;
        let mut store = Guest::store(&self.engine, &self.settings, slot, progress).await?;
        let proxy = self.pre.instantiate_async(&mut store).await?;
        Ok(Instance { store, proxy, served: 0 })
    }
}
