//! The body of a guest's response: it drives the guest that writes it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::WasiBody;

use super::instance::{Call, Failure, Spent};

/// A guest's response body. Polling it gives the guest its turns; dropping it ends the guest.
pub struct GuestBody {
    call: Call,
    body: WasiBody,
    /// A failure seen before the bytes written ahead of it were sent.
    failure: Option<Failure>,
    /// The last frame, kept until the guest has finished: the connection drops the body after it.
    trailers: Option<Frame<Bytes>>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Writing,
    /// Every byte is out; the guest may still be finishing.
    Written,
    Ended,
}

impl GuestBody {
    pub(super) fn new(call: Call, body: WasiBody) -> Self {
        Self { call, body, failure: None, trailers: None, state: State::Writing }
    }

    /// What the guest has spent so far.
    #[must_use]
    pub fn spent(&self) -> Spent {
        self.call.spent()
    }

    fn turn(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(failure)) = self.call.poll_guest(cx) {
            self.failure = Some(failure);
        }
    }

    fn trailed(&mut self) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.failure.is_none() && !self.call.is_done() {
            return Poll::Pending;
        }
        self.state = State::Ended;
        match self.failure.take() {
            Some(failure) => Poll::Ready(Some(Err(failure))),
            None => Poll::Ready(self.trailers.take().map(Ok)),
        }
    }

    fn written(&mut self) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self.failure.take() {
            Some(failure) => {
                self.state = State::Ended;
                Poll::Ready(Some(Err(failure)))
            }
            None if self.call.is_done() => {
                self.state = State::Ended;
                Poll::Ready(None)
            }
            None => {
                self.state = State::Written;
                Poll::Pending
            }
        }
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = self.get_mut();
        if this.state == State::Ended {
            return Poll::Ready(None);
        }
        this.turn(cx);
        if this.state == State::Written {
            return this.written();
        }
        if this.trailers.is_some() {
            return this.trailed();
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if frame.is_trailers() || this.body.is_end_stream() {
                    this.call.set_written();
                }
                // Often this was the last of it: the guest, which waited for that, can return before
                // the connection, which may need no more, drops this body and the guest with it.
                this.turn(cx);
                if frame.is_trailers() {
                    this.trailers = Some(frame);
                    return this.trailed();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.state = State::Ended;
                let failure = this.failure.take();
                Poll::Ready(Some(Err(
                    failure.unwrap_or_else(|| Failure::InvalidResponse(error.to_string()))
                )))
            }
            Poll::Ready(None) => {
                this.call.set_written();
                this.turn(cx);
                this.written()
            }
            // A guest that is gone writes no more: what it left open ends here, visibly.
            Poll::Pending if this.call.is_done() => {
                this.state = State::Ended;
                let failure = this.failure.take();
                Poll::Ready(Some(Err(failure.unwrap_or(Failure::InvalidResponse(
                    "the component returned before its body was finished".into(),
                )))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Not while a failure is still to be told: the connection asks no further once it is the end.
    fn is_end_stream(&self) -> bool {
        let finished = self.call.is_done() && self.body.is_end_stream();
        self.state == State::Ended || (finished && self.failure.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
