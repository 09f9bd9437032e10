//! Write an HTTP function once, build it twice.
//!
//! A function is any [`Service`] of [`http::Request`], an axum `Router` for instance, and one
//! `main` that hands it to [`serve`]:
//!
//! ```no_run
//! use axum::{Router, routing::get};
//!
//! fn main() -> Result<(), baton_function::ServeError> {
//!     baton_function::serve(Router::new().route("/", get(|| async { "hello\n" })))
//! }
//! ```
//!
//! - Built for `wasm32-wasip2` it is a component that exports `wasi:http/incoming-handler`. The
//!   host calls `main` once for every request, so what `main` does before [`serve`] is paid each time.
//! - Built natively it is an HTTP/1.1 server on the listening socket that it inherits by the
//!   systemd convention (`LISTEN_FDS`, descriptor 3). SIGTERM means finish what is open and leave.
//!
//! Bodies are streamed in both directions in both builds, and never collected by this crate.
//!
//! Features: `json` (default), the [`Json`] extractor and [`Problem`] responses for axum;
//! `client`, the outgoing HTTP `Client`; `tracing`, a function's own spans; `threads`, `serve_on_threads`.

#[cfg(feature = "client")]
mod client;
#[cfg(target_family = "wasm")]
mod component;
#[cfg(feature = "json")]
mod json;
#[cfg(not(target_family = "wasm"))]
mod native;
#[cfg(feature = "json")]
mod problem;

#[cfg(feature = "tracing")]
mod traced;

#[cfg(target_family = "wasm")]
use component as build;
#[cfg(not(target_family = "wasm"))]
use native as build;

use std::error::Error;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use tower::Service;

#[cfg(feature = "client")]
pub use client::{Client, ClientError};
#[cfg(feature = "json")]
pub use json::Json;
#[cfg(feature = "json")]
pub use problem::Problem;
#[cfg(feature = "tracing")]
pub use traced::{Traced, traced};

/// What goes wrong in a service or a body.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A streamed body: of a request to the function, or of a response to its client.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Why a function cannot serve.
#[derive(thiserror::Error)]
pub enum ServeError {
    /// The component's `main` was run as a command, not by an HTTP host.
    #[error("this component is an HTTP function: serve it with `baton run`, or any wasi:http host")]
    NoRequest,
    /// The native server was started without a listening socket.
    #[error(
        "no listening socket was inherited (LISTEN_FDS): serve this function with `baton run`, \
         or try it with `systemd-socket-activate --listen=8080`"
    )]
    NoListener,
    /// The inherited socket, the runtime or the signal handler cannot be used.
    #[error("cannot serve on the inherited socket")]
    Io(#[from] std::io::Error),
    /// A component's response broke off: its body failed, or its client has gone.
    #[error("the response could not be sent to its end")]
    Response(#[source] BoxError),
}

/// As [`Display`](std::fmt::Display) with the sources: this is what a `main` that returns the error prints.
impl std::fmt::Debug for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")?;
        let mut source = self.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// Serves `service`: natively until SIGTERM, in a component the one request that `main` was called for.
///
/// A native build runs on one thread; a sandbox usually has one core and one request at a time.
///
/// # Errors
/// [`ServeError`] when the program was not started by a host of the matching kind.
pub fn serve<S, B>(service: S) -> Result<(), ServeError>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    build::serve(service)
}

/// Waits, and lets other requests go on meanwhile.
pub async fn sleep(duration: std::time::Duration) {
    build::sleep(duration).await;
}

/// As [`serve`], and a native build uses `threads` threads. A component has always one.
///
/// # Errors
/// As [`serve`].
#[cfg(feature = "threads")]
pub fn serve_on_threads<S, B>(threads: std::num::NonZeroUsize, service: S) -> Result<(), ServeError>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    #[cfg(not(target_family = "wasm"))]
    return native::serve_on_threads(threads, service);
    #[cfg(target_family = "wasm")]
    {
        let _ = threads;
        component::serve(service)
    }
}
