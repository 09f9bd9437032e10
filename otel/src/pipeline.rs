//! Export over OTLP, apart from everything that serves requests.
//!
//! [`Telemetry::export`] puts a trace into a bounded queue and returns: it never waits for anything
//! but the queue's short lock, and what does not fit is dropped and counted. One thread with a
//! small runtime of its own converts, batches and sends, each batch within a time bound. Whatever
//! the collector does, only spans are lost; that is logged when it begins, then at most once a
//! minute, and when it is over. [`Telemetry::shutdown`] sends what waits, as far as the given time
//! allows; dropping the last [`Telemetry`] ends the thread without sending.
//!
//! ```text
//! export ──▶ Queue (spans ≤ max) ──▶ thread: take a batch ──▶ OTLP gRPC or HTTP ──▶ exported
//!              └─ full: dropped                    └─ refused, timed out ──▶ failed
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
    tonic_types::metadata::MetadataMap, tonic_types::transport::ClientTlsConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::SpanExporter as _;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::context::Sampler;
use crate::convert;
use crate::settings::{Batching, Config, Environment, InvalidEndpoint, Protocol, Settings, Target};
use crate::span::Trace;

/// How often a collector that keeps failing is mentioned.
const REMIND: Duration = Duration::from_secs(60);

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is none.
    #[error(transparent)]
    Endpoint(#[from] InvalidEndpoint),
    /// The exporter does not take its settings.
    #[error("cannot set up the export of spans to {endpoint}")]
    Exporter {
        /// Where to.
        endpoint: String,
        /// Why not.
        #[source]
        source: ExporterBuildError,
    },
    /// There are no certificates to check an `https` collector by.
    #[error("cannot load the system's certificates to check the telemetry endpoint by")]
    Certificates(#[source] std::io::Error),
    /// The thread or its runtime cannot be had.
    #[error("cannot start the telemetry thread")]
    Thread(#[source] std::io::Error),
}

/// What became of the spans so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted by the collector.
    pub exported: u64,
    /// Did not fit the queue.
    pub dropped: u64,
    /// Refused by the collector or not taken in time.
    pub failed: u64,
}

/// The handle of the telemetry; clones are the same one.
#[derive(Clone, Debug)]
pub struct Telemetry {
    sampler: Sampler,
    exporter: Option<Arc<Exporter>>,
}

/// What the handle shares with the thread, and how it ends the thread.
#[derive(Debug)]
struct Exporter {
    queue: Arc<Queue>,
    stop: Mutex<Option<Stop>>,
}

/// Ends the thread: dropped, at once.
#[derive(Debug)]
struct Stop {
    /// Until when it may send.
    deadline: oneshot::Sender<Instant>,
    /// Closes when it has ended.
    ended: oneshot::Receiver<()>,
}

impl Telemetry {
    /// Starts what manifest and variables ask for. Without an endpoint no thread is started.
    pub fn start(config: &Config, environment: &Environment) -> Result<Self, StartError> {
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let host_name = host_name.map(|name| name.trim().to_owned());
        let settings = Settings::resolve(config, environment, std::process::id(), host_name)?;
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let exporter = settings.target.map(|target| Exporter::start(target, settings.resource));
        Ok(Self { sampler: settings.sampler, exporter: exporter.transpose()?.map(Arc::new) })
    }

    /// Decides which requests are recorded.
    #[must_use]
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// Whether traces go anywhere.
    #[must_use]
    pub fn exports(&self) -> bool {
        self.exporter.is_some()
    }

    /// Hands a trace over for export; never waits.
    pub fn export(&self, trace: Arc<Trace>) {
        if let Some(exporter) = &self.exporter {
            exporter.queue.push(trace);
        }
    }

    /// What became of the spans so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.exporter.as_ref().map(|exporter| exporter.queue.counts()).unwrap_or_default()
    }

    /// Sends what waits, for at most `grace`, and ends the thread. Traces that come later are
    /// dropped and counted. Returns at once when it was called before.
    pub async fn shutdown(&self, grace: Duration) -> Counts {
        let stop = self.exporter.as_ref().and_then(|exporter| lock(&exporter.stop).take());
        if let Some(Stop { deadline, ended }) = stop {
            // Either may be gone only if the thread is, and then there is nothing to wait for.
            let _ = deadline.send(Instant::now() + grace);
            let _ = ended.await;
        }
        self.counts()
    }
}

impl Exporter {
    fn start(target: Target, resource: Vec<opentelemetry::KeyValue>) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let mut client = {
            let _context = runtime.enter();
            client(&target)
        };
        if let Ok(client) = &mut client {
            let resource = Resource::builder_empty()
                .with_detector(Box::new(TelemetryResourceDetector))
                .with_attributes(resource)
                .build();
            client.set_resource(&resource);
        }
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                // A caller inside of a runtime must not wait for another to end.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let queue = Arc::new(Queue::new(target.batching));
        let (deadline, stop) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let sender = Sender {
            client,
            queue: Arc::clone(&queue),
            endpoint: target.endpoint.to_string(),
            timeout: target.timeout,
            complaint: Complaint::default(),
        };
        std::thread::Builder::new()
            .name("telemetry".into())
            .spawn(move || {
                runtime.block_on(sender.run(stop));
                runtime.shutdown_background();
                drop(end);
            })
            .map_err(StartError::Thread)?;
        Ok(Self { queue, stop: Mutex::new(Some(Stop { deadline, ended })) })
    }
}

