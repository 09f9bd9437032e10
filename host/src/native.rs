//! The native tier: a request is forwarded to a sandbox of its function over a Unix socket.
//!
//! ```text
//! lease ── none warm ─▶ declined, and one is prepared behind
//!   │
//! connection: one kept alive, or a new one ── refused, or never accepted ─▶ declined: the sandbox is gone
//!   │
//! send ── not written, or written and may be repeated ─▶ declined: the sandbox is gone
//!   │  └─ otherwise ─▶ failed
//! answer: the body gives the sandbox back at its end; dropped before, the sandbox is removed
//! ```
//! A request that may not be repeated is written only once the function has accepted the connection,
//! so that one which nobody took is not lost.

mod connection;
mod cpu_time;
pub(crate) mod prepare;
mod sandboxing;
mod serving;
mod ticks;

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use baton_pool::reason::Reason as Ending;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::timeout;

use crate::cores::Forwarding;
use crate::function::Function;
use crate::manifest::{Policy, Retry};
use crate::phases::Phase;
use crate::problem::{Kind, Problem};
use crate::record::{Record, Served};
use crate::request_body::{Intake, RequestBody};
use crate::service::strip_hop_by_hop;
use crate::tier::adaptive::{Outlook, Place};
use crate::tier::{Reason, Tier};
use crate::tunnel::Tunnel;
use crate::verify::Guard;
pub(crate) use connection::Connection;
pub use sandboxing::{Gauges, Native, Sandboxing, describe_consumption, quarantined, sandboxes};

/// A sandbox that is this request's for now.
pub(crate) type Lease = baton_pool::lease::Lease<Connection>;

/// What came of offering a request to the native tier.
pub enum Attempt {
    /// The function answered.
    Answered(Box<Response<NativeBody>>),
    /// It failed, and the request cannot be given to another.
    Failed(Problem),
    /// It did not take the request, for this reason.
    Declined(Box<Request<RequestBody>>, Reason),
}

/// Offers a request to the native tier, as its function's policy says.
pub async fn attempt(
    function: &Function,
    record: &mut Record,
    intake: &Intake,
    request: Box<Request<RequestBody>>,
) -> Attempt {
    let demoted = function.guard.as_ref().is_some_and(Guard::is_demoted);
    // Only a function in a sandbox can speak another protocol than HTTP.
    let policy = match function.spec.policy {
        Policy::Hybrid | Policy::Adaptive if asks_for_upgrade(&request) => Policy::Native,
        policy => policy,
    };
    let Some(native) = &function.native else {
        let wasm = policy == Policy::Wasm;
        let reason = if wasm { Reason::Policy } else { Reason::NoSandboxes };
        return Attempt::Declined(request, reason);
    };
    let (reason, lease) = match policy {
        Policy::Wasm => return Attempt::Declined(request, Reason::Policy),
        _ if demoted => return Attempt::Declined(request, Reason::Diverged),
        Policy::Native => {
            record.enter(Phase::Lease);
            // Nobody waits while there is room, so nobody is overtaken.
            match native.try_lease() {
                Some(lease) => (Reason::Policy, lease),
                // Boxed, here and below, for a request that is answered by Wasm holds the place of this as well.
                None => match Box::pin(native.lease(&record.context)).await {
                    Ok(lease) => (Reason::Policy, lease),
                    Err(problem) => return Attempt::Failed(problem),
                },
            }
        }
        Policy::Hybrid => match native.try_lease() {
            Some(lease) => {
                record.enter(Phase::Lease);
                (Reason::Warm, lease)
            }
            None => {
                native.prepare(function.gate.in_flight(), &record.context);
                return Attempt::Declined(request, Reason::NoWarmSandbox);
            }
        },
        Policy::Adaptive => match adaptive(function, native, record).await {
            Ok(chosen) => chosen,
            Err(reason) => return Attempt::Declined(request, reason),
        },
    };
    record.tier = Some((Tier::Native, reason));
    record.cold = lease.was_cold();
    if record.cold {
        record.started =
            prepare::since(record.phases.wall(record.phases.began()), lease.phases()).to_vec();
    } else if let Some(thawed) = lease.thawed() {
        record.started = vec![thawed.clone()];
    }
    native.serves(lease.id(), (record.context.trace_id, record.work_span));
    record.served = Some(Served { sandbox: lease.id(), pid: lease.pid() });
    Box::pin(forward(function, native, record, intake, lease, request)).await
}

