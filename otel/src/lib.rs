//! What Baton tells about itself: the names it uses, W3C trace context, spans as plain values,
//! the table of metrics and what they are kept in, log records, the last traces kept in memory, and
//! the pipeline that exports all of it over OTLP.
//!
//! The request path does not trace as it goes. The host records the phases of a request in a
//! struct of its own and, at the end of one that is sampled, hands what is left of it to [`Recent`] and
//! to [`Telemetry`]: a [`Traceable`], which becomes a [`Trace`] when it is sent or asked for. Nothing
//! in this crate knows Wasmtime, sandboxes or the HTTP server, reads the process's environment, or
//! prints.

mod client;
mod complaint;
pub mod context;
mod encode;
mod join;
pub mod log;
pub mod metrics;
pub mod names;
pub mod pipeline;
pub mod prometheus;
mod proto;
mod queue;
pub mod recent;
pub mod settings;
pub mod span;
pub mod traceable;

pub use context::{RequestContext, Sampler, TraceParent};
pub use join::join;
pub use log::{Log, Severity};
pub use opentelemetry::{KeyValue, StringValue, Value, trace::SpanId, trace::TraceId};
pub use pipeline::{StartError, Telemetry};
pub use queue::Counts;
pub use recent::Recent;
pub use settings::{Config, Environment};
pub use span::{Event, Kind, Span, Status, Trace};
pub use traceable::Traceable;
