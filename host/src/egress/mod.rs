//! Outgoing HTTP of one function, in both tiers: what it may reach, its connections, its calls.
//!
//! ```text
//! request ─▶ named by egress.allow? ─▶ trace headers ─▶ a connection kept alive, or a new one:
//!                                      place ─▶ resolved ─▶ address checked ─▶ connected ─▶ TLS, ALPN
//!          ─▶ sent ─▶ head within the time for the first byte ─▶ body, streaming
//! ```
//! Each function has connections of its own, so that none is used that another's rules allowed.
//! `https` origins may choose HTTP/2; certificates are checked by the system's authorities.
//! Redirects are not followed. `traceparent` and `tracestate` go to the origins of `egress.trace`
//! and to no other, whoever set them.

pub mod address;
mod call;
mod connector;
mod dial;
mod origin;
pub mod proxy;

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use baton_otel::SpanId;
use baton_otel::context::{TRACEPARENT, TRACESTATE, TraceParent, new_span_id};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{HttpInfo, capture_connection};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::TokioTimer;
use tokio_util::task::TaskTracker;

pub use call::{Call, Caller, Calls};
pub use dial::{CONNECT_TIMEOUT, CONNECTIONS_MAX, Denied, Resolver, Socket, system_resolver};
pub use origin::Origin;

use crate::manifest;
use call::Answered;
use connector::{Connector, Tasks};
use dial::Dialer;

/// Time to the head of an answer once there is a connection, unless the function asks for less.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a connection is kept for the next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections kept for the next request to one origin.
const IDLE_MAX: usize = 32;

/// The smallest bound that hyper takes for a head.
const HEAD_MIN: usize = 8 << 10;

/// Whatever reads or writes a body may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an outgoing request.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// How long an outgoing request may take to get so far.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To a connection, at most [`CONNECT_TIMEOUT`].
    pub connect: Duration,
    /// From there to the head of the answer.
    pub first_byte: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: CONNECT_TIMEOUT, first_byte: FIRST_BYTE_TIMEOUT }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The request names no `http` or `https` origin.
    #[error("{uri} is not an absolute http or https URI without a user")]
    NoOrigin {
        /// What it names.
        uri: http::Uri,
    },
    /// There was no connection.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The connection took longer than the function allowed.
    #[error("{origin} did not accept a connection within {limit:?}")]
    ConnectTimeout {
        /// Where to.
        origin: Origin,
        /// What was allowed.
        limit: Duration,
    },
    /// The head of the answer took too long.
    #[error("{origin} did not answer within {limit:?}")]
    FirstByteTimeout {
        /// Who did not.
        origin: Origin,
        /// What was allowed.
        limit: Duration,
    },
    /// The head of the answer is longer than a function takes.
    #[error("the answer of {origin} has a head of {size} bytes, at most {max} are taken")]
    HeadTooLong {
        /// Whose.
        origin: Origin,
        /// Its bytes.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// The exchange broke off.
    #[error("the exchange with {origin} failed")]
    Exchange {
        /// With whom.
        origin: Origin,
        /// Why.
        #[source]
        source: legacy::Error,
    },
}

impl SendError {
    /// A word of low cardinality, the `error.type` of the call.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoOrigin { .. } => "bad-request",
            Self::Denied(denied) => denied_kind(denied),
            Self::ConnectTimeout { .. } | Self::FirstByteTimeout { .. } => "timeout",
            Self::HeadTooLong { .. } => "headers-too-large",
            Self::Exchange { .. } => self.denied().map_or("connection", denied_kind),
        }
    }

    /// Why there was no connection, if that is it.
    #[must_use]
    pub fn denied(&self) -> Option<&Denied> {
        match self {
            Self::Denied(denied) => Some(denied),
            Self::Exchange { source, .. } => source.source()?.downcast_ref(),
            _ => None,
        }
    }
}

fn denied_kind(denied: &Denied) -> &'static str {
    match denied {
        Denied::NotAllowed { .. } | Denied::Private { .. } => "egress-denied",
        Denied::Unknown { .. } => "name",
        Denied::SlowName { .. } | Denied::Slow { .. } => "timeout",
        Denied::Connect { .. } => "connection",
        Denied::TooMany => "saturated",
    }
}

/// The way out of one function.
pub struct Egress {
    dialer: std::sync::Arc<Dialer>,
    client: Client<Connector, Body>,
    head_max: usize,
    /// How long its calls took to their answers' heads.
    pub durations: crate::metrics::Histogram,
}

