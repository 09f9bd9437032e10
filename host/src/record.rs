//! What is known of one request, kept while it flows and told once at its end.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use baton_otel::RequestContext;
use baton_otel::context::TraceParent;
use baton_pool::protocol::SandboxId;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};

use tokio::sync::OwnedSemaphorePermit;

use crate::egress::{Caller, Calls};
use crate::function::Function;
use crate::linger::Unread;
use crate::phases::{Interval, Phase, Phases};
use crate::problem;
use crate::stopwatch::Stopwatch;
use crate::tier::chooser::{Decision, Took};
use crate::tier::{Reason, Tier};
use crate::wasm::Spent;

mod ended;

pub use ended::Ended;

/// How a request came in.
#[derive(Debug)]
pub struct Peer {
    /// The client's address; `None` on a Unix socket.
    pub client: Option<SocketAddr>,
    /// The same without its port, as text.
    pub address: Option<Arc<str>>,
    /// The address that it reached; `None` on a Unix socket.
    pub server: Option<SocketAddr>,
    /// Whether it came over TLS.
    pub secure: bool,
    /// `X-Forwarded-For` of its requests.
    pub forwarded_for: Option<HeaderValue>,
    /// The `for` of `Forwarded` (RFC 7239, section 6).
    pub node: String,
    /// Its connection's place among those that there may be; whatever is left of a connection
    /// that changed its protocol holds it as well.
    pub place: OwnedSemaphorePermit,
    /// Whether there may be more to come of its request's body.
    pub unread: Unread,
}

impl Peer {
    /// A client at `client` that reached `server`, over plain text as far as is known.
    #[must_use]
    pub fn new(
        client: Option<SocketAddr>,
        server: Option<SocketAddr>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let address = client.map(|client| client.ip().to_canonical());
        let node = match address {
            Some(IpAddr::V4(v4)) => v4.to_string(),
            Some(IpAddr::V6(v6)) => format!("\"[{v6}]\""),
            None => "unknown".to_owned(),
        };
        let forwarded_for =
            address.and_then(|address| HeaderValue::try_from(address.to_string()).ok());
        let text = client.map(|client| client.ip().to_string().into());
        Self {
            client,
            address: text,
            server,
            secure: false,
            forwarded_for,
            node,
            place,
            unread: Unread::default(),
        }
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

/// The sandbox that a request was forwarded to.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its id.
    pub sandbox: SandboxId,
    /// Its first process.
    pub pid: u32,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer was handed to the connection.
    Complete,
    /// The client left before that.
    ClientGone,
    /// The answer broke off after its head was sent.
    Broken,
}

/// One request.
pub struct Record {
    /// Its place in a trace.
    pub context: RequestContext,
    /// The span of the tier at work, which the next hop sees as its parent.
    pub work_span: baton_otel::SpanId,
    /// When it was where.
    pub phases: Phases,
    /// Its method.
    pub method: Method,
    /// Its target as received.
    pub uri: Uri,
    /// Its version.
    pub version: Version,
    /// `User-Agent`.
    pub user_agent: Option<HeaderValue>,
    /// `Host`.
    pub host: Option<HeaderValue>,
    /// Who sent it where.
    pub peer: Arc<Peer>,
    /// The function it was routed to.
    pub function: Option<Arc<Function>>,
    /// The tier that answered, and why that one.
    pub tier: Option<(Tier, Reason)>,
    /// Where the component came from when the request waited for it.
    pub load: Option<&'static str>,
    /// Whether it waited for a load, an activation or a creation.
    pub cold: bool,
    /// The sandbox, in the native tier.
    pub served: Option<Served>,
    /// How its sandbox was started, when the request waited for that.
    pub started: Vec<baton_pool::lease::Phase>,
    /// Whether a sandbox had it before it was given to the component.
    pub retried: bool,
    /// Whether it ended for want of memory.
    pub out_of_memory: bool,
    /// When the native tier could not take it after all.
    pub fell_back: Option<Instant>,
    /// What the host answered by itself, if it did.
    pub problem: Option<problem::Kind>,
    /// The status of the answer.
    pub status: StatusCode,
    /// Bytes of the request's body that were read.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// What the guest has spent on it.
    pub guest: Spent,
    /// What it asked of others.
    pub calls: Calls,
    /// Whether its answer took longer than the function's timeout, after its head was sent.
    pub out_of_time: bool,
    /// Requests in flight in the function when it was let in, itself included.
    pub in_flight: usize,
    /// How long it was expected to take, where that was asked.
    pub expected: Option<Duration>,
    /// How much slower it was than with a core of its own, as far as is known.
    pub slowed: f64,
    /// How long others had the core between two stages of its work.
    pub gave_way: Duration,
    /// How long its tier has worked on it.
    pub work: Stopwatch,
    /// Nobody waits for it: it is answered a second time, to compare, and never a third.
    pub is_shadow: bool,
}

impl Record {
    /// A request whose head was just read.
    #[must_use]
    pub fn new<B>(request: &http::Request<B>, context: RequestContext, peer: Arc<Peer>) -> Self {
        let header = |name| request.headers().get(name).cloned();
        Self {
            context,
            work_span: baton_otel::context::new_span_id(),
            phases: Phases::new(Instant::now(), SystemTime::now()),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            user_agent: header(header::USER_AGENT),
            host: header(header::HOST),
            peer,
            function: None,
            tier: None,
            load: None,
            cold: false,
            served: None,
            started: Vec::new(),
            retried: false,
            out_of_memory: false,
            fell_back: None,
            problem: None,
            status: StatusCode::OK,
            received: 0,
            sent: 0,
            guest: Spent::default(),
            calls: Calls::default(),
            out_of_time: false,
            in_flight: 0,
            expected: None,
            slowed: 1.0,
            gave_way: Duration::ZERO,
            work: Stopwatch::default(),
            is_shadow: false,
        }
    }

