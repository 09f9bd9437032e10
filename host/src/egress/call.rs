//! One outgoing request as it is told of: a client span by the HTTP conventions.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use baton_otel::context::TraceParent;
use baton_otel::names::attribute;
use baton_otel::{KeyValue, Kind, Span, SpanId, Status};
use http::{HeaderValue, Method, StatusCode, Version};

use super::origin::Origin;
use crate::record::{known_method, protocol_version};

/// Calls that are kept for the trace of one request; what follows is not drawn.
const CALLS_MAX: usize = 128;

/// For whom a request is sent.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The span inside which it is sent.
    pub parent: TraceParent,
    /// What the client's other vendors want to be passed on.
    pub tracestate: Option<HeaderValue>,
    /// Where the call is told.
    pub calls: Calls,
}

/// The calls made for one request. The default keeps none, for those who cannot make any.
#[derive(Clone, Debug, Default)]
pub struct Calls(Option<Arc<Mutex<Vec<Call>>>>);

impl Calls {
    /// For one that may make some.
    #[must_use]
    pub fn kept() -> Self {
        Self(Some(Arc::default()))
    }

    pub(super) fn push(&self, call: Call) {
        let Some(calls) = &self.0 else { return };
        let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() < CALLS_MAX {
            calls.push(call);
        }
    }

    /// Those made so far, in the order in which they ended.
    #[must_use]
    pub fn so_far(&self) -> Vec<Call> {
        let Some(calls) = &self.0 else { return Vec::new() };
        calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An outgoing request that has its answer's head, or will have none.
#[derive(Clone, Debug)]
pub struct Call {
    pub(super) span_id: SpanId,
    pub(super) method: Method,
    pub(super) origin: Origin,
    /// Without the query, in which signed URLs have their secrets.
    pub(super) path: String,
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    pub(super) outcome: Result<Answered, &'static str>,
}

/// What is known of an answer's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub status: StatusCode,
    pub version: Version,
    pub peer: Option<SocketAddr>,
}

impl Call {
    /// About how many bytes it takes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(self) + self.path.len()
    }

    /// Its client span.
    #[must_use]
    pub fn span(&self) -> Span {
        let method = known_method(&self.method);
        let name = if method == "_OTHER" { "HTTP" } else { method };
        let mut span = Span::with_id(self.span_id, name, self.start, self.end);
        span.kind = Kind::Client;
        let mut say = |key: &'static str, value: baton_otel::Value| {
            span.attributes.push(KeyValue::new(key, value));
        };
        say(attribute::HTTP_REQUEST_METHOD, method.into());
        if method == "_OTHER" {
            say(attribute::HTTP_REQUEST_METHOD_ORIGINAL, self.method.as_str().to_owned().into());
        }
        say(attribute::SERVER_ADDRESS, self.origin.bare_host().to_owned().into());
        say(attribute::SERVER_PORT, i64::from(self.origin.port).into());
        say(attribute::URL_FULL, format!("{}{}", self.origin, self.path).into());
        let error = match self.outcome {
            Ok(answered) => {
                let status = answered.status;
                say(attribute::HTTP_RESPONSE_STATUS_CODE, i64::from(status.as_u16()).into());
                say(attribute::NETWORK_PROTOCOL_VERSION, protocol_version(answered.version).into());
                if let Some(peer) = answered.peer {
                    say(attribute::NETWORK_PEER_ADDRESS, peer.ip().to_string().into());
                    say(attribute::NETWORK_PEER_PORT, i64::from(peer.port()).into());
                }
                let failed = status.is_client_error() || status.is_server_error();
                failed.then(|| status.as_str().to_owned())
            }
            Err(error) => Some(error.to_owned()),
        };
        if let Some(error) = error {
            say(attribute::ERROR_TYPE, error.clone().into());
            span.status = Status::Error(error.into());
        }
        span
    }
}
