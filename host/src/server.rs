//! Listeners and connections.
//!
//! ```text
//! accept (bounded by max_connections) ─▶ connection task ─▶ service::serve, one request at a time
//! drain: the accept queue is emptied, the listener closes, connections end after their request
//! ```

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{AddressFamily, MsgFlags, SockaddrLike, SockaddrStorage, getsockname, recv};
use socket2::{SockFilter, SockRef};
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::task::TaskTracker;

use crate::host::Host;
use crate::linger::Lingering;
use crate::manifest;
use crate::record::Peer;
use crate::{service, tls};

/// How long to wait before accepting again when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What an HTTP/2 client sends first (RFC 9113, section 3.4), as far as it tells it from HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Streams at once on one HTTP/2 connection.
const STREAMS: u32 = 256;

/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to say.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an idle HTTP/1 connection is left open once no more are taken, for the request that its
/// client may have sent already.
const LINGER: Duration = Duration::from_millis(500);

/// How long to wait for the rest of a preface that came in pieces.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);

/// How connections are served.
pub struct Server {
    host: Arc<Host>,
    connections: Arc<Semaphore>,
    /// The certificate can be renewed; whether TLS is spoken at all cannot change.
    tls: Option<ArcSwap<ServerConfig>>,
    header_timeout: Duration,
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
}

/// Runs the streams of HTTP/2 connections as the host's own tasks.
#[derive(Clone)]
struct Streams(TaskTracker);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
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

    /// Has the kernel begin no more connections, so that emptying the queue comes to an end and
    /// closing the listener resets nobody. A client that begins one now is refused a little later.
    fn take_no_more(&self) {
        let told = match self {
            // It drops what is sent to the listener: one instruction, "return 0 bytes".
            Self::Tcp(listener) => {
                const DROP: SockFilter = SockFilter::new(0x06, 0, 0, 0);
                SockRef::from(listener).attach_filter(&[DROP])
            }
            Self::Unix(listener) => SockRef::from(listener).shutdown(std::net::Shutdown::Read),
        };
        if let Err(error) = told {
            tracing::debug!(%error, "a listener is closed without being told before");
        }
    }

    async fn accept(&self, place: OwnedSemaphorePermit) -> Accepted {
        match self {
            Self::Tcp(listener) => {
                let (stream, client) = listener.accept().await?;
                accepted_by_tcp(stream, Some(client), place)
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream), Peer::new(None, None, place)))
            }
        }
    }

    /// A connection that waits already. For a listener that takes no more: tokio sees one of the Unix kind as readable for
    /// ever, and would ask it again and again within one poll.
    fn accept_now(&self, place: OwnedSemaphorePermit) -> Accepted {
        match self {
            Self::Tcp(listener) => {
                let (stream, client) = SockRef::from(listener).accept()?;
                stream.set_nonblocking(true)?;
                accepted_by_tcp(TcpStream::from_std(stream.into())?, client.as_socket(), place)
            }
            Self::Unix(listener) => {
                let (stream, _) = SockRef::from(listener).accept()?;
                stream.set_nonblocking(true)?;
                let stream = UnixStream::from_std(stream.into())?;
                Ok((Socket::Unix(stream), Peer::new(None, None, place)))
            }
        }
    }
}

fn accepted_by_tcp(
    stream: TcpStream,
    client: Option<SocketAddr>,
    place: OwnedSemaphorePermit,
) -> Accepted {
    // Answers are written whole; waiting to fill a segment only delays them.
    stream.set_nodelay(true)?;
    let server = stream.local_addr().ok();
    Ok((Socket::Tcp(stream), Peer::new(client, server, place)))
}

/// A client's connection before its protocol is known.
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Reads what is there and leaves it there.
    async fn peek(&self, first: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.peek(first).await,
            Self::Unix(stream) => {
                let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
                let peek = || Ok(recv(stream.as_raw_fd(), first, flags)?);
                stream.async_io(Interest::READABLE, peek).await
            }
        }
    }

    /// Whether the first bytes of a connection, which are left in it, are HTTP/2's.
    async fn has_preface(&self) -> io::Result<bool> {
        let mut first = [0; PREFACE.len()];
        loop {
            let seen = self.peek(&mut first).await?;
            if seen == 0 || !PREFACE.starts_with(first.get(..seen).unwrap_or_default()) {
                return Ok(false);
            }
            if seen == PREFACE.len() {
                return Ok(true);
            }
            // The rest of so few bytes comes at once or never; the caller bounds the wait.
            tokio::time::sleep(PREFACE_PAUSE).await;
        }
    }
}

/// A client's connection that speaks HTTP.
enum Spoken {
    Http1(Box<dyn Stream>),
    Http2(Box<dyn Stream>),
}

