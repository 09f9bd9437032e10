//! The schedule against a world that answers in any order, late, wrongly or not at all.

mod law;
mod world;

use super::cores::{LULL, PATIENCE};
use super::stock::{FIRST_ANSWER, REFILL_PATIENCE};
use super::{Bounds, Cause, Effect, Event, FunctionId, KeepAlive, Policy, Quarantine};
use crate::protocol::{Exit, SandboxId};
use crate::reason::{LeaseError, Reason};
use std::num::NonZeroU32;
use std::time::Duration;
use world::World;

const MIB: u64 = 1 << 20;
const START_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

fn policy() -> Policy {
    Policy {
        memory: 64 * MIB,
        scratch: 0,
        min: 0,
        max: 4,
        concurrency: NonZeroU32::MIN,
        idle_timeout: IDLE_TIMEOUT,
        keep_alive: KeepAlive::Fixed,
        freeze_after: IDLE_TIMEOUT,
        start_timeout: START_TIMEOUT,
        grace: Duration::from_secs(5),
    }
}

fn bounds() -> Bounds {
    Bounds { parked: 2, memory: 300 * MIB, creating_max: 2, waiters_max: 8 }
}

#[test]
fn a_prepared_function_is_leased_without_waiting_once_it_accepts() {
    let (mut world, function) = World::with_function(bounds(), policy());
    assert_eq!(world.try_lease(function), None);
    world.on(Event::Prepare { function, wanted: 1, cause: Cause::default() });
    let id = *world.activating.first().unwrap();
    world.handed_over(id);
    assert_eq!(world.try_lease(function), None, "it may not accept for long");
    world.accepted(id);
    assert_eq!(world.try_lease(function), Some(id));
    assert_eq!(world.try_lease(function), None, "one request at once");
}

#[test]
fn a_waiter_is_granted_as_soon_as_the_function_is_handed_over() {
    let (mut world, function) = World::with_function(bounds(), policy());
    let waiter = world.wait(function);
    let id = *world.activating.first().unwrap();
    world.handed_over(id);
    assert!(world.log.contains(&Effect::Grant { waiter, sandbox: id, cold: true }));
}

#[test]
fn a_waiter_for_a_busy_sandbox_is_granted_by_its_release_and_was_not_cold() {
    let (mut world, function) =
        World::with_function(bounds(), Policy { max: 1, min: 1, ..policy() });
    let id = world.try_lease(function).unwrap();
    world.advance(Duration::from_secs(1));
    let waiter = world.wait(function);
    world.give_back(0, true);
    assert!(world.log.contains(&Effect::Grant { waiter, sandbox: id, cold: false }));
}

#[test]
fn a_waiter_is_refused_with_the_bound_when_all_stay_busy() {
    let (mut world, function) =
        World::with_function(bounds(), Policy { max: 1, min: 1, ..policy() });
    world.try_lease(function).unwrap();
    let waiter = world.wait(function);
    world.advance(START_TIMEOUT);
    let error = LeaseError::Saturated { max: 1, waited: START_TIMEOUT };
    assert!(world.log.contains(&Effect::Refuse { waiter, error }));
}

#[test]
fn an_idle_sandbox_ends_politely_and_is_killed_after_its_grace() {
    let (mut world, function) = World::with_function(bounds(), policy());
    world.on(Event::Prepare { function, wanted: 1, cause: Cause::default() });
    world.answer_all();
    let id = *world.running.keys().next().unwrap();
    world.advance(IDLE_TIMEOUT);
    assert_eq!(world.log.last(), Some(&Effect::Terminate(id)));
    world.advance(policy().grace);
    assert_eq!(world.log.last(), Some(&Effect::Remove(id)));
}

#[test]
fn a_tainted_sandbox_lets_its_other_requests_end_and_takes_no_more() {
    let concurrency = NonZeroU32::new(2).unwrap();
    let (mut world, function) =
        World::with_function(bounds(), Policy { concurrency, min: 1, max: 1, ..policy() });
    let id = world.try_lease(function).unwrap();
    world.try_lease(function).unwrap();
    world.give_back(0, false);
    assert_eq!(world.try_lease(function), None);
    assert!(!world.log.contains(&Effect::Remove(id)));
    world.give_back(0, true);
    assert!(world.log.contains(&Effect::Remove(id)));
}

