//! How many requests a function has at once, and whether that is a burst.
//!
//! Two averages of the requests in flight, one over [`STABLE`] and one over [`PANIC`], as in the
//! autoscaler of Knative (which takes 60 s and 6 s; a sandbox here starts in milliseconds, not
//! seconds). When the short one is twice what the sandboxes take, the function is in a burst
//! until that has not been so for [`STABLE`]; during a burst what is wanted never falls.

use std::time::{Duration, Instant};

/// What is usual.
pub const STABLE: Duration = Duration::from_secs(6);

/// What is now.
pub const PANIC: Duration = Duration::from_millis(600);

/// How many times more than the sandboxes take is a burst.
const BURST: f64 = 2.0;

/// Requests in flight over time.
#[derive(Clone, Debug)]
pub struct Concurrency {
    since: Instant,
    now: f64,
    stable: f64,
    panic: f64,
    burst: Option<Burst>,
}

#[derive(Clone, Copy, Debug)]
struct Burst {
    last: Instant,
    wanted: f64,
}

impl Concurrency {
    /// Nothing in flight.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { since: now, now: 0.0, stable: 0.0, panic: 0.0, burst: None }
    }

    /// So many are in flight from `now` on, while there is room for `room` in sandboxes.
    pub fn observe(&mut self, now: Instant, in_flight: usize, room: usize) {
        let passed = now.saturating_duration_since(self.since);
        self.stable = towards(self.stable, self.now, passed, STABLE);
        self.panic = towards(self.panic, self.now, passed, PANIC);
        self.since = now;
        self.now = in_flight as f64;
        let short = self.panic.max(self.now);
        if short >= BURST * (room.max(1) as f64) {
            let wanted = self.burst.map_or(0.0, |burst| burst.wanted).max(short);
            self.burst = Some(Burst { last: now, wanted });
        } else if self.burst.is_some_and(|burst| now.duration_since(burst.last) > STABLE) {
            self.burst = None;
        }
    }

    /// Requests in flight, averaged over [`STABLE`].
    #[must_use]
    pub fn usual(&self) -> f64 {
        self.stable
    }

    /// Requests at once that a burst wants sandboxes for; `None` outside of one.
    #[must_use]
    pub fn burst(&self) -> Option<f64> {
        self.burst.map(|burst| burst.wanted)
    }
}

/// An exponential average after `value` has held for `passed`.
fn towards(average: f64, value: f64, passed: Duration, window: Duration) -> f64 {
    let kept = (-passed.as_secs_f64() / window.as_secs_f64()).exp();
    value + (average - value) * kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_past_twice_the_room_is_a_burst_at_once_and_ends_a_window_later() {
        let start = Instant::now();
        let mut seen = Concurrency::new(start);
        seen.observe(start, 1, 1);
        assert_eq!(seen.burst(), None);
        seen.observe(start + PANIC, 8, 1);
        assert_eq!(seen.burst(), Some(8.0));
        // What is wanted does not fall while it lasts.
        seen.observe(start + 2 * PANIC, 1, 8);
        assert_eq!(seen.burst(), Some(8.0));
        seen.observe(start + 2 * PANIC + 2 * STABLE, 1, 8);
        assert_eq!(seen.burst(), None);
    }

    #[test]
    fn the_usual_follows_what_lasts() {
        let start = Instant::now();
        let mut seen = Concurrency::new(start);
        seen.observe(start, 4, 8);
        seen.observe(start + 10 * STABLE, 4, 8);
        assert!((seen.usual() - 4.0).abs() < 0.01);
    }
}