/// Answers a request that nobody waits for; `None` when no sandbox did.
pub(crate) async fn shadow(
    function: &Function,
    record: &mut Record,
    intake: &Intake,
    request: Box<Request<RequestBody>>,
) -> Option<Result<Response<NativeBody>, Problem>> {
    let native = function.native.as_ref()?;
    let lease = native.lease(&record.context).await.ok()?;
    record.cold = lease.was_cold();
    match forward(function, native, record, intake, lease, request).await {
        Attempt::Answered(response) => Some(Ok(*response)),
        Attempt::Failed(problem) => Some(Err(problem)),
        Attempt::Declined(..) => None,
    }
}

/// Goes where the request is expected to be finished earliest: a sandbox and why, or why not.
async fn adaptive(
    function: &Function,
    native: &Native,
    record: &mut Record,
) -> Result<(Reason, Lease), Reason> {
    let lease = native.try_lease();
    let outlook = match &lease {
        Some(_) => Outlook { warm: true, wasm: function.has_wasm(), ..Outlook::default() },
        None => function.outlook(),
    };
    let plan = function.chooser.plan(Instant::now(), record.in_flight, outlook);
    record.expected = plan.expected;
    native.keep_at_most(plan.keep);
    if let Some(wanted) = plan.prepare {
        native.prepare(wanted, &record.context);
    }
    match (plan.place, lease) {
        (Place::Wasm, lease) => {
            // It was not used, so it is as good as before.
            lease.into_iter().for_each(Lease::release);
            Err(plan.reason)
        }
        (_, Some(lease)) => {
            record.enter(Phase::Lease);
            Ok((plan.reason, lease))
        }
        (_, None) => {
            record.enter(Phase::Lease);
            let leased = Box::pin(native.lease(&record.context));
            let leased = match plan.patience {
                Some(patience) => timeout(patience, leased).await.map_err(|_| Reason::Late)?,
                None => leased.await,
            };
            leased.map(|lease| (plan.reason, lease)).map_err(|_| Reason::SandboxGone)
        }
    }
}

