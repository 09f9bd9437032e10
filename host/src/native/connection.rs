//! A connection to a function in its sandbox, kept alive between requests.
//!
//! No task drives it: whoever has a request on it does, first the request's future, then the body
//! of its answer. A task of its own would cost a request two switches to another thread. Nobody
//! drives it while it is idle, so that its end is found out when it is taken up again.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use baton_pool::way::Stream;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, Connection as Dispatch, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::unconstrained;

use crate::cores::Forwarding;
use crate::request_body::RequestBody;

type Driver = Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

/// A connection with at most one request on it.
pub(crate) struct Connection {
    sender: SendRequest<RequestBody>,
    /// `None` once it has ended; whoever waits for an answer is told why through the sender.
    driver: Option<Driver>,
    /// Whether anything was written since the last request was begun.
    written: Arc<AtomicBool>,
}

impl Connection {
    /// Begins to speak HTTP/1.1 on `stream`.
    ///
    /// # Errors
    /// When the connection is broken already.
    pub(crate) async fn new(stream: Stream) -> Result<Self, hyper::Error> {
        let written = Arc::new(AtomicBool::new(false));
        let stream = Patient { stream, written: Arc::clone(&written) };
        let spoken = http1::handshake::<_, RequestBody>(TokioIo::new(stream)).await?;
        let (sender, dispatch): (_, Dispatch<_, _>) = spoken;
        Ok(Self { sender, driver: Some(Box::pin(dispatch.with_upgrades())), written })
    }

    /// Whether a byte of the last request was written.
    pub(crate) fn has_written(&self) -> bool {
        self.written.load(Relaxed)
    }

    /// Whether it can take a request, as far as can be told without waiting.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Sends a request and answers the response, whose body needs [`Connection::drive`]; tells `forwarding` when
    /// the request has left and when its answer is looked for.
    ///
    /// # Errors
    /// When the connection breaks; with the request if nothing of it was sent.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
        forwarding: &mut Forwarding,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        self.written.store(false, Relaxed);
        // Only the driver answers, and it is polled right before: nobody has to be woken for it.
        let mut sent = pin!(unconstrained(self.sender.try_send_request(request)));
        poll_fn(|cx| {
            forwarding.returns();
            drive(&mut self.driver, cx);
            let polled = sent.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if polled.is_pending() {
                forwarding.leaves();
            }
            polled
        })
        .await
    }

    /// Moves bytes both ways as far as they can be moved now.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.driver, cx);
    }

    /// Drives it to its end, which is where an upgraded connection leaves HTTP.
    pub(crate) async fn end(mut self) {
        poll_fn(|cx| {
            self.drive(cx);
            if self.driver.is_none() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if driver.as_mut().is_some_and(|driver| driver.as_mut().poll(cx).is_ready()) {
        *driver = None;
    }
}

/// A stream that notes when something was written, and that is still read when no more of it is
/// taken: a function may answer and close before it has read all of a request (RFC 9112, section
/// 9.3), and its answer lies in the socket then. The end of the connection ends the wait.
struct Patient {
    stream: Stream,
    written: Arc<AtomicBool>,
}

impl Patient {
    fn note(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &polled {
            Poll::Ready(Ok(1..)) => self.written.store(true, Relaxed),
            Poll::Ready(Err(error)) if is_end(error) && self.written.load(Relaxed) => {
                return Poll::Pending;
            }
            _ => {}
        }
        polled
    }
}

/// Whether the other side takes no more.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.note(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
