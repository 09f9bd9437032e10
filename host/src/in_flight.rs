//! A request between its head and its end.
//!
//! It is made when the head was read, goes with the answer, and tells its record exactly once:
//! when the answer says how it ended, or else when it is dropped, since then the client has left.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use crate::observer::Observer;
use crate::record::{Outcome, Record};
use crate::request_body::Intake;
use crate::tunnel::Asked;
use crate::verify::Sample;

/// What a request holds until its end.
pub struct InFlight {
    /// What is known of it.
    pub record: Box<Record>,
    /// Its place in the function.
    pub place: Option<OwnedSemaphorePermit>,
    /// Its body.
    pub intake: Option<Intake>,
    /// What is kept of it for a comparison of both tiers.
    pub sample: Option<Box<Sample>>,
    /// The client, when it asks for another protocol and may have it.
    pub asked: Option<Asked>,
    /// When the function's time is up.
    pub deadline: Option<Instant>,
    observer: Arc<Observer>,
    progress: Progress,
}

#[derive(Clone, Copy)]
enum Progress {
    /// No head was sent.
    Unanswered,
    /// The head was sent, and promised this many bytes, if it said.
    Answering { promised: Option<u64> },
    /// The record was told.
    Ended,
}

impl InFlight {
    /// A request whose head was just read.
    #[must_use]
    pub fn new(record: Record, observer: Arc<Observer>) -> Self {
        Self {
            record: Box::new(record),
            place: None,
            intake: None,
            sample: None,
            asked: None,
            deadline: None,
            observer,
            progress: Progress::Unanswered,
        }
    }

    /// Its answer's head is on the way; the body is to have `promised` bytes, if the head says.
    pub fn answering(&mut self, status: StatusCode, promised: Option<u64>) {
        self.record.status = status;
        let waited = self.intake.as_ref().map(Intake::waited).unwrap_or_default();
        self.record.answered(Instant::now(), waited);
        self.progress = Progress::Answering { promised };
    }

    /// Whether every byte of the answer was sent, as far as its head tells.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let Progress::Answering { promised } = self.progress else { return false };
        promised == Some(self.record.sent)
            // Answers that end with their head (RFC 9110, section 6.4.1).
            || self.record.method == Method::HEAD
            || matches!(self.record.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    /// The request ends; only the first call counts.
    pub fn end(&mut self, outcome: Outcome) {
        if let Progress::Ended = self.progress {
            return;
        }
        self.progress = Progress::Ended;
        if let Some(intake) = &self.intake {
            self.record.received = intake.read();
            if intake.is_read() {
                self.record.peer.unread.set(false);
            }
        }
        self.place = None;
        if let (Outcome::Complete, Some(sample)) = (outcome, self.sample.take()) {
            sample.compare(&self.record, self.intake.as_ref());
        }
        self.observer.ended(&self.record, outcome);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Progress::Unanswered = self.progress {
            self.record.status = CLIENT_CLOSED_REQUEST;
        }
        self.end(Outcome::ClientGone);
    }
}

/// What logs say where no answer was sent because the client had left (nginx's convention; it is
/// never sent).
pub static CLIENT_CLOSED_REQUEST: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};
