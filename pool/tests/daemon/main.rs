//! Real sandboxes, made by a real daemon, as root.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod activation;
mod faults;
mod hostile;
mod isolation;
mod limits;
mod network;
mod removal;
mod root;
mod support;
