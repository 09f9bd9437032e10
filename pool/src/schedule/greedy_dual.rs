//! Which idle sandbox is worth least: Greedy-Dual-Size-Frequency (Cherkasova, HP Labs 1998), as `FaasCache`
//! (ASPLOS '21) uses it for functions.
//!
//! A sandbox's credit is the clock when a request last had it, plus frequency × cost ÷ size: how often its
//! function was used, how long its start takes, how much memory it holds. The one with the least credit goes
//! first and the clock rises to what it had, so that what was worth much and is used no more goes in the end.

use std::time::Duration;

/// Microseconds of starts that a mebibyte saves; comparable with each other only.
pub(super) type Credit = u64;

/// Rises with every eviction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock(Credit);

impl Clock {
    /// The credit of a sandbox that a request gets now.
    pub(super) fn credit(self, frequency: u64, cost: Duration, size: u64) -> Credit {
        let worth = u128::from(frequency.max(1)) * cost.as_micros().max(1) * (1 << 20);
        let worth = worth / u128::from(size.max(1));
        self.0.saturating_add(Credit::try_from(worth).unwrap_or(Credit::MAX))
    }

    /// One with this credit was evicted.
    pub(super) fn evicted(&mut self, credit: Credit) {
        self.0 = self.0.max(credit);
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, Duration};
    use proptest::prelude::*;

    #[test]
    fn credit_is_frequency_times_cost_over_size_above_the_clock() {
        let mut clock = Clock::default();
        let credit = |clock: Clock| clock.credit(3, Duration::from_millis(2), 4 << 20);
        assert_eq!(credit(clock), 1_500);
        clock.evicted(1_000);
        assert_eq!(credit(clock), 2_500);
        clock.evicted(10);
        assert_eq!(credit(clock), 2_500, "the clock never goes back");
    }

    proptest! {
        #[test]
        fn more_use_a_longer_start_and_less_memory_never_lower_the_credit(
            clock in 0..u64::MAX / 2,
            (frequency, more) in (1..1_000_000u64, 0..1_000_000u64),
            (cost, longer) in (0..100_000_000u64, 0..100_000_000u64),
            (size, less) in (1u64 << 20..1 << 40, 0u64..1 << 20),
        ) {
            let clock = Clock(clock);
            let cost = Duration::from_micros(cost);
            let credit = clock.credit(frequency, cost, size);
            prop_assert!(clock.credit(frequency + more, cost, size) >= credit);
            prop_assert!(clock.credit(frequency, cost + Duration::from_micros(longer), size) >= credit);
            prop_assert!(clock.credit(frequency, cost, size - less) >= credit);
        }

        /// One that is used once and never again outlives at most as many of the others' uses as it was worth.
        #[test]
        fn what_is_used_no_more_goes_in_the_end(worth in 1..1_000u64, others in 1..50u64) {
            let mut clock = Clock::default();
            let old = clock.credit(worth, Duration::from_micros(1), 1 << 20);
            let evictions = (0..).take_while(|_| {
                let new = clock.credit(others, Duration::from_micros(1), 1 << 20);
                clock.evicted(new);
                new < old
            });
            prop_assert!(evictions.count() as u64 <= worth.div_ceil(others));
        }
    }
}
