//! Where a request is expected to be finished earliest.
//!
//! | place | finished after |
//! |---|---|
//! | a warm sandbox with room | `native * crowd` |
//! | a parked sandbox, activated for this request | `(activation + native) * crowd` |
//! | a busy sandbox, once it has room | `(native * (1 + waiting) / busy + native) * slow` |
//! | an instance of the component | `wasm * crowd` |
//!
//! Requests that compute share the cores, so times are those of a request with a core of its own, and
//! `crowd` says how much slower it gets: not at all while a core is free, and then by the requests
//! in flight for each core. Those that wait for a sandbox are counted then as well, though they do not
//! compute yet: a request that goes to Wasm takes a core from the sandboxes that they wait for, and
//! more of it than the native build would.
//!
//! `busy` sandboxes whose requests last `native` give one back every `native / busy`, but `slow` says how much
//! slower they are when they are more than the cores.
//!
//! All this is true of the part of a request that computes. What waits for others shares nothing, so
//! requests count by the share of their time that they compute, and only that share gets slower.

use std::time::Duration;

/// How much slower Wasm is taken to be before both builds were measured: the least that was found
/// of the functions shipped here (1.9 to 4.3).
const SLOWDOWN: f64 = 1.9;

/// Activation, until one was measured: parked to the first answer took 1.1 ms where it was tried.
const ACTIVATION: Duration = Duration::from_millis(2);

/// Creation, until one was measured: libcontainer took 7.5 ms where it was tried.
const CREATION: Duration = Duration::from_millis(8);

/// What is there for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outlook {
    /// A warm sandbox has room.
    pub warm: bool,
    /// A parked sandbox can be had for the function at once.
    pub parked: bool,
    /// Sandboxes of the function that have as many requests as they take.
    pub busy: u32,
    /// Sandboxes of the function that do not accept yet.
    pub starting: u32,
    /// Requests that wait for one of them.
    pub waiting: u32,
    /// All sandboxes that the function has or soon will; only looked at when none is warm.
    pub sandboxes: u32,
    /// The component is in memory and an instance is free.
    pub wasm: bool,
    /// Requests of the function that compute, in either tier.
    pub running: u32,
    /// Cores that they share; none counts as one.
    pub cores: u32,
    /// The share of its time that a request of the function computes, if that is known.
    pub computes: Option<f64>,
}

impl Outlook {
    /// How much slower one more request is than with a core of its own.
    #[must_use]
    pub fn crowd(&self) -> f64 {
        if self.computing(self.running) < self.cores() {
            return 1.0;
        }
        self.slowed(self.computing(self.running + self.waiting) + 1.0)
    }

    fn cores(&self) -> f64 {
        f64::from(self.cores.max(1))
    }

    /// How many of so many requests compute at once. One of which nothing is known does all the time.
    fn computing(&self, requests: u32) -> f64 {
        f64::from(requests) * self.computes.unwrap_or(1.0)
    }

    /// How much slower a request is when so many compute.
    fn slowed(&self, computing: f64) -> f64 {
        1.0 + self.computes.unwrap_or(1.0) * (computing / self.cores() - 1.0).max(0.0)
    }
}

/// What is expected of the function, measured as far as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// A request in Wasm.
    pub wasm: Option<Duration>,
    /// A request in a warm sandbox, the way there included.
    pub native: Option<Duration>,
    /// From a parked sandbox to one that accepts.
    pub activation: Option<Duration>,
    /// From nothing to a parked sandbox.
    pub creation: Option<Duration>,
}

impl Measured {
    /// A request in Wasm, by the other build when only that was measured.
    #[must_use]
    pub fn wasm(&self) -> Option<Duration> {
        self.wasm.or_else(|| self.native.map(|native| native.mul_f64(SLOWDOWN)))
    }

    /// A request in a warm sandbox, by the other build when only that was measured.
    #[must_use]
    pub fn native(&self) -> Option<Duration> {
        self.native.or_else(|| self.wasm.map(|wasm| wasm.div_f64(SLOWDOWN)))
    }

