//! The native build: HTTP/1.1 on the inherited listening socket until SIGTERM.
//!
//! ```text
//! accepting ──SIGTERM──▶ draining (no accept; open requests end, idle connections close) ──▶ done
//! ```
//!
//! Start-up makes few system calls, because a cold start waits for them: no thread is started, no
//! file is read, no name is looked up.

use std::io;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tower::util::Oneshot;
use tower::{Service, ServiceExt};

use crate::{Body, BoxError, ServeError};

pub(crate) fn serve<S, B>(service: S) -> Result<(), ServeError>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    Builder::new_current_thread().enable_all().build()?.block_on(serve_inherited(service))
}

#[cfg(feature = "threads")]
pub(crate) fn serve_on_threads<S, B>(
    threads: std::num::NonZeroUsize,
    service: S,
) -> Result<(), ServeError>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let mut runtime = Builder::new_multi_thread();
    runtime.worker_threads(threads.get()).enable_all();
    runtime.build()?.block_on(serve_inherited(service))
}

pub(crate) async fn sleep(duration: std::time::Duration) {
    tokio::time::sleep(duration).await;
}

async fn serve_inherited<S, B>(service: S) -> Result<(), ServeError>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    match Listener::inherited()? {
        Listener::Unix(listener) => {
            let accept =
                async || listener.accept().await.map(|(stream, _): (UnixStream, _)| stream);
            accept_until_terminated(accept, service).await
        }
        Listener::Tcp(listener) => {
            let accept = async || listener.accept().await.map(|(stream, _): (TcpStream, _)| stream);
            accept_until_terminated(accept, service).await
        }
    }
}

/// A host passes a Unix socket; `systemd-socket-activate` passes a TCP one.
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn inherited() -> Result<Self, ServeError> {
        let mut inherited = ListenFd::from_env();
        if inherited.len() == 0 {
            return Err(ServeError::NoListener);
        }
        match inherited.take_unix_listener(0) {
            Ok(listener) => {
                let listener = listener.ok_or(ServeError::NoListener)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(UnixListener::from_std(listener)?))
            }
            Err(_) => {
                let listener = inherited.take_tcp_listener(0)?.ok_or(ServeError::NoListener)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(TcpListener::from_std(listener)?))
            }
        }
    }
}

async fn accept_until_terminated<A, T, S, B>(accept: A, service: S) -> Result<(), ServeError>
where
    A: AsyncFn() -> io::Result<T>,
    TokioIo<T>: Read + Write + Unpin + Send + 'static,
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let mut terminated = signal(SignalKind::terminate())?;
    let draining = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let handler = Handler(service);
    loop {
        tokio::select! {
            stream = accept() => match stream {
                Ok(stream) => {
                    let connection =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), handler.clone());
                    connections.spawn(draining.watch(connection));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error.into()),
            },
            // A connection that broke is its client's affair; the host logs what it saw of it.
            Some(_) = connections.join_next() => {}
            _ = terminated.recv() => break,
        }
    }
    drop(accept);
    draining.shutdown().await;
    Ok(())
}

/// The function as hyper calls it: a clone for every request.
#[derive(Clone)]
struct Handler<S>(S);

impl<S> hyper::service::Service<Request<Incoming>> for Handler<S>
where
    S: Service<Request<Body>> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Oneshot<S, Request<Body>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        self.0.clone().oneshot(request)
    }
}
