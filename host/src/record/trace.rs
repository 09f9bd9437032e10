//! The trace that a record becomes at the request's end.
//!
//! Its phases are the children of the server span and tile it. What failed says so where it failed: the
//! last phase of a request that failed on the server's side, and the native one of a request that
//! fell back, have the error as well.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use baton_otel::names::{attribute, event, span};
use baton_otel::{Event, KeyValue, Kind, Span, Status, StringValue, Trace, Value};

use super::{Outcome, Record, known_method, protocol_version};
use crate::in_flight::CLIENT_CLOSED_REQUEST;
use crate::native::prepare;
use crate::phases::{Interval, Phase};
use crate::tier::Reason;

impl Record {
    /// The request as a trace of spans.
    #[must_use]
    pub fn trace(&self, end: Instant, outcome: Outcome) -> Trace {
        let method = known_method(&self.method);
        let name = match &self.function {
            Some(function) => format!("{method} {}", function.route).into(),
            None => Cow::Borrowed(method),
        };
        let mut root =
            Span::new(name, self.phases.wall(self.phases.began()), self.phases.wall(end));
        root.kind = Kind::Server;
        root.span_id = self.context.span_id;
        root.attributes = self.attributes(outcome);
        root.events = self.events(end);
        root.children = self.children(end);
        if let Some(error) = self.error_type(outcome) {
            if outcome == Outcome::ClientGone {
                // Its leaving is no failure of ours.
                root.attributes.push(KeyValue::new(attribute::ERROR_TYPE, text(error)));
            } else {
                root.children.last_mut().into_iter().for_each(|last| fail(last, error.clone()));
                fail(&mut root, error);
            }
        }
        Trace {
            trace_id: self.context.trace_id,
            parent: self.context.parent,
            root,
            tracestate: self.context.tracestate.clone(),
        }
    }

