//! The supervisor: root, single-threaded, tiny.
//!
//! It opens what the manifest names, starts the pool daemon and the host, starts them again when
//! they die, passes signals on, and removes what is left at the end. It parses no HTTP, runs no
//! guest, and is the only one to see paths.
//!
//! ```text
//! prepare ─▶ running ── host or daemon died ─▶ started again, at most RESTARTS in a row
//!               │     └─ SIGHUP, or a file changed ─▶ what changed goes to the host (`reload`)
//!               │ SIGTERM or SIGINT
//!               ▼
//!            stopping: host drains, then the daemon removes its sandboxes ─▶ leftovers removed
//!               │ a second signal: both are killed
//!               ▼
//!             ended
//! ```

mod artifacts;
mod child;
mod images;
mod listeners;
mod natives;
mod reload;
mod run_dir;
mod scratch;
mod signals;
mod watch;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

pub use artifacts::{OpenError, open_cache, seal};
/// What was asked for cannot be done here: a matter of usage, not a failure.
#[derive(Debug, thiserror::Error)]
pub enum Misuse {
    /// Sandboxes cannot be made here.
    #[error(
        "function {function} has policy \"native\", which needs sandboxes: {missing}; `baton doctor` says more"
    )]
    NoSandboxes {
        /// The function.
        function: String,
        /// What is missing for them.
        missing: String,
    },
    /// The arguments contradict each other.
    #[error("{0}")]
    Arguments(&'static str),
    /// The user that the host is to become is not known.
    #[error(transparent)]
    User(#[from] UnknownUser),
    /// The telemetry's endpoint or variables cannot be used.
    #[error(transparent)]
    Telemetry(#[from] baton_otel::settings::InvalidEndpoint),
    /// The host cannot reach its own sockets.
    #[error(
        "the state directory lies below {}, which user {uid}, as whom the host runs, cannot enter; choose another with --state-dir",
        closed.display()
    )]
    StateDir {
        /// The directory that is closed.
        closed: PathBuf,
        /// The host's user.
        uid: u32,
    },
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A component cannot have its `/tmp`.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// A listener cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
}

pub use child::{HOST_COMMAND, POOL_COMMAND, PoolArguments};
pub use listeners::BindError;
pub use run_dir::RunDir;
pub use scratch::ScratchError;

use crate::artifact::Component;
use crate::handover::{self, Deployment, Outgoing, Sandboxes, TlsFiles};
use crate::manifest::{Faults, Manifest, Policy};
use crate::tls::TlsError;
use baton_otel::Environment;
use baton_pool::daemon::delegation;
use baton_pool::daemon::probe::Machine;
use child::{Child, UnknownUser};
use listeners::Listeners;
use signals::Signals;
use watch::{LOOK, Watch};

/// Deaths in a row after which a process is not started again.
const RESTARTS: u32 = 5;

/// A process that lived this long has not died in a row with the last one.
const SETTLED: Duration = Duration::from_secs(10);

/// Before a process is started again, for each of its earlier deaths in a row.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// What a stopping host may take beyond its drain: flushing, and ending its sandboxes.
const HOST_MARGIN: Duration = Duration::from_secs(15);

/// What the daemon may take to remove every sandbox.
const POOL_MARGIN: Duration = Duration::from_secs(10);

/// Where a run keeps its things.
#[derive(Clone, Debug)]
pub struct Places {
    /// The directory below which each run has one of its own.
    pub state_dir: PathBuf,
    /// The cgroup below which each run has one of its own, from the root of the hierarchy; `None` for
    /// one within what was delegated to this process, or [`CGROUP_PARENT`].
    pub cgroup_parent: Option<String>,
}

/// The cgroup of all runs on a machine that has delegated none.
pub const CGROUP_PARENT: &str = "baton";

impl Places {
    /// The cgroup below which the run's is made; where sandboxes `can_be_made`, processes of a
    /// delegated one move out of its way.
    fn settle(&self, can_be_made: bool) -> String {
        if let Some(parent) = &self.cgroup_parent {
            return parent.trim_matches('/').to_owned();
        }
        let delegated = match can_be_made {
            true => delegation::settle(),
            false => Ok(None),
        };
        let delegated = delegated.unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cgroups are made outside of what was delegated");
            None
        });
        delegated.unwrap_or_else(|| CGROUP_PARENT.to_owned())
    }
}

/// What each function's component file holds; nothing for a function without one.
type Inspected = Vec<Option<Component>>;

/// Where the manifest comes from, at the start and at each reload.
pub struct Origin<'a> {
    /// Reads it.
    pub read: &'a dyn Fn() -> anyhow::Result<Manifest>,
    /// Looks at everything that it names.
    pub inspect: &'a dyn Fn(&Manifest) -> Result<Inspected, Faults>,
    /// Whether it is read again when it or an artifact changes on disk.
    pub watch: bool,
}

