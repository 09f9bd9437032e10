//! Sandboxes between requests: given back, kept for a while, let go.

use super::Effect;
use super::Schedule;
use super::function::{Cause, FunctionId};
use super::sandbox::Ending;
use crate::lifecycle::{self, State};
use crate::protocol::SandboxId;
use crate::reason::Reason;
use std::time::Instant;

impl Schedule {
    /// The usual end of a request, without a look around: its sandbox stays warm, nobody waits, and none is made or removed.
    pub(super) fn release(&mut self, now: Instant, id: SandboxId) -> bool {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return true };
        let function = sandbox.owner.as_ref().map(|owner| owner.function);
        let Some(function) = function.and_then(|id| self.functions.get_mut(&id)) else {
            return false;
        };
        if !matches!(sandbox.state, State::Leased(_))
            || !function.waiters.is_empty()
            || !self.starts.is_empty()
            || self.tally.is_at_work()
        {
            return false;
        }
        let Ok(next) = sandbox.state.on(lifecycle::Event::Release) else { return false };
        function.moved(id, sandbox.state, next);
        self.tally.moved(sandbox.state, next);
        sandbox.state = next;
        sandbox.since = now;
        if function.leases == 0 {
            function.pauses.begin(now);
        }
        self.wake_when_idle(id);
        true
    }

    pub(super) fn returned(
        &mut self,
        now: Instant,
        id: SandboxId,
        how: lifecycle::Event,
        effects: &mut Vec<Effect>,
    ) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        sandbox.since = now;
        if how == lifecycle::Event::Taint {
            sandbox.ending.get_or_insert(Ending { reason: Reason::Tainted, kill_at: None });
        }
        self.step(now, id, how, effects);
        if let Some(owner) = self.owner_mut(id).map(|owner| owner.function)
            && let Some(function) = self.functions.get_mut(&owner)
            && function.leases == 0
        {
            function.pauses.begin(now);
        }
        self.wake_when_idle(id);
        self.attend_owner(now, id, effects);
    }

    /// Does what is due in one sandbox and notes when something will be.
    pub(super) fn tick_sandbox(&mut self, now: Instant, id: SandboxId, effects: &mut Vec<Effect>) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        let Some(owner) = &sandbox.owner else { return };
        let Some(function) = self.functions.get(&owner.function) else { return };
        match sandbox.state {
            State::Activating | State::Starting(_) => {
                let due = owner.activated + function.policy.start_timeout;
                if due > now {
                    self.wake_by(due);
                } else {
                    self.start_failed(now, id, &Reason::NeverAccepted, effects);
                }
            }
            State::Idle | State::Frozen => {
                let due = sandbox.since + function.pauses.keep(sandbox.used);
                if !function.has_spare() {
                    self.tick_idle(now, id, effects);
                } else if due > now {
                    self.wake_by(due);
                    self.tick_idle(now, id, effects);
                } else {
                    self.end(now, id, lifecycle::Event::Drain, Reason::Idle, effects);
                }
            }
            State::Removing => match sandbox.ending.as_mut().and_then(|end| end.kill_at.as_mut()) {
                Some(due) if *due > now => {
                    let due = *due;
                    self.wake_by(due);
                }
                Some(_) => self.kill(id, effects),
                None => {}
            },
            _ => {}
        }
    }

    /// Freezes an idle sandbox when it is time.
    fn tick_idle(&mut self, now: Instant, id: SandboxId, effects: &mut Vec<Effect>) {
        let Some(due) = self.freeze_at(id) else { return };
        if due > now {
            return self.wake_by(due);
        }
        let Some(owner) = self.owner_mut(id) else { return };
        let (function, cause) = (owner.function, owner.cause);
        self.step(now, id, lifecycle::Event::Freeze, effects);
        effects.push(Effect::Freeze { sandbox: id, function, cause });
    }

    fn freeze_at(&self, id: SandboxId) -> Option<Instant> {
        let sandbox = self.sandboxes.get(&id).filter(|sandbox| sandbox.state == State::Idle)?;
        let function = self.functions.get(&sandbox.owner.as_ref()?.function)?;
        Some(sandbox.since + function.policy.freeze_after)
    }

    /// A warm sandbox with room, one that is not frozen if there is one.
    pub(super) fn ready(&self, id: FunctionId) -> Option<SandboxId> {
        let ready = &self.functions.get(&id)?.ready;
        let last = *ready.last()?;
        let runs = |id: &&SandboxId| self.sandboxes[*id].state != State::Frozen;
        Some(ready.iter().rev().find(runs).copied().unwrap_or(last))
    }

    /// A request gets a sandbox that has room. Whoever tells it so thaws it.
    pub(super) fn lend(&mut self, now: Instant, id: SandboxId) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        let Some(owner) = &sandbox.owner else { return };
        let Some(function) = self.functions.get_mut(&owner.function) else { return };
        let last = sandbox.state;
        let runs = last.on(lifecycle::Event::Thaw).unwrap_or(last);
        let Ok(next) = runs.on(lifecycle::Event::Lease) else { return };
        function.pauses.busy();
        function.uses += 1;
        function.moved(id, last, next);
        self.tally.moved(last, next);
        self.lull = None;
        sandbox.credit = self.clock.credit(function.uses, function.cost, sandbox.memory);
        sandbox.state = next;
        sandbox.since = now;
        sandbox.used = true;
    }

    /// A request came, perhaps the only one that its function has now.
    pub(super) fn arrived(&mut self, now: Instant, id: FunctionId, alone: bool) {
        if let Some(function) = self.functions.get_mut(&id)
            && function.leases == 0
            && function.waiters.len() <= 1
            && alone
        {
            function.pauses.end(now);
        }
    }

    /// Has a sandbox made ahead of the request that a function's pauses foretell.
    pub(super) fn prewarm(&mut self, now: Instant, id: FunctionId) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        match function.pauses.prewarm_at() {
            Some(due) if due > now => self.wake_by(due),
            Some(_) => {
                function.pauses.prewarmed();
                if !function.pauses.is_over(now) && function.leases == 0 {
                    self.demand(now, id, 1, Cause::default());
                }
            }
            None => {}
        }
    }

    pub(super) fn wake_when_idle(&mut self, id: SandboxId) {
        let Some(sandbox) = self.sandboxes.get(&id) else { return };
        let function = sandbox.owner.as_ref().and_then(|owner| self.functions.get(&owner.function));
        if let (State::Idle, Some(function)) = (sandbox.state, function) {
            let keep = function.pauses.keep(sandbox.used).min(function.policy.freeze_after);
            self.wake_by(sandbox.since + keep);
        }
    }
}
