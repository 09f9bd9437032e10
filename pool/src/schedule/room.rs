//! Making room within the memory budget: which idle sandboxes have to go.
//!
//! Those that are worth least first, never one that its function's `min` protects, generic ones last;
//! and none at all if that would not be enough.

use super::function::FunctionId;
use super::greedy_dual::Credit;
use super::{Effect, Schedule};
use crate::lifecycle::{self, State};
use crate::protocol::SandboxId;
use crate::reason::Reason;
use std::collections::BTreeMap;
use std::time::Instant;

/// Whether memory can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Now.
    Free,
    /// When those that are on the way out have gone.
    Coming,
    /// Not before some request ends.
    None,
}

impl Schedule {
    /// Bytes of the budget that nobody has.
    pub(super) fn free(&self) -> u64 {
        self.bounds.memory.saturating_sub(self.memory)
    }

    /// Sees to it that `need` bytes are or become free, sparing the function and the parked
    /// sandbox that they are for.
    pub(super) fn make_room(
        &mut self,
        now: Instant,
        need: u64,
        spare: Option<(FunctionId, SandboxId)>,
        effects: &mut Vec<Effect>,
    ) -> Room {
        if self.free() >= need {
            return Room::Free;
        }
        let leaving = self.sandboxes.values().filter(|sandbox| sandbox.state == State::Removing);
        let mut coming = self.free() + leaving.map(|sandbox| sandbox.memory).sum::<u64>();
        let mut victims = Vec::new();
        for id in self.evictable(spare) {
            if coming >= need {
                break;
            }
            coming += self.sandboxes[&id].memory;
            victims.push(id);
        }
        if coming < need {
            return Room::None;
        }
        for id in victims {
            self.clock.evicted(self.sandboxes[&id].credit);
            self.end(now, id, lifecycle::Event::Drain, Reason::Evicted, effects);
        }
        Room::Coming
    }

    /// What may go, in the order in which it should.
    fn evictable(&self, spare: Option<(FunctionId, SandboxId)>) -> Vec<SandboxId> {
        let mut idle: Vec<(Credit, Instant, SandboxId, FunctionId)> = self
            .sandboxes
            .iter()
            .filter(|(_, sandbox)| matches!(sandbox.state, State::Idle | State::Frozen))
            .filter_map(|(id, sandbox)| {
                let function = sandbox.owner.as_ref()?.function;
                Some((sandbox.credit, sandbox.since, *id, function))
            })
            .filter(|(_, _, _, function)| spare.is_none_or(|(spared, _)| spared != *function))
            .collect();
        idle.sort_unstable();
        let mut left: BTreeMap<FunctionId, usize> = BTreeMap::new();
        idle.retain(|(_, _, _, id)| {
            let Some(function) = self.functions.get(id) else { return true };
            let left = left.entry(*id).or_insert(function.serving);
            let spare = *left > function.policy.min;
            *left -= usize::from(spare);
            spare
        });
        let generic =
            self.parked.iter().copied().filter(|id| spare.is_none_or(|(_, spared)| spared != *id));
        idle.into_iter().map(|(_, _, id, _)| id).chain(generic).collect()
    }
}
