//! Baton, the host.

pub mod artifact;
pub mod egress;
pub mod gate;
pub mod manifest;
pub mod phases;
pub mod problem;
pub mod route;
pub mod wasm;
