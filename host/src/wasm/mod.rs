//! The Wasm tier: a component is loaded once and instantiated for each request.
//!
//! ```text
//! Engine ── Cache::load ──▶ Program ── start(request) ──▶ Call ── head() ──▶ GuestBody
//!                                                        │ dropped at any point: the guest is gone
//! ```

mod body;
mod cache;
mod engine;
mod instance;
mod outgoing;
mod output;
mod program;

pub use body::GuestBody;
pub(crate) use cache::hex;
pub use cache::{Cache, CacheError, Key};
pub(crate) use engine::compiler;
pub use engine::{EPOCH, Engine, EngineError, Slots};
pub use instance::{Call, Failure};
pub use output::{Line, LineSink, Stream};
pub use program::{LoadError, Program, Settings, Source};
