//! Export over OTLP, apart from everything that serves requests.
//!
//! [`Telemetry::export`] and [`Telemetry::log`] put a trace or a log record into a bounded queue and
//! return: they never wait for anything but the queue's short lock, and what does not fit is dropped
//! and counted. Metrics are read from their source ([`Telemetry::observe`]) whenever they are due.
//! One thread with a small runtime of its own encodes, batches and sends, each batch within a time
//! bound and tried again where OTLP says that this may help. Whatever the collector does, only
//! telemetry is lost; that is logged when it begins, then at most once a minute, and when it is
//! over. [`Telemetry::shutdown`] sends what waits, as far as the given time allows; dropping the last
//! [`Telemetry`] ends the thread without sending.
//!
//! ```text
//! export ──▶ queue (spans ≤ max) ───▶ thread: take a batch ──▶ OTLP gRPC or HTTP ──▶ exported
//! log ─────▶ queue (records ≤ max) ─▶   │  └─ full: dropped               └─ refused, timed out ──▶ failed
//! observe ──────── every interval ──────┘
//! ```

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use opentelemetry::KeyValue;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, SendError};
use crate::complaint::{Complaint, Say};
use crate::context::Sampler;
use crate::encode;
use crate::log::Log;
use crate::metrics::Metric;
use crate::names::attribute;
use crate::queue::{Counts, Queue};
use crate::settings::{Config, Environment, InvalidEndpoint, Settings, Target};
use crate::traceable::Traceable;

/// What becomes a trace when it is sent.
type Waiting = Arc<dyn Traceable>;

/// Pauses before a batch is sent again that the collector could not take for the moment.
const AGAIN: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900)];

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is none.
    #[error(transparent)]
    Endpoint(#[from] InvalidEndpoint),
    /// The exporter does not take its settings.
    #[error("cannot set up the export to {endpoint}")]
    Exporter {
        /// Where to.
        endpoint: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There are no certificates to check an `https` collector by.
    #[error(
        "cannot load the system's certificates, which the collector at {endpoint} is checked by"
    )]
    Certificates {
        /// Where to.
        endpoint: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The thread or its runtime cannot be had.
    #[error("cannot start the telemetry thread")]
    Thread(#[source] io::Error),
}

/// Reads all metrics as they are now; called on the telemetry's thread.
pub type Observe = Arc<dyn Fn() -> Vec<Metric> + Send + Sync>;

/// The handle of the telemetry; clones are the same one.
#[derive(Clone, Debug)]
pub struct Telemetry {
    sampler: Sampler,
    exporter: Option<Arc<Exporter>>,
}

impl Telemetry {
    /// Starts what manifest and variables ask for. Without an endpoint no thread is started.
    ///
    /// # Errors
    /// When the endpoint is no address or there is no way to set up its exporter. That nobody
    /// listens there is no error: a collector may come later.
    pub fn start(config: &Config, environment: &Environment) -> Result<Self, StartError> {
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let host_name = host_name.map(|name| name.trim().to_owned());
        let settings = Settings::resolve(config, environment, std::process::id(), host_name)?;
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let exporter = Exporter::start(&settings, &config.service_version)?;
        Ok(Self { sampler: settings.sampler, exporter: exporter.map(Arc::new) })
    }

    /// Decides which requests are recorded.
    #[must_use]
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// Whether traces go anywhere.
    #[must_use]
    pub fn exports(&self) -> bool {
        self.exporter.as_ref().is_some_and(|exporter| exporter.traces.is_some())
    }

    /// Whether log records go anywhere.
    #[must_use]
    pub fn takes_logs(&self) -> bool {
        self.exporter.as_ref().is_some_and(|exporter| exporter.logs.is_some())
    }

    /// Hands a trace over for export; never waits.
    pub fn export(&self, trace: Arc<dyn Traceable>) {
        if let Some(queue) = self.exporter.as_ref().and_then(|exporter| exporter.traces.as_ref()) {
            let spans = trace.spans();
            queue.push(trace, spans);
        }
    }

    /// Hands a log record over for export; never waits.
    pub fn log(&self, log: Log) {
        if let Some(queue) = self.exporter.as_ref().and_then(|exporter| exporter.logs.as_ref()) {
            queue.push(log, 1);
        }
    }

    /// Where metrics are read from. The first call counts.
    pub fn observe(&self, source: Observe) {
        if let Some(exporter) = &self.exporter {
            // A second source could only be the same.
            let _ = exporter.metrics.0.set(source);
        }
    }

    /// What became of the spans so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let queue = self.exporter.as_ref().and_then(|exporter| exporter.traces.as_ref());
        queue.map(|queue| queue.counts()).unwrap_or_default()
    }

    /// What became of the log records so far.
    #[must_use]
    pub fn log_counts(&self) -> Counts {
        let queue = self.exporter.as_ref().and_then(|exporter| exporter.logs.as_ref());
        queue.map(|queue| queue.counts()).unwrap_or_default()
    }

    /// Sends what waits, and the metrics a last time, for at most `grace`, and ends the thread. What
    /// comes later is dropped and counted. Returns at once when it was called before.
    pub async fn shutdown(&self, grace: Duration) -> Counts {
        if let Some(Stop { grace: stop, ended }) = self.exporter.as_ref().and_then(|e| e.stop()) {
            // Either end may be gone only if the thread is, and then there is nothing to wait for.
            let _ = stop.send(grace);
            let _ = ended.await;
        }
        self.counts()
    }
}

