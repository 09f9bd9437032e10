//! The component build.
//!
//! The host calls the exported `handle`; it leaves the exchange where [`serve`] finds it and calls
//! the program's `main`. So `main` means the same in both builds: make the service, serve it.

use std::cell::Cell;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tower::{Service, ServiceExt};
use wasip2::exports::http::incoming_handler::{Guest, IncomingRequest, ResponseOutparam};
use wstd::http::{Body as WasiBody, request::try_from_incoming, server::Responder};

use crate::{Body, BoxError, ServeError};

struct Exchange {
    request: IncomingRequest,
    response: ResponseOutparam,
}

thread_local! {
    static EXCHANGE: Cell<Option<Exchange>> = const { Cell::new(None) };
}

struct Component;

impl Guest for Component {
    fn handle(request: IncomingRequest, response: ResponseOutparam) {
        EXCHANGE.set(Some(Exchange { request, response }));
        run_main();
    }
}

wasip2::http::proxy::export!(Component with_types_in wasip2);

#[expect(unsafe_code, reason = "the program's main has no safe name in a library")]
fn run_main() {
    unsafe extern "C" {
        /// The name that the WASI ABI gives to `main`; for a Rust program it never unwinds.
        fn __main_void() -> i32;
    }
    // SAFETY: a program has exactly one `__main_void`, with this signature; it may be called again
    // after it has returned, since a component has one thread and `main` keeps no state of its own.
    unsafe { __main_void() };
}

pub(crate) fn serve<S, B>(service: S) -> Result<(), ServeError>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let exchange = EXCHANGE.take().ok_or(ServeError::NoRequest)?;
    wstd::runtime::block_on(answer(exchange, service))
}

async fn answer<S, B>(exchange: Exchange, service: S) -> Result<(), ServeError>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let responder = Responder::new(exchange.response);
    let failed = match try_from_incoming(exchange.request) {
        Ok(request) => {
            let method = request.method().clone();
            match service.oneshot(request.map(from_wasi)).await {
                Ok(mut response) => {
                    announce_length(&method, &mut response);
                    return match responder.respond(response.map(into_wasi)).await {
                        // It announced the length of what is never sent; hosts check that.
                        Err(_) if method == Method::HEAD => Ok(()),
                        sent => sent.map_err(|error| ServeError::Response(error.into())),
                    };
                }
                Err(error) => wstd::http::Error::from_boxed(error.into()),
            }
        }
        Err(error) => error,
    };
    responder.fail(failed);
    Ok(())
}

/// Says how long a body of known length is, where the native server says so by itself.
fn announce_length<B: http_body::Body>(method: &Method, response: &mut Response<B>) {
    let status = response.status();
    let bodiless = status.is_informational()
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    if method == Method::HEAD || bodiless {
        return;
    }
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
}

pub(crate) async fn sleep(duration: std::time::Duration) {
    wstd::task::sleep(duration.into()).await;
}

pub(crate) fn from_wasi(body: WasiBody) -> Body {
    body.into_boxed_body().map_err(Into::into).boxed_unsync()
}

pub(crate) fn into_wasi<B>(body: B) -> WasiBody
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    WasiBody::from_http_body(body.map_err(|error| wstd::http::Error::from_boxed(error.into())))
}
