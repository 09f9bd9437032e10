//! How long a tier has worked on a request, without what it waited for the client.
//!
//! ```text
//! head ─▶ head is there ─ a frame is asked for ─▶ it is there ─ the client reads ─ the next is asked …
//!  counted, less what the     counted                          not counted
//!  request's body was waited for
//! ```

use std::time::{Duration, Instant};

/// The work on one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stopwatch {
    /// What is counted; `None` before the head.
    counted: Option<Duration>,
    /// When a frame was asked for that is not there yet.
    since: Option<Instant>,
}

impl Stopwatch {
    /// The head took so long.
    pub fn head(&mut self, took: Duration) {
        self.counted = Some(took);
    }

    /// A frame of the answer is asked for.
    pub fn start(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// It is there.
    pub fn stop(&mut self, now: Instant) {
        if let (Some(since), Some(counted)) = (self.since.take(), &mut self.counted) {
            *counted += now.saturating_duration_since(since);
        }
    }

    /// What was counted so far; `None` before the head.
    #[must_use]
    pub fn read(&self) -> Option<Duration> {
        self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_takes_to_read_is_not_counted() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut work = Stopwatch::default();
        assert_eq!(work.read(), None);
        work.head(ms(5));
        work.start(start);
        // Asked again before it is there.
        work.start(start + ms(1));
        work.stop(start + ms(2));
        // The client reads for a second.
        work.start(start + ms(1002));
        work.stop(start + ms(1003));
        assert_eq!(work.read(), Some(ms(8)));
    }
}
