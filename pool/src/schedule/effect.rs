//! What the schedule has done.

use super::function::{Cause, FunctionId, WaiterId};
use crate::protocol::SandboxId;
use crate::reason::{LeaseError, Reason, Usage};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Greet the new daemon.
    Hello {
        /// Sandboxes of its predecessor that still serve requests.
        in_use: Vec<SandboxId>,
    },
    /// Have one made.
    Create {
        /// Its name.
        sandbox: SandboxId,
        /// Bytes of its `/tmp`.
        scratch: u64,
    },
    /// Start a function in a parked one.
    Activate {
        /// In this one.
        sandbox: SandboxId,
        /// This function.
        function: FunctionId,
    },
    /// Stop an idle one, unless it is in use by then.
    Freeze {
        /// Which.
        sandbox: SandboxId,
        /// Whose it is.
        function: FunctionId,
        /// Which request its start was caused by.
        cause: Cause,
    },
    /// Let a stopped one go on, so that it can end.
    Thaw {
        /// Which.
        sandbox: SandboxId,
        /// Whose it is.
        function: FunctionId,
        /// Which request its start was caused by.
        cause: Cause,
        /// Why it ends.
        reason: Reason,
    },
    /// Tell it to finish.
    Terminate(SandboxId),
    /// Have it killed and removed.
    Remove(SandboxId),
    /// A waiter gets a sandbox.
    Grant {
        /// Who.
        waiter: WaiterId,
        /// Which.
        sandbox: SandboxId,
        /// It waited for this sandbox to start.
        cold: bool,
    },
    /// A waiter gets none.
    Refuse {
        /// Who.
        waiter: WaiterId,
        /// Why not.
        error: LeaseError,
    },
    /// A start is over.
    Prepared {
        /// In this sandbox.
        sandbox: SandboxId,
        /// Of this function.
        function: FunctionId,
        /// Which request caused it.
        cause: Cause,
        /// It accepts, or why not.
        outcome: Result<(), Reason>,
    },
    /// A sandbox is no more.
    Gone {
        /// Which.
        sandbox: SandboxId,
        /// Whose it was.
        function: Option<FunctionId>,
        /// Which request its start was caused by, if one was.
        cause: Cause,
        /// Why.
        reason: Reason,
        /// What it used.
        usage: Usage,
    },
    /// Somebody waits for what goes on in sandboxes: they have their share of the cores.
    ClaimCores,
    /// Nobody does: they have what is left of the cores.
    YieldCores,
    /// After [`Shutdown`](super::Event::Shutdown): there is nothing left that could be waited for.
    Closed,
}
