//! A request's way through the host: head, route, gate, tier, answer.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use baton_otel::RequestContext;
use http::uri::PathAndQuery;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep_until;

use crate::answer::{Answer, Source};
use crate::cohort::Member;
use crate::cores::slowed_by_sandboxes;
use crate::function::{Component, Function, Loaded};
use crate::head;
use crate::host::Host;
use crate::in_flight::InFlight;
use crate::native;
use crate::phases::Phase;
use crate::problem::{Kind, Problem};
use crate::record::{Peer, Record};
use crate::request_body::{BodyFault, Intake, RequestBody};
use crate::tier::{Reason, Tier};
use crate::tunnel::Asked;
use crate::verify::Sample;
use crate::wasm::{Failure, Invocation};

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Answers one request; a failure becomes a problem document.
///
/// # Errors
/// Never: the error type only satisfies the server.
pub async fn serve(
    host: Arc<Host>,
    peer: Arc<Peer>,
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let buffer = head::detach(&mut request);
    peer.unread.set(!hyper::body::Body::is_end_stream(request.body()));
    let context = RequestContext::accept(request.headers(), &host.observer.sampler);
    let record = Record::new(&request, context, peer);
    let mut in_flight = InFlight::new(record, Arc::clone(&host.observer));
    let (function, prefix) = match find(&host, &request) {
        Ok(found) => found,
        Err(problem) => return Ok(finish(&host, in_flight, Err(problem))),
    };
    in_flight.record.found(Arc::clone(&function));
    let member = function.cohort.join().await;
    // Not before: it has been written to, and can go to the instance. The next connection to read would take it, and
    // keep it for longer; a request that waits takes 4 KiB more then.
    drop(buffer);
    let answered = answer(&host, &function, prefix, &mut in_flight, request, &member).await;
    let mut response = finish(&host, in_flight, answered);
    response.body_mut().look_ahead().await;
    member.give_way().await;
    Ok(response)
}

fn finish(
    host: &Host,
    mut in_flight: InFlight,
    answered: Result<Response<Source>, Problem>,
) -> Response<Answer> {
    let record = &mut in_flight.record;
    let mut response = match answered {
        Ok(response) => response,
        Err(problem) => {
            record.problem = Some(problem.kind);
            record.out_of_memory |= problem.kind == Kind::OutOfMemory;
            report(record, &problem)
        }
    };
    if let Some(sample) = &mut in_flight.sample {
        sample.head(&response, record.problem);
    }
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    if host.server_timing
        && let Some(timing) = record.server_timing(Instant::now())
    {
        headers.append(SERVER_TIMING, timing);
    }
    let cut_short = in_flight.intake.as_ref().is_some_and(|intake| intake.fault().is_some());
    // What follows on this connection is the rest of a body that nobody reads.
    let unread = cut_short && record.problem.is_some();
    let last = unread || host.closing.is_cancelled();
    if last && !switching && record.version <= Version::HTTP_11 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let length = headers.get(header::CONTENT_LENGTH);
    let promised = length.and_then(|length| length.to_str().ok()?.parse().ok());
    in_flight.answering(response.status(), promised);
    if let Source::Native(body) = response.body_mut()
        && let Some((tunnel, client)) = body.take_tunnel().zip(in_flight.asked.take())
    {
        host.connections.spawn(tunnel.carry(client, in_flight));
        return response.map(|_| Answer::switching());
    }
    response.map(|source| Answer::new(source, in_flight))
}

/// A problem as the client is told of it; the host's own failures are logged as well.
fn report(record: &Record, problem: &Problem) -> Response<Source> {
    let function = record.function.as_ref().map(|function| function.name());
    let trace_id = record.context.trace_id.to_string();
    if problem.kind.status().is_server_error() && problem.kind != Kind::Draining {
        let (kind, detail) = (problem.kind.name(), &problem.detail);
        tracing::warn!(function, trace_id, kind, %detail, "a request failed");
    }
    problem.response(function, &trace_id).map(Source::Host)
}

/// The function that a request is for, and how much of the path its route takes.
fn find(host: &Host, request: &Request<Incoming>) -> Result<(Arc<Function>, usize), Problem> {
    check_head(host, request)?;
    let path = request.uri().path();
    let found = host.functions.load().lookup(host_name(request), path);
    found.ok_or_else(|| Problem::new(Kind::NotFound, format!("no function's route matches {path}")))
}

