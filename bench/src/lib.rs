//! Measures a running Baton, and what it is compared with.
//!
//! A bench is a function from a [`Session`](bench::Session) to [`Results`](results::Results): it
//! starts what it measures ([`server`], [`baton`]), pinned to other cores than the load ([`cores`],
//! [`load`]), lets the variants take turns ([`interleave`]), and states its figures with intervals
//! ([`stats`]), as tables ([`table`]) and against its bars ([`bars`]). To add one, write
//! `bench/src/NAME.rs` and its line in [`bench::BENCHES`].

pub mod bars;
pub mod baton;
pub mod bench;
pub mod cgroup;
pub mod cli;
pub mod client;
pub mod cores;
pub mod interleave;
pub mod load;
pub mod machine;
mod noise;
pub mod patterns;
pub mod pool;
pub mod progress;
pub mod results;
pub mod schedule;
pub mod server;
pub mod stats;
pub mod table;
