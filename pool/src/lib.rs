//! Baton's pool crate.
