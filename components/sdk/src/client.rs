//! The outgoing HTTP client, with one interface for both builds.
//!
//! A component sends through `wasi:http/outgoing-handler`, where the host decides what is allowed.
//! A native build sends through the proxies that `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name
//! (a sandbox has no other way out), or directly where there are none; it trusts Mozilla's roots.

use bytes::Bytes;
use http::{Request, Response};

use crate::{Body, BoxError};

#[cfg(target_family = "wasm")]
use component as build;
#[cfg(not(target_family = "wasm"))]
use native as build;

/// Sends HTTP requests. Cloning is cheap; clones share their connections.
#[derive(Clone, Debug, Default)]
pub struct Client(build::Client);

/// A request could not be sent, or its response not be received.
#[derive(Debug, thiserror::Error)]
#[error("no response from {uri}")]
pub struct ClientError {
    /// Where the request was to go.
    pub uri: http::Uri,
    #[source]
    source: BoxError,
}

impl Client {
    /// A client; a native one reads the proxy variables now.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends a request to its absolute URI, `http` or `https`, and returns the head of the response
    /// with its body still streaming. Redirects are not followed.
    ///
    /// In a component the response is returned only once the request's body has been sent.
    ///
    /// # Errors
    /// When there is no response: not allowed, not reachable, broken off.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<Body>, ClientError>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let uri = request.uri().clone();
        self.0.send(request).await.map_err(|source| ClientError { uri, source })
    }
}

#[cfg(target_family = "wasm")]
mod component {
    use bytes::Bytes;
    use http::{Request, Response};

    use crate::component::{from_wasi, into_wasi};
    use crate::{Body, BoxError};

    #[derive(Clone, Debug, Default)]
    pub(super) struct Client(wstd::http::Client);

    impl Client {
        pub(super) async fn send<B>(&self, request: Request<B>) -> Result<Response<Body>, BoxError>
        where
            B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
        {
            Ok(self.0.send(request.map(into_wasi)).await?.map(from_wasi))
        }
    }
}

#[cfg(not(target_family = "wasm"))]
mod native {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use http::uri::Scheme;
    use http::{Request, Response, Uri};
    use http_body_util::BodyExt;
    use hyper::rt::{Read, ReadBufCursor, Write};
    use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
    use hyper_util::client::legacy;
    use hyper_util::client::legacy::connect::proxy::Tunnel;
    use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
    use hyper_util::client::proxy::matcher::Matcher;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::net::TcpStream;
    use tower::Service;

    use crate::{Body, BoxError};

    #[derive(Clone, Debug)]
    pub(super) struct Client(legacy::Client<HttpsConnector<Egress>, Body>);

    impl Default for Client {
        fn default() -> Self {
            Self::through(Matcher::from_env())
        }
    }

    impl Client {
        fn through(proxies: Matcher) -> Self {
            let mut direct = HttpConnector::new();
            direct.enforce_http(false);
            let egress = Egress { direct, proxies: Arc::new(proxies) };
            let connector = HttpsConnectorBuilder::new()
                .with_webpki_roots()
                .https_or_http()
                .enable_http1()
                .wrap_connector(egress);
            Self(legacy::Client::builder(TokioExecutor::new()).build(connector))
        }

        pub(super) async fn send<B>(&self, request: Request<B>) -> Result<Response<Body>, BoxError>
        where
            B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
        {
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            let response = self.0.request(request).await?;
            Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
        }
    }

    /// Connects to where a request goes, or to the proxy that stands before it.
    #[derive(Clone, Debug)]
    struct Egress {
        direct: HttpConnector,
        proxies: Arc<Matcher>,
    }

    impl Service<Uri> for Egress {
        type Response = Stream;
        type Error = BoxError;
        type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            self.direct.poll_ready(cx).map_err(Into::into)
        }

        fn call(&mut self, uri: Uri) -> Self::Future {
            let mut direct = self.direct.clone();
            let Some(proxy) = self.proxies.intercept(&uri) else {
                return Box::pin(async move {
                    Ok(Stream { io: direct.call(uri).await?, absolute_form: false })
                });
            };
            let mut tunnel = Tunnel::new(proxy.uri().clone(), direct.clone());
            if let Some(credentials) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(credentials.clone());
            }
            Box::pin(async move {
                let stream = if uri.scheme() == Some(&Scheme::HTTPS) {
                    Stream { io: tunnel.call(uri).await?, absolute_form: false }
                } else {
                    Stream { io: direct.call(proxy.uri().clone()).await?, absolute_form: true }
                };
                Ok(stream)
            })
        }
    }

    /// A connection, and whether requests on it name their whole URI, as one to a proxy must.
    #[derive(Debug)]
    struct Stream {
        io: TokioIo<TcpStream>,
        absolute_form: bool,
    }

    impl Connection for Stream {
        fn connected(&self) -> Connected {
            self.io.connected().proxy(self.absolute_form)
        }
    }

    impl Read for Stream {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: ReadBufCursor<'_>,
        ) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.io).poll_read(cx, buffer)
        }
    }

    impl Write for Stream {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            Pin::new(&mut self.io).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    #[cfg(test)]
    mod tests {
        use std::io::{Read, Write};
        use std::net::{SocketAddr, TcpListener};
        use std::thread::JoinHandle;

        use http_body_util::Full;

        use super::*;

        /// Takes one connection, answers `response` to its head, and returns that head.
        fn peer(response: &'static str) -> (SocketAddr, JoinHandle<String>) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let thread = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut byte).unwrap();
                    head.extend(byte);
                }
                stream.write_all(response.as_bytes()).unwrap();
                String::from_utf8(head).unwrap()
            });
            (address, thread)
        }

        async fn get(client: &Client, uri: &str) -> Result<(u16, Bytes), BoxError> {
            let response = client.send(Request::get(uri).body(Full::<Bytes>::default())?).await?;
            let status = response.status().as_u16();
            Ok((status, response.into_body().collect().await?.to_bytes()))
        }

        const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ndone";

        #[tokio::test]
        async fn without_a_proxy_the_origin_is_asked_itself() {
            let (origin, head) = peer(OK);
            let client = Client::through(Matcher::builder().build());
            let answer = get(&client, &format!("http://{origin}/a?b")).await.unwrap();
            assert_eq!(answer, (200, Bytes::from_static(b"done")));
            assert!(head.join().unwrap().starts_with("GET /a?b HTTP/1.1\r\n"));
        }

        #[tokio::test]
        async fn plain_request_names_its_whole_uri_to_the_proxy() {
            let (proxy, head) = peer(OK);
            let proxies = Matcher::builder().http(format!("http://{proxy}")).build();
            let client = Client::through(proxies);
            let answer = get(&client, "http://origin.test/a?b").await.unwrap();
            assert_eq!(answer, (200, Bytes::from_static(b"done")));
            let head = head.join().unwrap();
            assert!(head.starts_with("GET http://origin.test/a?b HTTP/1.1\r\n"), "{head}");
        }

        #[tokio::test]
        async fn encrypted_request_asks_the_proxy_for_a_tunnel_and_obeys_its_refusal() {
            let (proxy, head) = peer("HTTP/1.1 403 Forbidden\r\n\r\n");
            let proxies = Matcher::builder().https(format!("http://{proxy}")).build();
            let client = Client::through(proxies);
            get(&client, "https://origin.test/secret").await.unwrap_err();
            let head = head.join().unwrap();
            assert!(head.starts_with("CONNECT origin.test:443 HTTP/1.1\r\n"), "{head}");
        }
    }
}
