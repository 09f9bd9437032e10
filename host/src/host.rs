//! The host process: unprivileged, it serves functions until it is told to stop.
//!
//! ```text
//! start ─▶ serving ── SIGTERM ─▶ draining: readyz fails, after drain_delay the accept queues are
//!                                 emptied and the listeners close, requests in flight end within
//!                                 the grace time ─▶ telemetry flushed ─▶ end
//! ```

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use baton_otel::settings::{self, InvalidEndpoint};
use baton_otel::{Config, Environment, Recent, Telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::AccessLog;
use crate::egress::{Egress, system_resolver};
use crate::function::Function;
use crate::handover::{Artifact, Deployment, Handover, Update, Updates, read_sealed};
use crate::load::{Code, Loader};
use crate::manifest::{self, Manifest, TelemetrySection};
use crate::native::Sandboxing;
use crate::observer::Observer;
use crate::route::Routes;
use crate::server::{self, Server};
use crate::wasm::{Engine, Slots};
use crate::{admin, tls};

/// Instances that the engine's pool holds at most, whatever the functions' limits add up to.
const INSTANCES_MAX: usize = 1_000;

/// How long the last spans may take to reach the collector.
const FLUSH: Duration = Duration::from_secs(5);

/// The functions that are served: one value, swapped whole.
pub struct Functions {
    routes: Routes,
    list: Vec<Arc<Function>>,
}

impl Functions {
    fn new(list: Vec<Arc<Function>>) -> Self {
        let specs: Vec<_> = list.iter().map(|function| function.spec.clone()).collect();
        Self { routes: Routes::build(&specs), list }
    }

    /// The function for a request, and how many bytes of the path are its route's prefix.
    #[must_use]
    pub fn lookup(&self, host: Option<&str>, path: &str) -> Option<(Arc<Function>, usize)> {
        let found = self.routes.lookup(host, path)?;
        self.list.get(found.function).map(|f| (Arc::clone(f), found.prefix.len()))
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
    /// The native tier, where sandboxes can be made.
    pub sandboxing: Option<Arc<Sandboxing>>,
    /// Bytes that a request's head may have.
    pub headers_max: usize,
    /// Whether answers carry `Server-Timing`.
    pub server_timing: bool,
    /// Cancelled once the host is stopping: it is not ready any more.
    pub draining: CancellationToken,
    /// Cancelled once it takes no more connections, the drain delay later.
    pub closing: CancellationToken,
    /// Everything that outlives a request.
    pub tasks: TaskTracker,
}

impl Host {
    /// Runs `task` as the host's own.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tasks.spawn(task)
    }
}

/// Serves until told to stop, then drains. `control` is the rest of the supervisor's socket.
///
/// # Errors
/// When telemetry, engine, sandboxes or a listener cannot be started.
pub async fn run(
    handover: Handover,
    control: OwnedFd,
    environment: &Environment,
) -> anyhow::Result<()> {
    let bounds = handover.manifest.host.clone();
    let (host, loading) = assemble(&handover, environment)?;
    let loader = loader(&handover)?;
    for (function, code) in loading {
        let loader = Arc::clone(&loader);
        host.tasks.spawn_blocking(move || load(&loader, &function, &code));
    }
    let tls = handover.tls.as_ref().map(|files| {
        let (certificate, key) = (read_sealed(&files.certificate)?, read_sealed(&files.key)?);
        anyhow::Ok(tls::acceptor(&certificate, &key)?)
    });
    let server = Server::new(Arc::clone(&host), &bounds, tls.transpose()?);
    let admin = admin::start(Arc::clone(&host), handover.admin)?;
    let serving = server::start(&server, handover.listeners)?;
    until_told_to_stop(&host, Updates::new(control)?).await?;

    tracing::info!(grace = ?bounds.grace, "draining");
    host.draining.cancel();
    tokio::time::sleep(bounds.drain_delay).await;
    host.closing.cancel();
    if tokio::time::timeout(bounds.grace, serving.stop()).await.is_err() {
        tracing::warn!(grace = ?bounds.grace, "requests were still in flight after the grace time");
    }
    admin.stop();
    if let Some(sandboxing) = &host.sandboxing {
        sandboxing.shutdown().await;
    }
    host.observer.telemetry.shutdown(FLUSH).await;
    Ok(())
}

fn telemetry_config(section: &TelemetrySection) -> Config {
    Config {
        endpoint: section.endpoint.clone(),
        service_name: "baton".into(),
        service_version: env!("CARGO_PKG_VERSION").into(),
        sample: section.sample,
    }
}

/// Whether the host will be able to start its telemetry.
///
/// # Errors
/// When the manifest or a variable names an endpoint that is none.
pub fn telemetry_settings(
    section: &TelemetrySection,
    environment: &Environment,
) -> Result<(), InvalidEndpoint> {
    settings::check(&telemetry_config(section), environment)
}

/// Each function whose component is to be loaded, with the component.
type Loading = Vec<(Arc<Function>, Code)>;

fn assemble(
    handover: &Handover,
    environment: &Environment,
) -> anyhow::Result<(Arc<Host>, Loading)> {
    let Manifest { host: bounds, telemetry, .. } = &handover.manifest;
    let telemetry = Telemetry::start(&telemetry_config(telemetry), environment)?;
    let observer = Arc::new(Observer {
        access: AccessLog::start(bounds.log, std::io::stderr())?,
        sampler: *telemetry.sampler(),
        telemetry,
        recent: Recent::default(),
    });
    let tasks = TaskTracker::new();
    let sandboxing = Sandboxing::start(handover, &observer, &tasks);
    let mut loading = Vec::new();
    let mut functions = Vec::new();
    for deployment in &handover.functions {
        let rules = deployment.spec.egress.clone();
        let headers = usize::try_from(bounds.headers.0)?;
        let egress = Arc::new(Egress::new(rules, headers, system_resolver(), &tasks));
        let (function, component) = deploy(deployment, sandboxing.as_ref(), egress)?;
        loading.extend(component.map(|code| (Arc::clone(&function), code)));
        functions.push(function);
    }
    let host = Host {
        functions: ArcSwap::from_pointee(Functions::new(functions)),
        observer,
        sandboxing,
        headers_max: usize::try_from(bounds.headers.0)?,
        server_timing: bounds.server_timing,
        draining: CancellationToken::new(),
        closing: CancellationToken::new(),
        tasks,
    };
    Ok((Arc::new(host), loading))
}

fn deploy(
    deployment: &Deployment,
    sandboxing: Option<&Arc<Sandboxing>>,
    egress: Arc<Egress>,
) -> anyhow::Result<(Arc<Function>, Option<Code>)> {
    let native = match (sandboxing, &deployment.native) {
        (Some(sandboxing), Some(executable)) => {
            Some(sandboxing.add(&deployment.spec, executable).with_context(|| {
                format!("cannot deploy the native build of {}", deployment.spec.name)
            })?)
        }
        _ => None,
    };
    let artifact = deployment.component.as_ref().map(Artifact::try_clone).transpose()?;
    let form = if deployment.precompiled { Code::Machine } else { Code::Portable };
    let function =
        Function::new(deployment.spec.clone(), deployment.digest.as_str().into(), native, egress);
    Ok((Arc::new(function), artifact.map(form)))
}

fn loader(handover: &Handover) -> anyhow::Result<Arc<Loader>> {
    let specs = || handover.functions.iter().map(|deployment| &deployment.spec.limits);
    let instances: usize = specs().map(|limits| limits.concurrency).sum();
    let memory = specs().map(|limits| limits.memory.0).max().unwrap_or(0);
    let engine = Engine::new(Slots {
        instances: u32::try_from(instances.clamp(1, INSTANCES_MAX))?,
        memory: usize::try_from(memory)?.next_multiple_of(1 << 16),
    })?;
    let manifest::Host { cache, headers, .. } = &handover.manifest.host;
    let dir = handover.cache.as_ref().map(OwnedFd::try_clone).transpose()?;
    let cache = dir.map(|dir| (dir, cache.size.0));
    Ok(Arc::new(Loader::new(Arc::new(engine), cache, usize::try_from(headers.0)?)))
}

fn load(loader: &Loader, function: &Function, code: &Code) {
    let Some(component) = &function.component else { return };
    let loaded = loader.load(function, code);
    match &loaded {
        Ok(loaded) => {
            tracing::info!(
                function = function.name(),
                source = loaded.source.name(),
                "component loaded"
            );
        }
        Err(error) => {
            let error = error as &dyn std::error::Error;
            tracing::error!(function = function.name(), error, "the component cannot be served");
        }
    }
    component.set(loaded);
}

async fn until_told_to_stop(host: &Host, updates: Updates) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            update = updates.next() => match update? {
                Update::Orphaned => {
                    tracing::error!("the supervisor is gone");
                    return Ok(());
                }
                Update::Pool(socket) => {
                    if let Some(sandboxing) = &host.sandboxing {
                        sandboxing.connect(socket);
                    }
                }
            },
        }
    }
}
