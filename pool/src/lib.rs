//! Baton's sandbox pool: native functions in namespaces and cgroups made by libcontainer.
//!
//! Two halves that share only [`protocol`]: [`daemon`] is the privileged, single-threaded process that makes
//! and removes sandboxes; everything else lives in the unprivileged host. Starting a function in a parked
//! sandbox ([`activation`]) needs no word from the daemon.

pub mod activation;
mod berth;
pub mod client;
mod cores;
pub mod daemon;
mod driver;
mod ice;
mod keeper;
pub mod lease;
pub mod lifecycle;
pub mod meter;
pub mod output;
mod pause;
pub mod protocol;
mod readiness;
pub mod reason;
pub mod schedule;
pub mod spec;
mod warm;
pub mod way;
