//! The OTLP client of the SDK, over gRPC or over HTTP with protobuf, with TLS for `https`.

use http::{HeaderName, HeaderValue};
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, hyper::HyperClient};
use opentelemetry_otlp::tonic_types::{metadata::MetadataMap, transport::ClientTlsConfig};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::SpanExporter as _;

use crate::pipeline::StartError;
use crate::settings::{Protocol, Target};

/// The client of a target; it connects when it first sends, on the runtime that it is made in.
pub(crate) fn connect(
    target: &Target,
    resource: Vec<KeyValue>,
) -> Result<SpanExporter, StartError> {
    let mut client = match target.protocol {
        Protocol::Grpc => grpc(target),
        Protocol::HttpProtobuf => http(target),
    }?;
    let resource = Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(resource)
        .build();
    client.set_resource(&resource);
    Ok(client)
}

fn grpc(target: &Target) -> Result<SpanExporter, StartError> {
    let builder = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(target.endpoint.to_string())
        .with_timeout(target.timeout)
        .with_metadata(MetadataMap::from_headers(target.headers.clone()));
    match is_https(target) {
        true => builder.with_tls_config(ClientTlsConfig::new().with_native_roots()),
        false => builder,
    }
    .build()
    .map_err(|source| refused(target, source))
}

fn http(target: &Target) -> Result<SpanExporter, StartError> {
    let pair = |(name, value): (&HeaderName, &HeaderValue)| {
        Some((name.to_string(), value.to_str().ok()?.to_owned()))
    };
    let builder = SpanExporter::builder()
        .with_http()
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_endpoint(target.endpoint.to_string())
        .with_timeout(target.timeout)
        .with_headers(target.headers.iter().filter_map(pair).collect());
    match is_https(target) {
        true => builder.with_http_client(https_client(target)?),
        false => builder,
    }
    .build()
    .map_err(|source| refused(target, source))
}

/// An HTTP client that checks certificates by the system's roots.
fn https_client(target: &Target) -> Result<impl HttpClient + 'static, StartError> {
    let endpoint = || target.endpoint.to_string();
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
        .map_err(|source| StartError::Certificates { endpoint: endpoint(), source })?
        .https_only()
        .enable_http1()
        .build();
    Ok(HyperClient::new(connector, target.timeout, None))
}

fn is_https(target: &Target) -> bool {
    target.endpoint.scheme_str() == Some("https")
}

fn refused(target: &Target, source: ExporterBuildError) -> StartError {
    StartError::Exporter { endpoint: target.endpoint.to_string(), source }
}
