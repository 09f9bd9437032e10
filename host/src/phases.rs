//! The fixed record of a request's phases.
//!
//! A request is in exactly one phase at any instant: entering one ends the other, so the phases
//! tile the request by construction. Spans, `Server-Timing` and metrics are made from the record
//! at the request's end; while it flows only instants are kept.

use std::time::{Duration, Instant, SystemTime};

/// Marks that one request can make: a native attempt, a retry in Wasm and some room.
const MARKS: usize = 12;

/// A phase of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a place in the function.
    Admit,
    /// Waiting for the component to be loaded.
    Load,
    /// Getting a sandbox.
    Lease,
    /// Making a connection to the sandbox.
    Connect,
    /// The native function has the request.
    Forward,
    /// Making an instance of the component.
    Instantiate,
    /// The component has the request.
    Handle,
}

impl Phase {
    /// The short name used in `Server-Timing`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Load => "load",
            Self::Lease => "lease",
            Self::Connect => "connect",
            Self::Forward => "forward",
            Self::Instantiate => "instantiate",
            Self::Handle => "handle",
        }
    }
}

/// When a request entered each phase.
#[derive(Clone, Debug)]
pub struct Phases {
    wall: SystemTime,
    began: Instant,
    marks: [(Phase, Instant); MARKS],
    len: usize,
}

/// A phase with its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Which phase.
    pub phase: Phase,
    /// When it was entered.
    pub start: Instant,
    /// When the next was entered, or the request ended.
    pub end: Instant,
}

impl Interval {
    /// How long it lasted.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.end.saturating_duration_since(self.start)
    }
}

impl Phases {
    /// A request that began at `began`, which is `wall` on the calendar, in its first phase.
    #[must_use]
    pub fn new(began: Instant, wall: SystemTime) -> Self {
        Self { wall, began, marks: [(Phase::Admit, began); MARKS], len: 1 }
    }

    /// Enters `phase` at `now`; the phase before ends. Entering the current phase changes nothing.
    pub fn enter(&mut self, phase: Phase, now: Instant) {
        let (current, since) = self.marks[self.len - 1];
        if current == phase {
            return;
        }
        let now = now.max(since);
        if self.len == MARKS {
            // Out of room: the last phase stretches to the end, the tiling holds.
            return;
        }
        self.marks[self.len] = (phase, now);
        self.len += 1;
    }

    /// When the request began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// The phases in order, the last one ending at `end`.
    pub fn intervals(&self, end: Instant) -> impl Iterator<Item = Interval> {
        let marks = &self.marks[..self.len];
        marks.iter().enumerate().map(move |(i, &(phase, start))| Interval {
            phase,
            start,
            end: marks.get(i + 1).map_or(end.max(start), |&(_, next)| next),
        })
    }

    /// An instant on the calendar.
    #[must_use]
    pub fn wall(&self, instant: Instant) -> SystemTime {
        self.wall + instant.saturating_duration_since(self.began)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Phase; 7] = [
        Phase::Admit,
        Phase::Load,
        Phase::Lease,
        Phase::Connect,
        Phase::Forward,
        Phase::Instantiate,
        Phase::Handle,
    ];

    proptest! {
        #[test]
        fn the_phases_tile_the_request(
            steps in prop::collection::vec((0..ALL.len(), 0u64..1_000_000), 0..20),
            tail in 0u64..1_000_000,
        ) {
            let began = Instant::now();
            let mut now = began;
            let mut phases = Phases::new(began, SystemTime::UNIX_EPOCH);
            for (phase, nanos) in steps {
                now += Duration::from_nanos(nanos);
                phases.enter(ALL[phase], now);
            }
            let end = now + Duration::from_nanos(tail);
            let intervals: Vec<_> = phases.intervals(end).collect();
            prop_assert_eq!(intervals[0].start, began);
            prop_assert_eq!(intervals[intervals.len() - 1].end, end);
            for pair in intervals.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
            }
            let sum: Duration = intervals.iter().map(Interval::duration).sum();
            prop_assert_eq!(sum, end - began);
        }
    }
}
