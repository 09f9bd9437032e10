//! Requests that wait for a sandbox: each is granted one or refused, oldest first.

use super::daemon::Daemon;
use super::function::{Function, FunctionId, Waiter};
use super::{Effect, Schedule};
use crate::protocol::SandboxId;
use crate::reason::LeaseError;
use std::time::{Duration, Instant};

impl Schedule {
    pub(super) fn wait(
        &mut self,
        now: Instant,
        id: FunctionId,
        waiter: Waiter,
        effects: &mut Vec<Effect>,
    ) {
        let refusal = match self.functions.get_mut(&id) {
            None => Some(LeaseError::Draining),
            Some(function) if function.retired || self.closing => Some(LeaseError::Draining),
            Some(function) if function.policy.memory > self.bounds.memory => {
                Some(LeaseError::OverBudget {
                    memory: function.policy.memory,
                    budget: self.bounds.memory,
                })
            }
            Some(function) if function.waiters.len() >= self.bounds.waiters_max => {
                Some(LeaseError::QueueFull { waiters_max: self.bounds.waiters_max })
            }
            Some(function) => {
                let deadline = now + function.policy.start_timeout;
                function.waiters.push_back(waiter);
                self.wake_by(deadline);
                None
            }
        };
        self.arrived(now, id, true);
        match refusal {
            Some(error) => effects.push(Effect::Refuse { waiter: waiter.id, error }),
            None => self.attend(now, id, effects),
        }
    }

    /// Refuses who has waited too long.
    pub(super) fn tick_waiters(&mut self, now: Instant, id: FunctionId, effects: &mut Vec<Effect>) {
        let absent = self.daemon == Daemon::Absent;
        let Some(function) = self.functions.get_mut(&id) else { return };
        let max = function.policy.max;
        while let Some(waiter) = function.waiters.front() {
            let due = waiter.since + function.policy.start_timeout;
            if due > now {
                self.wake_by(due);
                return;
            }
            let waited = now - waiter.since;
            let error = match function.backoff.reason() {
                _ if absent => LeaseError::NoDaemon,
                Some(reason) => LeaseError::StartFailed { reason: reason.clone() },
                None if function.serving + function.draining >= max => {
                    LeaseError::Saturated { max, waited }
                }
                None => LeaseError::Starting { waited },
            };
            effects.push(Effect::Refuse { waiter: waiter.id, error });
            function.waiters.pop_front();
        }
    }

    pub(super) fn attend_all(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let functions: Vec<_> = self.functions.keys().copied().collect();
        for id in functions {
            self.attend(now, id, effects);
        }
    }

    pub(super) fn attend_owner(&mut self, now: Instant, id: SandboxId, effects: &mut Vec<Effect>) {
        if let Some(owner) = self.owner_mut(id) {
            let function = owner.function;
            self.attend(now, function, effects);
        }
    }

    /// Gives a function's room to those who wait, asks for more sandboxes if it has too few, and
    /// sends away those for whom nothing can be done.
    pub(super) fn attend(&mut self, now: Instant, id: FunctionId, effects: &mut Vec<Effect>) {
        while let Some(sandbox) = self.room(id) {
            let Some(waiter) =
                self.functions.get_mut(&id).and_then(|function| function.waiters.pop_front())
            else {
                break;
            };
            self.lend(now, sandbox);
            let cold = self
                .owner_mut(sandbox)
                .and_then(|owner| owner.handed_over)
                .is_some_and(|handed_over| handed_over >= waiter.since);
            effects.push(Effect::Grant { waiter: waiter.id, sandbox, cold });
        }
        let Some(function) = self.functions.get(&id) else { return };
        let (wanted, waiter) = (function.wanted(), function.waiters.front().copied());
        if waiter.is_some() || function.serving < function.policy.min {
            self.demand(now, id, wanted, waiter.map(|waiter| waiter.cause).unwrap_or_default());
            self.refuse_hopeless(id, effects);
        }
    }

    /// A sandbox that a waiter of this function may have.
    pub(super) fn room(&self, id: FunctionId) -> Option<SandboxId> {
        let function = self.functions.get(&id)?;
        function.waiters.front()?;
        let state = |id: &SandboxId| self.sandboxes.get(id).map(|sandbox| sandbox.state);
        self.ready(id).or_else(|| {
            let has_room =
                |id: &&SandboxId| state(id).is_some_and(|state| function.has_room(state));
            function.owned.iter().find(has_room).copied()
        })
    }

    /// Refuses the waiters of a function that has no sandbox and none on the way.
    pub(super) fn refuse_hopeless(&mut self, id: FunctionId, effects: &mut Vec<Effect>) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        let dying =
            |id: &SandboxId| self.sandboxes[id].owner.as_ref().is_some_and(|owner| !owner.reported);
        if function.held() > 0 || function.owned.iter().any(dying) {
            return;
        }
        let error = match function.backoff.reason().or_else(|| self.creation.reason()) {
            Some(reason) => LeaseError::StartFailed { reason: reason.clone() },
            None => LeaseError::Saturated { max: function.policy.max, waited: Duration::ZERO },
        };
        refuse_all(function, &error, effects);
    }
}

pub(super) fn refuse_all(function: &mut Function, error: &LeaseError, effects: &mut Vec<Effect>) {
    let refuse = |waiter: Waiter| Effect::Refuse { waiter: waiter.id, error: error.clone() };
    effects.extend(function.waiters.drain(..).map(refuse));
}