async fn answer(
    host: &Arc<Host>,
    function: &Arc<Function>,
    prefix: usize,
    in_flight: &mut InFlight,
    mut request: Request<Incoming>,
    member: &Member<'_>,
) -> Result<Response<Source>, Problem> {
    let limits = &function.spec.limits;
    check_length(&request, limits.request_body.0)?;
    in_flight.place = Some(enter(function, member).await?);
    in_flight.record.in_flight = function.gate.in_flight();
    let deadline = Instant::now() + limits.timeout;
    in_flight.deadline = Some(deadline);
    if function.native.is_some() {
        in_flight.asked = Asked::by(&mut request);
    }
    let (head, body) = request.into_parts();
    let intake = in_flight.intake.insert(Intake::new(body, limits.request_body.0)).clone();
    let Some(body) = intake.reader() else { unreachable!("nothing of the body was read yet") };
    // Boxed, for it is handed on from future to future, and each would have a place for all of it.
    let mut request = Box::new(Request::from_parts(head, body));
    rewrite(&mut request, prefix, &in_flight.record)?;
    in_flight.sample = Sample::of(function, &request, &host.tasks, &host.observer);
    if let Some(asked) = &in_flight.asked {
        asked.pass_on(request.headers_mut());
    }
    let answered = {
        let record = &mut in_flight.record;
        let mut answered = pin!(dispatch(function, record, &intake, request, member));
        let mut late = pin!(sleep_until(deadline.into()));
        poll_fn(|cx| match answered.as_mut().poll(cx) {
            Poll::Pending if member.waits() => late.as_mut().poll(cx).map(|()| None),
            polled => polled.map(Some),
        })
        .await
    };
    match answered {
        Some(answered) => blame_the_client(in_flight, answered),
        None => Err(out_of_time(&in_flight.record)),
    }
}

/// Tries the tiers in the order of the function's policy.
async fn dispatch(
    function: &Function,
    record: &mut Record,
    intake: &Intake,
    request: Box<Request<RequestBody>>,
    member: &Member<'_>,
) -> Result<Response<Source>, Problem> {
    match native::attempt(function, record, intake, request).await {
        native::Attempt::Answered(response) => Ok((*response).map(Source::Native)),
        native::Attempt::Failed(problem) => Err(problem),
        native::Attempt::Declined(request, reason) => {
            if reason == Reason::SandboxGone {
                record.fell_back = Some(Instant::now());
                record.work_span = baton_otel::context::new_span_id();
            }
            let Some(component) = &function.component else {
                return Err(Problem::new(Kind::Starting, "no sandbox can take the request"));
            };
            record.tier = Some((Tier::Wasm, reason));
            run_component(component, record, request, member).await
        }
    }
}

pub(crate) async fn run_component(
    component: &Component,
    record: &mut Record,
    mut request: Box<Request<RequestBody>>,
    member: &Member<'_>,
) -> Result<Response<Source>, Problem> {
    let loaded = load(component, record).await?;
    member.give_way().await;
    record.enter(Phase::Instantiate);
    record.pass_on(request.headers_mut());
    let invocation = Invocation { id: record.context.span_id, caller: record.caller() };
    let mut call = loaded.program.start(*request, record.peer.secure, invocation);
    poll_fn(|cx| {
        let polled = call.poll_instance(cx);
        record.guest = call.spent();
        polled
    })
    .await
    .map_err(guest_problem)?;
    if let Some(instantiated) = call.instantiated() {
        record.phases.enter(Phase::Handle, instantiated);
    }
    record.gave_way += member.give_way().await;
    let head = poll_fn(|cx| {
        let polled = call.poll_head(cx);
        // At once, for the client may leave before there is a head.
        record.guest = call.spent();
        polled
    });
    let head = head.await.map_err(guest_problem)?;
    let function = record.function.as_ref();
    record.slowed = function.map_or(1.0, |it| slowed_by_sandboxes(|| it.chooser.computes()));
    let (mut head, body) = head.into_parts();
    strip_hop_by_hop(&mut head.headers);
    Ok(Response::from_parts(head, Source::Guest(call.into_body(body))))
}

async fn load<'a>(component: &'a Component, record: &mut Record) -> Result<&'a Loaded, Problem> {
    let loaded = match component.get() {
        Some(loaded) => loaded,
        None => {
            record.enter(Phase::Load);
            record.cold = true;
            let loaded = component.wait().await;
            record.load = loaded.as_ref().ok().map(|loaded| loaded.source.name());
            loaded
        }
    };
    loaded.as_ref().map_err(|error| Problem::new(Kind::Trapped, error.to_string()))
}

fn out_of_time(record: &Record) -> Problem {
    let timeout = record.function.as_ref().map(|function| function.spec.limits.timeout);
    let detail = format!("the function did not answer within {:?}", timeout.unwrap_or_default());
    Problem::new(Kind::Timeout, detail)
}

fn guest_problem(failure: Failure) -> Problem {
    let kind = match &failure {
        Failure::Trapped(_) | Failure::Instantiate(_) => Kind::Trapped,
        Failure::OutOfMemory { .. } => Kind::OutOfMemory,
        Failure::NoResponse | Failure::InvalidResponse(_) => Kind::InvalidResponse,
        Failure::CpuTime { .. } => Kind::Timeout,
        Failure::NoInstance(_) => Kind::Saturated,
    };
    Problem::new(kind, failure.to_string())
}