#[test]
fn a_function_that_dies_at_every_start_backs_off_with_its_reason() {
    let (mut world, function) = World::with_function(bounds(), policy());
    for _ in 0..2 {
        world.on(Event::Prepare { function, wanted: 1, cause: Cause::default() });
        let id = *world.activating.first().unwrap();
        world.handed_over(id);
        world.on(Event::Died(id));
        world.gone(id, Exit::Code(1));
    }
    let waiter = world.wait(function);
    let reason = Reason::Exit(Exit::Code(1));
    let error = LeaseError::StartFailed { reason };
    assert!(world.log.contains(&Effect::Refuse { waiter, error }));
    world.answer_all();
    world.advance(Duration::from_millis(100));
    world.wait(function);
    assert_eq!(world.activating.len(), 1, "one attempt after the pause");
}

#[test]
fn what_does_not_accept_in_time_never_accepted() {
    let (mut world, function) = World::with_function(bounds(), policy());
    world.on(Event::Prepare { function, wanted: 1, cause: Cause::default() });
    let sandbox = *world.activating.first().unwrap();
    world.handed_over(sandbox);
    world.advance(START_TIMEOUT);
    let outcome = Err(Reason::NeverAccepted);
    let cause = Cause::default();
    assert!(world.log.contains(&Effect::Prepared { sandbox, function, cause, outcome }));
    assert!(world.log.contains(&Effect::Remove(sandbox)));
}

#[test]
fn the_least_recently_used_idle_sandbox_makes_room() {
    let budget = Bounds { memory: 131 * MIB, ..bounds() };
    let (mut world, first) = World::with_function(budget, Policy { max: 1, ..policy() });
    let second = world.add(Policy { max: 1, ..policy() });
    let third = world.add(Policy { max: 1, ..policy() });
    for function in [first, second] {
        world.on(Event::Prepare { function, wanted: 1, cause: Cause::default() });
        world.answer_all();
        world.advance(Duration::from_secs(1));
    }
    world.wait(third);
    world.answer_all();
    let owners: Vec<_> = world.running.values().copied().collect();
    assert_eq!(owners, [second, third]);
    let evicted = world.log.iter().any(|effect| {
        matches!(effect, Effect::Gone { function: Some(id), reason: Reason::Evicted, .. } if *id == first)
    });
    assert!(evicted);
}

#[test]
fn a_lost_daemons_sandboxes_finish_their_requests_and_nothing_else() {
    let (mut world, function) = World::with_function(bounds(), Policy { min: 2, ..policy() });
    let id = world.try_lease(function).unwrap();
    world.on(Event::Disconnected);
    assert_eq!(world.try_lease(function), None);
    world.on(Event::Connected);
    assert!(world.log.contains(&Effect::Hello { in_use: vec![id] }));
    assert_eq!(world.costs.keys().collect::<Vec<_>>(), [&id], "the rest was swept");
    world.on(Event::Ready);
    world.give_back(0, true);
    assert!(world.log.contains(&Effect::Remove(id)));
}

#[test]
fn a_function_larger_than_the_budget_is_refused_at_once() {
    let (mut world, function) =
        World::with_function(bounds(), Policy { memory: 400 * MIB, ..policy() });
    let waiter = world.wait(function);
    let error = LeaseError::OverBudget { memory: 400 * MIB, budget: 300 * MIB };
    assert!(world.log.contains(&Effect::Refuse { waiter, error }));
}

#[test]
fn two_starts_that_each_want_the_whole_budget_do_not_take_it_from_each_other() {
    let budget = Bounds { memory: 64 * MIB, parked: 0, ..bounds() };
    let (mut world, function) = World::with_function(budget, policy());
    world.on(Event::Prepare { function, wanted: 2, cause: Cause::default() });
    world.answer_all();
    assert_eq!(world.running.len(), 1);
}

