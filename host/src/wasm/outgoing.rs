//! A guest's outgoing requests, under its function's allow-list.

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::egress::{Caller, Denied, Egress, SendError, Timeouts};

/// A finished exchange: the response, and what carries its body, which hyper's client does itself.
type Exchange = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

/// The hooks of one instance.
pub(super) struct Outgoing {
    pub egress: Arc<Egress>,
    /// For whom the instance works, once it does.
    pub caller: Option<Caller>,
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Exchange, Error>> + Send> {
        let egress = Arc::clone(&self.egress);
        let caller = self.caller.clone();
        Box::new(async move {
            let options = options.unwrap_or_default();
            let most = Timeouts::default();
            let timeouts = Timeouts {
                connect: options.connect_timeout.unwrap_or(most.connect).min(most.connect),
                first_byte: options.first_byte_timeout.unwrap_or(most.first_byte),
            };
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            let answer = egress.send(request, timeouts, caller.as_ref()).await;
            let answer = answer.map_err(|error| {
                let error_chain = &error as &dyn std::error::Error;
                tracing::debug!(error = error_chain, "a guest's request has no answer");
                code(&error)
            })?;
            let between = options.between_bytes_timeout;
            let answer = answer.map(|body| Paced::new(body, between).boxed_unsync());
            let carried: Box<dyn Future<Output = _> + Send> = Box::new(async { Ok(()) });
            Ok((answer, carried))
        })
    }
}

/// The body of an answer, whose parts must follow each other in time.
struct Paced {
    body: Incoming,
    pause: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl Paced {
    fn new(body: Incoming, pause: Option<Duration>) -> Self {
        Self { body, pause: pause.map(|pause| (pause, Box::pin(tokio::time::sleep(pause)))) }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match (polled, &mut self.pause) {
            (Poll::Pending, Some((_, sleep))) => {
                ready!(sleep.as_mut().poll(cx));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
            (polled, pause) => {
                if let Some((pause, sleep)) = pause {
                    sleep.as_mut().reset(Instant::now() + *pause);
                }
                polled.map_err(Error::from)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the guest is told of it.
fn code(error: &SendError) -> Error {
    match error {
        SendError::NoOrigin { .. } => Error::HttpRequestUriInvalid,
        SendError::ConnectTimeout { .. } => Error::ConnectionTimeout,
        SendError::FirstByteTimeout { .. } => Error::ConnectionReadTimeout,
        SendError::HeadTooLong { size, .. } => {
            Error::HttpResponseHeaderSectionSize(u32::try_from(*size).ok())
        }
        SendError::Denied(_) | SendError::Exchange { .. } => {
            error.denied().map_or_else(|| broken(error), denied)
        }
    }
}

fn denied(denied: &Denied) -> Error {
    match denied {
        Denied::NotAllowed { .. } => Error::HttpRequestDenied,
        Denied::Private { .. } => Error::DestinationIpProhibited,
        Denied::Unknown { .. } => Error::DnsError { rcode: None, info_code: None },
        Denied::SlowName { .. } => Error::DnsTimeout,
        Denied::Connect { source, .. } => Error::Connect(source.kind().into()),
        Denied::Slow { .. } => Error::ConnectionTimeout,
        Denied::TooMany => Error::ConnectionLimitReached,
    }
}

/// Why an exchange broke off that had begun, or TLS was not agreed upon.
fn broken(error: &SendError) -> Error {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_parse_too_large() {
                return Error::HttpResponseHeaderSectionSize(None);
            }
            if error.is_parse() {
                return Error::HttpProtocolError;
            }
        }
        // The guest's own body, which is not as long as it said.
        if let Some(Error::HttpRequestBodySize(size)) = error.downcast_ref() {
            return Error::HttpRequestBodySize(*size);
        }
        if let Some(error) = error.downcast_ref::<tokio_rustls::rustls::Error>() {
            return match error {
                tokio_rustls::rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
                _ => Error::TlsProtocolError,
            };
        }
        source = error.source();
    }
    Error::ConnectionTerminated
}
