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
//! export ──▶ queue (spans ≤ max) ──▶ thread: take a batch ──▶ OTLP gRPC or HTTP ──▶ exported
//!              └─ full: dropped                    └─ refused, timed out ──▶ failed
//! ```

use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::SpanExporter as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::complaint::{Complaint, Say};
use crate::context::Sampler;
use crate::queue::{Counts, Queue};
use crate::settings::{Config, Environment, InvalidEndpoint, Settings, Target};
use crate::span::Trace;
use crate::{client, convert};

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
        if let Some(Stop { grace: stop, ended }) = self.exporter.as_ref().and_then(|e| e.stop()) {
            // Either end may be gone only if the thread is, and then there is nothing to wait for.
            let _ = stop.send(grace);
            let _ = ended.await;
        }
        self.counts()
    }
}

/// What the handle shares with the thread, and how it ends the thread.
#[derive(Debug)]
struct Exporter {
    queue: Arc<Queue>,
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
    fn start(target: Target, resource: Vec<KeyValue>) -> Result<Self, StartError> {
        let queue = Arc::new(Queue::new(target.batching));
        let (grace, stop) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (report, started) = mpsc::sync_channel(1);
        let thread = Thread { queue: Arc::clone(&queue), target, resource };
        std::thread::Builder::new()
            .name("telemetry".into())
            .spawn(move || {
                thread.run(&report, stop);
                drop(end);
            })
            .map_err(StartError::Thread)?;
        let silent = |_| StartError::Thread(io::Error::other("it ended before it was ready"));
        started.recv().map_err(silent)??;
        Ok(Self { queue, stop: Mutex::new(Some(Stop { grace, ended })) })
    }

    fn stop(&self) -> Option<Stop> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What the thread begins with. Its runtime and its client live and die on it, since neither may be
/// dropped by a task of the host's runtime.
struct Thread {
    queue: Arc<Queue>,
    target: Target,
    resource: Vec<KeyValue>,
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
            match client::connect(&self.target, self.resource) {
                Err(error) => drop(report.send(Err(error))),
                Ok(client) => {
                    drop(report.send(Ok(())));
                    Sender::new(client, &self.target, self.queue).run(stop).await;
                }
            }
        });
        // A name that is still being looked up is not waited for.
        runtime.shutdown_background();
    }
}

/// Sends batch after batch and keeps the counts.
struct Sender {
    client: SpanExporter,
    queue: Arc<Queue>,
    endpoint: String,
    timeout: Duration,
    scope: InstrumentationScope,
    complaint: Complaint,
}

impl Sender {
    fn new(client: SpanExporter, target: &Target, queue: Arc<Queue>) -> Self {
        let endpoint = target.endpoint.to_string();
        let scope = InstrumentationScope::builder("baton").build();
        let complaint = Complaint::default();
        Self { client, queue, endpoint, timeout: target.timeout, scope, complaint }
    }

    /// Sends until it is stopped, and then what waits for as long as it is granted.
    async fn run(mut self, mut stop: oneshot::Receiver<Duration>) {
        let queue = Arc::clone(&self.queue);
        let mut work = std::pin::pin!(self.send_until_closed());
        let grace = tokio::select! {
            () = &mut work => return,
            grace = &mut stop => grace.unwrap_or_default(),
        };
        queue.close();
        if timeout(grace, work).await.is_err() {
            queue.abandon();
        }
    }

    async fn send_until_closed(&mut self) {
        loop {
            let closed = self.queue.ready().await;
            loop {
                let (spans, traces) = self.queue.take();
                if spans == 0 {
                    break;
                }
                self.send(spans, traces).await;
            }
            if closed {
                return;
            }
        }
    }

    async fn send(&mut self, spans: usize, traces: Vec<Arc<Trace>>) {
        let export = self.client.export(convert::spans(traces, &self.scope));
        let result = match timeout(self.timeout, export).await {
            Ok(result) => result,
            Err(_) => Err(OTelSdkError::Timeout(self.timeout)),
        };
        self.queue.settle(spans, result.is_ok());
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