/// A body that broke off or was too long is the client's doing, whatever the function made of it.
fn blame_the_client(
    in_flight: &InFlight,
    answered: Result<Response<Source>, Problem>,
) -> Result<Response<Source>, Problem> {
    match in_flight.intake.as_ref().and_then(Intake::fault) {
        Some(fault @ BodyFault::TooLarge { .. }) => {
            Err(Problem::new(Kind::BodyTooLarge, fault.to_string()))
        }
        Some(fault @ BodyFault::Broken) => Err(Problem::new(Kind::BadRequest, fault.to_string())),
        None => answered,
    }
}

async fn enter(function: &Function, member: &Member<'_>) -> Result<OwnedSemaphorePermit, Problem> {
    let place = match function.gate.try_enter() {
        Some(place) => Ok(place),
        None => {
            member.leave();
            function.gate.enter().await
        }
    };
    place.map_err(|refused| Problem::new(Kind::Saturated, refused.to_string()))
}

fn check_head(host: &Host, request: &Request<Incoming>) -> Result<(), Problem> {
    let size: usize = request.uri().path_and_query().map_or(0, |path| path.as_str().len())
        + request
            .headers()
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum::<usize>();
    if size > host.headers_max {
        let max = host.headers_max;
        return Err(Problem::new(
            Kind::HeadersTooLarge,
            format!("the request's head has {size} bytes, at most {max} are taken"),
        ));
    }
    let bad = |detail: &'static str| Err(Problem::new(Kind::BadRequest, detail));
    if request.method() == Method::CONNECT {
        return bad("CONNECT asks for a proxy, and Baton is none");
    }
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if !codings.next().is_none_or(chunked) || codings.next().is_some() {
        return bad("the body has a transfer coding other than chunked");
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => bad("the request has more than one Host header"),
        (None, _) if request.version() == Version::HTTP_11 => {
            bad("an HTTP/1.1 request needs a Host header")
        }
        (Some(host), None) if !is_authority(host) => bad("the Host header is not a host"),
        _ => Ok(()),
    }
}

fn is_authority(host: &HeaderValue) -> bool {
    let authority = host.to_str().ok().and_then(|host| host.parse::<http::uri::Authority>().ok());
    authority.is_some_and(|authority| !authority.as_str().contains('@'))
}

fn check_length(request: &Request<Incoming>, limit: u64) -> Result<(), Problem> {
    let length = hyper::body::Body::size_hint(request.body()).lower();
    if length > limit {
        return Err(Problem::new(
            Kind::BodyTooLarge,
            format!("the request body has {length} bytes, at most {limit} are taken"),
        ));
    }
    Ok(())
}

/// The host that a request names, with its port if it names one.
fn host_name<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(header::HOST)?.to_str().ok(),
    }
}

/// Makes the request what the function sees: the rest of the path, who really asked, no hop-by-hop
/// headers, and a host.
fn rewrite(
    request: &mut Request<RequestBody>,
    prefix: usize,
    record: &Record,
) -> Result<(), Problem> {
    let uri = request.uri();
    let full = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let prefix_value = HeaderValue::from_str(full.get(..prefix).unwrap_or_default());
    let rest = full.get(prefix..).unwrap_or("/");
    let rest: Cow<'_, str> =
        if rest.starts_with('/') { rest.into() } else { format!("/{rest}").into() };
    let target = Uri::try_from(rest.as_ref())
        .map_err(|_| Problem::new(Kind::BadRequest, "the request's target is not a path"))?;
    let authority = uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    *request.uri_mut() = target;
    // An HTTP/1 request without either length has no body; a function is told so in plain words.
    let bodiless = hyper::body::Body::is_end_stream(request.body()) && !request.method().is_safe();
    let headers = request.headers_mut();
    strip_hop_by_hop(headers);
    if bodiless && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if let Some(host) = authority {
        headers.insert(header::HOST, host);
    } else if !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    for name in [X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PREFIX, X_FORWARDED_PROTO] {
        headers.remove(name);
    }
    if let Some(client) = &record.peer.forwarded_for {
        headers.insert(X_FORWARDED_FOR, client.clone());
    }
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers.insert(FORWARDED, forwarded(headers, record));
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(record.peer.scheme()));
    if prefix > 0
        && let Ok(prefix) = prefix_value
    {
        headers.insert(X_FORWARDED_PREFIX, prefix);
    }
    Ok(())
}

/// `Forwarded` (RFC 7239): who asked, for which host, over what.
fn forwarded(headers: &HeaderMap, record: &Record) -> HeaderValue {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let client = &record.peer.node;
    let text = ["for=", client, ";host=\"", host, "\";proto=", record.peer.scheme()].concat();
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("for=unknown"))
}

/// Removes what belongs to one connection (RFC 9110, section 7.6.1), and what it names.
///
/// `TE: trailers` is said anew: trailers are passed on.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let te = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    let takes_trailers =
        te.flat_map(|value| value.split(',')).any(|it| it.trim().eq_ignore_ascii_case("trailers"));
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        // What frames or addresses the message is not for the client to name away.
        if !matches!(name, header::CONTENT_LENGTH | header::HOST) {
            headers.remove(name);
        }
    }
    for name in [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}
