//! A guest's outgoing requests, under its function's allow-list.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderValue, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::egress::{CONNECT_TIMEOUT, Denied, Egress};
use crate::manifest::Scheme;

/// Time to the first byte of an answer, unless the guest asks for less.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);

/// A finished exchange: the response, and the connection's own future that carries its body.
type Exchange = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

/// The hooks of one instance.
pub(super) struct Outgoing {
    pub egress: Arc<Egress>,
    pub traceparent: Option<HeaderValue>,
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        mut request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Exchange, Error>> + Send> {
        let egress = Arc::clone(&self.egress);
        let traceparent = self.traceparent.clone();
        Box::new(async move {
            let origin = Origin::of(request.uri())?;
            if let Some(traceparent) = traceparent
                && egress.traces(origin.scheme, &origin.host, origin.port)
            {
                request.headers_mut().insert(baton_otel::context::TRACEPARENT, traceparent);
            }
            exchange(&egress, &origin, request, options.unwrap_or_default()).await
        })
    }
}

struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
}

impl Origin {
    fn of(uri: &Uri) -> Result<Self, Error> {
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(Error::HttpRequestUriInvalid),
        };
        let host = uri.host().ok_or(Error::HttpRequestUriInvalid)?.to_owned();
        Ok(Self { scheme, host, port: uri.port_u16().unwrap_or(scheme.port()) })
    }
}

async fn exchange(
    egress: &Egress,
    origin: &Origin,
    mut request: Request<WasiBody>,
    options: RequestOptions,
) -> Result<Exchange, Error> {
    let connect = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT).min(CONNECT_TIMEOUT);
    let tcp =
        egress.connect(origin.scheme, &origin.host, origin.port, connect).await.map_err(denied)?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| Error::HttpRequestUriInvalid)?;
    let io: Pin<Box<dyn Stream>> = match origin.scheme {
        Scheme::Http => Box::pin(tcp),
        Scheme::Https => {
            let name = ServerName::try_from(origin.host.clone())
                .map_err(|_| Error::HttpRequestUriInvalid)?;
            let handshake = TlsConnector::from(trust()).connect(name, tcp);
            Box::pin(
                tokio::time::timeout(connect, handshake)
                    .await
                    .map_err(|_| Error::ConnectionTimeout)?
                    .map_err(Error::Tls)?,
            )
        }
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let first_byte = options.first_byte_timeout.unwrap_or(FIRST_BYTE_TIMEOUT);
    let mut connection = Some(Box::pin(connection));
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::time::timeout(
        first_byte,
        poll_fn(|cx| {
            // A connection that ends early says why through the answer.
            if connection.as_mut().is_some_and(|open| open.as_mut().poll(cx).is_ready()) {
                connection = None;
            }
            answer.as_mut().poll(cx)
        }),
    )
    .await
    .map_err(|_| Error::ConnectionReadTimeout)??;
    let body = answer.map(|body| body.map_err(Error::from).boxed_unsync());
    let carry = async move {
        match connection {
            Some(open) => open.await.map_err(Error::from),
            None => Ok(()),
        }
    };
    Ok((body, Box::new(carry)))
}

trait Stream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// The system's certificate authorities, read once.
fn trust() -> Arc<ClientConfig> {
    static TRUST: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    Arc::clone(TRUST.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (_, ignored) = roots.add_parsable_certificates(found.certs);
        if roots.is_empty() || ignored > 0 {
            tracing::warn!(
                usable = roots.len(),
                ignored,
                errors = ?found.errors,
                "the system's certificate authorities are incomplete; https may be refused"
            );
        }
        Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
    }))
}

fn denied(denied: Denied) -> Error {
    tracing::debug!(error = &denied as &dyn std::error::Error, "an outgoing request was not sent");
    match denied {
        Denied::NotAllowed { .. } => Error::HttpRequestDenied,
        Denied::Private { .. } => Error::DestinationIpProhibited,
        Denied::Unknown { .. } => Error::DnsError { rcode: None, info_code: None },
        Denied::Connect { source, .. } => Error::Connect(source),
        Denied::Slow { .. } => Error::ConnectionTimeout,
    }
}