/// The OTLP client; must be called in the context of the runtime that it will run on.
fn client(target: &Target) -> Result<SpanExporter, StartError> {
    let endpoint = target.endpoint.to_string();
    let secure = target.endpoint.scheme_str() == Some("https");
    let built = match target.protocol {
        Protocol::Grpc => {
            let builder = SpanExporter::builder()
                .with_tonic()
                .with_endpoint(&endpoint)
                .with_timeout(target.timeout)
                .with_metadata(MetadataMap::from_headers(target.headers.clone()));
            match secure {
                true => builder.with_tls_config(ClientTlsConfig::new().with_native_roots()),
                false => builder,
            }
            .build()
        }
        Protocol::HttpProtobuf => {
            let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
            let headers =
                target.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
            let builder = SpanExporter::builder()
                .with_http()
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_endpoint(&endpoint)
                .with_timeout(target.timeout)
                .with_headers(headers.collect());
            match secure {
                true => builder.with_http_client(https_client(target.timeout)?),
                false => builder,
            }
            .build()
        }
    };
    built.map_err(|source| StartError::Exporter { endpoint, source })
}

/// An HTTP client that checks certificates by the system's roots.
fn https_client(
    timeout: Duration,
) -> Result<impl opentelemetry_http::HttpClient + 'static, StartError> {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
        .map_err(StartError::Certificates)?
        .https_only()
        .enable_http1()
        .build();
    Ok(opentelemetry_http::hyper::HyperClient::new(connector, timeout, None))
}

/// What waits for its export.
#[derive(Debug)]
struct Queue {
    bounds: Batching,
    waiting: Mutex<Waiting>,
    /// A batch is full, or the queue has been closed.
    ready: Notify,
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    traces: VecDeque<(usize, Arc<Trace>)>,
    spans: usize,
    /// Spans that were ever let in.
    accepted: u64,
    closed: bool,
}

