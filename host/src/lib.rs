//! Baton, the host.
