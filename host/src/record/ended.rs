//! A request that is over, as small as a trace can be made of it.
//!
//! It shares nothing with the request but what outlives it anyway: not the function's revision, whose
//! end would be put off, nor the bytes that the head was read into.
//!
//! In the trace the phases are the children of the server span and tile it. What failed says so where it
//! failed: the last phase of a request that failed on the server's side, and the native one of a request
//! that fell back, have the error as well.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use baton_otel::context::Inner;
use baton_otel::names::{attribute, event, span};
use baton_otel::{
    Event, KeyValue, Kind, RequestContext, Span, SpanId, Status, StringValue, Trace, TraceId,
    Traceable, Value,
};
use http::{HeaderValue, Method, StatusCode, Version};

use super::{Outcome, Record, Served, known_method, protocol_version};
use crate::egress::Call;
use crate::function::Labels;
use crate::in_flight::CLIENT_CLOSED_REQUEST;
use crate::native::prepare;
use crate::phases::{Interval, Phase, Phases};
use crate::problem;
use crate::tier::{Reason, Tier};

/// A request that is over.
#[derive(Debug)]
pub struct Ended {
    context: RequestContext,
    work_span: SpanId,
    phases: Phases,
    end: Instant,
    outcome: Outcome,
    error: Option<Cow<'static, str>>,
    /// Why it is recorded although it was not sampled.
    tail: Option<&'static str>,
    method: Method,
    version: Version,
    scheme: &'static str,
    /// Path, query, `User-Agent`, and the authority that was asked for.
    texts: Texts<4>,
    client: Option<(SocketAddr, Arc<str>)>,
    function: Option<Arc<Labels>>,
    tier: Option<(Tier, Reason)>,
    load: Option<&'static str>,
    cold: bool,
    served: Option<Served>,
    started: Vec<baton_pool::lease::Phase>,
    retried: bool,
    out_of_memory: bool,
    fell_back: Option<Instant>,
    status: StatusCode,
    received: u64,
    sent: u64,
    calls: Vec<Call>,
}

impl Ended {
    /// What is kept of a request that ended at `end`.
    #[must_use]
    pub fn new(
        record: &Record,
        end: Instant,
        outcome: Outcome,
        tail: Option<&'static str>,
    ) -> Self {
        let authority = record.uri.authority().map(http::uri::Authority::as_str);
        let texts = Texts::new([
            Some(record.uri.path()),
            record.uri.query(),
            record.user_agent.as_ref().and_then(|agent| agent.to_str().ok()),
            authority.or_else(|| record.host.as_ref()?.to_str().ok()),
        ]);
        let state = record.context.tracestate.as_ref();
        let tracestate = state.and_then(|state| HeaderValue::from_bytes(state.as_bytes()).ok());
        let peer = &record.peer;
        Self {
            context: RequestContext { tracestate, ..record.context },
            work_span: record.work_span,
            phases: record.phases.clone(),
            end,
            outcome,
            error: record.error_type(outcome),
            tail,
            method: record.method.clone(),
            version: record.version,
            scheme: peer.scheme(),
            texts,
            client: peer.client.zip(peer.address.clone()),
            function: record.function.as_ref().map(|function| Arc::clone(&function.labels)),
            tier: record.tier,
            load: record.load,
            cold: record.cold,
            served: record.served.clone(),
            started: record.started.clone(),
            retried: record.retried,
            out_of_memory: record.out_of_memory,
            fell_back: record.fell_back,
            status: record.status,
            received: record.received,
            sent: record.sent,
            calls: record.calls.so_far(),
        }
    }
}

impl Traceable for Ended {
    fn trace_id(&self) -> TraceId {
        self.context.trace_id
    }

    fn spans(&self) -> usize {
        let mut connected = false;
        let of_phase = |interval: Interval| match interval.phase {
            // The connection was a part of it.
            Phase::Forward if connected => 0,
            Phase::Connect => {
                connected = true;
                2
            }
            Phase::Handle => 1 + self.calls.len(),
            Phase::Lease => 1 + self.started.len(),
            Phase::Admit | Phase::Load | Phase::Instantiate | Phase::Forward => 1,
        };
        1 + self.phases.intervals(self.end).map(of_phase).sum::<usize>()
    }

    fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.texts.all.len()
            + self.context.tracestate.as_ref().map_or(0, HeaderValue::len)
            + size_of_val(self.started.as_slice())
            + self.calls.iter().map(Call::bytes).sum::<usize>()
    }

    fn trace(&self) -> Cow<'_, Trace> {
        let method = known_method(&self.method);
        let name = match &self.function {
            Some(function) => [method, " ", &function.route].concat().into(),
            None => Cow::Borrowed(method),
        };
        let (start, end) = (self.phases.wall(self.phases.began()), self.phases.wall(self.end));
        let mut root = Span::with_id(self.context.span_id, name, start, end);
        root.kind = Kind::Server;
        root.attributes = self.attributes();
        root.events = self.events();
        root.children = self.children();
        if let Some(error) = &self.error {
            if self.outcome == Outcome::ClientGone {
                // Its leaving is no failure of ours.
                root.attributes.push(KeyValue::new(attribute::ERROR_TYPE, text(error.clone())));
            } else {
                root.children.last_mut().into_iter().for_each(|last| fail(last, error.clone()));
                fail(&mut root, error.clone());
            }
        }
        root.attributes.extend(self.tail.map(|why| KeyValue::new(attribute::BATON_TAIL, why)));
        Cow::Owned(Trace {
            trace_id: self.context.trace_id,
            parent: self.context.parent,
            root,
            tracestate: self.context.tracestate.clone(),
        })
    }
}

impl Ended {
    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut happened = |name: &'static str, at| {
            let time = self.phases.wall(at);
            events.push(Event { name: name.into(), time, attributes: Vec::new() });
        };
        if self.out_of_memory {
            happened(event::OUT_OF_MEMORY, self.fell_back.unwrap_or(self.end));
        }
        if let Some(at) = self.fell_back {
            happened(event::FALLBACK, at);
            if self.retried {
                happened(event::RETRY, at);
            }
        }
        events
    }

    fn children(&self) -> Vec<Span> {
        let mut ids = Inner::of(self.context.span_id);
        let mut children: Vec<Span> = Vec::with_capacity(4);
        let mut connected = false;
        for Interval { phase, start, end } in self.phases.intervals(self.end) {
            let (start, until) = (self.phases.wall(start), self.phases.wall(end));
            if connected
                && phase == Phase::Forward
                && let Some(forward) = children.iter_mut().rfind(|span| span.kind == Kind::Client)
            {
                forward.end = until;
                continue;
            }
            let mut span = Span::with_id(ids.next(), span_name(phase), start, until);
            match phase {
                Phase::Connect => {
                    let connect = span;
                    let forward = Span::with_id(ids.next(), span::FORWARD, start, until);
                    span = self.forward(forward);
                    span.children.push(connect);
                    connected = true;
                }
                Phase::Forward => span = self.forward(span),
                Phase::Handle => {
                    span.span_id = self.work_span;
                    span.children = self.calls.iter().map(Call::span).collect();
                }
                Phase::Load => {
                    let source = self.load.unwrap_or("memory");
                    span.attributes.push(KeyValue::new(attribute::BATON_COMPONENT_SOURCE, source));
                }
                Phase::Lease => span.children = prepare::spans(&self.started, &mut ids),
                Phase::Admit | Phase::Instantiate => {}
            }
            children.push(span);
        }
        children
    }

    fn forward(&self, mut span: Span) -> Span {
        span.kind = Kind::Client;
        span.attributes.reserve_exact(5);
        let mut say = |key: &'static str, value: Value| {
            span.attributes.push(KeyValue::new(key, value));
        };
        say(attribute::NETWORK_TRANSPORT, "unix".into());
        if let Some(served) = &self.served {
            say(attribute::CONTAINER_ID, served.sandbox.to_string().into());
            say(attribute::PROCESS_PID, i64::from(served.pid).into());
        }
        if let Some(image) = self.function.as_ref().and_then(|function| function.image.as_ref()) {
            say(attribute::OCI_MANIFEST_DIGEST, shared(image));
        }
        if self.fell_back.is_some() {
            let gone = Reason::SandboxGone.name();
            fail(
                &mut span,
                if self.out_of_memory { problem::Kind::OutOfMemory.name() } else { gone }.into(),
            );
        } else {
            span.span_id = self.work_span;
        }
        span
    }

    fn attributes(&self) -> Vec<KeyValue> {
        let mut all = Vec::with_capacity(26);
        let mut say = |key: &'static str, value: Value| {
            all.push(KeyValue::new(key, value));
        };
        let [path, query, agent, authority] = self.texts.each();
        let method = known_method(&self.method);
        say(attribute::HTTP_REQUEST_METHOD, method.into());
        if method == "_OTHER" {
            say(attribute::HTTP_REQUEST_METHOD_ORIGINAL, self.method.as_str().to_owned().into());
        }
        say(attribute::URL_SCHEME, self.scheme.into());
        say(attribute::URL_PATH, path.unwrap_or_default().to_owned().into());
        if let Some(query) = query {
            say(attribute::URL_QUERY, query.to_owned().into());
        }
        say(attribute::NETWORK_PROTOCOL_VERSION, protocol_version(self.version).into());
        if let Some(agent) = agent {
            say(attribute::USER_AGENT_ORIGINAL, agent.to_owned().into());
        }
        let authority = authority.and_then(|text| text.parse::<http::uri::Authority>().ok());
        if let Some(authority) = authority {
            say(attribute::SERVER_ADDRESS, authority.host().to_owned().into());
            if let Some(port) = authority.port_u16() {
                say(attribute::SERVER_PORT, i64::from(port).into());
            }
        }
        if let Some((client, address)) = &self.client {
            // Whoever is at the other end is the client: what it says of others is not believed.
            say(attribute::CLIENT_ADDRESS, shared(address));
            say(attribute::CLIENT_PORT, i64::from(client.port()).into());
            say(attribute::NETWORK_PEER_ADDRESS, shared(address));
            say(attribute::NETWORK_PEER_PORT, i64::from(client.port()).into());
        }
        if self.status != CLIENT_CLOSED_REQUEST || self.outcome != Outcome::ClientGone {
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
}

