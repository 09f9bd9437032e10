//! `raw`: a function written directly on the world in `wit/`, without the SDK.
//!
//! It answers every request with its method, path and body length as text. It exists to show what
//! the SDK does for a function, and that Baton needs nothing of the SDK's. Being made of wasi
//! interfaces it has no native build: there this crate is empty.

#[cfg(target_family = "wasm")]
mod component;
