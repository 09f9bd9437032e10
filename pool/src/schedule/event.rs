//! What the schedule is told.

use super::function::{Cause, FunctionId, Policy, WaiterId};
use crate::protocol::SandboxId;
use crate::reason::Usage;

/// What the schedule is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is a daemon, perhaps in place of another.
    Connected,
    /// The daemon has swept and takes orders.
    Ready,
    /// The daemon is no more.
    Disconnected,
    /// The daemon parked a sandbox.
    Created(SandboxId),
    /// The daemon could not make one, and says why.
    CreateFailed(SandboxId, String),
    /// The function was handed over, and can be asked.
    HandedOver(SandboxId),
    /// The function accepted its first connection.
    Accepted(SandboxId),
    /// The function could not be executed, with what was tried and what the kernel said.
    StartFailed(SandboxId, String),
    /// The sandbox's process ended.
    Died(SandboxId),
    /// Nothing of it is left.
    Gone(SandboxId, Usage),
    /// A function is there.
    Add(FunctionId, Policy),
    /// A function gets no more requests; its sandboxes end when they have none.
    Retire(FunctionId),
    /// So many requests are in flight in a function: have sandboxes for them soon.
    Prepare {
        /// Where.
        function: FunctionId,
        /// How many.
        wanted: u32,
        /// By which request this was said.
        cause: Cause,
    },
    /// A request wants a sandbox and waits.
    Wait {
        /// Of this function.
        function: FunctionId,
        /// Who waits.
        waiter: WaiterId,
        /// For which request.
        cause: Cause,
    },
    /// It does not wait any more.
    Cancel(FunctionId, WaiterId),
    /// A request gave a sandbox back.
    Release(SandboxId),
    /// A request gave a sandbox back unfit for another.
    Taint(SandboxId),
    /// End everything.
    Shutdown,
    /// Time has passed.
    Tick,
}
