//! What the host says about a function when it adds one.

use crate::activation::{Limits, Program};
use crate::schedule::{KeepAlive, Policy};
use std::ffi::CString;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

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