/// Serves until told to stop.
///
/// # Errors
/// When the manifest is faulty, an artifact cannot be opened, a listener not bound, or the host
/// does not stay alive.
pub fn run(origin: Origin<'_>, places: &Places, environment: &Environment) -> anyhow::Result<()> {
    let manifest = (origin.read)()?;
    let components = (origin.inspect)(&manifest)?;
    let signals = Signals::block()?;
    let missing = Machine::probe().missing().join(", ");
    require_sandboxes(&missing, &manifest)?;
    if nix::unistd::geteuid().is_root() {
        child::ids(&manifest.host.user).map_err(Misuse::User)?;
    }
    crate::host::telemetry_settings(&manifest.telemetry, environment).map_err(Misuse::Telemetry)?;
    let run_dir = RunDir::create(&places.state_dir, places.settle(missing.is_empty()))?;
    let listeners = Listeners::bind(&manifest.host).map_err(Misuse::Bind)?;
    let mut roots = 0;
    let deployments = artifacts::open(&manifest, &components, &mut roots)?;
    prune_images(&manifest);
    let tls = artifacts::tls(&manifest.host)?;
    let cache = artifacts::cache(&manifest.host);
    let sockets = missing.is_empty().then(|| run_dir.sockets(&manifest.host));
    let sockets = match sockets {
        // As long as no function needs one it may stay that way.
        Some(Err(_)) if !needs_pool(&deployments) => None,
        sockets => sockets.transpose()?,
    };
    listeners.announce(&manifest.host)?;
    let mut supervisor = Supervisor {
        origin,
        manifest,
        deployments,
        roots,
        tls,
        cache,
        missing,
        sandboxes: sockets.map(|sockets| Sandboxes { sockets }),
        listeners: Some(listeners),
        watch: Watch::default(),
        tls_watch: Watch::default(),
        run_dir,
        host: None,
        pool: None,
    };
    supervisor.follow();
    let ended = supervisor.supervise(&signals);
    supervisor.run_dir.remove();
    ended
}

/// An error when a function cannot do without sandboxes and something is `missing` for them.
fn require_sandboxes(missing: &str, manifest: &Manifest) -> Result<(), Misuse> {
    if missing.is_empty() {
        return Ok(());
    }
    let native = |f: &&crate::manifest::Function| f.policy == Policy::Native;
    if let Some(function) = manifest.functions.iter().find(native) {
        let (function, missing) = (function.name.clone(), missing.to_owned());
        return Err(Misuse::NoSandboxes { function, missing });
    }
    if manifest.functions.iter().any(|function| function.native.is_some()) {
        tracing::warn!(
            "no sandboxes can be made, everything is served from WebAssembly: {missing}"
        );
    }
    Ok(())
}

/// Removes unpacked images that nobody uses any more.
fn prune_images(manifest: &Manifest) {
    if let Err(error) = images::prune(&manifest.host.cache.dir, images::UNUSED_MAX) {
        tracing::warn!(%error, "cannot remove unpacked images that nobody uses");
    }
}

/// Whether a pool daemon has something to do.
fn needs_pool(deployments: &[Deployment]) -> bool {
    deployments.iter().any(|function| function.native.is_some())
}

struct Supervisor<'a> {
    origin: Origin<'a>,
    /// What is in use of it.
    manifest: Manifest,
    deployments: Vec<Deployment>,
    /// The last number that a root got.
    roots: u32,
    tls: Option<TlsFiles>,
    cache: Option<OwnedFd>,
    /// What this machine lacks for sandboxes; empty when they can be made.
    missing: String,
    /// Where they are reached; `None` where none can be made.
    sandboxes: Option<Sandboxes>,
    /// `None` once the host drains: nobody else may hold the listening sockets then.
    listeners: Option<Listeners>,
    /// The manifest and the artifacts, when they are to be watched.
    watch: Watch,
    /// The certificate and its key.
    tls_watch: Watch,
    run_dir: RunDir,
    host: Option<Kept>,
    pool: Option<Kept>,
}

/// A process that is kept alive.
struct Kept {
    child: Child,
    started: Instant,
    deaths: u32,
}

impl Kept {
    fn start(child: Child, before: Option<&Self>) -> Self {
        let deaths = before.map_or(0, |before| match before.started.elapsed() < SETTLED {
            true => before.deaths + 1,
            false => 1,
        });
        Self { child, started: Instant::now(), deaths }
    }
}

