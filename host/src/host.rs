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

use arc_swap::ArcSwap;
use baton_otel::settings::{self, InvalidEndpoint};
use baton_otel::{Config, Environment, Recent, Telemetry};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::AccessLog;
use crate::deploy::{Changes, Deployer};
use crate::function::Function;
use crate::handover::{Deployment, Handover, Update, Updates};
use crate::manifest::{Manifest, TelemetrySection};
use crate::metrics::{self, Metrics};
use crate::native::Sandboxing;
use crate::observer::Observer;
use crate::route::Routes;
use crate::server::{self, Server};
use crate::{admin, tls};

/// How long the last spans may take to reach the collector.
const FLUSH: Duration = Duration::from_secs(5);

/// The functions that are served: one value, swapped whole.
#[derive(Default)]
pub struct Functions {
    routes: Routes,
    list: Vec<Arc<Function>>,
}

impl Functions {
    /// The table of `list`, whose routes differ from each other.
    #[must_use]
    pub fn new(list: Vec<Arc<Function>>) -> Self {
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
    /// What runs everything.
    pub runtime: Handle,
    /// Connections of clients, also those that have changed their protocol.
    pub connections: TaskTracker,
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
    let (host, deployer) = assemble(&handover, environment)?;
    let tls = handover.tls.as_ref().map(tls::config).transpose()?;
    let server = Server::new(Arc::clone(&host), &bounds, tls);
    let admin = admin::start(Arc::clone(&host), handover.admin)?;
    let serving = server::start(&server, handover.listeners)?;
    until_told_to_stop(&host, &server, deployer, Updates::new(control)?).await?;

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

fn assemble(
    handover: &Handover,
    environment: &Environment,
) -> anyhow::Result<(Arc<Host>, Deployer)> {
    let Manifest { host: bounds, telemetry, .. } = &handover.manifest;
    let TelemetrySection { keep, keep_unsampled, .. } = *telemetry;
    let telemetry = Telemetry::start(&telemetry_config(telemetry), environment)?;
    let observer = Arc::new(Observer {
        access: AccessLog::start(bounds.log, std::io::stderr())?,
        sampler: *telemetry.sampler(),
        telemetry,
        recent: Recent::default(),
        metrics: Metrics::default(),
        keep,
        keep_unsampled,
    });
    let tasks = TaskTracker::new();
    let sandboxing = Sandboxing::start(handover, &observer, &tasks);
    let mut deployer = Deployer::new(handover, sandboxing.clone(), Arc::clone(&observer), &tasks)?;
    let plan = deployer.deploy(&handover.functions, &Functions::default())?;
    let host = Host {
        functions: ArcSwap::from_pointee(plan.load_beside(&tasks)),
        observer,
        sandboxing,
        headers_max: usize::try_from(bounds.headers.0)?,
        server_timing: bounds.server_timing,
        draining: CancellationToken::new(),
        closing: CancellationToken::new(),
        runtime: Handle::current(),
        connections: TaskTracker::new(),
        tasks,
    };
    let host = Arc::new(host);
    let observed = Arc::downgrade(&host);
    host.observer.telemetry.observe(Arc::new(move || {
        observed.upgrade().map(|host| metrics::read(&host)).unwrap_or_default()
    }));
    Ok((host, deployer))
}

/// Does what the supervisor says, until told to stop. While new functions are being loaded it
/// hears nothing else of the supervisor, so that they take effect in the order of their coming.
async fn until_told_to_stop(
    host: &Host,
    server: &Server,
    mut deployer: Deployer,
    updates: Updates,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let obey = async {
        loop {
            match updates.next().await? {
                Update::Orphaned => {
                    tracing::error!("the supervisor is gone");
                    return anyhow::Ok(());
                }
                Update::Pool(socket) => {
                    if let Some(sandboxing) = &host.sandboxing {
                        sandboxing.connect(socket);
                    }
                }
                Update::Functions(deployments) => swap(host, &mut deployer, &deployments).await,
                Update::Tls(files) => match tls::config(&files) {
                    Ok(config) => {
                        server.renew(config);
                        tracing::info!("the certificate was renewed");
                    }
                    Err(error) => {
                        tracing::error!(%error, "the certificate was not renewed");
                    }
                },
            }
        }
    };
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        ended = obey => ended,
    }
}

/// Puts a new table of functions in the place of the present one, once all of it can be served.
async fn swap(host: &Host, deployer: &mut Deployer, deployments: &[Deployment]) {
    let planned = deployer.deploy(deployments, &host.functions.load());
    let loaded = match planned {
        Ok(plan) => plan.load(&host.tasks).await,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the functions cannot be deployed");
            None
        }
    };
    match loaded {
        Some((functions, changes)) => {
            host.functions.store(Arc::new(functions));
            let Changes { added, replaced, removed } = changes;
            tracing::info!(?added, ?replaced, ?removed, "functions swapped");
        }
        None => tracing::error!("the functions stay as they were"),
    }
}
