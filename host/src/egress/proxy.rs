//! The way out of one function's sandboxes: an HTTP proxy on the loopback of each.
//!
//! ```text
//! GET http://origin/…    ─▶ sent by the function's own Egress, as a component's request is
//! CONNECT origin:443     ─▶ a connection by the same rules, then bytes both ways (TLS is the function's)
//! anything else          ─▶ 400
//! ```
//! Refusals are problem documents. Everything of a sandbox's proxy is inside one future, which its
//! keeper drops when the function's process has ended.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_otel::context::TraceParent;
use baton_otel::{RequestContext, Trace};
use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Body, Call, Caller, Calls, Denied, Egress, Origin, SendError, Socket, Timeouts};
use crate::manifest::Scheme;
use crate::observer::Observer;
use crate::problem::{Kind, Problem};
use crate::service::strip_hop_by_hop;

/// Connections of one sandbox to its proxy at once; more wait to be accepted.
const CLIENTS_MAX: usize = 128;

/// Time to the head of a request, and between two requests of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of a request's head.
const HEAD_MAX: usize = 64 << 10;

/// Rest after a failure to accept, such as when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the sandboxes of one function.
pub struct Proxy {
    egress: Arc<Egress>,
    observer: Arc<Observer>,
    function: Arc<str>,
}

/// A tunnel that was granted, on its way from the answer to whoever carries its bytes.
type Granted = Mutex<Option<(OnUpgrade, Socket)>>;

impl Proxy {
    /// The proxy of the function of this name.
    #[must_use]
    pub fn new(egress: Arc<Egress>, observer: Arc<Observer>, function: &str) -> Arc<Self> {
        Arc::new(Self { egress, observer, function: function.into() })
    }

    /// Serves the listener of one sandbox until it is dropped.
    ///
    /// # Errors
    /// When the listener cannot be watched.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> io::Result<Infallible> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                    Ok((stream, _)) => {
                        clients.spawn(Arc::clone(&self).client(stream));
                    }
                    Err(error) => {
                        tracing::warn!(function = &*self.function, %error, "cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = clients.join_next() => {}
            }
        }
    }

    async fn client(self: Arc<Self>, stream: TcpStream) {
        let granted = Arc::new(Granted::default());
        let service = service_fn(|request| {
            let (proxy, granted) = (Arc::clone(&self), Arc::clone(&granted));
            async move { Ok::<_, Infallible>(proxy.answer(request, &granted).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        // How a connection ends is the function's affair.
        let _ = served.await;
        let tunnel = granted.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((upgrade, mut origin)) = tunnel
            && let Ok(client) = upgrade.await
        {
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut origin).await;
        }
    }

    async fn answer(&self, mut request: Request<Incoming>, granted: &Granted) -> Response<Body> {
        let context = RequestContext::accept(request.headers(), &self.observer.sampler);
        let answered = if request.method() == Method::CONNECT {
            self.tunnel(&mut request).await.map(|tunnel| {
                *granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
                Response::new(empty())
            })
        } else {
            self.forward(request, &context).await
        };
        answered.unwrap_or_else(|problem| {
            let (function, kind, detail) = (&*self.function, problem.kind.name(), &problem.detail);
            tracing::debug!(function, kind, %detail, "a function's request was not sent");
            let answer = problem.response(Some(function), &context.trace_id.to_string());
            answer.map(|body| body.map_err(Into::into).boxed_unsync())
        })
    }

    async fn tunnel(
        &self,
        request: &mut Request<Incoming>,
    ) -> Result<(OnUpgrade, Socket), Problem> {
        let named = request.uri().port().and(Origin::from_authority(Scheme::Https, request.uri()));
        let origin = named.ok_or_else(|| bad_request("CONNECT wants HOST:PORT"))?;
        let socket =
            self.egress.connect(&origin).await.map_err(|denied| refusal(&denied.into()))?;
        Ok((hyper::upgrade::on(request), socket))
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        context: &RequestContext,
    ) -> Result<Response<Body>, Problem> {
        match Origin::of(request.uri()) {
            Some(Origin { scheme: Scheme::Http, .. }) => {}
            Some(_) => return Err(bad_request("an https origin is reached by CONNECT")),
            None => return Err(bad_request("the request's target is not an absolute http URI")),
        }
        let headers = request.headers_mut();
        strip_hop_by_hop(headers);
        // The target says which host is meant (RFC 9112, section 3.2.2), and we have agreed already.
        headers.remove(header::HOST);
        headers.remove(header::EXPECT);
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let caller = self.caller(context);
        let answer = self.egress.send(request, Timeouts::default(), Some(&caller)).await;
        if context.sampled {
            self.tell(context, &caller);
        }
        let mut answer = answer.map_err(|error| refusal(&error))?;
        strip_hop_by_hop(answer.headers_mut());
        Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()))
    }

    /// The function's own span, where it says one.
    fn caller(&self, context: &RequestContext) -> Caller {
        let RequestContext { trace_id, sampled, .. } = *context;
        let span_id = context.parent.unwrap_or(context.span_id);
        Caller {
            parent: TraceParent { trace_id, span_id, sampled },
            tracestate: context.tracestate.clone(),
            calls: Calls::kept(),
        }
    }

    fn tell(&self, context: &RequestContext, caller: &Caller) {
        for root in caller.calls.so_far().iter().map(Call::span) {
            self.observer.trace(Trace {
                trace_id: context.trace_id,
                parent: context.parent,
                root,
                tracestate: context.tracestate.clone(),
            });
        }
    }
}

fn empty() -> Body {
    Empty::<Bytes>::new().map_err(Into::into).boxed_unsync()
}

fn bad_request(detail: &'static str) -> Problem {
    Problem::new(Kind::BadRequest, detail)
}

fn refusal(error: &SendError) -> Problem {
    let kind = match error.denied() {
        Some(Denied::NotAllowed { .. } | Denied::Private { .. }) => Kind::EgressDenied,
        _ => Kind::EgressFailed,
    };
    // A function is told why, as a component is by its error code.
    let detail = error.denied().map_or_else(|| error.to_string(), ToString::to_string);
    Problem::new(kind, detail)
}

/// A future as the pool's keepers take it.
pub(crate) fn serving(proxy: Arc<Proxy>) -> baton_pool::spec::Egress {
    baton_pool::spec::Egress(Arc::new(move |_, listener| {
        let serving: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(Arc::clone(&proxy).serve(listener));
        serving
    }))
}
