//! The privileged process: makes sandboxes, watches them and removes them.

pub mod probe;