impl Spoken {
    fn plain(stream: impl Stream + 'static, http2: bool) -> Self {
        let stream = Box::new(stream);
        if http2 { Self::Http2(stream) } else { Self::Http1(stream) }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Server {
    /// A server with the bounds of the manifest.
    #[must_use]
    pub fn new(
        host: Arc<Host>,
        bounds: &manifest::Host,
        tls: Option<Arc<ServerConfig>>,
    ) -> Arc<Self> {
        let mut http1 = http1::Builder::new();
        // Our own bound on the head answers with a problem document, so it lies below the parser's.
        let buffer = host.headers_max.saturating_mul(2).max(64 << 10);
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.header_timeout)
            .max_buf_size(buffer)
            .half_close(false);
        let mut http2 = http2::Builder::new(Streams(host.tasks.clone()));
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(buffer).unwrap_or(u32::MAX));
        let connections = bounds.max_connections.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            host,
            connections: Arc::new(Semaphore::new(connections)),
            tls: tls.map(ArcSwap::new),
            header_timeout: bounds.header_timeout,
            http1,
            http2,
        })
    }

    /// New connections are shown another certificate.
    pub fn renew(&self, config: Arc<ServerConfig>) {
        if let Some(tls) = &self.tls {
            tls.store(config);
        }
    }

    /// Accepts on `listener` until the host drains.
    async fn accept(self: Arc<Self>, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.host.closing.cancelled() => break,
                accepted = self.accept_one(&listener) => accepted,
            };
            self.begin(accepted).await;
        }
        listener.take_no_more();
        // Whoever the kernel has accepted for us already is served.
        while let Ok(place) = Arc::clone(&self.connections).try_acquire_owned()
            && let accepted @ Ok(_) = listener.accept_now(place)
        {
            self.begin(accepted).await;
        }
    }

    async fn begin(self: &Arc<Self>, accepted: Accepted) {
        match accepted {
            Ok((stream, mut peer)) => {
                peer.secure = self.tls.is_some() && matches!(stream, Socket::Tcp(_));
                self.host.connections.spawn(Arc::clone(self).serve(stream, Arc::new(peer)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    async fn accept_one(&self, listener: &Listener) -> Accepted {
        let place = Arc::clone(&self.connections).acquire_owned().await;
        listener.accept(place.map_err(io::Error::other)?).await
    }

    async fn serve(self: Arc<Self>, socket: Socket, peer: Arc<Peer>) {
        // Boxed, for it is over before the first request, and a TLS handshake needs much.
        let agreed = Box::pin(self.agree(socket));
        let spoken = match tokio::time::timeout(self.header_timeout, agreed).await {
            Ok(Ok(spoken)) => spoken,
            // Clients that leave, dally or speak badly are their own affair.
            Ok(Err(error)) => return tracing::debug!(%error, "a connection ended before its start"),
            Err(_) => return tracing::debug!("a connection took too long to say anything"),
        };
        let host = Arc::clone(&self.host);
        let unread = peer.unread.clone();
        let service = service_fn(move |request| {
            service::serve(Arc::clone(&host), Arc::clone(&peer), request)
        });
        let closing = self.host.closing.cancelled();
        let ended = match spoken {
            Spoken::Http1(stream) => {
                let stream = TokioIo::new(Lingering::new(stream, unread));
                let connection = self.http1.serve_connection(stream, service);
                let mut connection = pin!(connection.with_upgrades());
                // From then on answers say `Connection: close`; one that nobody asks anything of
                // is closed a little later, lest a request that is under way be met by a reset.
                let closing = async {
                    closing.await;
                    tokio::time::sleep(LINGER).await;
                };
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = closing => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }
            Spoken::Http2(stream) => {
                // Boxed, for it is larger than all that a connection of HTTP/1 needs.
                let connection = self.http2.serve_connection(TokioIo::new(stream), service);
                let mut connection = Box::pin(connection);
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = closing => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended early");
        }
    }

    /// Finds out what a client speaks: by ALPN under TLS, by prior knowledge without.
    async fn agree(&self, socket: Socket) -> io::Result<Spoken> {
        let tls = self.tls.as_ref().filter(|_| matches!(socket, Socket::Tcp(_)));
        let http2 = tls.is_none() && socket.has_preface().await?;
        match (socket, tls) {
            (Socket::Unix(stream), _) => Ok(Spoken::plain(stream, http2)),
            (Socket::Tcp(stream), None) => Ok(Spoken::plain(stream, http2)),
            (Socket::Tcp(stream), Some(tls)) => {
                let stream = TlsAcceptor::from(tls.load_full()).accept(stream).await?;
                let http2 = stream.get_ref().1.alpn_protocol() == Some(tls::H2);
                Ok(Spoken::plain(stream, http2))
            }
        }
    }
}

type Accepted = io::Result<(Socket, Peer)>;

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
    let connections = server.host.connections.clone();
    let serving = Serving { acceptors: TaskTracker::new(), connections };
    for listener in listeners {
        let listener = Listener::from_fd(listener)?;
        serving.acceptors.spawn(Arc::clone(server).accept(listener));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> OwnedSemaphorePermit {
        Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
    }

    #[tokio::test]
    async fn a_unix_listener_that_takes_no_more_is_emptied_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("http.sock");
        let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
        let _waiting = UnixStream::connect(&path).await.unwrap();
        listener.take_no_more();
        // The reactor learns of it.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(matches!(listener.accept_now(place()), Ok((Socket::Unix(_), _))));
        let nobody = listener.accept_now(place()).err().unwrap();
        assert!(matches!(nobody.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::InvalidInput));
        assert!(UnixStream::connect(&path).await.is_err());
    }

    #[tokio::test]
    async fn a_tcp_listener_that_takes_no_more_is_emptied_and_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Listener::Tcp(listener);
        let waiting = TcpStream::connect(address).await.unwrap();
        listener.take_no_more();
        let (Socket::Tcp(_), peer) = listener.accept_now(place()).unwrap() else { panic!() };
        assert_eq!(peer.client, waiting.local_addr().ok());
        let nobody = listener.accept_now(place()).err().unwrap();
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
    }
}