/// Where metrics come from, once that is known.
#[derive(Clone, Default)]
struct Source(Arc<OnceLock<Observe>>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.0.get().is_some()).finish()
    }
}

/// What the handle shares with the thread, and how it ends the thread.
#[derive(Debug)]
struct Exporter {
    traces: Option<Arc<Queue<Waiting>>>,
    logs: Option<Arc<Queue<Log>>>,
    metrics: Source,
    stop: Mutex<Option<Stop>>,
}

/// Ends the thread: by telling it a time, or by being dropped, which leaves it none.
#[derive(Debug)]
struct Stop {
    /// For how long it may still send.
    grace: oneshot::Sender<Duration>,
    /// Closes when it has ended.
    ended: oneshot::Receiver<()>,
}

impl Exporter {
    fn start(settings: &Settings, version: &str) -> Result<Option<Self>, StartError> {
        let Settings { target, metrics, logs, resource, .. } = settings.clone();
        if target.is_none() && metrics.is_none() && logs.is_none() {
            return Ok(None);
        }
        let with_queue = |target: Target| (Arc::new(Queue::new(target.batching)), target);
        let traces = target.map(with_queue);
        let logs = logs.map(|target| (Arc::new(Queue::new(target.batching)), target));
        let source = Source::default();
        let (grace, stop) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (report, started) = mpsc::sync_channel(1);
        let exporter = Self {
            traces: traces.as_ref().map(|(queue, _)| Arc::clone(queue)),
            logs: logs.as_ref().map(|(queue, _)| Arc::clone(queue)),
            metrics: source.clone(),
            stop: Mutex::new(Some(Stop { grace, ended })),
        };
        let metrics = metrics.map(|target| (source, target));
        let sender = encode::Sender { resource: with_sdk(resource), version: version.to_owned() };
        let thread = Thread { traces, metrics, logs, sender: Arc::new(sender) };
        std::thread::Builder::new()
            .name("telemetry".into())
            .spawn(move || {
                thread.run(&report, stop);
                drop(end);
            })
            .map_err(StartError::Thread)?;
        let silent = |_| StartError::Thread(io::Error::other("it ended before it was ready"));
        started.recv().map_err(silent)??;
        Ok(Some(exporter))
    }

