//! One signal's way to the collector: OTLP over gRPC or over HTTP, with TLS for `https`.
//!
//! What is sent has been encoded already, and of the answer only the verdict counts.

use std::io;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use crate::pipeline::StartError;
use crate::settings::{Protocol, Target};

/// A way to the collector; it connects when it first sends, on the runtime that it is made in.
#[derive(Clone, Debug)]
pub(crate) enum Client {
    Grpc { grpc: Box<Grpc<Channel>>, path: PathAndQuery, headers: Box<MetadataMap> },
    Http { http: Box<Http>, target: Box<Target> },
}

type Http = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Why the collector did not take something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// It may be tried again.
    #[error("{0}")]
    Unavailable(String),
    /// It makes no sense to try again.
    #[error("{0}")]
    Refused(String),
    /// The collector does not take this kind of thing.
    #[error("{0}")]
    Unsupported(String),
}

impl Client {
    /// The way to `target`, for what `service` of OTLP takes, such as `trace.v1.TraceService`.
    pub(crate) fn new(target: &Target, service: &str) -> Result<Self, StartError> {
        match target.protocol {
            Protocol::Grpc => grpc(target, service),
            Protocol::HttpProtobuf => {
                let http = legacy::Client::builder(TokioExecutor::new()).build(connector(target)?);
                Ok(Self::Http { http: Box::new(http), target: Box::new(target.clone()) })
            }
        }
    }

    /// Sends one request and waits for the verdict.
    pub(crate) async fn send(&mut self, message: Bytes) -> Result<(), SendError> {
        match self {
            Self::Grpc { grpc, path, headers } => {
                let unavailable =
                    |error: tonic::transport::Error| SendError::Unavailable(chain(&error));
                grpc.ready().await.map_err(unavailable)?;
                let mut request = tonic::Request::new(message);
                *request.metadata_mut() = MetadataMap::clone(headers);
                let sent = grpc.unary(request, path.clone(), Raw).await;
                sent.map(drop).map_err(|status| of_grpc(&status))
            }
            Self::Http { http, target } => {
                let mut request = Request::new(Full::new(message));
                *request.method_mut() = Method::POST;
                *request.uri_mut() = target.endpoint.clone();
                *request.headers_mut() = target.headers.clone();
                let protobuf = HeaderValue::from_static("application/x-protobuf");
                request.headers_mut().insert(header::CONTENT_TYPE, protobuf);
                let answer = http.request(request).await;
                of_http(answer.map_err(|error| SendError::Unavailable(chain(&error)))?.status())
            }
        }
    }
}

fn grpc(target: &Target, service: &str) -> Result<Client, StartError> {
    let refused = |source: Box<dyn std::error::Error + Send + Sync>| StartError::Exporter {
        endpoint: target.endpoint.to_string(),
        source,
    };
    let mut endpoint = Endpoint::from(target.endpoint.clone());
    if is_https(&target.endpoint) {
        let tls = ClientTlsConfig::new().with_native_roots();
        endpoint = endpoint.tls_config(tls).map_err(|error| refused(error.into()))?;
    }
    let path = format!("/opentelemetry.proto.collector.{service}/Export");
    Ok(Client::Grpc {
        grpc: Box::new(Grpc::new(endpoint.connect_lazy())),
        path: path.parse().map_err(|error: http::uri::InvalidUri| refused(error.into()))?,
        headers: Box::new(MetadataMap::from_headers(target.headers.clone())),
    })
}

/// Connections in plain text or, for `https`, checked by the system's certificates.
fn connector(target: &Target) -> Result<HttpsConnector<HttpConnector>, StartError> {
    let missing = |source: io::Error| StartError::Certificates {
        endpoint: target.endpoint.to_string(),
        source,
    };
    let provider = rustls::crypto::ring::default_provider();
    if is_https(&target.endpoint) {
        let builder = hyper_rustls::HttpsConnectorBuilder::new();
        let builder = builder.with_provider_and_native_roots(provider).map_err(missing)?;
        return Ok(builder.https_only().enable_http1().build());
    }
    let none = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map_err(|error| missing(io::Error::other(error)))?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(none);
    Ok(builder.https_or_http().enable_http1().build())
}

fn is_https(endpoint: &Uri) -> bool {
    endpoint.scheme_str() == Some("https")
}

/// Which codes may be tried again is said by the OTLP specification.
fn of_grpc(status: &Status) -> SendError {
    let said = format!("{}: {}", status.code(), chain(status));
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss
        | Code::ResourceExhausted => SendError::Unavailable(said),
        // The connection broke, whatever code that became.
        Code::Unknown | Code::Internal if std::error::Error::source(status).is_some() => {
            SendError::Unavailable(said)
        }
        Code::Unimplemented => SendError::Unsupported(said),
        _ => SendError::Refused(said),
    }
}

fn of_http(status: StatusCode) -> Result<(), SendError> {
    let said = || format!("the collector answers {status}");
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Err(SendError::Unavailable(said())),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            Err(SendError::Unsupported(said()))
        }
        _ => Err(SendError::Refused(said())),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text += &format!(": {said}");
        }
        source = error.source();
    }
    text
}

/// Messages that are bytes already.
#[derive(Clone, Copy, Debug)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}