    /// The record of the same request in a shadow: of the same trace, never recorded.
    #[must_use]
    pub fn shadow(&self, head: &http::Request<()>) -> Self {
        let span_id = baton_otel::context::new_span_id();
        let context = RequestContext { sampled: false, span_id, ..self.context.clone() };
        let shadow = Self::new(head, context, Arc::clone(&self.peer));
        Self { is_shadow: true, ..shadow }
    }

    /// It is for `function`, which may have a share of its own of traces that are recorded; what the
    /// caller decided stays.
    pub fn found(&mut self, function: Arc<Function>) {
        if !function.spec.egress.allow.is_empty() {
            self.calls = Calls::kept();
        }
        if let Some(sample) = function.spec.telemetry.sample
            && self.context.parent.is_none()
        {
            let sampler = baton_otel::Sampler::parent_based(sample);
            self.context.sampled = sampler.samples(self.context.trace_id, None);
        }
        self.function = Some(function);
    }

    /// Enters a phase now.
    pub fn enter(&mut self, phase: Phase) {
        self.phases.enter(phase, Instant::now());
    }

    /// The trace context that the tier at work gets.
    pub fn pass_on(&self, headers: &mut HeaderMap) {
        self.context.pass_on(self.work_span, headers);
    }

    /// For whom the component works: its outgoing requests belong to the span of the tier at work.
    #[must_use]
    pub fn caller(&self) -> Caller {
        let RequestContext { trace_id, sampled, ref tracestate, .. } = self.context;
        Caller {
            parent: TraceParent { trace_id, span_id: self.work_span, sampled },
            tracestate: tracestate.clone(),
            calls: self.calls.clone(),
        }
    }

    /// `Server-Timing` as far as it is known at `now`: the tier, then the phases in milliseconds.
    #[must_use]
    pub fn server_timing(&self, now: Instant) -> Option<HeaderValue> {
        use std::fmt::Write as _;
        let (tier, _) = self.tier?;
        let mut text = String::with_capacity(128);
        let _ = write!(text, "tier;desc=\"{}\"", tier.name());
        for interval in self.phases.intervals(now) {
            let us = interval.duration().as_micros();
            // Whole numbers are written in a fraction of the time that a float takes.
            let (ms, us) = (us / 1_000, us % 1_000);
            let _ = write!(text, ", {};dur={ms}.{us:03}", interval.phase.name());
        }
        HeaderValue::try_from(text).ok()
    }

    /// As [`Record::error_type`], but for the statuses of functions.
    #[must_use]
    pub fn error_kind(&self, outcome: Outcome) -> Option<&'static str> {
        match (self.problem, outcome) {
            (_, Outcome::ClientGone) => Some("client-gone"),
            (Some(problem::Kind::Crashed), Outcome::Complete) | (_, Outcome::Broken)
                if self.out_of_memory =>
            {
                Some(problem::Kind::OutOfMemory.name())
            }
            (_, Outcome::Broken) => Some("broken-response"),
            (Some(kind), Outcome::Complete) if kind.status().is_server_error() => Some(kind.name()),
            _ => None,
        }
    }