impl Queue {
    fn new(bounds: Batching) -> Self {
        Self {
            bounds,
            waiting: Mutex::default(),
            ready: Notify::new(),
            exported: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Wakes the thread only when a batch becomes full: a wake-up costs more than all the rest.
    fn push(&self, trace: Arc<Trace>) {
        let spans = trace.root.count();
        let mut waiting = lock(&self.waiting);
        if waiting.closed || waiting.spans + spans > self.bounds.queue {
            drop(waiting);
            count(&self.dropped, spans);
            return;
        }
        let before = waiting.spans;
        waiting.spans += spans;
        waiting.accepted += number(spans);
        waiting.traces.push_back((spans, trace));
        let after = waiting.spans;
        drop(waiting);
        if before < self.bounds.batch && after >= self.bounds.batch {
            self.ready.notify_one();
        }
    }

    /// The next traces, as many as make a batch, and how many spans they have.
    fn take(&self) -> (usize, Vec<Arc<Trace>>) {
        let mut waiting = lock(&self.waiting);
        let (mut spans, mut traces) = (0, vec![]);
        while spans < self.bounds.batch {
            let Some((more, trace)) = waiting.traces.pop_front() else { break };
            spans += more;
            traces.push(trace);
        }
        waiting.spans -= spans;
        (spans, traces)
    }

    fn close(&self) {
        lock(&self.waiting).closed = true;
        self.ready.notify_one();
    }

    /// Gives up what waits and what is on its way.
    fn abandon(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.traces.clear();
        waiting.spans = 0;
        self.failed.store(waiting.accepted - self.exported.load(Relaxed), Relaxed);
    }

    fn is_closed(&self) -> bool {
        lock(&self.waiting).closed
    }

    fn counts(&self) -> Counts {
        Counts {
            exported: self.exported.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }
}

/// Nothing in here panics while it holds a lock, so a poisoned one guards a whole value.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(counter: &AtomicU64, spans: usize) {
    counter.fetch_add(number(spans), Relaxed);
}

/// A number of spans as the counters have it.
fn number(spans: usize) -> u64 {
    u64::try_from(spans).unwrap_or(u64::MAX)
}

/// The thread's part.
struct Sender {
    client: SpanExporter,
    queue: Arc<Queue>,
    endpoint: String,
    timeout: Duration,
    complaint: Complaint,
}

impl Sender {
    /// Sends until the handle is gone, or until the deadline that it names.
    async fn run(mut self, mut stop: oneshot::Receiver<Instant>) {
        let queue = Arc::clone(&self.queue);
        let mut work = std::pin::pin!(self.send_until_closed());
        let deadline = tokio::select! {
            () = &mut work => return,
            deadline = &mut stop => deadline.unwrap_or_else(|_| Instant::now()),
        };
        queue.close();
        if timeout_at(deadline, work).await.is_err() {
            queue.abandon();
        }
    }

    async fn send_until_closed(&mut self) {
        let scope = InstrumentationScope::builder("baton").build();
        loop {
            let _ =
                tokio::time::timeout(self.queue.bounds.delay, self.queue.ready.notified()).await;
            let closed = self.queue.is_closed();
            loop {
                let (spans, traces) = self.queue.take();
                if spans == 0 {
                    break;
                }
                self.send(spans, traces, &scope).await;
            }
            if closed {
                return;
            }
        }
    }

    async fn send(&mut self, spans: usize, traces: Vec<Arc<Trace>>, scope: &InstrumentationScope) {
        let export = self.client.export(convert::spans(traces, scope));
        let result = match tokio::time::timeout(self.timeout, export).await {
            Ok(result) => result,
            Err(_) => Err(OTelSdkError::Timeout(self.timeout)),
        };
        let outcome = if result.is_ok() { &self.queue.exported } else { &self.queue.failed };
        count(outcome, spans);
        self.log(result);
    }

    fn log(&mut self, result: Result<(), OTelSdkError>) {
        let (endpoint, counts) = (&self.endpoint, self.queue.counts());
        let lost = counts.failed + counts.dropped;
        match self.complaint.on(result.is_err(), Instant::now()) {
            Say::Nothing => {}
            Say::Recovered => tracing::info!("spans reach {endpoint} again, {lost} were lost"),
            Say::Failing => {
                let error = result.err().map(|error| error.to_string()).unwrap_or_default();
                tracing::warn!("cannot export spans to {endpoint}, {lost} lost so far: {error}");
            }
        }
    }
}

/// Decides when the fate of the export is worth a line: when it begins to fail, once a minute while
/// it does, and when it is over.
#[derive(Debug, Default)]
struct Complaint {
    /// While it fails: when that was last said.
    said: Option<Instant>,
}

/// What is to be said.
#[derive(Debug, PartialEq, Eq)]
enum Say {
    Nothing,
    Failing,
    Recovered,
}

impl Complaint {
    fn on(&mut self, failed: bool, now: Instant) -> Say {
        match (failed, self.said) {
            (false, None) => Say::Nothing,
            (false, Some(_)) => {
                self.said = None;
                Say::Recovered
            }
            (true, Some(said)) if now.saturating_duration_since(said) < REMIND => Say::Nothing,
            (true, _) => {
                self.said = Some(now);
                Say::Failing
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::span;
    use crate::span::Span;
    use std::time::SystemTime;

    fn trace(spans: usize) -> Arc<Trace> {
        let part = || Span::new(span::ADMIT, SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
        let mut root = part();
        root.children = (1..spans).map(|_| part()).collect();
        Arc::new(Trace { trace_id: 1_u128.into(), parent: None, root, tracestate: None })
    }

    fn queue(spans: usize, batch: usize) -> Queue {
        Queue::new(Batching { queue: spans, batch, delay: Duration::ZERO })
    }

    #[test]
    fn the_queue_is_bounded_by_spans_and_counts_what_it_drops() {
        let queue = queue(10, 5);
        (0..4).for_each(|_| queue.push(trace(4)));
        assert_eq!(queue.counts(), Counts { exported: 0, dropped: 8, failed: 0 });
        queue.push(trace(2));
        assert_eq!(queue.counts().dropped, 8, "a smaller one still fits");
    }

    #[test]
    fn a_batch_is_filled_with_whole_traces() {
        let queue = queue(100, 5);
        (0..4).for_each(|_| queue.push(trace(3)));
        let batches = std::iter::repeat_with(|| queue.take().0).take(3);
        assert_eq!(batches.collect::<Vec<_>>(), [6, 6, 0]);
    }

    #[test]
    fn what_is_abandoned_counts_as_failed_even_on_its_way() {
        let queue = queue(100, 5);
        (0..4).for_each(|_| queue.push(trace(3)));
        let on_its_way = queue.take();
        queue.close();
        queue.abandon();
        queue.push(trace(1));
        assert_eq!(on_its_way.0, 6);
        assert_eq!(queue.counts(), Counts { exported: 0, dropped: 1, failed: 12 });
        assert_eq!(queue.take().0, 0);
    }

    #[test]
    fn a_failing_export_is_mentioned_once_then_reminded_of_and_its_end_told() {
        let (mut complaint, start) = (Complaint::default(), Instant::now());
        let mut at = |seconds, failed| complaint.on(failed, start + Duration::from_secs(seconds));
        assert_eq!(at(0, false), Say::Nothing);
        assert_eq!(at(1, true), Say::Failing);
        assert_eq!(at(60, true), Say::Nothing);
        assert_eq!(at(61, true), Say::Failing);
        assert_eq!(at(62, false), Say::Recovered);
        assert_eq!(at(63, false), Say::Nothing);
        assert_eq!(at(64, true), Say::Failing);
    }
}
