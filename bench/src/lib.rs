//! Measures a running Baton, and what it is compared with.
//!
//! A bench is a function from a [`Session`](bench::Session) to [`Results`](results::Results): it
//! starts what it measures ([`server`], [`baton`]), pinned to other cores than the load ([`cores`],
//! [`load`]), lets the variants take turns ([`interleave`]), and states its figures with intervals
//! ([`stats`]), as tables ([`table`]) and against its bars ([`bars`]). To add one, write
//! `bench/src/NAME.rs` and its line in [`bench::BENCHES`].

pub mod bare;
pub mod bars;
pub mod baton;
pub mod bench;
pub mod catalogue;
pub mod cgroup;
pub mod characterize;
pub mod cli;
pub mod client;
pub mod compare;
pub mod cores;
pub mod counters;
pub mod deployment;
pub mod forward;
pub mod interleave;
pub mod load;
pub mod machine;
pub mod measured;
mod noise;
pub mod oci;
pub mod output;
pub mod paper;
pub mod patterns;
pub mod pool;
pub mod progress;
pub mod relay;
pub mod report;
pub mod results;
pub mod run;
pub mod schedule;
pub mod server;
pub mod stats;
pub mod store;
pub mod subject;
pub mod table;
mod telemetry;
mod tiers;
pub mod trace;
mod wasm;
