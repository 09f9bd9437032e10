//! Listeners and connections.
//!
//! ```text
//! accept (bounded by max_connections) ─▶ connection task ─▶ service::serve, one request at a time
//! drain: the accept queue is emptied, the listener closes, connections end after their request
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use std::os::fd::AsRawFd;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::host::Host;
use crate::manifest;
use crate::record::Peer;
use crate::service;

/// How long to wait before accepting again when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How connections are served.
pub struct Server {
    host: Arc<Host>,
    connections: Arc<Semaphore>,
    http1: http1::Builder,
}

/// A listening socket of either kind.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix stream socket.
    Unix(UnixListener),
}

impl Listener {
    /// A listener from an inherited descriptor; call it inside the runtime.
    ///
    /// # Errors
    /// When the descriptor is not a listening stream socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        if address.family() == Some(AddressFamily::Unix) {
            let listener = std::os::unix::net::UnixListener::from(fd);
            listener.set_nonblocking(true)?;
            return Ok(Self::Unix(UnixListener::from_std(listener)?));
        }
        let listener = std::net::TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(TcpListener::from_std(listener)?))
    }

    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, client) = listener.accept().await?;
                // Answers are written whole; waiting to fill a segment only delays them.
                stream.set_nodelay(true)?;
                let server = stream.local_addr().ok();
                Ok((Box::new(stream), Peer { client: Some(client), server }))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), Peer { client: None, server: None }))
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Server {
    /// A server with the bounds of the manifest.
    #[must_use]
    pub fn new(host: Arc<Host>, bounds: &manifest::Host) -> Arc<Self> {
        let mut http1 = http1::Builder::new();
        // Our own bound on the head answers with a problem document, so it lies below the parser's.
        let buffer = host.headers_max.saturating_mul(2).max(64 << 10);
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.header_timeout)
            .max_buf_size(buffer)
            .half_close(false);
        let connections = bounds.max_connections.min(Semaphore::MAX_PERMITS);
        Arc::new(Self { host, connections: Arc::new(Semaphore::new(connections)), http1 })
    }

    /// Accepts on `listener` until the host drains.
    async fn accept(self: Arc<Self>, listener: Listener, connections: TaskTracker) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.host.draining.cancelled() => break,
                accepted = self.accept_one(&listener) => accepted,
            };
            self.begin(accepted, &connections).await;
        }
        // Whoever the kernel has accepted for us already is served.
        while let Some(accepted) = now(self.accept_one(&listener)).await {
            self.begin(accepted, &connections).await;
        }
    }

    async fn begin(self: &Arc<Self>, accepted: Accepted, connections: &TaskTracker) {
        match accepted {
            Ok((place, stream, peer)) => {
                connections.spawn(Arc::clone(self).serve(stream, peer, place));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    async fn accept_one(&self, listener: &Listener) -> Accepted {
        let place = Arc::clone(&self.connections).acquire_owned().await;
        let place = place.map_err(io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        Ok((place, stream, peer))
    }

    async fn serve(
        self: Arc<Self>,
        stream: Box<dyn Stream>,
        peer: Peer,
        _place: OwnedSemaphorePermit,
    ) {
        let host = Arc::clone(&self.host);
        let peer = Arc::new(peer);
        let service = service_fn(move |request| {
            service::serve(Arc::clone(&host), Arc::clone(&peer), request)
        });
        let connection = self.http1.serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.host.draining.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // Clients that leave or speak badly are their own affair.
            tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended early");
        }
    }
}

type Accepted = io::Result<(OwnedSemaphorePermit, Box<dyn Stream>, Peer)>;

/// What a future has ready at its first poll.
async fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        std::task::Poll::Ready(value) => std::task::Poll::Ready(Some(value)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

/// Listeners being served.
pub struct Serving {
    acceptors: TaskTracker,
    connections: TaskTracker,
}

/// Serves functions on `listeners`.
///
/// # Errors
/// When a descriptor is not a listening socket.
pub fn start(server: &Arc<Server>, listeners: Vec<OwnedFd>) -> io::Result<Serving> {
    let serving = Serving { acceptors: TaskTracker::new(), connections: TaskTracker::new() };
    for listener in listeners {
        let listener = Listener::from_fd(listener)?;
        let connections = serving.connections.clone();
        serving.acceptors.spawn(Arc::clone(server).accept(listener, connections));
    }
    serving.acceptors.close();
    Ok(serving)
}

impl Serving {
    /// Waits until every listener is closed and every connection has ended.
    pub async fn stop(&self) {
        self.acceptors.wait().await;
        self.connections.close();
        self.connections.wait().await;
    }
}
