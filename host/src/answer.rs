//! The body of an answer on its way to the client, and the end of the request that it answers.
//!
//! Whatever ends the body (its last byte, a failure, the function's timeout, the client leaving)
//! ends the request: here, and nowhere else, its record is told.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

use crate::native::NativeBody;
use crate::observer::Observer;
use crate::record::{Outcome, Record};
use crate::request_body::Intake;
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
    Native(#[source] hyper::Error),
    /// The answer took longer than the function's timeout.
    #[error("the answer took longer than the function's timeout")]
    Timeout,
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

/// What a request holds until its end.
pub struct Ending {
    /// What is known of it.
    pub record: Box<Record>,
    /// To whom it is told.
    pub observer: Arc<Observer>,
    /// Its place in the function.
    pub place: Option<OwnedSemaphorePermit>,
    /// What became of its body.
    pub intake: Option<Intake>,
    /// The bytes that the head promised.
    pub promised: Option<u64>,
    /// When the function's time is up.
    pub deadline: Option<Instant>,
}

/// The body of an answer.
pub struct Answer {
    source: Source,
    /// `None` once the end was told.
    ending: Option<Ending>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Answer {
    /// The body that ends the request of `ending`.
    #[must_use]
    pub fn new(source: Source, ending: Ending) -> Self {
        Self { source, ending: Some(ending), timer: None }
    }

    fn end(&mut self, outcome: Outcome) {
        let Some(mut ending) = self.ending.take() else { return };
        if let Source::Guest(guest) = &self.source {
            ending.record.guest_cpu = guest.cpu_used();
        }
        if let Some(intake) = &ending.intake {
            ending.record.received = intake.read();
        }
        ending.observer.ended(&ending.record, outcome);
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut self.source {
            // A body in memory cannot fail.
            Source::Host(full) => {
                Pin::new(full).poll_frame(cx).map(|frame| frame.and_then(Result::ok).map(Ok))
            }
            Source::Guest(guest) => Pin::new(guest).poll_frame(cx).map_err(BrokenOff::Guest),
            Source::Native(native) => Pin::new(native).poll_frame(cx).map_err(BrokenOff::Native),
        }
    }

    fn out_of_time(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.ending.as_ref().and_then(|ending| ending.deadline) else {
            return false;
        };
        let timer =
            self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        timer.as_mut().poll(cx).is_ready()
    }

    fn break_off(&mut self, why: BrokenOff) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(ending) = &self.ending {
            tracing::warn!(
                function = ending.record.function.as_ref().map(|function| function.name()),
                trace_id = %ending.record.context.trace_id,
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
        match this.poll_source(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(ending), Some(data)) = (&mut this.ending, frame.data_ref()) {
                    ending.record.sent += data.len() as u64;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(why))) => this.break_off(why),
            Poll::Ready(None) => {
                this.end(Outcome::Complete);
                Poll::Ready(None)
            }
            Poll::Pending if this.out_of_time(cx) => this.break_off(BrokenOff::Timeout),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Host(full) => full.is_end_stream(),
            Source::Guest(guest) => guest.is_end_stream(),
            Source::Native(native) => native.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Host(full) => full.size_hint(),
            Source::Guest(guest) => guest.size_hint(),
            Source::Native(native) => native.size_hint(),
        }
    }
}

/// Whether an answer ends with its head (RFC 9110, section 6.4.1).
fn has_no_body(record: &Record) -> bool {
    record.method == Method::HEAD
        || matches!(record.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

impl Drop for Answer {
    /// The connection drops a body that it has written whole, and one whose client has left.
    fn drop(&mut self) {
        let whole = self.is_end_stream()
            || self.ending.as_ref().is_some_and(|ending| {
                ending.promised == Some(ending.record.sent) || has_no_body(&ending.record)
            });
        self.end(if whole { Outcome::Complete } else { Outcome::ClientGone });
    }
}