    /// From a parked sandbox to one that accepts.
    #[must_use]
    pub fn activation(&self) -> Duration {
        self.activation.unwrap_or(ACTIVATION)
    }

    /// What a sandbox costs to make: of one that was created ahead and `parked`, the activation alone.
    #[must_use]
    pub fn making(&self, parked: bool) -> Duration {
        let creation = if parked { Duration::ZERO } else { self.creation.unwrap_or(CREATION) };
        creation + self.activation()
    }

    /// The excess of a request that took `took` in Wasm: what it lost against the native build.
    #[must_use]
    pub fn excess_of_wasm(&self, took: Duration) -> Duration {
        let (Some(wasm), Some(native)) = (self.wasm(), self.native()) else {
            return Duration::ZERO;
        };
        took.mul_f64(1.0 - ratio(native, wasm).min(1.0))
    }

    /// The excess that a request avoided which took `took` in a sandbox.
    #[must_use]
    pub fn excess_of_native(&self, took: Duration) -> Duration {
        let (Some(wasm), Some(native)) = (self.wasm(), self.native()) else {
            return Duration::ZERO;
        };
        took.mul_f64((ratio(wasm, native) - 1.0).clamp(0.0, 1e3))
    }
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64().max(1e-9)
}

/// A place for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The warm sandbox.
    Warm,
    /// A parked sandbox, activated inline.
    Parked,
    /// A busy sandbox, after its turn comes.
    Busy,
    /// An instance of the component.
    Wasm,
}

