//! The law of the schedule, whatever happens.

use super::world::World;
use super::{MIB, policy};
use crate::schedule::{Bounds, Event, KeepAlive, PARKED_MEMORY, Policy};
use proptest::prelude::*;
use std::num::NonZeroU32;
use std::time::Duration;

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let times = (0..20_000u64, 0..20_000u64, any::<bool>());
    let policy = (1..120u64, 0..2u64, 0..3usize, 0..5usize, 1..4u32, times).prop_map(
        |(memory, scratch, min, max, concurrency, (idle, freeze, histogram))| Policy {
            memory: memory * MIB,
            scratch: scratch * MIB,
            min,
            max,
            concurrency: NonZeroU32::new(concurrency).unwrap(),
            idle_timeout: Duration::from_millis(idle),
            freeze_after: Duration::from_millis(freeze),
            keep_alive: if histogram { KeepAlive::Histogram } else { KeepAlive::Fixed },
            ..policy()
        },
    );
    prop::collection::vec(policy, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]

    #[test]
    fn the_law_holds_whatever_happens_and_all_ends_well(
        policies in policies(),
        parked in 0..4usize,
        memory in 2..260u64,
        creating_max in 1..4usize,
        happenings in prop::collection::vec((any::<u8>(), 0..1000usize), 0..250),
    ) {
        let bounds = Bounds { parked, memory: memory * MIB, creating_max, waiters_max: 5 };
        let mut world = World::new(bounds);
        world.on(Event::Connected);
        world.on(Event::Ready);
        for policy in policies {
            world.add(policy);
        }
        for (what, seed) in happenings {
            world.happen(what, seed);
        }

        // Everything works again: whoever waits is answered, and idle sandboxes go.
        world.on(Event::Connected);
        world.on(Event::Ready);
        while !world.leases.is_empty() {
            world.give_back(0, true);
        }
        for _ in 0..200 {
            world.answer_all();
            world.advance(Duration::from_secs(1));
            while !world.leases.is_empty() {
                world.give_back(0, true);
            }
        }
        prop_assert!(world.waiting.is_empty());
        let functions = &world.schedule.functions;
        for function in functions.values() {
            prop_assert!(function.serving <= function.policy.min);
        }
        // A `min` that the budget cannot hold takes what it can get, so only without one is all of it known.
        if functions.values().all(|function| function.policy.min == 0) {
            let affordable = usize::try_from(bounds.memory / PARKED_MEMORY).unwrap();
            prop_assert_eq!(world.schedule.parked.len(), parked.min(affordable));
        }

        world.on(Event::Shutdown);
        world.answer_all();
        prop_assert!(world.closed && world.costs.is_empty());
    }
}
