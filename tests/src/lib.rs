//! The harness of the end-to-end tests.

pub mod collector;
pub mod functions;
