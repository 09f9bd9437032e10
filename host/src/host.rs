//! The host process: unprivileged, it serves functions until it is told to stop.
//!
//! ```text
//! start ─▶ serving ── SIGTERM ─▶ draining: readyz fails, after drain_delay the accept queues are
//!                                 emptied and the listeners close, requests in flight end within
//!                                 the grace time ─▶ telemetry flushed ─▶ end
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use baton_otel::{Recent, Telemetry};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::access::AccessLog;
use crate::egress::Egress;
use crate::function::{Component, Function, Loaded};
use crate::handover::{Artifact, Deployment, Handover};
use crate::manifest;
use crate::observer::Observer;
use crate::route::Routes;
use crate::server::{self, Server};
use crate::wasm::{Cache, Engine, Key, Line, LineSink, LoadError, Program, Settings, Slots, Source};
use crate::{admin, telemetry};

/// Instances that the engine's pool holds at most, whatever the manifest's functions add up to.
const INSTANCES_MAX: u32 = 1_000;

/// The functions that are served, one value that is swapped whole.
pub struct Functions {
    routes: Routes,
    list: Vec<Arc<Function>>,
}

impl Functions {
    fn new(list: Vec<Arc<Function>>) -> Self {
        let specs: Vec<_> = list.iter().map(|function| function.spec.clone()).collect();
        Self { routes: Routes::build(&specs), list }
    }

    /// The function for a request, and how much of the path is its route's prefix.
    #[must_use]
    pub fn lookup(&self, host: Option<&str>, path: &str) -> Option<(Arc<Function>, usize)> {
        let (index, prefix) = self.routes.lookup(host, path)?;
        self.list.get(index).map(|function| (Arc::clone(function), prefix.len()))
    }

    /// All functions in the manifest's order.
    #[must_use]
    pub fn list(&self) -> &[Arc<Function>] {
        &self.list
    }
}

/// What every request of this process shares.
pub struct Host {
    /// The functions.
    pub functions: ArcSwap<Functions>,
    /// Takes the records of requests.
    pub observer: Arc<Observer>,
    /// Bytes that a request's head may have.
    pub headers_max: usize,
    /// Whether answers carry `Server-Timing`.
    pub server_timing: bool,
    /// True once the host is stopping.
    pub draining: watch::Receiver<bool>,
    /// Everything that outlives a request.
    pub tasks: TaskTracker,
}

/// Serves until told to stop, then drains.
///
/// # Errors
/// When the telemetry, the engine or a listener cannot be started.
pub async fn run(handover: Handover, environment: telemetry::Environment) -> anyhow::Result<()> {
    let manifest::Host { log, headers, server_timing, grace, drain_delay, .. } =
        handover.manifest.host.clone();
    let (telemetry, sampler) = telemetry::start(&handover.manifest.telemetry, &environment)?;
    let observer = Arc::new(Observer {
        access: AccessLog::start(log, std::io::stderr())?,
        telemetry,
        sampler,
        recent: Recent::default(),
    });
    let (drain, draining) = watch::channel(false);
    let tasks = TaskTracker::new();
    let functions: Vec<_> = handover.functions.iter().map(function).collect();
    let host = Arc::new(Host {
        functions: ArcSwap::from_pointee(Functions::new(functions.clone())),
        observer,
        headers_max: usize::try_from(headers.0)?,
        server_timing,
        draining,
        tasks: tasks.clone(),
    });
    load_components(&handover, &functions, &tasks)?;
    let server = Server::new(Arc::clone(&host), &handover.manifest.host);
    let admin = admin::start(Arc::clone(&host), handover.admin)?;
    let serving = server::start(&server, handover.listeners)?;
    handover.control.stopped().await;
    tracing::info!("draining");
    drain.send_replace(true);
    tokio::time::sleep(drain_delay).await;
    drain_within(grace, async {
        serving.stop().await;
        tasks.close();
        tasks.wait().await;
    })
    .await;
    admin.stop().await;
    host.observer.telemetry.shutdown(FLUSH);
    Ok(())
}

/// How long the last spans may take to reach the collector.
const FLUSH: Duration = Duration::from_secs(5);

async fn drain_within(grace: Duration, drained: impl Future<Output = ()>) {
    if tokio::time::timeout(grace, drained).await.is_err() {
        tracing::warn!(?grace, "requests were still in flight at the end of the grace time");
    }
}

fn function(deployment: &Deployment) -> Arc<Function> {
    Arc::new(Function::new(deployment.spec.clone(), deployment.digest.as_str().into(), None))
}