#[test]
fn a_request_that_goes_wrong_before_the_first_accept_was_seen_is_no_failed_start() {
    let (mut world, function) = World::with_function(bounds(), policy());
    for _ in 0..3 {
        world.wait(function);
        let id = *world.activating.first().unwrap();
        world.handed_over(id);
        world.give_back(0, false);
        world.gone(id, Exit::Signal(9));
        world.answer_all();
    }
    world.wait(function);
    assert_eq!(world.activating.len(), 1, "no pause");
}

/// A function with one warm sandbox that freezes after a second.
fn freezing() -> (World, FunctionId, SandboxId) {
    let freezing = Policy { freeze_after: Duration::from_secs(1), ..policy() };
    let (mut world, function) = World::with_function(bounds(), freezing);
    world.on(Event::Prepare { function, wanted: 1, cause: Cause::default() });
    world.answer_all();
    let id = *world.running.keys().next().unwrap();
    (world, function, id)
}

#[test]
fn an_idle_sandbox_freezes_after_its_grace_and_is_leased_all_the_same() {
    let (mut world, function, id) = freezing();
    world.advance(Duration::from_millis(999));
    assert!(world.frozen.is_empty());
    world.advance(Duration::from_millis(1));
    assert!(world.frozen.contains(&id));
    assert_eq!(world.try_lease(function), Some(id));
    world.give_back(0, true);
    world.advance(Duration::from_secs(1));
    assert!(world.frozen.contains(&id), "and freezes again");
}

#[test]
fn who_waits_gets_a_frozen_sandbox_and_was_not_cold() {
    let (mut world, function, sandbox) = freezing();
    world.advance(Duration::from_secs(1));
    let waiter = world.wait(function);
    assert_eq!(world.log.last(), Some(&Effect::Grant { waiter, sandbox, cold: false }));
}

#[test]
fn a_sandbox_that_runs_is_leased_before_a_frozen_one() {
    let (mut world, function, first) = freezing();
    world.on(Event::Prepare { function, wanted: 2, cause: Cause::default() });
    world.answer_all();
    let leased = [world.try_lease(function).unwrap(), world.try_lease(function).unwrap()];
    world.give_back(usize::from(leased[0] != first), true);
    world.give_back(0, true);
    world.advance(Duration::from_millis(1));
    world.try_lease(function);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.frozen.len(), 1);
    world.give_back(0, true);
    let id = world.try_lease(function).unwrap();
    assert!(world.frozen.iter().all(|frozen| *frozen != id) && world.frozen.len() == 1);
}

#[test]
fn a_frozen_sandbox_is_thawed_before_it_is_told_to_finish() {
    let (mut world, _, id) = freezing();
    world.advance(IDLE_TIMEOUT);
    let told = |wanted: &dyn Fn(&Effect) -> bool| world.log.iter().position(wanted).unwrap();
    let thawed = told(&|effect| matches!(effect, Effect::Thaw { reason: Reason::Idle, .. }));
    assert!(thawed < told(&|effect| *effect == Effect::Terminate(id)));
}

/// One request a minute for half an hour, each right when it is due.
fn every_minute(keep_alive: KeepAlive) -> (World, FunctionId) {
    let idle_timeout = Duration::from_secs(240);
    let regular = Policy { keep_alive, idle_timeout, freeze_after: idle_timeout, ..policy() };
    let (mut world, function) = World::with_function(bounds(), regular);
    for _ in 0..30 {
        world.wait(function);
        world.answer_all();
        world.give_back(0, true);
        world.answer_all();
        world.advance(Duration::from_secs(60));
        world.answer_all();
    }
    (world, function)
}

#[test]
fn a_function_with_regular_pauses_has_its_sandbox_only_when_the_next_request_is_due() {
    let (mut world, function) = every_minute(KeepAlive::Histogram);
    let id = world.try_lease(function).expect("one was made ahead");
    world.give_back(0, true);
    world.advance(Duration::ZERO);
    assert!(world.log.contains(&Effect::Terminate(id)), "none is kept after a request");
    world.answer_all();
    world.advance(Duration::from_secs(53));
    assert!(world.running.is_empty());
    world.advance(Duration::from_secs(2));
    world.answer_all();
    assert_eq!(world.running.len(), 1, "made ahead");
    world.advance(Duration::from_secs(14));
    world.answer_all();
    assert!(world.running.is_empty(), "and let go when no request came");
    world.advance(Duration::from_secs(600));
    assert!(world.running.is_empty(), "once a pause");
}