    fn stop(&self) -> Option<Stop> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The conventions ask every sender for these.
fn with_sdk(mut resource: Vec<KeyValue>) -> Vec<KeyValue> {
    resource.extend([
        KeyValue::new(attribute::TELEMETRY_SDK_NAME, "baton"),
        KeyValue::new(attribute::TELEMETRY_SDK_LANGUAGE, "rust"),
        KeyValue::new(attribute::TELEMETRY_SDK_VERSION, env!("CARGO_PKG_VERSION")),
    ]);
    resource
}

/// What the thread begins with. Its runtime and its clients live and die on it, since neither may be
/// dropped by a task of the host's runtime.
struct Thread {
    traces: Option<(Arc<Queue<Waiting>>, Target)>,
    metrics: Option<(Source, Target)>,
    logs: Option<(Arc<Queue<Log>>, Target)>,
    sender: Arc<encode::Sender>,
}

impl Thread {
    /// Reports once whether it could begin, then sends until it is stopped.
    fn run(
        self,
        report: &mpsc::SyncSender<Result<(), StartError>>,
        stop: oneshot::Receiver<Duration>,
    ) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(report.send(Err(StartError::Thread(error)))),
        };
        runtime.block_on(async {
            match self.senders() {
                Err(error) => drop(report.send(Err(error))),
                Ok(senders) => {
                    drop(report.send(Ok(())));
                    senders.run(stop).await;
                }
            }
        });
        // A name that is still being looked up is not waited for.
        runtime.shutdown_background();
    }

    fn senders(self) -> Result<Senders, StartError> {
        let Self { traces, metrics, logs, sender } = self;
        let traces = traces.map(|(queue, target)| {
            let sender = Arc::clone(&sender);
            let encode = Box::new(move |batch: &[Waiting]| sender.traces(batch));
            let way = Way::new("spans", "trace.v1.TraceService", &target)?;
            Ok::<_, StartError>(Batches { queue, encode, way })
        });
        let metrics = metrics.map(|(source, target)| {
            let way = Way::new("metrics", "metrics.v1.MetricsService", &target)?;
            let (interval, start) = (target.batching.delay, SystemTime::now());
            Ok::<_, StartError>(Readings {
                source,
                sender: Arc::clone(&sender),
                interval,
                start,
                way,
            })
        });
        let logs = logs.map(|(queue, target)| {
            let encode = Box::new(move |batch: &[Log]| sender.logs(batch));
            let way = Way::new("log records", "logs.v1.LogsService", &target)?;
            Ok::<_, StartError>(Batches { queue, encode, way })
        });
        Ok(Senders {
            traces: traces.transpose()?,
            metrics: metrics.transpose()?,
            logs: logs.transpose()?,
        })
    }
}

/// One sender a signal.
struct Senders {
    traces: Option<Batches<Waiting>>,
    metrics: Option<Readings>,
    logs: Option<Batches<Log>>,
}

impl Senders {
    /// Sends until it is stopped, and then what waits for as long as it is granted.
    async fn run(mut self, mut stop: oneshot::Receiver<Duration>) {
        let traces = self.traces.as_ref().map(|batches| Arc::clone(&batches.queue));
        let logs = self.logs.as_ref().map(|batches| Arc::clone(&batches.queue));
        let (close, closing) = watch::channel(false);
        let mut work = std::pin::pin!(async {
            tokio::join!(
                async {
                    if let Some(traces) = &mut self.traces {
                        traces.send_until_closed().await;
                    }
                },
                async {
                    if let Some(metrics) = &mut self.metrics {
                        metrics.send_until_closed(closing).await;
                    }
                },
                async {
                    if let Some(logs) = &mut self.logs {
                        logs.send_until_closed().await;
                    }
                },
            );
        });
        let grace = tokio::select! {
            () = &mut work => return,
            grace = &mut stop => grace.unwrap_or_default(),
        };
        let _ = close.send(true);
        traces.iter().for_each(|queue| queue.close());
        logs.iter().for_each(|queue| queue.close());
        if timeout(grace, work).await.is_err() {
            traces.iter().for_each(|queue| queue.abandon());
            logs.iter().for_each(|queue| queue.abandon());
        }
    }
}

/// Makes the bytes that are sent.
type Encode<T> = Box<dyn Fn(&[T]) -> Bytes>;

/// Sends a queue batch after batch and keeps the counts.
struct Batches<T> {
    queue: Arc<Queue<T>>,
    encode: Encode<T>,
    way: Way,
}

