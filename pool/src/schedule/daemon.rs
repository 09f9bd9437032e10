//! The daemon as the schedule sees it: whether there is one, and what its coming and going mean.

use super::waiters::refuse_all;
use super::{Effect, Schedule};
use crate::lifecycle::{self, State};
use crate::reason::{LeaseError, Reason, Usage};
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Daemon {
    Absent,
    Greeted,
    Ready,
}

impl Schedule {
    pub(super) fn connected(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.daemon != Daemon::Absent {
            self.disconnected(now, effects);
        }
        self.daemon = Daemon::Greeted;
        // Before it says that it is ready, the new daemon sweeps whatever is not named here.
        let (in_use, swept): (Vec<_>, Vec<_>) = self
            .sandboxes
            .keys()
            .partition(|id| matches!(self.sandboxes[id].state, State::Draining(_)));
        effects.push(Effect::Hello { in_use });
        for id in swept {
            self.gone(now, id, Usage::default(), effects);
        }
    }

    pub(super) fn disconnected(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.daemon = Daemon::Absent;
        let ids: Vec<_> = self.sandboxes.keys().copied().collect();
        for id in ids {
            self.end(now, id, lifecycle::Event::Drain, Reason::DaemonLost, effects);
        }
        self.forget_unwaited();
        self.attend_all(now, effects);
        self.close(effects);
    }

    pub(super) fn shutdown(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.closing = true;
        self.starts.clear();
        for function in self.functions.values_mut() {
            function.queued = 0;
            refuse_all(function, &LeaseError::Draining, effects);
        }
        let ids: Vec<_> = self.sandboxes.keys().copied().collect();
        for id in ids {
            self.end(now, id, lifecycle::Event::Remove, Reason::Shutdown, effects);
        }
        self.close(effects);
    }

    pub(super) fn close(&mut self, effects: &mut Vec<Effect>) {
        if self.closing && (self.sandboxes.is_empty() || self.daemon == Daemon::Absent) {
            effects.push(Effect::Closed);
        }
    }
}
