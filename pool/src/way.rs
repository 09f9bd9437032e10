//! The way to the function in a sandbox, and the connections over it.
//!
//! | the function | its socket | connecting |
//! |---|---|---|
//! | inherits its listener | the host made it, in a directory of its own | by path |
//! | makes a Unix socket in its root | the daemon opens it there, once it is there | by the descriptor of that very socket |
//! | listens on TCP | on the loopback of its sandbox | with sockets that the daemon makes in that network, some ahead |

use crate::client::Shared;
use crate::protocol::{Question, SandboxId};
use rustix::fd::{AsRawFd, OwnedFd};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

/// TCP sockets made at once.
pub(crate) const CLIENTS: u8 = 8;

/// How a function is connected to.
#[derive(Debug)]
pub(crate) enum Way {
    /// By the path of the listener that it inherited.
    Inherited(PathBuf),
    /// By the socket that it made, a place only.
    Unix(OwnedFd),
    /// By a port of its loopback, with the sockets that are left of those made ahead.
    Tcp { port: u16, sockets: Mutex<Vec<OwnedFd>> },
}

impl Way {
    /// A new connection.
    ///
    /// # Errors
    /// When nobody listens there (any more).
    pub(crate) async fn connect<C: Send + 'static>(
        &self,
        shared: &Shared<C>,
        id: SandboxId,
    ) -> io::Result<Stream> {
        match self {
            Way::Inherited(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
            Way::Unix(socket) => {
                let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
                Ok(Stream::Unix(UnixStream::connect(path).await?))
            }
            Way::Tcp { port, sockets } => {
                let socket = match take(sockets) {
                    Some(socket) => socket,
                    None => {
                        let made = shared.ask(id, Question::Clients { count: CLIENTS }).await?;
                        lock(sockets).extend(made);
                        take(sockets).ok_or(io::ErrorKind::NotConnected)?
                    }
                };
                let socket = TcpSocket::from_std_stream(socket.into());
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
                let stream = socket.connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

fn lock(sockets: &Mutex<Vec<OwnedFd>>) -> std::sync::MutexGuard<'_, Vec<OwnedFd>> {
    sockets.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take(sockets: &Mutex<Vec<OwnedFd>>) -> Option<OwnedFd> {
    lock(sockets).pop()
}

/// A connection to a function.
#[derive(Debug)]
pub enum Stream {
    /// To its Unix socket.
    Unix(UnixStream),
    /// To its port.
    Tcp(TcpStream),
}

/// Does the same with either.
macro_rules! either {
    ($stream:expr, $inner:ident => $answer:expr) => {
        match $stream.get_mut() {
            Stream::Unix($inner) => $answer,
            Stream::Tcp($inner) => $answer,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(context, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}
