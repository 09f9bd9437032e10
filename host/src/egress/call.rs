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

/// The calls made for one request.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    pub(super) fn push(&self, call: Call) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() < CALLS_MAX {
            calls.push(call);
        }
    }

    /// Their client spans, in the order in which they ended.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Call::span).collect()
    }
}

/// An outgoing request that has its answer's head, or will have none.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub span_id: SpanId,
    pub method: Method,
    pub origin: Origin,
    /// Without the query, in which signed URLs have their secrets.
    pub path: String,
    pub start: SystemTime,
    pub end: SystemTime,
    pub outcome: Result<Answered, &'static str>,
}

/// What is known of an answer's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub status: StatusCode,
    pub version: Version,
    pub peer: Option<SocketAddr>,
}

impl Call {
    fn span(&self) -> Span {
        let method = known_method(&self.method);
        let name = if method == "_OTHER" { "HTTP" } else { method };
        let mut span = Span::new(name, self.start, self.end);
        span.kind = Kind::Client;
        span.span_id = self.span_id;
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