impl Supervisor<'_> {
    fn supervise(&mut self, signals: &Signals) -> anyhow::Result<()> {
        nix::sys::prctl::set_child_subreaper(true).context("cannot become a subreaper")?;
        self.start_host()?;
        if needs_pool(&self.deployments) {
            self.start_pool()?;
        }
        let watches = !self.watch.is_empty() || !self.tls_watch.is_empty();
        let crashed = loop {
            let signal = signals.wait(watches.then_some(LOOK))?;
            if signals::stops(signal) {
                break None;
            }
            if let Err(error) = self.reap() {
                break Some(error);
            }
            if signal == Some(Signal::SIGHUP) || self.watch.changed() {
                self.reload();
            } else if self.tls_watch.changed() {
                self.renew_tls();
            }
        };
        self.stop(signals)?;
        crashed.map_or(Ok(()), Err)
    }

    fn start_host(&mut self) -> anyhow::Result<()> {
        let Some(listeners) = &self.listeners else { return Ok(()) };
        let (ours, theirs) = baton_pool::protocol::channel()?;
        let child = Child::host(ours, theirs, &self.manifest.host.user, &self.run_dir)?;
        let outgoing = Outgoing {
            manifest: &self.manifest,
            functions: &self.deployments,
            listeners: &listeners.functions,
            admin: &listeners.admin,
            tls: self.tls.as_ref(),
            cache: self.cache.as_ref(),
            sandboxes: self.sandboxes.as_ref(),
        };
        outgoing.send(&child.control).context("the host process ended before it had started")?;
        self.host = Some(Kept::start(child, self.host.as_ref()));
        Ok(())
    }

    /// Tells a daemon of the roots after this number.
    fn tell_roots(&self, daemon: &OwnedFd, after: u32) {
        let builds = self.deployments.iter().filter_map(|function| function.native.as_ref());
        let roots = builds.filter_map(|build| build.root.as_ref());
        for root in roots.filter(|own| own.root.number > after) {
            // One that died at once is started again and told anew.
            if let Err(error) = natives::send(root, daemon) {
                tracing::warn!(%error, "cannot tell the pool daemon of a root");
            }
        }
    }

    /// Starts a pool daemon, where sandboxes can be made.
    fn start_pool(&mut self) -> anyhow::Result<()> {
        if self.sandboxes.is_none() {
            return Ok(());
        }
        let (hosts_end, pools_end) = baton_pool::protocol::channel()?;
        let child = Child::pool(pools_end, &self.run_dir, self.manifest.host.log)?;
        self.tell_roots(&child.control, 0);
        if let Some(host) = &self.host {
            // A host that has just died gets the next daemon's socket when it is started again.
            let _ = handover::send_pool(&host.child.control, &hosts_end);
        }
        self.pool = Some(Kept::start(child, self.pool.as_ref()));
        Ok(())
    }

    /// Collects processes that have ended and starts the two that must live again.
    fn reap(&mut self) -> anyhow::Result<()> {
        while let Some(status) = ended()? {
            let pid = status.pid();
            if pid == self.host.as_ref().map(|kept| kept.child.pid) {
                let deaths = self.host.as_ref().map_or(0, |kept| kept.deaths);
                tracing::error!(?status, "the host process died");
                if deaths >= RESTARTS {
                    bail!("the host process died {deaths} times in a row");
                }
                rest(deaths);
                self.start_host()?;
                // The daemon follows the host that it served; it is started anew below.
            } else if pid == self.pool.as_ref().map(|kept| kept.child.pid) {
                let deaths = self.pool.as_ref().map_or(0, |kept| kept.deaths);
                tracing::error!(?status, "the pool daemon died");
                if deaths >= RESTARTS {
                    self.pool = None;
                    tracing::error!(
                        "no sandboxes any more: the pool daemon died {deaths} times in a row"
                    );
                } else {
                    rest(deaths);
                    self.start_pool()?;
                }
            }
        }
        Ok(())
    }

    fn stop(&mut self, signals: &Signals) -> anyhow::Result<()> {
        self.listeners = None;
        let bounds = &self.manifest.host;
        let drain = bounds.drain_delay + bounds.grace + HOST_MARGIN;
        for (kept, margin) in [(self.host.take(), drain), (self.pool.take(), POOL_MARGIN)] {
            if let Some(kept) = kept {
                kept.child.terminate();
                await_end(&kept.child, signals, margin)?;
            }
        }
        Ok(())
    }
}

/// What dies at once would otherwise be started as fast as it dies.
fn rest(deaths: u32) {
    std::thread::sleep(RESTART_PAUSE * deaths);
}

/// Waits until `child` has ended; kills it when it takes longer than `margin` or a second signal
/// asks to stop at once.
fn await_end(child: &Child, signals: &Signals, margin: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + margin;
    loop {
        while let Some(status) = ended()? {
            if status.pid() == Some(child.pid) {
                return Ok(());
            }
        }
        if !child.is_alive() {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let signal = signals.wait(Some(left))?;
        if left.is_zero() || signals::stops(signal) {
            child.kill();
        }
    }
}

/// A child or an orphan that has ended.
fn ended() -> anyhow::Result<Option<WaitStatus>> {
    match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => Ok(None),
        Ok(status) => Ok(Some(status)),
        Err(error) => Err(error).context("cannot wait for children"),
    }
}

/// Waits until `fd` is readable, at most `timeout`; false when the time is up.
fn readable(fd: &OwnedFd, timeout: Option<Duration>) -> anyhow::Result<bool> {
    let timeout = match timeout {
        None => PollTimeout::NONE,
        Some(timeout) => PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX),
    };
    match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(count) => Ok(count > 0),
        Err(nix::Error::EINTR) => Ok(false),
        Err(error) => Err(error).context("cannot wait for signals"),
    }
}