/// Texts that are there or not, in one allocation.
#[derive(Debug)]
struct Texts<const N: usize> {
    all: Box<str>,
    at: [Option<Range<usize>>; N],
}

impl<const N: usize> Texts<N> {
    fn new(texts: [Option<&str>; N]) -> Self {
        let mut all = String::with_capacity(texts.iter().flatten().map(|text| text.len()).sum());
        let at = texts.map(|text| {
            let start = all.len();
            all.push_str(text?);
            Some(start..all.len())
        });
        Self { all: all.into(), at }
    }

    fn each(&self) -> [Option<&str>; N] {
        self.at.each_ref().map(|at| self.all.get(at.clone()?))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use baton_otel::Sampler;
    use http::Request;
    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::record::Peer;

    const PHASES: [Phase; 7] = [
        Phase::Admit,
        Phase::Load,
        Phase::Lease,
        Phase::Connect,
        Phase::Forward,
        Phase::Instantiate,
        Phase::Handle,
    ];

    fn ended(phases: &[usize], started: usize, head: [&str; 3]) -> Ended {
        let [target, host, agent] = head;
        let request = Request::get(target).header("host", host).header("user-agent", agent);
        let context = RequestContext::accept(&http::HeaderMap::new(), &Sampler::ratio(1.0));
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let peer = Arc::new(Peer::new(Some("192.0.2.1:5".parse().unwrap()), None, place));
        let mut record = Record::new(&request.body(()).unwrap(), context, peer);
        let mut now = record.phases.began();
        for phase in phases {
            now += Duration::from_micros(1);
            record.phases.enter(PHASES[*phase], now);
        }
        let phase = |at| {
            let (start, end) = (record.phases.wall(now), record.phases.wall(now));
            baton_pool::lease::Phase { name: format!("create/{at}"), start, end }
        };
        record.started = (0..started).map(phase).collect();
        Ended::new(&record, now, Outcome::Complete, None)
    }

    proptest! {
        #[test]
        fn it_has_as_many_spans_as_it_says_and_always_the_same(
            phases in prop::collection::vec(0..PHASES.len(), 0..14),
            started in 0..4_usize,
        ) {
            let ended = ended(&phases, started, ["/", "a", "b"]);
            let trace = ended.trace();
            prop_assert_eq!(trace.root.count(), ended.spans());
            prop_assert_eq!(&*trace, &*ended.trace());
            let mut ids = std::collections::BTreeSet::new();
            trace.root.walk(None, &mut |span, _| {
                ids.insert(span.span_id.to_bytes());
            });
            // The tier at work has one span where requests are real.
            let works = |phase: &&usize| matches!(PHASES[**phase], Phase::Forward | Phase::Connect | Phase::Handle);
            if phases.iter().filter(works).count() <= 1 {
                prop_assert_eq!(ids.len(), trace.root.count());
            }
        }
    }

    #[test]
    fn the_head_is_told_as_it_was_read() {
        let ended = ended(&[], 0, ["/a/b?c=d", "example.org:81", "agent/1"]);
        let trace = ended.trace();
        let said = |key: &str| {
            let mut attributes = trace.root.attributes.iter();
            attributes.find(|pair| pair.key.as_str() == key).map(|pair| pair.value.to_string())
        };
        for (key, value) in [
            (attribute::URL_PATH, "/a/b"),
            (attribute::URL_QUERY, "c=d"),
            (attribute::USER_AGENT_ORIGINAL, "agent/1"),
            (attribute::SERVER_ADDRESS, "example.org"),
            (attribute::SERVER_PORT, "81"),
            (attribute::CLIENT_ADDRESS, "192.0.2.1"),
        ] {
            assert_eq!(said(key).as_deref(), Some(value), "{key}");
        }
    }
}
