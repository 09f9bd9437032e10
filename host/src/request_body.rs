//! The body of a client's request: streamed, counted, bounded, and replayable while it is short.
//!
//! The body itself stays here; a tier gets a handle that reads it. While what was read fits
//! [`REPLAY_MAX`] it is kept, so that another handle can begin anew when the first tier failed. It
//! is never read ahead: keeping delays nothing.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// Bytes of a body that are kept for another attempt.
pub const REPLAY_MAX: usize = 64 << 10;

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

/// A request's body as it came, at most `limit` bytes of it.
#[derive(Clone)]
pub struct Intake(Arc<Mutex<State>>);

struct State {
    body: Incoming,
    limit: u64,
    read: u64,
    fault: Option<BodyFault>,
    /// Its end was seen.
    ended: bool,
    /// How long its reader waited for the client, and since when it does.
    waited: Duration,
    waits: Option<Instant>,
    /// What was read, as long as all of it is kept.
    kept: Option<Vec<Bytes>>,
}

impl Intake {
    /// Bounds `body` to `limit` bytes.
    #[must_use]
    pub fn new(body: Incoming, limit: u64) -> Self {
        let kept = Some(Vec::new());
        let (fault, ended, waited, waits) = (None, false, Duration::ZERO, None);
        Self(Arc::new(Mutex::new(State {
            body,
            limit,
            read: 0,
            fault,
            ended,
            waited,
            waits,
            kept,
        })))
    }

    /// Bytes read so far.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.lock().read
    }

    /// Whether all of it was read and is kept.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let state = self.lock();
        state.kept.is_some() && state.fault.is_none() && state.is_read()
    }

    /// Whether its end was seen.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.lock().is_read()
    }

    /// How long a tier waited for the client to send it.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.lock().waited
    }

    /// Why it ended early, if it did.
    #[must_use]
    pub fn fault(&self) -> Option<BodyFault> {
        self.lock().fault
    }

    /// A handle that reads the body from its beginning, unless too much of it was read already.
    #[must_use]
    pub fn reader(&self) -> Option<RequestBody> {
        self.lock().kept.is_some().then(|| RequestBody { intake: self.clone(), at: 0 })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_read(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if let Some(fault) = self.fault {
            return Poll::Ready(Some(Err(fault)));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending() {
            self.waits.get_or_insert_with(Instant::now);
        } else if let Some(since) = self.waits.take() {
            self.waited += since.elapsed();
        }
        let Some(frame) = ready!(polled) else {
            self.ended = true;
            return Poll::Ready(None);
        };
        let checked = frame.map_err(|_| BodyFault::Broken).and_then(|frame| self.take(frame));
        self.fault = checked.as_ref().err().copied();
        Poll::Ready(Some(checked))
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyFault> {
        let Some(data) = frame.data_ref() else {
            // Trailers cannot be kept: whoever begins anew would not get them.
            self.kept = None;
            return Ok(frame);
        };
        self.read += data.len() as u64;
        if self.read > self.limit {
            return Err(BodyFault::TooLarge { limit: self.limit });
        }
        if self.read > REPLAY_MAX as u64 {
            self.kept = None;
        } else if let Some(kept) = &mut self.kept {
            kept.push(data.clone());
        }
        Ok(frame)
    }
}

/// One tier's handle on a request's body.
pub struct RequestBody {
    intake: Intake,
    /// Frames of what is kept that this handle has given out.
    at: usize,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let at = self.at;
        let polled = {
            let mut state = self.intake.lock();
            match state.kept.as_ref().and_then(|kept| kept.get(at)) {
                Some(kept) => Poll::Ready(Some(Ok(Frame::data(kept.clone())))),
                None => state.poll_next(cx),
            }
        };
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.at += 1;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let state = self.intake.lock();
        let all_given = state.kept.as_ref().is_none_or(|kept| self.at >= kept.len());
        all_given && state.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.intake.lock();
        let pending: u64 = state
            .kept
            .as_ref()
            .map_or(0, |kept| kept.iter().skip(self.at).map(|frame| frame.len() as u64).sum());
        let rest = state.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + pending);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + pending);
        }
        hint
    }
}
