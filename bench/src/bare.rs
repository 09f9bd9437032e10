//! The least that an HTTP server on this machine costs: hyper and tokio, and nothing behind them.

use std::convert::Infallible;
use std::io::Write as _;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// As long as what the components of the benches answer.
const ANSWER: &[u8] = b"GET /of/some/length with 0 bytes, bare.\n";

/// Serves until killed: GET is answered with forty bytes, a body is sent back. Says where it listens.
///
/// # Errors
/// When it cannot listen.
pub fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        writeln!(std::io::stdout(), "listening on http://{}", listener.local_addr()?)?;
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            connections.spawn(async move {
                let connection = http1::Builder::new();
                // A client that leaves is none of our business.
                let _ = connection.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            });
            while connections.try_join_next().is_some() {}
        }
    })
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>, Infallible> {
    let body = match *request.method() {
        Method::POST => request.into_body().boxed(),
        _ => Full::new(Bytes::from_static(ANSWER)).map_err(|never| match never {}).boxed(),
    };
    Ok(Response::new(body))
}
