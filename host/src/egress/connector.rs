//! What hyper's client connects with: our dialer, then TLS.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use http::Uri;
use http::uri::Scheme;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::rt::TokioIo;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::BoxError;
use super::dial::{CONNECT_TIMEOUT, Denied, Dialer, Socket};
use super::origin::Origin;
use crate::tls::{H2, HTTP_11};

type Connecting<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Connections to allowed origins, encrypted for `https`, within [`CONNECT_TIMEOUT`] in all.
#[derive(Clone)]
pub(super) struct Connector(Dial);

impl Connector {
    pub(super) fn new(dialer: Arc<Dialer>) -> Self {
        Self(Dial(dialer))
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<Socket>>;
    type Error = BoxError;
    type Future = Connecting<Self::Response, BoxError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let origin = Origin::of(&uri);
        let connecting: Connecting<Self::Response, BoxError> =
            if uri.scheme() == Some(&Scheme::HTTPS) {
                HttpsConnector::from((self.0.clone(), trust())).call(uri)
            } else {
                let plain = self.0.call(uri);
                Box::pin(async move { Ok(MaybeHttpsStream::Http(plain.await?)) })
            };
        Box::pin(async move {
            match (tokio::time::timeout(CONNECT_TIMEOUT, connecting).await, origin) {
                (Ok(connected), _) => connected,
                (Err(_), Some(origin)) => Err(Denied::Slow { origin }.into()),
                (Err(elapsed), None) => Err(elapsed.into()),
            }
        })
    }
}

#[derive(Clone)]
struct Dial(Arc<Dialer>);

impl Service<Uri> for Dial {
    type Response = TokioIo<Socket>;
    type Error = BoxError;
    type Future = Connecting<Self::Response, BoxError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = Arc::clone(&self.0);
        Box::pin(async move {
            let origin = Origin::of(&uri).ok_or("the URI names no origin")?;
            Ok(TokioIo::new(dialer.connect(&origin).await?))
        })
    }
}

/// The system's certificate authorities, read once, for the first that wants them: that takes some
/// milliseconds, which neither a start nor a function without `https` shall pay.
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
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        #[expect(clippy::expect_used, reason = "the provider and its versions are of one crate")]
        let config =
            config.with_safe_default_protocol_versions().expect("ring offers TLS 1.2, 1.3");
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![H2.to_vec(), HTTP_11.to_vec()];
        Arc::new(config)
    }))
}

/// Connections of the client are the host's tasks.
#[derive(Clone)]
pub(super) struct Tasks(pub TaskTracker);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}