    fn events(&self, end: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        let mut happened = |name: &'static str, at| {
            let time = self.phases.wall(at);
            events.push(Event { name: name.into(), time, attributes: Vec::new() });
        };
        if self.out_of_memory {
            happened(event::OUT_OF_MEMORY, self.fell_back.unwrap_or(end));
        }
        if let Some(at) = self.fell_back {
            happened(event::FALLBACK, at);
            if self.retried {
                happened(event::RETRY, at);
            }
        }
        events
    }

    fn children(&self, end: Instant) -> Vec<Span> {
        let mut children: Vec<Span> = Vec::with_capacity(4);
        let mut connected = false;
        for Interval { phase, start, end } in self.phases.intervals(end) {
            let (start, until) = (self.phases.wall(start), self.phases.wall(end));
            if connected
                && phase == Phase::Forward
                && let Some(forward) = children.last_mut()
            {
                // The connection was a part of it.
                forward.end = until;
                continue;
            }
            let mut span = Span::new(span_name(phase), start, until);
            match phase {
                Phase::Connect => {
                    let connect = span;
                    span = self.forward(Span::new(span::FORWARD, start, until));
                    span.children.push(connect);
                    connected = true;
                }
                Phase::Forward => span = self.forward(span),
                Phase::Handle => {
                    span.span_id = self.work_span;
                    span.children = self.calls.spans();
                }
                Phase::Load => {
                    let source = self.load.unwrap_or("memory");
                    span.attributes.push(KeyValue::new(attribute::BATON_COMPONENT_SOURCE, source));
                }
                Phase::Lease => span.children = prepare::spans(&self.started),
                Phase::Admit | Phase::Instantiate => {}
            }
            children.push(span);
        }
        children
    }

    fn forward(&self, mut span: Span) -> Span {
        span.kind = Kind::Client;
        let mut say = |key: &'static str, value: Value| {
            span.attributes.push(KeyValue::new(key, value));
        };
        say(attribute::NETWORK_TRANSPORT, "unix".into());
        if let Some(served) = &self.served {
            say(attribute::CONTAINER_ID, served.sandbox.to_string().into());
            say(attribute::PROCESS_PID, i64::from(served.pid).into());
        }
        let native = self.function.as_ref().and_then(|function| function.native.as_ref());
        if let Some(image) = native.and_then(|native| native.image()) {
            say(attribute::OCI_MANIFEST_DIGEST, shared(image));
        }
        if self.fell_back.is_some() {
            fail(&mut span, Reason::SandboxGone.name().into());
        } else {
            span.span_id = self.work_span;
        }
        span
    }

    fn attributes(&self, outcome: Outcome) -> Vec<KeyValue> {
        let mut all = Vec::with_capacity(24);
        let mut say = |key: &'static str, value: Value| {
            all.push(KeyValue::new(key, value));
        };
        let method = known_method(&self.method);
        say(attribute::HTTP_REQUEST_METHOD, method.into());
        if method == "_OTHER" {
            say(attribute::HTTP_REQUEST_METHOD_ORIGINAL, self.method.as_str().to_owned().into());
        }
        say(attribute::URL_SCHEME, self.peer.scheme().into());
        say(attribute::URL_PATH, self.uri.path().to_owned().into());
        if let Some(query) = self.uri.query() {
            say(attribute::URL_QUERY, query.to_owned().into());
        }
        say(attribute::NETWORK_PROTOCOL_VERSION, protocol_version(self.version).into());
        if let Some(agent) = self.user_agent.as_ref().and_then(|agent| agent.to_str().ok()) {
            say(attribute::USER_AGENT_ORIGINAL, agent.to_owned().into());
        }
        if let Some((host, port)) = self.authority() {
            say(attribute::SERVER_ADDRESS, host.into());
            if let Some(port) = port {
                say(attribute::SERVER_PORT, i64::from(port).into());
            }
        }
        if let Some(client) = self.peer.client {
            // Whoever is at the other end is the client: what it says of others is not believed.
            let address: Arc<str> = client.ip().to_string().into();
            say(attribute::CLIENT_ADDRESS, shared(&address));
            say(attribute::CLIENT_PORT, i64::from(client.port()).into());
            say(attribute::NETWORK_PEER_ADDRESS, shared(&address));
            say(attribute::NETWORK_PEER_PORT, i64::from(client.port()).into());
        }
        if self.status != CLIENT_CLOSED_REQUEST || outcome != Outcome::ClientGone {
            say(attribute::HTTP_RESPONSE_STATUS_CODE, i64::from(self.status.as_u16()).into());
        }
        say(attribute::HTTP_REQUEST_BODY_SIZE, bytes(self.received));
        say(attribute::HTTP_RESPONSE_BODY_SIZE, bytes(self.sent));
        if let Some(function) = &self.function {
            say(attribute::HTTP_ROUTE, shared(&function.route));
            say(attribute::FAAS_NAME, shared(&function.name));
            say(attribute::FAAS_VERSION, shared(&function.digest));
            say(attribute::FAAS_TRIGGER, "http".into());
            say(attribute::FAAS_COLDSTART, self.cold.into());
            say(attribute::FAAS_INVOCATION_ID, self.context.span_id.to_string().into());
        }
        if let Some((tier, reason)) = self.tier {
            say(attribute::BATON_TIER, tier.name().into());
            say(attribute::BATON_TIER_REASON, reason.name().into());
        }
        all
    }

    fn authority(&self) -> Option<(String, Option<u16>)> {
        let authority: http::uri::Authority = match self.uri.authority() {
            Some(authority) => authority.clone(),
            None => self.host.as_ref()?.to_str().ok()?.parse().ok()?,
        };
        Some((authority.host().to_owned(), authority.port_u16()))
    }
}

/// The work of a span has failed, in these words of low cardinality.
fn fail(span: &mut Span, error: Cow<'static, str>) {
    span.attributes.push(KeyValue::new(attribute::ERROR_TYPE, text(error.clone())));
    span.status = Status::Error(error);
}

fn text(cow: Cow<'static, str>) -> Value {
    Value::String(StringValue::from(cow))
}

fn shared(text: &Arc<str>) -> Value {
    Value::String(StringValue::from(Arc::clone(text)))
}

fn bytes(count: u64) -> Value {
    i64::try_from(count).unwrap_or(i64::MAX).into()
}

fn span_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Admit => span::ADMIT,
        Phase::Load => span::COMPONENT_LOAD,
        Phase::Lease => span::SANDBOX_LEASE,
        Phase::Connect => span::FORWARD_CONNECT,
        Phase::Forward => span::FORWARD,
        Phase::Instantiate => span::COMPONENT_INSTANTIATE,
        Phase::Handle => span::COMPONENT_HANDLE,
    }
}
