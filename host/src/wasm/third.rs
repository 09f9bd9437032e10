//! Components of wasi:http 0.3, a fresh instance for each request.
//!
//! The guest's task and the streams that it reads and writes are all driven by one future, which
//! the answer's body polls: there is no task, and dropping the answer ends the guest.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body::Body;
use wasmtime::component::{Accessor, Component};
use wasmtime_wasi_http::p3::Request as WasiRequest;
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};
use wasmtime_wasi_http::{Error, WasiHttpView};

use super::engine::Engine;
use super::guest::{Guest, Invocation, refresh};
use super::instance::{GuestFuture, Progress};
use super::program::Settings;

pub(super) struct Third {
    engine: Arc<Engine>,
    settings: Settings,
    pre: ServicePre<Guest>,
}

impl Third {
    pub(super) fn new(
        engine: Arc<Engine>,
        component: &Component,
        settings: Settings,
    ) -> wasmtime::Result<Self> {
        let pre = ServicePre::new(engine.linker().instantiate_pre(component)?)?;
        Ok(Self { engine, settings, pre })
    }

    /// Answers one request; nothing runs until the future is polled.
    pub(super) fn start<B>(
        self: &Arc<Self>,
        request: Request<B>,
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
            let slot = this.engine.slot().await?;
            let mut store = Guest::store(&this.engine, &this.settings, slot, &progress).await?;
            store.data_mut().work_for(invocation);
            let service = this.pre.instantiate_async(&mut store).await?;
            progress.ready().await;
            refresh(&mut store);
            store
                .run_concurrent(async |accessor| {
                    answer(&service, accessor, request, &progress).await
                })
                .await??;
            this.engine.retire(store);
            Ok(())
        })
    }
}

/// Calls the guest, hands its response on, and goes on until that is written and no task is left.
async fn answer<B>(
    service: &Service,
    accessor: &Accessor<Guest>,
    request: Request<B>,
    progress: &Progress,
) -> wasmtime::Result<()>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    let (request, sent) = accessor.with(|mut store| {
        let http = store.data_mut().http();
        let (request, sent) = WasiRequest::from_http(http.hooks, request);
        // Named by a type that does not borrow the store, as the function's own would.
        let sent: Pin<Box<dyn Future<Output = Result<(), Error>> + Send>> = Box::pin(sent);
        wasmtime::error::Ok((http.table.push(request)?, sent))
    })?;
    match service.wasi_http_handler().call_handle(accessor, request).await? {
        Ok(response) => {
            let response = accessor.with(|mut store| {
                let response = store.data_mut().http().table.delete(response)?;
                response.into_http(&mut store, sent)
            })?;
            progress.answer(Ok(response));
        }
        Err(code) => {
            progress.answer(Err(format!("{code:?}")));
            return Ok(());
        }
    }
    poll_fn(|cx| match accessor.poll_no_interesting_tasks(cx) {
        Poll::Ready(()) if progress.is_written() => Poll::Ready(()),
        _ => Poll::Pending,
    })
    .await;
    Ok(())
}

/// Names scheme and authority in the target, where a guest of 0.3 looks for them.
pub(super) fn absolute<B>(request: &mut Request<B>, secure: bool) {
    let authority = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let scheme = if secure { "https" } else { "http" };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = Uri::builder().scheme(scheme).authority(authority.unwrap_or("localhost"));
    // The host was found to be one when the head was checked.
    if let Ok(uri) = uri.path_and_query(path).build() {
        *request.uri_mut() = uri;
    }
}
