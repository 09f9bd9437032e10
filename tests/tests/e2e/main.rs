//! End-to-end tests: real Batons, real clients, real sandboxes. They run as root.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod administration;
mod causes;
mod command_line;
mod components;
mod egress;
mod equivalence;
mod faults;
mod golden;
mod http;
mod instances;
mod limits;
mod listeners;
mod metrics;
mod natives;
mod object_store;
mod processes;
mod reload;
mod roots;
mod sandboxes;
mod scratch;
mod smuggling;
mod soak;
mod storm;
mod streams;
mod third;
mod tiers;
mod told;
mod tracing;
