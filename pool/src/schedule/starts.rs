//! Starts of functions: wanted, queued until there is a parked sandbox and memory, under way, over.

use super::function::{Cause, FunctionId, Policy};
use super::room::Room;
use super::sandbox::Owner;
use super::stock::FIRST_ANSWER;
use super::{Effect, PARKED_MEMORY, Schedule};
use crate::lifecycle::{self, State};
use crate::protocol::SandboxId;
use crate::reason::Reason;
use std::time::Instant;

/// A sandbox that a function is to get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) function: FunctionId,
    pub(super) cause: Cause,
}

impl Schedule {
    /// Queues starts until the function has what `wanted` requests at once are worth.
    pub(super) fn demand(&mut self, now: Instant, id: FunctionId, wanted: u64, cause: Cause) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        if self.closing || function.retired || function.policy.memory > self.bounds.memory {
            return;
        }
        if let Some(until) = function.backoff.paused(now) {
            return self.wake_by(until);
        }
        let doubted = function.backoff.in_doubt();
        let unproven =
            |id: &SandboxId| self.sandboxes[id].owner.as_ref().is_some_and(|owner| !owner.reported);
        let target = function.target(wanted);
        while function.serving + function.queued < target && function.held() < function.policy.max {
            if doubted && (function.queued > 0 || function.owned.iter().any(unproven)) {
                return;
            }
            function.queued += 1;
            self.starts.push_back(Start { function: id, cause });
        }
    }

    /// Puts queued starts into parked sandboxes, oldest first.
    pub(super) fn activate(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let (mut next, mut short) = (0, false);
        while let Some(start) = self.starts.get(next).copied() {
            let Some(function) = self.functions.get(&start.function) else { return };
            let policy = function.policy;
            let fits = |id: &&SandboxId| self.sandboxes[id].scratch == policy.scratch;
            let Some(sandbox) = self.parked.iter().find(fits).copied() else {
                next += 1;
                continue;
            };
            let more = policy.memory.saturating_sub(PARKED_MEMORY);
            match self.make_room(now, more, Some((start.function, sandbox)), effects) {
                Room::Free => {
                    self.starts.remove(next);
                    self.start(now, start, sandbox, effects);
                }
                Room::Coming => return,
                // Nothing can be evicted: a later, smaller one may still fit.
                Room::None => {
                    next += 1;
                    short = true;
                }
            }
        }
        if short {
            self.forget_unwaited();
        }
    }

    pub(super) fn start(
        &mut self,
        now: Instant,
        start: Start,
        id: SandboxId,
        effects: &mut Vec<Effect>,
    ) {
        let Some(function) = self.functions.get_mut(&start.function) else { return };
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        function.queued -= 1;
        function.owned.insert(id);
        let due = now + function.policy.start_timeout;
        let memory = function.policy.memory.max(PARKED_MEMORY);
        self.memory = self.memory - sandbox.memory + memory;
        sandbox.memory = memory;
        sandbox.owner = Some(Owner {
            function: start.function,
            cause: start.cause,
            activated: now,
            handed_over: None,
            reported: false,
        });
        self.step(now, id, lifecycle::Event::Activate, effects);
        self.wake_by(due);
        effects.push(Effect::Activate { sandbox: id, function: start.function });
    }

    pub(super) fn accepted(&mut self, now: Instant, id: SandboxId, effects: &mut Vec<Effect>) {
        self.step(now, id, lifecycle::Event::Accepted, effects);
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        sandbox.since = now;
        self.settled = Some(now + FIRST_ANSWER);
        if let Some(owner) = &sandbox.owner
            && let Some(function) = self.functions.get_mut(&owner.function)
        {
            function.cost = now.saturating_duration_since(owner.activated);
            sandbox.credit =
                sandbox.credit.max(self.clock.credit(function.uses, function.cost, sandbox.memory));
        }
        if !matches!(sandbox.state, State::Removing) {
            self.report(now, id, Ok(()), effects);
        }
        self.wake_when_idle(id);
        self.attend_owner(now, id, effects);
    }

    pub(super) fn start_failed(
        &mut self,
        now: Instant,
        id: SandboxId,
        reason: &Reason,
        effects: &mut Vec<Effect>,
    ) {
        self.end(now, id, lifecycle::Event::Remove, reason.clone(), effects);
        self.report(now, id, Err(reason.clone()), effects);
        self.attend_owner(now, id, effects);
    }

    /// Says once how a start ended, and lets its function feel it.
    pub(super) fn report(
        &mut self,
        now: Instant,
        id: SandboxId,
        outcome: Result<(), Reason>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(owner) = self.owner_mut(id) else { return };
        if std::mem::replace(&mut owner.reported, true) {
            return;
        }
        let (function, cause) = (owner.function, owner.cause);
        if let Some(function) = self.functions.get_mut(&function) {
            match &outcome {
                Ok(()) => function.backoff.succeed(),
                // None of these is the start's fault.
                Err(Reason::DaemonLost | Reason::Retired | Reason::Shutdown | Reason::Tainted) => {}
                Err(reason) => function.backoff.fail(now, reason.clone()),
            }
        }
        effects.push(Effect::Prepared { sandbox: id, function, cause, outcome });
    }

    /// Drops the starts that nobody waits for: the next request will ask again.
    pub(super) fn forget_unwaited(&mut self) {
        let functions = &mut self.functions;
        self.starts.retain(|start| {
            functions.get_mut(&start.function).is_some_and(|function| {
                let keep = !function.waiters.is_empty();
                function.queued -= usize::from(!keep);
                keep
            })
        });
    }

    /// Whose starts wait, oldest first.
    pub(super) fn queued(&self) -> Vec<Policy> {
        let policy = |start: &Start| Some(self.functions.get(&start.function)?.policy);
        self.starts.iter().filter_map(policy).collect()
    }
}
