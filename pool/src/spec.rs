//! What the host says about a function when it adds one.

use crate::activation::{Limits, Program};
use crate::protocol::SandboxId;
use crate::schedule::{KeepAlive, Policy};
use std::convert::Infallible;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Where a function finds its proxy, a port of its sandbox's own loopback.
pub const EGRESS_PORT: u16 = 3128;

/// Serves a sandbox's way out for as long as it is polled, which ends with the function's process.
pub type Serving = Pin<Box<dyn Future<Output = io::Result<Infallible>> + Send>>;

/// A function's way out: called with a listener at [`EGRESS_PORT`] of the loopback of one of its
/// sandboxes. Nobody but that sandbox can reach it, and the sandbox reaches nothing else.
#[derive(Clone)]
pub struct Egress(pub Arc<dyn Fn(SandboxId, TcpListener) -> Serving + Send + Sync>);

impl fmt::Debug for Egress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Egress")
    }
}

/// One revision of a function; it never changes.
#[derive(Debug)]
pub struct FunctionSpec {
    /// What people call it.
    pub name: Arc<str>,
    /// What is executed.
    pub program: Program,
    /// The number by which the daemon knows the root that its sandboxes get; `None` for the empty one.
    pub root: Option<u32>,
    /// How it is reached.
    pub listen: Listen,
    /// Arguments, the program's name first.
    pub argv: Vec<CString>,
    /// Environment as `NAME=value`; the `LISTEN_` variables are added where it inherits its listener.
    pub env: Vec<CString>,
    /// What one sandbox may use.
    pub limits: Limits,
    /// Bytes of private `/tmp`; 0 for none.
    pub scratch: u64,
    /// Its way out; without one its network is empty.
    pub egress: Option<Egress>,
    /// Sandboxes kept even when idle.
    pub min: usize,
    /// Sandboxes at most.
    pub max: usize,
    /// Requests at once in one sandbox; 0 counts as 1.
    pub concurrency: u32,
    /// How long an idle sandbox is kept, or kept at most.
    pub idle_timeout: Duration,
    /// How that is decided.
    pub keep_alive: KeepAlive,
    /// How long an idle sandbox runs before it is frozen.
    pub freeze_after: Duration,
    /// From activation to the first accept, and the longest that a request waits for a sandbox.
    pub start_timeout: Duration,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
}

/// The socket that a function accepts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// One that it inherits.
    Inherited,
    /// A Unix socket that it makes in its root; the daemon knows where.
    Unix,
    /// A port of its loopback.
    Tcp(u16),
}

impl FunctionSpec {
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            memory: self.limits.memory,
            scratch: self.scratch,
            min: self.min,
            max: self.max,
            concurrency: NonZeroU32::new(self.concurrency).unwrap_or(NonZeroU32::MIN),
            idle_timeout: self.idle_timeout,
            keep_alive: self.keep_alive,
            freeze_after: self.freeze_after,
            start_timeout: self.start_timeout,
            grace: self.grace,
        }
    }
}
