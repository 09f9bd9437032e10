//! What this machine offers sandboxes, as found by looking.

use serde::{Deserialize, Serialize};

/// What this machine offers sandboxes, for `baton doctor` and for the daemon's first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The process has the capabilities that making sandboxes needs.
    pub privileged: bool,
    /// The cgroup version that limits sandboxes; `None` when no usable hierarchy is mounted.
    pub cgroup: Option<CgroupVersion>,
    /// Controllers found there, by their kernel name, sorted.
    pub controllers: Vec<String>,
    /// Namespace kinds of this kernel, by their name in `/proc/self/ns`, sorted.
    pub namespaces: Vec<String>,
    /// System calls can be filtered.
    pub seccomp: bool,
}

/// Which cgroup interface the controllers are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupVersion {
    /// One hierarchy a controller (also when v2 is mounted beside them without controllers).
    V1,
    /// The unified hierarchy.
    V2,
}
