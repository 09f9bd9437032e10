//! A collector that speaks real OTLP: gRPC and HTTP with protobuf on one port of 127.0.0.1.
//!
//! It decodes every span, metric and log record that it is sent, keeps them all, and can be told to
//! behave badly. It runs
//! on a thread and a runtime of its own, so that blocking and asynchronous tests use it alike, and
//! ends when it is dropped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::logs::v1 as otlp_logs;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1 as otlp_metrics;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1 as otlp;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data, number_data_point};
use opentelemetry_proto::tonic::trace::v1 as proto;
use serde_json::Value;
use tokio::sync::oneshot;

pub use proto::span::SpanKind;
pub use proto::status::StatusCode as SpanStatus;

#[cfg(test)]
mod tests;

/// The largest request that is taken.
const REQUEST_BYTES: usize = 64 << 20;

/// Attributes as JSON values, so that they compare and print well.
pub type Attributes = BTreeMap<String, Value>;

/// A span as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// How it arrived.
    pub protocol: Protocol,
    /// Attributes of the resource that sent it.
    pub resource: Attributes,
    /// Name of the instrumentation scope.
    pub scope: String,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// 16 hexadecimal digits, or nothing for a root.
    pub parent: Option<String>,
    /// The W3C `tracestate`.
    pub tracestate: String,
    /// W3C trace flags in the lowest eight bits; 0x100 says that 0x200 tells a remote parent.
    pub flags: u32,
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: SpanKind,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// Attributes.
    pub attributes: Attributes,
    /// Events in order.
    pub events: Vec<Event>,
    /// Trace and span ids of what it is linked to.
    pub links: Vec<(String, String)>,
    /// Code and message.
    pub status: (SpanStatus, String),
}

/// An event of a span as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Name.
    pub name: String,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Attributes.
    pub attributes: Attributes,
}

/// A point of a metric as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Name of the metric.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// Attributes of the point.
    pub attributes: Attributes,
    /// The value; of a histogram how many it counted.
    pub value: f64,
    /// Upper bounds and counts, of a histogram.
    pub buckets: Vec<(f64, u64)>,
}

/// A log record as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRecord {
    /// What it says.
    pub body: Value,
    /// `INFO` and so on.
    pub severity: String,
    /// Attributes.
    pub attributes: Attributes,
    /// 32 hexadecimal digits, or nothing.
    pub trace_id: String,
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// Protobuf in an HTTP POST.
    HttpProtobuf,
}

/// How the collector answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// Takes what comes.
    #[default]
    Accept,
    /// Never answers.
    Hang,
    /// Answers with an internal error.
    Fail,
    /// Says that it cannot just now.
    Busy,
    /// Closes the connection in the middle of the exchange.
    Reset,
}

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    received: Mutex<Received>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Received {
    behaviour: Behaviour,
    requests: Vec<HeaderMap>,
    spans: Vec<Span>,
    /// Those of the last export.
    points: Vec<Point>,
    logs: Vec<LogRecord>,
}

impl Collector {
    /// Starts a collector on a free port.
    ///
    /// # Panics
    /// When there is no port or no thread to be had.
    #[must_use]
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared::default());
        let service = Service(Arc::clone(&shared));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || serve(listener, service, stopped));
        Self { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// `http://127.0.0.1:PORT`, for both protocols.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers like this from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.lock().behaviour = behaviour;
    }

    /// Everything that has arrived, in order.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.shared.lock().spans.clone()
    }

    /// The points of the last export of metrics.
    #[must_use]
    pub fn points(&self) -> Vec<Point> {
        self.shared.lock().points.clone()
    }

    /// Every log record that has arrived, in order.
    #[must_use]
    pub fn logs(&self) -> Vec<LogRecord> {
        self.shared.lock().logs.clone()
    }

    /// Waits until this of metrics or logs is there.
    ///
    /// # Panics
    /// When it is not within the time.
    #[track_caller]
    pub fn until<T>(&self, find: impl Fn(&Self) -> Option<T>, timeout: Duration) -> T {
        let end = Instant::now() + timeout;
        loop {
            if let Some(found) = find(self) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "it did not arrive");
            let received = self.shared.lock();
            let wait = left.min(Duration::from_millis(50));
            drop(self.shared.arrived.wait_timeout(received, wait));
        }
    }

    /// The headers of every request so far, whatever it was answered.
    #[must_use]
    pub fn requests(&self) -> Vec<HeaderMap> {
        self.shared.lock().requests.clone()
    }

    /// Waits until the spans are as wanted and returns them.
    ///
    /// # Panics
    /// When they are not within the time; says what arrived.
    #[track_caller]
    pub fn wait_for(&self, wanted: impl Fn(&[Span]) -> bool, timeout: Duration) -> Vec<Span> {
        let end = Instant::now() + timeout;
        let mut received = self.shared.lock();
        while !wanted(&received.spans) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "the wanted spans did not arrive, but:\n{}",
                tree(&received.spans)
            );
            let waited = self.shared.arrived.wait_timeout(received, left);
            received = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        received.spans.clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the collector has been printed; the test has its own verdict.
            let _ = thread.join();
        }
    }
}

