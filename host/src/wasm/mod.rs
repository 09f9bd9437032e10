//! The Wasm tier: a component is loaded once and instantiated for each request, or as often as its
//! function's `instances` say.
//!
//! ```text
//! Engine ── Cache::load ──▶ Program ── start(request) ──▶ Call ── head() ──▶ GuestBody
//!                             │                          │ dropped at any point: the guest is gone
//!                             ├─ second: wasi:http 0.2, fresh or from `idle`
//!                             ├─ third: wasi:http 0.3, fresh
//!                             └─ shared: wasi:http 0.3, many requests in one instance
//! ```

mod body;
mod cache;
mod clock;
mod engine;
mod guest;
mod idle;
mod instance;
mod outgoing;
mod output;
mod program;
mod second;
mod shared;
mod third;
mod turns;

#[cfg(test)]
mod tests;

pub use body::GuestBody;
pub(crate) use cache::hex;
pub use cache::{Cache, CacheError, Key};
pub use clock::EPOCH;
pub use engine::{Engine, EngineError, Generation, Slots};
pub use guest::Invocation;
pub use instance::{Call, Failure, Spent};
pub use output::{Line, LineSink, Stream};
pub use program::{LoadError, Program, Settings, Source};
pub use turns::{WAITING, Waiting};