impl<T> Batches<T> {
    async fn send_until_closed(&mut self) {
        loop {
            let closed = self.queue.ready().await;
            loop {
                let (weight, items) = self.queue.take();
                if weight == 0 {
                    break;
                }
                let message = (self.encode)(&items);
                drop(items);
                let (queue, counts) = (&self.queue, self.queue.counts());
                let lost = counts.failed + counts.dropped;
                let pauses = if queue.is_closed() { &AGAIN[..1] } else { &AGAIN[..] };
                let fate = self.way.send(message, pauses, Some(lost)).await;
                queue.settle(weight, fate == Fate::Taken);
                if fate == Fate::Unsupported {
                    queue.close();
                    queue.abandon();
                    return;
                }
            }
            if closed {
                return;
            }
        }
    }
}

/// Reads and sends metrics time after time.
struct Readings {
    source: Source,
    sender: Arc<encode::Sender>,
    interval: Duration,
    /// Since when everything has been counted.
    start: SystemTime,
    way: Way,
}

impl Readings {
    async fn send_until_closed(&mut self, mut closing: watch::Receiver<bool>) {
        loop {
            let closed = timeout(self.interval, closing.wait_for(|closing| *closing)).await.is_ok();
            if let Some(observe) = self.source.0.get() {
                let message = self.sender.metrics(&observe(), self.start, SystemTime::now());
                let pauses = if closed { &AGAIN[..1] } else { &AGAIN[..] };
                if self.way.send(message, pauses, None).await == Fate::Unsupported {
                    return;
                }
            }
            if closed {
                return;
            }
        }
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Taken,
    Lost,
    /// The collector will never take any.
    Unsupported,
}

/// A client that complains.
struct Way {
    what: &'static str,
    client: Client,
    endpoint: String,
    timeout: Duration,
    complaint: Complaint,
    taken: bool,
}

impl Way {
    fn new(what: &'static str, service: &str, target: &Target) -> Result<Self, StartError> {
        Ok(Self {
            what,
            client: Client::new(target, service)?,
            endpoint: target.endpoint.to_string(),
            timeout: target.timeout,
            complaint: Complaint::default(),
            taken: false,
        })
    }

    /// Sends a message, again after each of these pauses while that may help. `lost` is what was
    /// lost before it.
    async fn send(&mut self, message: Bytes, pauses: &[Duration], lost: Option<u64>) -> Fate {
        let Self { client, timeout: limit, .. } = self;
        let work = async {
            for pause in pauses {
                match client.send(message.clone()).await {
                    Err(SendError::Unavailable(_)) => sleep(*pause).await,
                    verdict => return verdict,
                }
            }
            client.send(message).await
        };
        let result = timeout(*limit, work).await;
        let silent = || SendError::Unavailable(format!("no answer within {limit:?}"));
        let result = result.unwrap_or_else(|_| Err(silent()));
        self.taken |= result.is_ok();
        self.tell(result.as_ref().err(), lost);
        match result {
            Ok(()) => Fate::Taken,
            // One that took some has only lost its way.
            Err(SendError::Unsupported(_)) if !self.taken && self.what != "spans" => {
                Fate::Unsupported
            }
            Err(_) => Fate::Lost,
        }
    }

    fn tell(&mut self, error: Option<&SendError>, lost: Option<u64>) {
        let Self { what, endpoint, .. } = self;
        let lost = lost.map(|lost| format!(", {lost} lost so far")).unwrap_or_default();
        match (self.complaint.on(error.is_some(), Instant::now()), error) {
            (Say::Nothing, _) => {}
            (Say::Recovered, _) => tracing::info!("{what} reach {endpoint} again{lost}"),
            (Say::Failing, Some(SendError::Unsupported(error))) if *what != "spans" => {
                tracing::info!("{endpoint} takes no {what}, none are sent any more: {error}");
            }
            (Say::Failing, error) => {
                let error = error.map(ToString::to_string).unwrap_or_default();
                tracing::warn!("cannot export {what} to {endpoint}{lost}: {error}");
            }
        }
    }
}
