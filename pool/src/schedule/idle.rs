//! Sandboxes between requests: given back, kept for a while, let go.

use super::Effect;
use super::Schedule;
use super::sandbox::Ending;
use crate::lifecycle::{self, State};
use crate::protocol::SandboxId;
use crate::reason::Reason;
use std::time::Instant;

impl Schedule {
    /// The usual end of a request, without a look around: its sandbox stays warm and nobody waits.
    pub(super) fn release(&mut self, now: Instant, id: SandboxId) -> bool {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return true };
        let function = sandbox.owner.as_ref().map(|owner| owner.function);
        let Some(function) = function.and_then(|id| self.functions.get_mut(&id)) else {
            return false;
        };
        if !matches!(sandbox.state, State::Leased(_))
            || !function.waiters.is_empty()
            || !self.starts.is_empty()
        {
            return false;
        }
        let Ok(next) = sandbox.state.on(lifecycle::Event::Release) else { return false };
        function.moved(id, sandbox.state, next);
        sandbox.state = next;
        sandbox.since = now;
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
        self.wake_when_idle(id);
        self.attend_owner(now, id, effects);
    }

    /// Ends what is due in one sandbox and notes when something will be.
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
            State::Idle if function.has_spare() => {
                let due = sandbox.since + function.policy.idle_timeout;
                if due > now {
                    self.wake_by(due);
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

    pub(super) fn wake_when_idle(&mut self, id: SandboxId) {
        let Some(sandbox) = self.sandboxes.get(&id) else { return };
        let function = sandbox.owner.as_ref().and_then(|owner| self.functions.get(&owner.function));
        if let (State::Idle, Some(function)) = (sandbox.state, function) {
            self.wake_by(sandbox.since + function.policy.idle_timeout);
        }
    }
}
