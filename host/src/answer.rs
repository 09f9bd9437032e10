//! The body of an answer on its way to the client, and the end of the request that it answers.
//!
//! Whatever ends the body (its last byte, a failure, the function's timeout, the client leaving)
//! ends the request.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::time::Sleep;

use crate::in_flight::InFlight;
use crate::native::{NativeBody, NativeFailure};
use crate::record::Outcome;
use crate::wasm::GuestBody;

/// Why a body broke off. The connection then ends without the end of the message, which a client
/// sees as an error and never as a shorter answer.
#[derive(Debug, thiserror::Error)]
pub enum BrokenOff {
    /// The guest failed after its head was sent.
    #[error("the component failed while it answered")]
    Guest(#[source] crate::wasm::Failure),
    /// The native function failed after its head was sent.
    #[error("the native function broke off its answer")]
    Native(#[source] NativeFailure),
    /// The answer took longer than the function's timeout.
    #[error("the answer took longer than the function's timeout")]
    Timeout,
}

impl BrokenOff {
    fn is_out_of_memory(&self) -> bool {
        use crate::wasm::Failure;
        matches!(
            self,
            Self::Guest(Failure::OutOfMemory { .. }) | Self::Native(NativeFailure::OutOfMemory(_))
        )
    }
}

/// Where the bytes come from.
pub enum Source {
    /// The host itself.
    Host(Full<Bytes>),
    /// A component.
    Guest(GuestBody),
    /// A native function.
    Native(NativeBody),
}

impl Source {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self {
            // A body in memory cannot fail.
            Self::Host(full) => {
                Pin::new(full).poll_frame(cx).map(|frame| frame.and_then(Result::ok).map(Ok))
            }
            Self::Guest(guest) => Pin::new(guest).poll_frame(cx).map_err(BrokenOff::Guest),
            Self::Native(native) => Pin::new(native).poll_frame(cx).map_err(BrokenOff::Native),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Host(full) => full.is_end_stream(),
            Self::Guest(guest) => guest.is_end_stream(),
            Self::Native(native) => native.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Host(full) => full.size_hint(),
            Self::Guest(guest) => guest.size_hint(),
            Self::Native(native) => native.size_hint(),
        }
    }
}

/// The body of an answer.
pub struct Answer {
    source: Source,
    ahead: Option<Ahead>,
    /// Nothing when the request goes on without HTTP.
    in_flight: Option<InFlight>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Why it breaks off at the next poll: what came before is sent first.
    broken: Option<BrokenOff>,
}

/// A frame that is there before the connection asks for it.
struct Ahead {
    frame: Option<Result<Frame<Bytes>, BrokenOff>>,
    /// What the source said of itself and this frame.
    hint: SizeHint,
}

impl Answer {
    /// The body that ends the request.
    #[must_use]
    pub fn new(source: Source, in_flight: InFlight) -> Self {
        Self { source, ahead: None, in_flight: Some(in_flight), timer: None, broken: None }
    }

    /// The body, which is none, of an answer that changes the protocol.
    #[must_use]
    pub fn switching() -> Self {
        let source = Source::Host(Full::default());
        Self { source, ahead: None, in_flight: None, timer: None, broken: None }
    }

    /// Gets the first frame, if it is there without waiting: most answers are whole then, and their guest or sandbox is
    /// done with them before they are written.
    pub async fn look_ahead(&mut self) {
        let hint = self.source.size_hint();
        self.ahead = poll_fn(|cx| match self.poll_source(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(Ahead { frame, hint })),
            Poll::Pending => Poll::Ready(None),
        })
        .await;
    }

    fn end(&mut self, outcome: Outcome) {
        let Some(in_flight) = &mut self.in_flight else { return };
        if let Source::Guest(guest) = &self.source {
            in_flight.record.guest = guest.spent();
        }
        if outcome != Outcome::Complete {
            // The guest or the sandbox is let go before the place in the function is free again.
            self.source = Source::Host(Full::default());
        }
        in_flight.end(outcome);
    }

    /// Polls the source, and has the record's stopwatch run while it works.
    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.record.work.start(Instant::now());
        }
        let polled = self.source.poll_frame(cx);
        if polled.is_ready()
            && let Some(in_flight) = &mut self.in_flight
        {
            in_flight.record.work.stop(Instant::now());
        }
        polled
    }

    fn out_of_time(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = self.in_flight.as_ref().and_then(|in_flight| in_flight.deadline);
        let Some(deadline) = deadline else { return false };
        let timer =
            self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        timer.as_mut().poll(cx).is_ready()
    }

    fn break_off(&mut self, why: BrokenOff) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(InFlight { record, .. }) = &mut self.in_flight {
            record.out_of_time = matches!(why, BrokenOff::Timeout);
            record.out_of_memory |= why.is_out_of_memory();
            tracing::warn!(
                function = record.function.as_ref().map(|function| function.name()),
                trace_id = %record.context.trace_id,
                error = &why as &dyn std::error::Error,
                "an answer broke off after its head was sent"
            );
        }
        self.end(Outcome::Broken);
        Poll::Ready(Some(Err(why)))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = self.get_mut();
        if let Some(why) = this.broken.take() {
            return this.break_off(why);
        }
        let polled = match this.ahead.take() {
            Some(ahead) => Poll::Ready(ahead.frame),
            None => this.poll_source(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                let sent = frame.data_ref().map_or(0, Bytes::len);
                if let Some(in_flight) = &mut this.in_flight {
                    if let (Some(sample), Some(data)) = (&mut in_flight.sample, frame.data_ref()) {
                        sample.data(data);
                    }
                    in_flight.record.sent += sent as u64;
                }
                if frame.is_trailers() {
                    // Nothing follows them, and the connection does not ask.
                    this.end(Outcome::Complete);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(why))) => {
                // An error makes the connection forget what it has not written yet, be it the head.
                this.broken = Some(why);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => {
                this.end(Outcome::Complete);
                Poll::Ready(None)
            }
            Poll::Pending if this.out_of_time(cx) => this.break_off(BrokenOff::Timeout),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.ahead {
            Some(ahead) => ahead.frame.is_none(),
            None => self.source.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.ahead.as_ref().map_or_else(|| self.source.size_hint(), |ahead| ahead.hint)
    }
}

impl Drop for Answer {
    /// The connection drops a body that it has written whole, and one whose client has left.
    fn drop(&mut self) {
        let whole = self.is_end_stream() || self.in_flight.as_ref().is_some_and(InFlight::is_whole);
        self.end(if whole { Outcome::Complete } else { Outcome::ClientGone });
    }
}