/// The spans as indented names with their status, one tree after another, children by start time:
/// what a golden trace is compared with.
#[must_use]
pub fn tree(spans: &[Span]) -> String {
    let is_known = |id: &str| spans.iter().any(|span| span.span_id == id);
    let mut roots: Vec<&Span> =
        spans.iter().filter(|span| !span.parent.as_deref().is_some_and(is_known)).collect();
    roots.sort_by_key(|span| span.start);
    let mut text = String::new();
    for root in roots {
        branch(spans, root, 0, &mut text);
    }
    text
}

fn branch(spans: &[Span], span: &Span, depth: usize, text: &mut String) {
    let error = if span.status.0 == SpanStatus::Error { " (error)" } else { "" };
    let _ = writeln!(text, "{:depth$}{}{error}", "", span.name, depth = 2 * depth);
    for child in children(spans, span) {
        branch(spans, child, depth + 1, text);
    }
}

/// The spans directly inside of another, by start time.
#[must_use]
pub fn children<'a>(spans: &'a [Span], parent: &Span) -> Vec<&'a Span> {
    let is_child = |span: &&Span| {
        span.trace_id == parent.trace_id && span.parent.as_ref() == Some(&parent.span_id)
    };
    let mut children: Vec<&Span> = spans.iter().filter(is_child).collect();
    children.sort_by_key(|span| span.start);
    children
}

fn serve(listener: std::net::TcpListener, service: Service, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime for the collector").block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a non-blocking listener");
        let grpc = TraceServiceServer::new(service.clone()).max_decoding_message_size(REQUEST_BYTES);
        let metrics = MetricsServiceServer::new(service.clone());
        let logs = LogsServiceServer::new(service.clone());
        let http = axum::Router::new()
            .route("/v1/traces", post(export_http::<otlp::ExportTraceServiceRequest>))
            .route("/v1/metrics", post(export_http::<otlp_metrics::ExportMetricsServiceRequest>))
            .route("/v1/logs", post(export_http::<otlp_logs::ExportLogsServiceRequest>))
            .layer(DefaultBodyLimit::max(REQUEST_BYTES))
            .with_state(service);
        let grpc = tonic::service::Routes::new(grpc).add_service(metrics).add_service(logs);
        let router = grpc.into_axum_router().merge(http);
        tokio::select! {
            served = async { axum::serve(listener, router).await } => served.expect("axum serves for ever"),
            _ = stopped => {}
        }
    });
}