    /// The word for what went wrong, if something did on the server's side.
    #[must_use]
    pub fn error_type(&self, outcome: Outcome) -> Option<Cow<'static, str>> {
        match self.error_kind(outcome) {
            Some(kind) => Some(kind.into()),
            None if self.problem.is_none() && self.status.is_server_error() => {
                Some(self.status.as_str().to_owned().into())
            }
            None => None,
        }
    }

    /// What the choice of the next request's tier learns from this one, which ended at `end`.
    #[must_use]
    pub fn decision(&self, end: Instant, outcome: Outcome) -> Option<Decision> {
        let (tier, reason) = self.tier?;
        let fine = outcome == Outcome::Complete
            && self.problem.is_none()
            && self.fell_back.is_none()
            && !self.cold
            && !self.status.is_server_error();
        let mut queued = Duration::ZERO;
        let mut forward = None;
        for interval in self.phases.intervals(end) {
            match interval.phase {
                Phase::Admit => queued = interval.duration(),
                Phase::Lease | Phase::Connect if fine => {
                    *forward.get_or_insert_default() += interval.duration();
                }
                _ => {}
            }
        }
        let took = self.work.read().filter(|_| fine);
        Some(Decision {
            at: self.phases.wall(end),
            tier,
            reason,
            in_flight: self.in_flight,
            expected: self.expected,
            took: took.map(|elapsed| Took { elapsed, alone: self.alone(tier, elapsed) }),
            computed: (tier == Tier::Wasm).then_some(self.guest.computed),
            queued,
            forward,
            trace_id: self.context.trace_id,
        })
    }

    /// How long it would have taken with a core of its own.
    fn alone(&self, tier: Tier, elapsed: Duration) -> Duration {
        let turns = match tier {
            Tier::Wasm => self.gave_way + self.guest.waited,
            Tier::Native => Duration::ZERO,
        };
        elapsed.saturating_sub(turns).div_f64(self.slowed)
    }

    /// When its tier began to work on it.
    fn work_began(&self, now: Instant) -> Option<Instant> {
        let works = |interval: &Interval| {
            matches!(interval.phase, Phase::Connect | Phase::Forward | Phase::Instantiate)
        };
        self.phases.intervals(now).find(works).map(|interval| interval.start)
    }

    /// The head of its answer is there, after its body made its tier wait for so long.
    pub fn answered(&mut self, now: Instant, waited: Duration) {
        if let Some(began) = self.work_began(now) {
            let took = now.saturating_duration_since(began);
            self.work.head(took.saturating_sub(waited));
        }
    }
}

/// The methods of RFC 9110 and RFC 5789; the semantic conventions call all others `_OTHER`.
#[must_use]
pub fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::CONNECT => "CONNECT",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::PATCH => "PATCH",
        _ => "_OTHER",
    }
}

/// `network.protocol.version`.
#[must_use]
pub fn protocol_version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

#[cfg(test)]
mod tests {
    use baton_otel::Sampler;
    use tokio::sync::Semaphore;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A request that its tier answered after 30 ms.
    fn answered(tier: Tier) -> (Record, Instant) {
        let request = http::Request::get("/").body(()).unwrap();
        let context = RequestContext::accept(request.headers(), &Sampler::ratio(0.0));
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let mut record = Record::new(&request, context, Arc::new(Peer::new(None, None, place)));
        record.tier = Some((tier, Reason::Policy));
        let phase = match tier {
            Tier::Wasm => Phase::Instantiate,
            Tier::Native => Phase::Forward,
        };
        let began = record.phases.began();
        let end = began + 30 * MS;
        record.phases.enter(phase, began);
        record.answered(end, Duration::ZERO);
        (record, end)
    }

    fn took(record: &Record, end: Instant) -> Took {
        record.decision(end, Outcome::Complete).unwrap().took.unwrap()
    }

    #[test]
    fn a_guest_with_a_core_of_its_own_would_not_have_waited_for_the_turns_of_others() {
        let (mut record, end) = answered(Tier::Wasm);
        record.guest = Spent { computed: 4 * MS, waited: 16 * MS };
        record.gave_way = 4 * MS;
        record.slowed = 2.0;
        assert_eq!(took(&record, end), Took { elapsed: 30 * MS, alone: 5 * MS });
    }

    #[test]
    fn a_sandbox_with_a_core_of_its_own_would_not_have_been_slowed() {
        let (mut record, end) = answered(Tier::Native);
        record.slowed = 3.0;
        assert_eq!(took(&record, end), Took { elapsed: 30 * MS, alone: 10 * MS });
    }
}
