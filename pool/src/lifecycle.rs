//! The life of one sandbox, as a pure table: which event may follow which state, and nothing else.
//!
//! ```text
//! Creating ─▶ Parked ─▶ Activating ─▶ Starting ─▶ Idle ⇄ Leased
//!    │          │           │            │        │⇅ Frozen │
//!    │          │           │            ├────────┼──▶ Draining
//!    └──────────┴───────────┴────────────┴────────┴──▶ Removing ─▶ Removed
//! ```
//! `Starting` lies between the handing over of the function and its first `accept`: who waits for a
//! sandbox may have it then, because the backlog absorbs the start; who would rather run
//! elsewhere waits for `Idle`. `Draining` still answers the requests it has and gets no other.
//! Once a sandbox is on its way out nothing brings it back, so late news about it is no fault.

use std::num::NonZeroU32;

/// Where a sandbox is in its life. The numbers are leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The daemon is making it.
    Creating,
    /// Generic and ready: its stub waits for a function.
    Parked,
    /// The function is being handed to the stub.
    Activating,
    /// The function runs but has not accepted a connection yet.
    Starting(u32),
    /// Warm and free.
    Idle,
    /// Warm and at work.
    Leased(NonZeroU32),
    /// Warm, free and stopped by the freezer.
    Frozen,
    /// Finishes the requests it has.
    Draining(NonZeroU32),
    /// The daemon takes it apart.
    Removing,
    /// Nothing of it is left.
    Removed,
}

/// What can happen to a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The daemon has parked it.
    Created,
    /// A function is given to it.
    Activate,
    /// The stub was sent the function.
    HandedOver,
    /// The function accepted its first connection.
    Accepted,
    /// A request gets it.
    Lease,
    /// A request gave it back in order.
    Release,
    /// A request gave it back unfit for another one.
    Taint,
    /// It gets no more requests and ends when it has none.
    Drain,
    /// It ends now, whatever it does.
    Remove,
    /// The freezer stops it.
    Freeze,
    /// The freezer lets it go on.
    Thaw,
    /// Nothing of it is left.
    Gone,
}

/// An event that must not follow a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to a sandbox that is {state:?}")]
pub struct InvalidTransition {
    /// The state it was in.
    pub state: State,
    /// What was to happen.
    pub event: Event,
}

impl State {
    /// The state after `event`.
    pub fn on(self, event: Event) -> Result<State, InvalidTransition> {
        use State::{
            Activating, Creating, Draining, Frozen, Idle, Leased, Parked, Removed, Removing,
            Starting,
        };
        let next = match (self, event) {
            (Removed, _) => None,
            (_, Event::Gone) => Some(Removed),
            (_, Event::Remove) => Some(Removing),

            (Creating, Event::Created) => Some(Parked),
            (Parked, Event::Activate) => Some(Activating),
            (Activating, Event::HandedOver) => Some(Starting(0)),
            (Creating | Parked | Activating, Event::Drain) => Some(Removing),

            (Starting(leases), Event::Accepted) => Some(Self::warm(leases)),
            (Starting(leases), Event::Lease) => leases.checked_add(1).map(Starting),
            (Starting(leases), Event::Release) => leases.checked_sub(1).map(Starting),
            (Starting(leases), Event::Taint) => leases.checked_sub(1).map(Self::ending),
            (Starting(leases), Event::Drain) => Some(Self::ending(leases)),

            (Idle, Event::Lease) => Some(Leased(NonZeroU32::MIN)),
            (Idle, Event::Freeze) => Some(Frozen),
            (Frozen, Event::Thaw) => Some(Idle),
            (Idle | Frozen, Event::Drain) => Some(Removing),

            (Leased(leases), Event::Lease) => leases.checked_add(1).map(Leased),
            (Leased(leases), Event::Release) => Some(Self::warm(leases.get() - 1)),
            (Leased(leases), Event::Taint) => Some(Self::ending(leases.get() - 1)),
            (Leased(leases) | Draining(leases), Event::Drain) => Some(Draining(leases)),

            (Draining(leases), Event::Release | Event::Taint) => {
                Some(Self::ending(leases.get() - 1))
            }
            (Draining(leases), Event::Accepted) => Some(Draining(leases)),

            (
                Removing,
                Event::Created
                | Event::HandedOver
                | Event::Accepted
                | Event::Release
                | Event::Taint
                | Event::Drain,
            ) => Some(Removing),
            _ => None,
        };
        next.ok_or(InvalidTransition { state: self, event })
    }