async fn forward(
    function: &Function,
    native: &Native,
    record: &mut Record,
    intake: &Intake,
    lease: Lease,
    mut request: Box<Request<RequestBody>>,
) -> Attempt {
    let stands_in = function.component.is_some() && !record.is_shadow;
    let repeatable = stands_in && repeatable(function, request.method());
    let mut connection = match connect(&lease, record, stands_in && !repeatable).await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(%error, "a sandbox was gone before a request had reached it");
            return gone(function, &lease, request).await;
        }
    };
    record.enter(Phase::Forward);
    record.pass_on(request.headers_mut());
    *request.version_mut() = Version::HTTP_11;
    let upgrade = asks_for_upgrade(&request);
    let again = stands_in.then(|| head_of(&request));
    let mut watch: Watch = Box::pin(cpu_time::watch(&function.spec, lease.meter(), native.ticks()));
    let chooses = function.spec.policy == Policy::Adaptive;
    let mut forwarding = Forwarding::new(function.chooser.computes(), chooses);
    let sent = tokio::select! {
        biased;
        sent = connection.send(*request, &mut forwarding) => sent,
        // The sandbox, which is at work still, goes with its lease.
        () = &mut watch => return Attempt::Failed(cpu_time::problem(&function.spec)),
    };
    record.slowed = forwarding.slowed();
    drop(forwarding);
    match sent {
        Ok(response) if response.status().is_informational() && !upgrade => {
            let detail = "the function changed the protocol, which nobody had asked for";
            Attempt::Failed(Problem::new(Kind::InvalidResponse, detail))
        }
        Ok(mut response) => {
            let switched = (response.status() == StatusCode::SWITCHING_PROTOCOLS)
                .then(|| hyper::upgrade::on(&mut response));
            let protocol = response.headers().get(header::UPGRADE).cloned();
            strip_hop_by_hop(response.headers_mut());
            if let (Some(_), Some(protocol)) = (&switched, protocol) {
                let headers = response.headers_mut();
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::UPGRADE, protocol);
            }
            let held = Some((lease, connection));
            Attempt::Answered(Box::new(response.map(|body| NativeBody {
                body,
                switched,
                held,
                watch,
                failing: None,
            })))
        }
        Err(mut failed) => {
            if let Some(request) = failed.take_message() {
                return gone(function, &lease, Box::new(request)).await;
            }
            let failed = failed.into_error();
            record.out_of_memory = lease.ran_out_of_memory().await;
            tracing::warn!(
                function = function.name(),
                error = &failed as &dyn std::error::Error,
                "a sandbox failed with a request"
            );
            let untouched = !connection.has_written();
            let again = again.filter(|_| (repeatable || untouched) && intake.fault().is_none());
            match again.and_then(|head| Some((head, intake.reader()?))) {
                Some((head, body)) => {
                    record.retried = !untouched;
                    gone(function, &lease, Box::new(head.map(|()| body))).await
                }
                _ if record.out_of_memory => Attempt::Failed(out_of_memory(function)),
                _ => Attempt::Failed(problem(&failed, &lease).await),
            }
        }
    }
}

/// The sandbox is gone: the component answers, if there is one.
async fn gone(function: &Function, lease: &Lease, request: Box<Request<RequestBody>>) -> Attempt {
    if function.component.is_some() {
        return Attempt::Declined(request, Reason::SandboxGone);
    }
    Attempt::Failed(crashed(ended(lease).await, "the function ended before it had answered"))
}

/// Why a sandbox ends. One that had to be started may have broken the connection because it could not be, which the
/// pool hears of a moment later.
async fn ended(lease: &Lease) -> Option<Ending> {
    if lease.was_cold() { lease.ended().await } else { lease.ending() }
}

/// What is known of a sandbox's end is more than what was seen of it.
fn crashed(ended: Option<Ending>, seen: &'static str) -> Problem {
    match ended {
        Some(reason @ (Ending::NeverAccepted | Ending::Start(_))) => {
            Problem::new(Kind::Crashed, format!("the function does not start: {reason}"))
        }
        Some(reason) => Problem::new(Kind::Crashed, format!("{seen}: {reason}")),
        None => Problem::new(Kind::Crashed, seen),
    }
}

fn out_of_memory(function: &Function) -> Problem {
    let limit = function.spec.limits.memory;
    Problem::new(Kind::Crashed, format!("the function needed more than its {limit} of memory"))
}

async fn problem(error: &hyper::Error, lease: &Lease) -> Problem {
    if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        return Problem::new(Kind::InvalidResponse, "the function's answer is not HTTP");
    }
    crashed(ended(lease).await, "the function closed the connection before it had answered")
}