async fn export_http<M: Export>(
    State(service): State<Service>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<([(header::HeaderName, &'static str); 1], Vec<u8>), StatusCode> {
    const PROTOBUF: &str = "application/x-protobuf";
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != PROTOBUF) {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let request = M::decode(body).map_err(|_| StatusCode::BAD_REQUEST)?;
    service.receive(Protocol::HttpProtobuf, headers, request).await.map_err(
        |refusal| match refusal {
            Refusal::Failing => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
        },
    )?;
    // Of all three the whole answer is empty.
    Ok(([(header::CONTENT_TYPE, PROTOBUF)], vec![]))
}

/// What can be exported.
trait Export: prost::Message + Default {
    fn keep(self, protocol: Protocol, received: &mut Received);
}

impl Export for otlp::ExportTraceServiceRequest {
    fn keep(self, protocol: Protocol, received: &mut Received) {
        received.spans.extend(spans(protocol, self));
    }
}

impl Export for otlp_metrics::ExportMetricsServiceRequest {
    fn keep(self, _: Protocol, received: &mut Received) {
        let scopes = self.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        received.points = scopes.flat_map(|scope| scope.metrics).flat_map(points).collect();
    }
}

impl Export for otlp_logs::ExportLogsServiceRequest {
    fn keep(self, _: Protocol, received: &mut Received) {
        let scopes = self.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
        received.logs.extend(scopes.flat_map(|scope| scope.log_records).map(|log| LogRecord {
            body: value(log.body),
            severity: log.severity_text,
            attributes: attributes(log.attributes),
            trace_id: hex(&log.trace_id),
        }));
    }
}

fn points(metric: Metric) -> Vec<Point> {
    let (name, unit) = (metric.name, metric.unit);
    let point = |of: Vec<KeyValue>, value, buckets| Point {
        metric: name.clone(),
        unit: unit.clone(),
        attributes: attributes(of),
        value,
        buckets,
    };
    let numbers = match metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points,
        Some(Data::Sum(sum)) => sum.data_points,
        Some(Data::Histogram(histogram)) => {
            let shots = histogram.data_points.into_iter().map(|shot| {
                let bounds = shot.explicit_bounds.into_iter().chain([f64::INFINITY]);
                let buckets = bounds.zip(shot.bucket_counts).collect();
                point(shot.attributes, count(shot.count), buckets)
            });
            return shots.collect();
        }
        _ => return vec![],
    };
    let numbers = numbers.into_iter().map(|number| {
        let value = match number.value {
            Some(number_data_point::Value::AsInt(whole)) => count(whole.cast_unsigned()),
            Some(number_data_point::Value::AsDouble(real)) => real,
            None => f64::NAN,
        };
        point(number.attributes, value, vec![])
    });
    numbers.collect()
}

/// Tests count in numbers that are exact either way.
#[expect(clippy::cast_precision_loss, reason = "tests count below 2^53")]
fn count(number: u64) -> f64 {
    number as f64
}

#[derive(Clone, Debug)]
struct Service(Arc<Shared>);

/// The collector has been told to.
enum Refusal {
    Failing,
    Busy,
}

macro_rules! grpc {
    ($service:ident, $module:ident, $request:ident, $response:ident) => {
        #[tonic::async_trait]
        impl $service for Service {
            async fn export(
                &self,
                request: tonic::Request<$module::$request>,
            ) -> Result<tonic::Response<$module::$response>, tonic::Status> {
                let (metadata, _, request) = request.into_parts();
                match self.receive(Protocol::Grpc, metadata.into_headers(), request).await {
                    Ok(()) => Ok(tonic::Response::new($module::$response::default())),
                    Err(Refusal::Failing) => Err(tonic::Status::internal("told to fail")),
                    Err(Refusal::Busy) => Err(tonic::Status::unavailable("told to be busy")),
                }
            }
        }
    };
}

grpc!(TraceService, otlp, ExportTraceServiceRequest, ExportTraceServiceResponse);
grpc!(MetricsService, otlp_metrics, ExportMetricsServiceRequest, ExportMetricsServiceResponse);
grpc!(LogsService, otlp_logs, ExportLogsServiceRequest, ExportLogsServiceResponse);

impl Service {
    async fn receive(
        &self,
        protocol: Protocol,
        headers: HeaderMap,
        request: impl Export,
    ) -> Result<(), Refusal> {
        let behaviour = {
            let mut received = self.0.lock();
            received.requests.push(headers);
            if received.behaviour == Behaviour::Accept {
                request.keep(protocol, &mut received);
            }
            received.behaviour
        };
        self.0.arrived.notify_all();
        match behaviour {
            Behaviour::Accept => Ok(()),
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Fail => Err(Refusal::Failing),
            Behaviour::Busy => Err(Refusal::Busy),
            // hyper drops the connection of a handler that panics; the message goes nowhere.
            Behaviour::Reset => std::panic::resume_unwind(Box::new("told to reset")),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spans(protocol: Protocol, request: otlp::ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = vec![];
    for resource_spans in request.resource_spans {
        let resource = attributes(resource_spans.resource.unwrap_or_default().attributes);
        for scope_spans in resource_spans.scope_spans {
            let scope = scope_spans.scope.unwrap_or_default().name;
            spans.extend(
                scope_spans
                    .spans
                    .into_iter()
                    .map(|span| decode(protocol, resource.clone(), scope.clone(), span)),
            );
        }
    }
    spans
}

fn decode(protocol: Protocol, resource: Attributes, scope: String, span: proto::Span) -> Span {
    let kind = span.kind();
    let status = span.status.unwrap_or_default();
    Span {
        protocol,
        resource,
        scope,
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent: Some(hex(&span.parent_span_id)).filter(|id| !id.is_empty()),
        tracestate: span.trace_state,
        flags: span.flags,
        name: span.name,
        kind,
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        attributes: attributes(span.attributes),
        events: span
            .events
            .into_iter()
            .map(|event| Event {
                name: event.name,
                time: event.time_unix_nano,
                attributes: attributes(event.attributes),
            })
            .collect(),
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        status: (status.code(), status.message),
    }
}

fn attributes(pairs: Vec<KeyValue>) -> Attributes {
    pairs.into_iter().map(|pair| (pair.key, value(pair.value))).collect()
}

fn value(any: Option<AnyValue>) -> Value {
    use any_value::Value as Any;
    match any.and_then(|any| any.value) {
        None => Value::Null,
        Some(Any::StringValue(text)) => text.into(),
        Some(Any::BoolValue(flag)) => flag.into(),
        Some(Any::IntValue(number)) => number.into(),
        Some(Any::DoubleValue(number)) => number.into(),
        Some(Any::BytesValue(bytes)) => bytes.into(),
        Some(Any::ArrayValue(array)) => {
            array.values.into_iter().map(|item| value(Some(item))).collect()
        }
        Some(Any::KvlistValue(list)) => {
            Value::Object(attributes(list.values).into_iter().collect())
        }
        Some(other) => format!("{other:?}").into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
