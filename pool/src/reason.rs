//! Why a sandbox ended, why a start failed and why a request got no sandbox, in words an operator can act on.

use crate::protocol::Exit;
use std::time::Duration;

/// Why a sandbox ended or could not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Nobody needed it for its idle timeout.
    #[error("idle")]
    Idle,
    /// Its memory was needed elsewhere.
    #[error("evicted")]
    Evicted,
    /// More were parked than are kept.
    #[error("surplus")]
    Surplus,
    /// A request gave it back unfit for another one.
    #[error("tainted")]
    Tainted,
    /// Its revision of the function was retired.
    #[error("retired")]
    Retired,
    /// The pool shuts down.
    #[error("shutdown")]
    Shutdown,
    /// The daemon that made it died.
    #[error("daemon lost")]
    DaemonLost,
    /// It accepted no connection within the start timeout.
    #[error("never accepted")]
    NeverAccepted,
    /// It went past its memory limit.
    #[error("oom")]
    OutOfMemory,
    /// Its process ended by itself or was killed from outside.
    #[error("{0}")]
    Exit(Exit),
    /// Its process ended and nobody can say how.
    #[error("died")]
    Died,
    /// The function could not be started in it: what was tried, and what the kernel said.
    #[error("{0}")]
    Start(String),
    /// The daemon could not make a sandbox: its chain of causes.
    #[error("create: {0}")]
    Create(String),
}

impl Reason {
    /// The function did nothing wrong, so it may finish in peace.
    pub(crate) fn is_polite(&self) -> bool {
        matches!(self, Self::Idle | Self::Retired | Self::Shutdown)
    }
}

/// What the daemon measured over a sandbox's whole life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How its init ended, if anyone could tell.
    pub exit: Option<Exit>,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// Most memory at once, in bytes.
    pub memory_peak: u64,
}

impl Usage {
    /// Why the sandbox ended, when `intended` is why we ended it, if we did.
    ///
    /// A sandbox is often found broken (a request fails) before its death is seen, so a death that
    /// cannot have come from our SIGKILL outweighs `tainted`.
    pub(crate) fn verdict(&self, intended: Option<Reason>) -> Reason {
        const SIGKILL: i32 = 9;
        let own = match self.exit {
            _ if self.oom_kills > 0 => Reason::OutOfMemory,
            Some(exit) => Reason::Exit(exit),
            None => Reason::Died,
        };
        match intended {
            None | Some(Reason::Died) => own,
            Some(Reason::Tainted)
                if !matches!(self.exit, None | Some(Exit::Signal(SIGKILL)))
                    || self.oom_kills > 0 =>
            {
                own
            }
            Some(Reason::NeverAccepted) if self.oom_kills > 0 => own,
            Some(reason) => reason,
        }
    }
}

/// Why a request got no sandbox.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// All the sandboxes that the function may have stayed busy.
    #[error("all of at most {max} sandboxes stayed busy for {waited:?}")]
    Saturated {
        /// The function's bound.
        max: usize,
        /// How long the request waited.
        waited: Duration,
    },
    /// Too many requests wait already.
    #[error("{waiters_max} requests wait for a sandbox already")]
    QueueFull {
        /// The bound.
        waiters_max: usize,
    },
    /// A sandbox was on its way but did not come in time.
    #[error("no sandbox was ready after {waited:?}")]
    Starting {
        /// How long the request waited.
        waited: Duration,
    },
    /// The function does not start; it is tried again later.
    #[error("the function does not start: {reason}")]
    StartFailed {
        /// Why the last attempt failed.
        reason: Reason,
    },
    /// One sandbox of it is more than the pool may use in all.
    #[error("a sandbox of {memory} bytes exceeds the pool's budget of {budget}")]
    OverBudget {
        /// The function's memory limit, in bytes.
        memory: u64,
        /// The pool's, in bytes.
        budget: u64,
    },
    /// There is no pool daemon.
    #[error("the pool daemon is not there")]
    NoDaemon,
    /// The function was retired or the pool shuts down.
    #[error("the function is being retired")]
    Draining,
}
