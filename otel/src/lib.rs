//! Baton's otel crate.
