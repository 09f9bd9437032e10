//! How many sandboxes there are of the kinds that decide what is done next.

use crate::lifecycle::State;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Being made.
    pub(super) creating: usize,
    /// Those for which somebody waits: their function starts, or has requests.
    pub(super) wanted: usize,
    /// On the way out.
    pub(super) removing: usize,
}

impl Tally {
    /// Notes that a sandbox went from one state to another; a new one was [`State::Removed`].
    pub(super) fn moved(&mut self, from: State, to: State) {
        self.count(to, |count| *count += 1);
        self.count(from, |count| *count -= 1);
    }

    fn count(&mut self, state: State, change: impl FnOnce(&mut usize)) {
        match state {
            State::Creating => change(&mut self.creating),
            State::Activating | State::Starting(_) | State::Leased(_) | State::Draining(_) => {
                change(&mut self.wanted);
            }
            State::Removing => change(&mut self.removing),
            State::Parked | State::Idle | State::Frozen | State::Removed => {}
        }
    }

    /// Something is done for which nobody waits, unless a start does.
    pub(super) fn is_at_work(&self) -> bool {
        self.creating + self.removing > 0
    }
}
