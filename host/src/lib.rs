//! Baton, the host.

pub mod manifest;
