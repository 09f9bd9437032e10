//! The body of a client's request: streamed, counted and bounded.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// Why a body ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// It is longer than the function takes.
    #[error("the request body is longer than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: u64,
    },
    /// The client broke it off, or its framing is wrong.
    #[error("the request body broke off")]
    Broken,
}

impl From<BodyFault> for wasmtime_wasi_http::Error {
    fn from(fault: BodyFault) -> Self {
        match fault {
            BodyFault::TooLarge { limit } => Self::HttpRequestBodySize(Some(limit)),
            BodyFault::Broken => Self::ConnectionTerminated,
        }
    }
}

/// What became of a body, readable while the tier has it.
#[derive(Debug)]
pub struct Intake {
    read: AtomicU64,
    fault: AtomicU8,
    limit: u64,
}

const FINE: u8 = 0;
const TOO_LARGE: u8 = 1;
const BROKEN: u8 = 2;

impl Intake {
    /// Bytes read so far.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Why it ended early, if it did.
    pub fn fault(&self) -> Option<BodyFault> {
        match self.fault.load(Ordering::Relaxed) {
            TOO_LARGE => Some(BodyFault::TooLarge { limit: self.limit }),
            BROKEN => Some(BodyFault::Broken),
            _ => None,
        }
    }
}

/// A request's body, at most `limit` bytes of it.
pub struct RequestBody {
    body: Incoming,
    intake: Arc<Intake>,
}

impl RequestBody {
    /// Bounds `body` to `limit` bytes.
    #[must_use]
    pub fn new(body: Incoming, limit: u64) -> Self {
        let intake = Intake { read: AtomicU64::new(0), fault: AtomicU8::new(FINE), limit };
        Self { body, intake: Arc::new(intake) }
    }

    /// What becomes of it.
    #[must_use]
    pub fn intake(&self) -> Arc<Intake> {
        Arc::clone(&self.intake)
    }

    fn fail(&self, code: u8, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.intake.fault.store(code, Ordering::Relaxed);
        Poll::Ready(Some(Err(fault)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if let Some(fault) = self.intake.fault() {
            return Poll::Ready(Some(Err(fault)));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let len = frame.data_ref().map_or(0, |data| data.len() as u64);
                let read = self.intake.read.fetch_add(len, Ordering::Relaxed) + len;
                if read > self.intake.limit {
                    let limit = self.intake.limit;
                    return self.fail(TOO_LARGE, BodyFault::TooLarge { limit });
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => self.fail(BROKEN, BodyFault::Broken),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
