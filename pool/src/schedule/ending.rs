//! How sandboxes end: politely where their function did nothing wrong, otherwise at once.

use super::daemon::Daemon;
use super::function::FunctionId;
use super::sandbox::Ending;
use super::waiters::refuse_all;
use super::{Effect, Schedule};
use crate::lifecycle::{self, State};
use crate::protocol::SandboxId;
use crate::reason::{LeaseError, Reason, Usage};
use std::time::Instant;

impl Schedule {
    /// Ends a sandbox, at once or as soon as its requests have ended; the first reason stays.
    pub(super) fn end(
        &mut self,
        now: Instant,
        id: SandboxId,
        how: lifecycle::Event,
        reason: Reason,
        effects: &mut Vec<Effect>,
    ) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        sandbox.ending.get_or_insert(Ending { reason, kill_at: None });
        self.step(now, id, how, effects);
    }

    /// Begins to end a sandbox: politely if its function runs and did nothing wrong.
    pub(super) fn dismiss(
        &mut self,
        now: Instant,
        id: SandboxId,
        last: State,
        effects: &mut Vec<Effect>,
    ) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        let runs = !matches!(last, State::Creating | State::Parked | State::Activating);
        let grace = sandbox
            .owner
            .as_ref()
            .and_then(|owner| self.functions.get(&owner.function))
            .map(|function| function.policy.grace);
        if let (State::Frozen, Some(owner), Some(ending)) = (last, &sandbox.owner, &sandbox.ending)
            && self.daemon != Daemon::Absent
        {
            let (function, cause, reason) = (owner.function, owner.cause, ending.reason.clone());
            effects.push(Effect::Thaw { sandbox: id, function, cause, reason });
        }
        match (&mut sandbox.ending, grace) {
            (Some(ending), Some(grace)) if runs && ending.reason.is_polite() => {
                let due = now + grace;
                ending.kill_at = Some(due);
                self.wake_by(due);
                if self.daemon != Daemon::Absent {
                    effects.push(Effect::Terminate(id));
                }
            }
            _ => self.kill(id, effects),
        }
    }

    pub(super) fn kill(&mut self, id: SandboxId, effects: &mut Vec<Effect>) {
        if let Some(ending) = self.sandboxes.get_mut(&id).and_then(|it| it.ending.as_mut()) {
            ending.kill_at = None;
        }
        // Without a daemon nobody is there to do it; the next one will sweep.
        if self.daemon != Daemon::Absent {
            effects.push(Effect::Remove(id));
        }
    }

    pub(super) fn retire(&mut self, now: Instant, id: FunctionId, effects: &mut Vec<Effect>) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        function.retired = true;
        function.queued = 0;
        self.starts.retain(|start| start.function != id);
        refuse_all(function, &LeaseError::Draining, effects);
        if function.owned.is_empty() {
            self.functions.remove(&id);
            return;
        }
        for sandbox in function.owned.clone() {
            self.end(now, sandbox, lifecycle::Event::Drain, Reason::Retired, effects);
        }
    }

    pub(super) fn gone(
        &mut self,
        now: Instant,
        id: SandboxId,
        usage: Usage,
        effects: &mut Vec<Effect>,
    ) {
        let Some(sandbox) = self.sandboxes.get(&id) else { return };
        let intended = sandbox.ending.as_ref().map(|ending| ending.reason.clone());
        self.gone_because(now, id, usage.verdict(intended), usage, effects);
    }

    pub(super) fn gone_because(
        &mut self,
        now: Instant,
        id: SandboxId,
        reason: Reason,
        usage: Usage,
        effects: &mut Vec<Effect>,
    ) {
        self.report(now, id, Err(reason.clone()), effects);
        self.step(now, id, lifecycle::Event::Gone, effects);
        let Some(sandbox) = self.sandboxes.remove(&id) else { return };
        self.memory -= sandbox.memory;
        let cause = sandbox.owner.as_ref().map(|owner| owner.cause).unwrap_or_default();
        let function = sandbox.owner.map(|owner| owner.function);
        effects.push(Effect::Gone { sandbox: id, function, cause, reason, usage });
        if let Some(name) = function {
            if let Some(function) = self.functions.get_mut(&name) {
                function.owned.remove(&id);
                if function.owned.is_empty() {
                    function.uses = 0;
                }
                if function.retired && function.owned.is_empty() {
                    self.functions.remove(&name);
                }
            }
            self.attend(now, name, effects);
        }
        self.close(effects);
    }
}