#[test]
fn a_function_with_a_fixed_keep_alive_keeps_its_sandbox_through_its_pauses() {
    let (world, _) = every_minute(KeepAlive::Fixed);
    assert_eq!(world.running.len(), 1);
    assert!(!world.log.iter().any(|effect| matches!(effect, Effect::Terminate(_))));
}

#[test]
fn what_starts_slowly_is_kept_when_memory_is_short() {
    let budget = Bounds { memory: 131 * MIB, ..bounds() };
    let (mut world, slow) = World::with_function(budget, Policy { max: 1, ..policy() });
    let quick = world.add(Policy { max: 1, ..policy() });
    let third = world.add(Policy { max: 1, ..policy() });
    world.wait(slow);
    world.answer_creations();
    world.advance(Duration::from_secs(5));
    world.answer_all();
    world.give_back(0, true);
    world.advance(Duration::from_secs(1));
    world.wait(quick);
    world.answer_all();
    world.give_back(0, true);
    world.wait(third);
    world.answer_all();
    let owners: Vec<_> = world.running.values().copied().collect();
    assert_eq!(owners, [slow, third], "though it was used less recently");
}

#[test]
fn what_is_asked_for_before_the_daemon_is_ready_is_done_when_it_is() {
    let mut world = World::new(bounds());
    let function = world.add(policy());
    world.on(Event::Prepare { function, wanted: 1, cause: Cause::default() });
    world.on(Event::Connected);
    assert!(world.costs.is_empty());
    world.on(Event::Ready);
    world.answer_all();
    assert!(world.try_lease(function).is_some());
}

#[test]
fn a_function_whose_starts_fail_is_in_quarantine_until_one_succeeds() {
    let (mut world, function) = World::with_function(bounds(), policy());
    assert_eq!(world.schedule.quarantine(world.now, function), None);
    for _ in 0..2 {
        world.on(Event::Prepare { function, wanted: 1, cause: Cause::default() });
        let id = *world.activating.first().unwrap();
        world.handed_over(id);
        world.on(Event::Died(id));
        world.gone(id, Exit::Code(1));
    }
    let expected = Quarantine {
        reason: Reason::Exit(Exit::Code(1)),
        failures: 2,
        retry_in: Duration::from_millis(100),
    };
    assert_eq!(world.schedule.quarantine(world.now, function), Some(expected));
    world.advance(Duration::from_millis(100));
    world.wait(function);
    world.answer_all();
    assert_eq!(world.schedule.quarantine(world.now, function), None);
}

#[test]
fn a_sandbox_in_use_is_not_evicted() {
    let budget = Bounds { memory: 66 * MIB, ..bounds() };
    let (mut world, first) = World::with_function(budget, policy());
    let second = world.add(policy());
    world.wait(first);
    world.answer_all();
    world.wait(second);
    world.answer_all();
    let (_, owner) = world.running.first_key_value().unwrap();
    assert_eq!(*owner, first);
    world.give_back(0, true);
    world.answer_all();
    assert_eq!(world.running.values().collect::<Vec<_>>(), [&second], "now it may go");
}

#[test]
fn a_look_around_in_between_does_not_put_off_the_freezing() {
    let (mut world, _, id) = freezing();
    world.advance(Duration::from_millis(500));
    world.on(Event::Tick);
    world.advance(Duration::from_millis(500));
    assert!(world.frozen.contains(&id));
}

