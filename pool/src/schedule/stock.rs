//! Sandboxes without a function: made ahead of need, and removed when there are too many.

use super::room::Room;
use super::sandbox::Sandbox;
use super::starts::Start;
use super::{Effect, PARKED_MEMORY, Schedule};
use crate::lifecycle::{self, State};
use crate::protocol::SandboxId;
use crate::reason::{Reason, Usage};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// After so many failed creations in a row, those who wait for one are told.
const CREATION_PATIENCE: u32 = 3;
/// How long the stock stays short at most while functions start. A creation takes a core, and whoever forks waits
/// in the kernel while it moves a process into its control group: beside one, a start of a millisecond took three.
pub(super) const REFILL_PATIENCE: Duration = Duration::from_millis(20);

/// How long after a function has accepted, too: its first answer is still to come.
pub(super) const FIRST_ANSWER: Duration = Duration::from_millis(3);

impl Schedule {
    /// Has sandboxes made: first those that starts need, oldest first, then those to be kept ready.
    /// None takes memory that a start before it waits for, or the two would take turns for ever.
    pub(super) fn refill(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let Some(until) = self.creation.paused(now) {
            return self.wake_by(until);
        }
        let mut stock = self.stock();
        let mut owed: u64 = 0;
        for policy in self.queued() {
            let ready = stock.entry(policy.scratch).or_default();
            if *ready > 0 {
                *ready -= 1;
            } else if self.tally.creating >= self.bounds.creating_max {
                return;
            } else {
                let room = match owed {
                    0 => self.make_room(now, PARKED_MEMORY, None, effects),
                    _ if self.free() >= owed.saturating_add(PARKED_MEMORY) => Room::Free,
                    _ => return,
                };
                match room {
                    Room::Free => self.create(now, policy.scratch, effects),
                    Room::Coming => return,
                    Room::None => return self.forget_unwaited(),
                }
            }
            owed = owed.saturating_add(policy.memory.saturating_sub(PARKED_MEMORY));
        }
        let mut kept = stock.get(&0).copied().unwrap_or_default();
        if kept >= self.bounds.parked {
            self.short_since = None;
        } else {
            let due = *self.short_since.get_or_insert(now) + REFILL_PATIENCE;
            let rested = match self.some_function_starts() {
                true => due,
                false => due.min(self.settled.unwrap_or(now)),
            };
            if now < rested {
                return self.wake_by(rested);
            }
        }
        while kept < self.bounds.parked
            && self.tally.creating < self.bounds.creating_max
            && self.free() >= owed.saturating_add(PARKED_MEMORY)
        {
            self.create(now, 0, effects);
            kept += 1;
        }
    }

    fn some_function_starts(&self) -> bool {
        let starts = |state| matches!(state, State::Activating | State::Starting(_));
        self.sandboxes.values().any(|sandbox| starts(sandbox.state))
    }

    pub(super) fn create(&mut self, now: Instant, scratch: u64, effects: &mut Vec<Effect>) {
        let sandbox = SandboxId(self.next_sandbox);
        self.next_sandbox += 1;
        self.tally.moved(State::Removed, State::Creating);
        self.memory += PARKED_MEMORY;
        self.sandboxes.insert(sandbox, Sandbox::new(now, scratch));
        effects.push(Effect::Create { sandbox, scratch });
    }

    pub(super) fn create_failed(
        &mut self,
        now: Instant,
        id: SandboxId,
        error: String,
        effects: &mut Vec<Effect>,
    ) {
        if !self.sandboxes.contains_key(&id) {
            return;
        }
        self.creation.fail(now, Reason::Create(error.clone()));
        self.gone_because(now, id, Reason::Create(error), Usage::default(), effects);
        if self.creation.failures() < CREATION_PATIENCE || !self.parked.is_empty() {
            return;
        }
        for start in std::mem::take(&mut self.starts) {
            if let Some(function) = self.functions.get_mut(&start.function) {
                function.queued = 0;
            }
            self.refuse_hopeless(start.function, effects);
        }
    }

    /// Removes parked sandboxes that no start needs any more.
    pub(super) fn trim(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let mut kept: BTreeMap<u64, usize> = BTreeMap::new();
        for id in self.parked.clone() {
            let scratch = self.sandboxes[&id].scratch;
            let count = kept.entry(scratch).or_default();
            if *count < self.parked_target(scratch) {
                *count += 1;
            } else {
                self.end(now, id, lifecycle::Event::Drain, Reason::Surplus, effects);
            }
        }
    }

    /// Parked sandboxes of this scratch size that the queued starts need, and those kept besides.
    pub(super) fn parked_target(&self, scratch: u64) -> usize {
        let needs = |start: &&Start| {
            self.functions
                .get(&start.function)
                .is_some_and(|function| function.policy.scratch == scratch)
        };
        let kept = if scratch == 0 { self.bounds.parked } else { 0 };
        kept + self.starts.iter().filter(needs).count()
    }

    /// Sandboxes without a function, there or on the way, by scratch size.
    pub(super) fn stock(&self) -> BTreeMap<u64, usize> {
        let mut stock = BTreeMap::new();
        for sandbox in self.sandboxes.values() {
            if matches!(sandbox.state, State::Creating | State::Parked) {
                *stock.entry(sandbox.scratch).or_default() += 1;
            }
        }
        stock
    }
}