/// A connection that an earlier request left and that is still good, else a new one, which the
/// function has to have `accepted` where that is asked.
async fn connect(
    lease: &Lease,
    record: &mut Record,
    accepted: bool,
) -> Result<Connection, ConnectError> {
    while let Some(mut connection) = lease.take_idle() {
        if connection.is_ready() {
            return Ok(connection);
        }
    }
    record.enter(Phase::Connect);
    let stream = lease.connect().await?;
    if accepted {
        lease.accepted(&stream).await?;
    }
    Ok(Connection::new(stream).await?)
}

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("nobody listens")]
    Connect(#[from] std::io::Error),
    #[error("the connection closed at once")]
    Handshake(#[from] hyper::Error),
}

/// Whether the client asks for another protocol, and may: the header is kept only then.
fn asks_for_upgrade(request: &Request<RequestBody>) -> bool {
    request.headers().contains_key(header::UPGRADE)
}

/// Whether a request that was sent may be sent again.
fn repeatable(function: &Function, method: &Method) -> bool {
    match function.spec.retry {
        Retry::Never => false,
        Retry::Always => true,
        Retry::Idempotent => method.is_idempotent(),
    }
}

pub(crate) fn head_of(request: &Request<RequestBody>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    head
}

/// The body of a native function's answer; it holds the sandbox.
pub struct NativeBody {
    body: Incoming,
    /// What the connection becomes when the answer is 101.
    switched: Option<OnUpgrade>,
    /// `None` once the sandbox was given back.
    held: Option<(Lease, Connection)>,
    watch: Watch,
    /// Ready when it is known why the connection broke.
    failing: Option<Pin<Box<dyn Future<Output = NativeFailure> + Send>>>,
}

/// Ready when the request has used up its CPU time.
type Watch = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why the body of an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum NativeFailure {
    /// The connection to the sandbox did.
    #[error("the connection to the sandbox failed")]
    Connection(#[source] hyper::Error),
    /// The kernel killed the function.
    #[error("the function needed more memory than its limit")]
    OutOfMemory(#[source] hyper::Error),
    /// The request used up its CPU time.
    #[error("the function used up the CPU time of a request")]
    CpuTime,
}

impl NativeBody {
    /// The connection, when the function has agreed to another protocol.
    pub fn take_tunnel(&mut self) -> Option<Tunnel> {
        let (lease, connection) = self.switched.is_some().then(|| self.held.take())??;
        Some(Tunnel::new(connection, self.switched.take()?, lease))
    }

    /// The answer is whole: sandbox and connection are for the next request.
    fn release(&mut self) {
        if let Some((lease, mut connection)) = self.held.take() {
            if connection.is_ready() {
                lease.put_idle(connection);
            }
            lease.release();
        }
    }

    /// The connection broke: the sandbox is asked why, and then let go.
    async fn why(held: Option<(Lease, Connection)>, error: hyper::Error) -> NativeFailure {
        let Some((lease, _connection)) = held else { return NativeFailure::Connection(error) };
        match lease.ran_out_of_memory().await {
            true => NativeFailure::OutOfMemory(error),
            false => NativeFailure::Connection(error),
        }
    }
}

impl Body for NativeBody {
    type Data = Bytes;
    type Error = NativeFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, NativeFailure>>> {
        if let Some(failing) = &mut self.failing {
            return failing.as_mut().poll(cx).map(|why| Some(Err(why)));
        }
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending()
            && let Some((_, connection)) = &mut self.held
        {
            connection.drive(cx);
            polled = Pin::new(&mut self.body).poll_frame(cx);
        }
        if polled.is_pending() && self.watch.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(NativeFailure::CpuTime)));
        }
        // Nothing follows trailers or the last byte, and the connection to the client does not ask.
        let ended = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || self.body.is_end_stream(),
            _ => false,
        };
        if ended {
            self.release();
        }
        match polled {
            Poll::Ready(Some(Err(error))) => {
                let why = Self::why(self.held.take(), error);
                let why = self.failing.insert(Box::pin(why));
                why.as_mut().poll(cx).map(|why| Some(Err(why)))
            }
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for NativeBody {
    /// A body dropped before its end (the client left, the time was up) taints the sandbox: the
    /// function may still be at work on it.
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.release();
        }
    }
}

/// The cause that the pool hands back with what it did.
fn cause(context: &baton_otel::RequestContext) -> baton_pool::schedule::Cause {
    baton_pool::schedule::Cause {
        trace_id: u128::from_be_bytes(context.trace_id.to_bytes()),
        span_id: u64::from_be_bytes(context.span_id.to_bytes()),
        sampled: context.sampled,
        at: Some(std::time::SystemTime::now()),
    }
}