    /// Requests that hold it now.
    pub fn leases(self) -> u32 {
        match self {
            Self::Starting(leases) => leases,
            Self::Leased(leases) | Self::Draining(leases) => leases.get(),
            _ => 0,
        }
    }

    /// It serves its function or soon will.
    pub fn is_serving(self) -> bool {
        matches!(
            self,
            Self::Activating | Self::Starting(_) | Self::Idle | Self::Leased(_) | Self::Frozen
        )
    }

    /// Its name in statistics and in the administration interface.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Parked => "parked",
            Self::Activating => "activating",
            Self::Starting(_) => "starting",
            Self::Idle => "idle",
            Self::Leased(_) => "leased",
            Self::Frozen => "frozen",
            Self::Draining(_) => "draining",
            Self::Removing => "removing",
            Self::Removed => "removed",
        }
    }

    fn warm(leases: u32) -> State {
        NonZeroU32::new(leases).map_or(Self::Idle, Self::Leased)
    }

    fn ending(leases: u32) -> State {
        NonZeroU32::new(leases).map_or(Self::Removing, Self::Draining)
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, State};
    use std::num::NonZeroU32;

    #[test]
    fn the_whole_table_is_as_agreed() {
        let [one, two] = [1, 2].map(|leases| NonZeroU32::new(leases).unwrap());
        let states = [
            State::Creating,
            State::Parked,
            State::Activating,
            State::Starting(0),
            State::Starting(1),
            State::Starting(2),
            State::Idle,
            State::Leased(one),
            State::Leased(two),
            State::Frozen,
            State::Draining(one),
            State::Draining(two),
            State::Removing,
            State::Removed,
        ];
        let events = [
            Event::Created,
            Event::Activate,
            Event::HandedOver,
            Event::Accepted,
            Event::Lease,
            Event::Release,
            Event::Taint,
            Event::Drain,
            Event::Remove,
            Event::Freeze,
            Event::Thaw,
            Event::Gone,
        ];
        let mut table = String::new();
        for state in states {
            table += &format!("{state:?}\n");
            for event in events {
                if let Ok(next) = state.on(event) {
                    table += &format!("  {event:?} -> {next:?}\n");
                }
            }
        }
        insta::assert_snapshot!(table, @r"
        Creating
          Created -> Parked
          Drain -> Removing
          Remove -> Removing
          Gone -> Removed
        Parked
          Activate -> Activating
          Drain -> Removing
          Remove -> Removing
          Gone -> Removed
        Activating
          HandedOver -> Starting(0)
          Drain -> Removing
          Remove -> Removing
          Gone -> Removed
        Starting(0)
          Accepted -> Idle
          Lease -> Starting(1)
          Drain -> Removing
          Remove -> Removing
          Gone -> Removed
        Starting(1)
          Accepted -> Leased(1)
          Lease -> Starting(2)
          Release -> Starting(0)
          Taint -> Removing
          Drain -> Draining(1)
          Remove -> Removing
          Gone -> Removed
        Starting(2)
          Accepted -> Leased(2)
          Lease -> Starting(3)
          Release -> Starting(1)
          Taint -> Draining(1)
          Drain -> Draining(2)
          Remove -> Removing
          Gone -> Removed
        Idle
          Lease -> Leased(1)
          Drain -> Removing
          Remove -> Removing
          Freeze -> Frozen
          Gone -> Removed
        Leased(1)
          Lease -> Leased(2)
          Release -> Idle
          Taint -> Removing
          Drain -> Draining(1)
          Remove -> Removing
          Gone -> Removed
        Leased(2)
          Lease -> Leased(3)
          Release -> Leased(1)
          Taint -> Draining(1)
          Drain -> Draining(2)
          Remove -> Removing
          Gone -> Removed
        Frozen
          Drain -> Removing
          Remove -> Removing
          Thaw -> Idle
          Gone -> Removed
        Draining(1)
          Accepted -> Draining(1)
          Release -> Removing
          Taint -> Removing
          Drain -> Draining(1)
          Remove -> Removing
          Gone -> Removed
        Draining(2)
          Accepted -> Draining(2)
          Release -> Draining(1)
          Taint -> Draining(1)
          Drain -> Draining(2)
          Remove -> Removing
          Gone -> Removed
        Removing
          Created -> Removing
          HandedOver -> Removing
          Accepted -> Removing
          Release -> Removing
          Taint -> Removing
          Drain -> Removing
          Remove -> Removing
          Gone -> Removed
        Removed
        ");
    }
}