#[test]
fn the_stock_is_refilled_once_the_function_that_took_from_it_may_have_answered() {
    let (mut world, function) = World::with_function(bounds(), policy());
    world.wait(function);
    let id = *world.activating.first().unwrap();
    assert!(world.creating.is_empty(), "while it is handed over");
    world.handed_over(id);
    assert!(world.creating.is_empty(), "while it starts");
    world.accepted(id);
    assert!(world.creating.is_empty(), "while it answers for the first time");
    world.advance(FIRST_ANSWER);
    assert_eq!(world.creating.len(), 1);
}

#[test]
fn the_stock_is_not_short_for_long_while_functions_start_without_end() {
    let many = Bounds { parked: 4, ..bounds() };
    let (mut world, function) = World::with_function(many, policy());
    let step = REFILL_PATIENCE / 4;
    for wanted in 1..4 {
        world.on(Event::Prepare { function, wanted, cause: Cause::default() });
        assert!(world.creating.is_empty());
        world.advance(step);
    }
    world.advance(step);
    assert_eq!(world.creating.len(), many.creating_max, "though three of them still start");
}

#[test]
fn a_start_that_waits_for_a_sandbox_has_one_made_beside_another_start() {
    let one = Bounds { parked: 1, ..bounds() };
    let (mut world, function) = World::with_function(one, policy());
    world.wait(function);
    assert!(world.creating.is_empty());
    world.wait(function);
    assert_eq!(world.creating.len(), 1);
}

#[test]
fn sandboxes_yield_the_cores_while_only_the_stock_is_made() {
    let mut world = World::new(bounds());
    world.on(Event::Connected);
    world.on(Event::Ready);
    assert!(!world.creating.is_empty());
    assert_eq!(world.claimed, Some(false));
}

#[test]
fn a_request_in_a_sandbox_claims_the_cores_until_a_while_after_it() {
    let (mut world, function) =
        World::with_function(bounds(), Policy { min: 1, max: 1, ..policy() });
    world.advance(REFILL_PATIENCE + LULL);
    assert_eq!((world.creating.len(), world.claimed), (1, Some(false)));
    world.try_lease(function).unwrap();
    assert_eq!(world.claimed, Some(true));
    world.give_back(0, true);
    assert_eq!(world.claimed, Some(true), "there may be another");
    world.advance(LULL);
    assert_eq!(world.claimed, Some(false));
}

#[test]
fn a_request_begins_the_lull_anew() {
    let (mut world, function) =
        World::with_function(bounds(), Policy { min: 1, max: 1, ..policy() });
    world.try_lease(function).unwrap();
    world.advance(REFILL_PATIENCE);
    assert_eq!(world.creating.len(), 1);
    for _ in 0..3 {
        world.give_back(0, true);
        world.advance(LULL / 2 + LULL / 4);
        assert_eq!(world.claimed, Some(true));
        world.try_lease(function).unwrap();
    }
}

#[test]
fn a_start_claims_the_cores_until_the_function_accepts() {
    let (mut world, function) = World::with_function(bounds(), policy());
    world.on(Event::Prepare { function, wanted: 1, cause: Cause::default() });
    assert_eq!(world.claimed, Some(true));
    let id = *world.activating.first().unwrap();
    world.handed_over(id);
    world.accepted(id);
    world.advance(REFILL_PATIENCE + LULL);
    assert_eq!((world.creating.len(), world.claimed), (1, Some(false)));
}

#[test]
fn nothing_is_said_of_the_cores_where_nothing_is_done() {
    let (mut world, function) =
        World::with_function(bounds(), Policy { min: 1, max: 1, ..policy() });
    world.advance(REFILL_PATIENCE);
    world.answer_all();
    world.try_lease(function).unwrap();
    world.give_back(0, true);
    assert_eq!(world.claimed, Some(true), "it claims them, and there is nobody to yield them to");
}

#[test]
fn a_making_that_is_late_claims_the_cores() {
    let mut world = World::new(bounds());
    world.on(Event::Connected);
    world.on(Event::Ready);
    world.advance(PATIENCE - Duration::from_millis(1));
    assert_eq!(world.claimed, Some(false));
    world.advance(Duration::from_millis(1));
    assert_eq!(world.claimed, Some(true));
    world.answer_creations();
    assert_eq!(world.claimed, Some(true), "nothing is left to be done");
}