impl Egress {
    /// What `rules` allow. A response's head may have `headers` bytes; connections are tasks of
    /// `tasks`.
    #[must_use]
    pub fn new(
        rules: manifest::Egress,
        headers: usize,
        resolver: Resolver,
        tasks: &TaskTracker,
    ) -> Self {
        let dialer = std::sync::Arc::new(Dialer::new(rules, resolver));
        let head_max = headers.max(HEAD_MIN);
        let client = Client::builder(Tasks(tasks.clone()))
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http1_max_buf_size(head_max)
            .http2_max_header_list_size(u32::try_from(head_max).unwrap_or(u32::MAX))
            .build(Connector::new(std::sync::Arc::clone(&dialer)));
        Self { dialer, client, head_max, durations: crate::metrics::Histogram::default() }
    }

    /// A bare connection to an allowed origin.
    ///
    /// # Errors
    /// When it is not allowed or cannot be reached.
    pub async fn connect(&self, origin: &Origin) -> Result<Socket, Denied> {
        self.dialer.connect(origin).await
    }

    /// Sends a request to its absolute URI; the answer's body still streams.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(
        &self,
        mut request: Request<Body>,
        timeouts: Timeouts,
        caller: Option<&Caller>,
    ) -> Result<Response<Incoming>, SendError> {
        let Some(origin) = Origin::of(request.uri()) else {
            return Err(SendError::NoOrigin { uri: request.uri().clone() });
        };
        let span_id = new_span_id();
        self.write_trace(&mut request, &origin, span_id, caller);
        let call = Pending {
            egress: self,
            caller,
            span_id,
            method: request.method().clone(),
            origin: &origin,
            path: request.uri().path().to_owned(),
            start: SystemTime::now(),
            outcome: Err("cancelled"),
        };
        let answer = self.exchange(request, &origin, timeouts).await;
        call.end(&answer);
        answer
    }

    fn write_trace(
        &self,
        request: &mut Request<Body>,
        origin: &Origin,
        span_id: SpanId,
        caller: Option<&Caller>,
    ) {
        let headers = request.headers_mut();
        if !self.dialer.traces(origin) {
            headers.remove(TRACEPARENT);
            headers.remove(TRACESTATE);
        } else if let Some(caller) = caller {
            headers.insert(TRACEPARENT, TraceParent { span_id, ..caller.parent }.to_header());
            match &caller.tracestate {
                Some(state) => headers.insert(TRACESTATE, state.clone()),
                None => headers.remove(TRACESTATE),
            };
        }
    }

    async fn exchange(
        &self,
        mut request: Request<Body>,
        origin: &Origin,
        timeouts: Timeouts,
    ) -> Result<Response<Incoming>, SendError> {
        self.dialer.check(origin)?;
        // Which version is spoken is for the connection to say.
        *request.version_mut() = Version::HTTP_11;
        let mut connection = capture_connection(&mut request);
        let too_slow = async {
            let connected = connection.wait_for_connection_metadata();
            if tokio::time::timeout(timeouts.connect, connected).await.is_err() {
                return SendError::ConnectTimeout {
                    origin: origin.clone(),
                    limit: timeouts.connect,
                };
            }
            tokio::time::sleep(timeouts.first_byte).await;
            SendError::FirstByteTimeout { origin: origin.clone(), limit: timeouts.first_byte }
        };
        let answer = tokio::select! {
            biased;
            answer = self.client.request(request) => answer
                .map_err(|source| SendError::Exchange { origin: origin.clone(), source })?,
            slow = too_slow => return Err(slow),
        };
        // hyper's own bound is on its buffer, which may have grown past it.
        let size = head_size(answer.headers());
        if size > self.head_max {
            let (origin, max) = (origin.clone(), self.head_max);
            return Err(SendError::HeadTooLong { origin, size, max });
        }
        Ok(answer)
    }
}

fn head_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// A call that is told of however it ends, also when whoever waited for it has gone.
struct Pending<'a> {
    egress: &'a Egress,
    caller: Option<&'a Caller>,
    span_id: SpanId,
    method: Method,
    origin: &'a Origin,
    path: String,
    start: SystemTime,
    outcome: Result<Answered, &'static str>,
}

impl Pending<'_> {
    fn end(mut self, answer: &Result<Response<Incoming>, SendError>) {
        self.outcome = match answer {
            Ok(answer) => Ok(Answered {
                status: answer.status(),
                version: answer.version(),
                peer: answer.extensions().get().map(HttpInfo::remote_addr),
            }),
            Err(error) => Err(error.kind()),
        };
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let end = SystemTime::now();
        self.egress.durations.record(end.duration_since(self.start).unwrap_or_default());
        if let Some(caller) = self.caller {
            caller.calls.push(Call {
                span_id: self.span_id,
                method: self.method.clone(),
                origin: self.origin.clone(),
                path: std::mem::take(&mut self.path),
                start: self.start,
                end,
                outcome: self.outcome,
            });
        }
    }
}