/// The place where the request is expected to be finished earliest, and after how long, if that is
/// known. `may_activate` says whether another sandbox pays.
#[must_use]
pub fn earliest(
    outlook: Outlook,
    measured: &Measured,
    may_activate: bool,
) -> (Place, Option<Duration>) {
    let (Some(wasm), Some(native)) = (measured.wasm(), measured.native()) else {
        // Nothing was measured: what answers without waiting for a start, or else whatever there is.
        let place = match outlook {
            Outlook { wasm: true, .. } => Place::Wasm,
            Outlook { warm: true, .. } => Place::Warm,
            Outlook { parked: true, .. } => Place::Parked,
            _ => Place::Wasm,
        };
        return (place, None);
    };
    let (crowd, busy) = (outlook.crowd(), outlook.busy.max(1));
    let slow = outlook.slowed(outlook.computing(busy));
    let turns = f64::from(outlook.waiting + 1) / f64::from(busy) + 1.0;
    let places = [
        (outlook.warm, Place::Warm, native.mul_f64(crowd)),
        (outlook.wasm, Place::Wasm, wasm.mul_f64(crowd)),
        (
            outlook.parked && (may_activate || !outlook.wasm),
            Place::Parked,
            (measured.activation() + native).mul_f64(crowd),
        ),
        (outlook.busy > 0, Place::Busy, native.mul_f64(turns * slow)),
    ];
    // Of those that end alike, the one named first.
    let open = places.into_iter().filter(|(open, ..)| *open);
    let first = open.min_by_key(|(.., finish)| *finish);
    first.map_or((Place::Wasm, None), |(_, place, finish)| (place, Some(finish)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn measured(wasm: u64, native: u64, activation: u64) -> Measured {
        Measured {
            wasm: Some(ms(wasm)),
            native: Some(ms(native)),
            activation: Some(ms(activation)),
            creation: Some(ms(8)),
        }
    }

    const ALL: Outlook = Outlook {
        warm: true,
        parked: true,
        busy: 1,
        starting: 0,
        waiting: 0,
        sandboxes: 1,
        wasm: true,
        running: 0,
        cores: 4,
        computes: None,
    };

    #[test]
    fn a_warm_sandbox_is_taken_when_it_is_the_faster_place() {
        assert_eq!(earliest(ALL, &measured(20, 5, 1), true).0, Place::Warm);
        assert_eq!(earliest(ALL, &measured(4, 5, 1), true).0, Place::Wasm);
    }

    #[test]
    fn a_parked_sandbox_is_activated_inline_when_that_is_faster_than_wasm() {
        let cold = Outlook { warm: false, busy: 0, ..ALL };
        assert_eq!(earliest(cold, &measured(20, 5, 1), true), (Place::Parked, Some(ms(6))));
        assert_eq!(earliest(cold, &measured(20, 5, 16), true), (Place::Wasm, Some(ms(20))));
        assert_eq!(earliest(cold, &measured(20, 5, 1), false).0, Place::Wasm);
    }

    #[test]
    fn a_busy_sandbox_is_waited_for_when_that_is_faster_than_wasm() {
        let busy = Outlook { warm: false, parked: false, ..ALL };
        assert_eq!(earliest(busy, &measured(20, 5, 1), true), (Place::Busy, Some(ms(10))));
        let queue = Outlook { waiting: 4, ..busy };
        assert_eq!(earliest(queue, &measured(20, 5, 1), true).0, Place::Wasm);
    }

    #[test]
    fn on_a_core_that_is_taken_the_native_build_is_waited_for_however_many_wait() {
        let taken = Outlook { warm: false, parked: false, busy: 2, running: 2, cores: 1, ..ALL };
        for waiting in 0..100 {
            let place = earliest(Outlook { waiting, ..taken }, &measured(62, 28, 1), true).0;
            assert_eq!(place, Place::Busy, "{waiting} wait");
        }
    }

    #[test]
    fn requests_that_wait_for_others_take_no_core_from_each_other() {
        let many = Outlook { warm: false, parked: false, busy: 2, running: 60, cores: 1, ..ALL };
        let idle = Outlook { computes: Some(0.001), waiting: 4, ..many };
        assert_eq!(earliest(idle, &measured(101, 100, 1), true).0, Place::Wasm);
        assert!(idle.crowd() < 1.01);
    }

    #[test]
    fn a_core_that_is_free_is_used_by_wasm_when_too_many_wait() {
        let half = Outlook { warm: false, parked: false, busy: 2, running: 2, waiting: 4, ..ALL };
        assert_eq!(earliest(half, &measured(62, 28, 1), true).0, Place::Wasm);
        let full = Outlook { running: 4, ..half };
        assert_eq!(earliest(full, &measured(62, 28, 1), true).0, Place::Busy);
    }

    #[test]
    fn without_a_free_instance_a_sandbox_is_waited_for() {
        let full = Outlook { wasm: false, warm: false, parked: false, ..ALL };
        assert_eq!(earliest(full, &measured(1, 5, 1), true).0, Place::Busy);
    }

    #[test]
    fn the_first_request_is_answered_by_wasm() {
        assert_eq!(earliest(ALL, &Measured::default(), true), (Place::Wasm, None));
    }

    proptest! {
        #[test]
        fn no_open_place_is_expected_to_end_earlier(
            warm: bool, parked: bool, wasm_free: bool, busy in 0u32..4, waiting in 0u32..4,
            wasm in 1u64..100, native in 1u64..100, activation in 1u64..20,
        ) {
            let outlook = Outlook { warm, parked, busy, waiting, wasm: wasm_free, ..ALL };
            let (_, finish) = earliest(outlook, &measured(wasm, native, activation), true);
            for (open, other) in [
                (warm, ms(native)),
                (wasm_free, ms(wasm)),
                (parked, ms(native + activation)),
            ] {
                prop_assert!(!open || finish.unwrap() <= other);
            }
        }

        #[test]
        fn the_excess_is_the_same_whichever_tier_it_is_seen_from(
            wasm in 2u64..1000, native in 1u64..1000,
        ) {
            let measured = measured(wasm, native, 1);
            let from_wasm = measured.excess_of_wasm(ms(wasm)).as_secs_f64();
            let from_native = measured.excess_of_native(ms(native)).as_secs_f64();
            prop_assert!((from_wasm - from_native).abs() < 1e-6);
            prop_assert!((from_wasm - ms(wasm.saturating_sub(native)).as_secs_f64()).abs() < 1e-6);
        }
    }
}
