//! The pool as the host uses it: one for the process, a revision in it for each function.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, NulError};
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use baton_otel::names::span;
use baton_otel::{RequestContext, SpanId, TraceId};
use baton_pool::activation::{Limits, Program};
use baton_pool::client::{Pool, PoolConfig, PoolEvent};
use baton_pool::lease::Phase;
use baton_pool::meter::Consumption;
use baton_pool::output::Stream;
use baton_pool::protocol::SandboxId;
use baton_pool::reason::{LeaseError, Reason};
use baton_pool::schedule::{
    Cause, Counts, FunctionId, KeepAlive, Outlook, Quarantine, SandboxInfo,
};
use baton_pool::spec::{FunctionSpec, Listen};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use super::serving::Serving;
use super::ticks::Ticks;
use super::{Connection, Lease, cause, prepare};
use crate::cores;
use crate::egress::Egress;
use crate::egress::proxy::{self, Proxy};
use crate::handover::{Handover, NativeBuild};
use crate::host::Host;
use crate::lines::Writer;
use crate::manifest::{self, Function};
use crate::observer::Observer;
use crate::problem::{Kind, Problem};
use crate::tier::Tier;
use crate::tier::chooser::{self, Bounds, Chooser};

/// Creations at once: as many as the daemon has workers, and one that waits at each.
const CREATING_MAX: usize = 4;

/// Requests of one function that may wait for a sandbox: its gate lets in no more than
/// `limits.concurrency`, so the pool has nothing left to refuse.
const WAITERS_MAX: usize = usize::MAX;

/// Descriptors that a native function may have open at once.
const DESCRIPTORS: u64 = 1024;

/// From SIGTERM to SIGKILL for a sandbox that is no longer needed.
const SANDBOX_GRACE: Duration = Duration::from_secs(5);

/// The proxy of a sandbox, for every client that goes by the usual variables; nothing is to be
/// reached without it, so nothing is excepted.
const PROXY_VARIABLES: [(&str, &str); 6] = [
    ("HTTP_PROXY", PROXY),
    ("HTTPS_PROXY", PROXY),
    ("NO_PROXY", ""),
    ("http_proxy", PROXY),
    ("https_proxy", PROXY),
    ("no_proxy", ""),
];
const PROXY: &str = "http://127.0.0.1:3128";
const _: () = assert!(baton_pool::spec::EGRESS_PORT == 3128);

/// The pool of sandboxes of this host.
pub struct Sandboxing {
    pool: Pool<Connection>,
    memory_limit: u64,
    names: Arc<Names>,
    serving: Arc<Serving>,
    observer: Arc<Observer>,
    ticks: Ticks,
}

type Names = RwLock<BTreeMap<FunctionId, Name>>;

/// The pool in numbers.
pub struct Gauges {
    /// Sandboxes in each state.
    pub states: [(&'static str, usize); 7],
    /// Bytes of the budget in use.
    pub memory: u64,
    /// Bytes of the budget.
    pub memory_limit: u64,
    /// Starts that wait for a parked sandbox or for memory.
    pub queued: usize,
}

/// What a revision is called.
struct Name {
    text: Arc<str>,
    /// The digest of its artifacts.
    digest: Arc<str>,
    /// Its sandboxes serve one request at a time.
    alone: bool,
    /// Nobody sends it requests any more; it is named until its last sandbox is gone.
    retired: bool,
    /// Learns how long its starts take.
    chooser: Arc<Chooser>,
}

/// A function's revision in the pool; dropping it retires the revision's sandboxes.
pub struct Native {
    id: FunctionId,
    sandboxing: Arc<Sandboxing>,
    chooser: Arc<Chooser>,
    /// The digest of the manifest of its image.
    image: Option<Arc<str>>,
}

impl Drop for Native {
    fn drop(&mut self) {
        let Sandboxing { pool, names, .. } = &*self.sandboxing;
        pool.retire(self.id);
        let mut names = names.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = names.get_mut(&self.id) {
            name.retired = true;
        }
    }
}

impl Sandboxing {
    /// Starts the pool, where the supervisor has one for us. It works once a daemon is connected.
    #[must_use]
    pub fn start(
        handover: &Handover,
        observer: &Arc<Observer>,
        tasks: &TaskTracker,
    ) -> Option<Arc<Self>> {
        let sandboxes = handover.sandboxes.as_ref()?;
        let section = &handover.manifest.pool;
        let config = PoolConfig {
            parked: section.parked,
            memory: section.memory.0,
            creating_max: CREATING_MAX,
            waiters_max: WAITERS_MAX,
            sockets: sandboxes.sockets.clone(),
        };
        let names = Arc::new(Names::default());
        let serving = Arc::new(Serving::default());
        let (telling, known) = (Arc::clone(observer), Arc::clone(&names));
        let served = Arc::clone(&serving);
        let (pool, work) =
            Pool::start(config, Arc::new(move |event| tell(&telling, &known, &served, event)));
        tasks.spawn(work);
        let memory_limit = section.memory.0;
        let observer = Arc::clone(observer);
        let ticks = Ticks::new(tasks.clone());
        Some(Arc::new(Self { pool, memory_limit, names, serving, observer, ticks }))
    }

    /// Takes up work with a pool daemon.
    pub fn connect(&self, daemon: OwnedFd) {
        self.pool.connect(daemon);
    }

    /// Adds a revision of a function whose native build is `build`.
    ///
    /// # Errors
    /// When its environment holds a zero byte or the process is out of descriptors.
    pub fn add(
        self: &Arc<Self>,
        function: &Function,
        digest: &str,
        build: &NativeBuild,
        egress: &Arc<Egress>,
    ) -> anyhow::Result<Native> {
        let proxied = (!function.egress.allow.is_empty())
            .then(|| Proxy::new(Arc::clone(egress), Arc::clone(&self.observer), &function.name));
        let mut env = environment(function, build)?;
        // What the manifest says of these variables wins.
        let added = PROXY_VARIABLES.iter().filter(|_| proxied.is_some());
        let added = added.filter(|(name, _)| !function.env.contains_key(*name));
        for (name, value) in added {
            env.push(CString::new(format!("{name}={value}"))?);
        }
        let (limits, sandboxes) = (&function.limits, &function.sandboxes);
        let id = self.pool.add(FunctionSpec {
            name: function.name.as_str().into(),
            program: program(build)?,
            root: build.root.as_ref().map(|own| own.root.number),
            listen: match function.listen {
                manifest::Listen::Inherited => Listen::Inherited,
                manifest::Listen::Unix(_) => Listen::Unix,
                manifest::Listen::Tcp(port) => Listen::Tcp(port),
            },
            argv: arguments(function, build)?,
            env,
            limits: Limits {
                memory: limits.memory.0,
                cpu: limits.cpu,
                pids: limits.pids,
                descriptors: DESCRIPTORS,
            },
            scratch: limits.scratch.0,
            egress: proxied.map(proxy::serving),
            min: sandboxes.min,
            max: sandboxes.max,
            concurrency: u32::try_from(sandboxes.concurrency)?,
            idle_timeout: sandboxes.idle_timeout,
            keep_alive: match function.keep_alive {
                manifest::KeepAlive::Fixed => KeepAlive::Fixed,
                manifest::KeepAlive::Histogram => KeepAlive::Histogram,
            },
            freeze_after: sandboxes.freeze_after,
            start_timeout: limits.start_timeout,
            grace: SANDBOX_GRACE,
        });
        let in_use: BTreeSet<_> =
            self.pool.sandboxes().into_iter().filter_map(|sandbox| sandbox.function).collect();
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.retain(|id, name| !name.retired || in_use.contains(id));
        let bounds = Bounds {
            concurrency: sandboxes.concurrency,
            max: sandboxes.max,
            idle_timeout: sandboxes.idle_timeout,
            cores: u32::try_from(cores::count()).unwrap_or(u32::MAX),
        };
        let chooser = Arc::new(Chooser::new(bounds, Instant::now()));
        let name = Name {
            text: function.name.as_str().into(),
            digest: digest.into(),
            alone: sandboxes.concurrency == 1,
            retired: false,
            chooser: Arc::clone(&chooser),
        };
        names.insert(id, name);
        let image = build.command.as_ref().and_then(|command| command.image.as_deref());
        Ok(Native { id, sandboxing: Arc::clone(self), chooser, image: image.map(Into::into) })
    }

    /// The pool in numbers.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let statistics = self.pool.statistics();
        let Counts { creating, parked, starting, warm, frozen, draining, removing } =
            statistics.total;
        let states = [
            ("creating", creating),
            ("parked", parked),
            ("starting", starting),
            ("warm", warm),
            ("frozen", frozen),
            ("draining", draining),
            ("removing", removing),
        ];
        Gauges {
            states,
            memory: statistics.memory,
            memory_limit: self.memory_limit,
            queued: statistics.queued,
        }
    }

    /// Ends every sandbox.
    pub async fn shutdown(&self) {
        self.pool.shutdown().await;
    }
}

impl Native {
    /// A warm sandbox with room, if there is one.
    pub(super) fn try_lease(&self) -> Option<Lease> {
        self.sandboxing.pool.try_lease(self.id)
    }

    /// Ticks by which requests are looked at.
    pub(super) fn ticks(&self) -> &Ticks {
        &self.sandboxing.ticks
    }

    /// What there is for one more request.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        self.sandboxing.pool.outlook(self.id)
    }

    /// Keeps idle sandboxes at most so long from the next release on.
    pub(super) fn keep_at_most(&self, keep: Duration) {
        self.sandboxing.pool.keep_at_most(self.id, keep);
    }

    /// The digest of the manifest of the image that it is served from, if it is from one.
    #[must_use]
    pub fn image(&self) -> Option<&Arc<str>> {
        self.image.as_ref()
    }

    /// What is known of the function's tiers.
    #[must_use]
    pub fn chooser(&self) -> &Arc<Chooser> {
        &self.chooser
    }

    /// Has sandboxes prepared for the requests now in flight.
    pub(super) fn prepare(&self, in_flight: usize, context: &RequestContext) {
        let wanted = u32::try_from(in_flight).unwrap_or(u32::MAX);
        self.sandboxing.pool.prepare(self.id, wanted, cause(context));
    }

    /// A sandbox, waiting for one if need be.
    pub(super) async fn lease(&self, context: &RequestContext) -> Result<Lease, Problem> {
        let leased = self.sandboxing.pool.lease(self.id, cause(context)).await;
        leased.map_err(|error| {
            let kind = match &error {
                LeaseError::Saturated { .. } | LeaseError::QueueFull { .. } => Kind::Saturated,
                LeaseError::StartFailed { .. } => Kind::Crashed,
                LeaseError::Draining => Kind::Draining,
                _ => Kind::Starting,
            };
            Problem::new(kind, error.to_string())
        })
    }

    /// A sandbox serves a request of this trace from now on; the span is that of the work on it.
    pub(super) fn serves(&self, sandbox: SandboxId, request: (TraceId, SpanId)) {
        self.sandboxing.serving.note(sandbox, request);
    }

    /// This function's sandboxes by state.
    #[must_use]
    pub fn statistics(&self) -> Value {
        let statistics = self.sandboxing.pool.statistics();
        let counts = statistics.functions.get(&self.id).copied();
        counts.as_ref().map(by_state).unwrap_or_default()
    }

    /// What its sandboxes used, those that are gone included.
    #[must_use]
    pub fn consumption(&self) -> Consumption {
        let pool = &self.sandboxing.pool;
        let mut mine = pool.sandboxes();
        mine.retain(|info| info.function == Some(self.id));
        let gone = pool.consumed(self.id);
        pool.consumption(&mine).into_iter().flatten().fold(gone, Consumption::and)
    }

    /// Why it is left alone for a while, if its last starts failed.
    #[must_use]
    pub fn quarantine(&self) -> Option<Value> {
        self.sandboxing.pool.quarantine(self.id).as_ref().map(describe_quarantine)
    }
}

fn program(build: &NativeBuild) -> anyhow::Result<Program> {
    match (&build.executable, &build.command) {
        (Some(executable), _) => Ok(Program::Executable(executable.try_clone()?)),
        (None, Some(command)) => Ok(Program::Path {
            path: CString::new(command.path.as_str())?,
            directory: CString::new(command.directory.as_str())?,
        }),
        (None, None) => anyhow::bail!("it has neither an executable nor a command"),
    }
}

fn arguments(function: &Function, build: &NativeBuild) -> Result<Vec<CString>, NulError> {
    let alone = std::slice::from_ref(&function.name);
    let arguments = build.command.as_ref().map_or(alone, |command| &command.arguments);
    arguments.iter().map(|argument| CString::new(argument.as_str())).collect()
}

/// What the manifest says, and what an image says that the manifest does not.
fn environment(function: &Function, build: &NativeBuild) -> Result<Vec<CString>, NulError> {
    let said = build.command.iter().flat_map(|command| &command.env);
    let said = said.filter(|(name, _)| !function.env.contains_key(name));
    let said = said.map(|(name, value)| (name, value));
    let entries = function.env.iter().chain(said);
    entries.map(|(name, value)| CString::new(format!("{name}={value}"))).collect()
}

fn by_state(counts: &Counts) -> Value {
    json!({
        "starting": counts.starting,
        "warm": counts.warm,
        "frozen": counts.frozen,
        "draining": counts.draining,
        "removing": counts.removing,
    })
}

/// As administration shows it.
#[must_use]
pub fn describe_consumption(used: &Consumption) -> Value {
    json!({
        "cpu_seconds": used.cpu.as_secs_f64(),
        "memory_bytes": used.memory,
        "memory_peak_bytes": used.memory_peak,
        "oom_kills": used.oom_kills,
        "throttled_seconds": used.throttled.as_secs_f64(),
    })
}

fn describe_quarantine(quarantine: &Quarantine) -> Value {
    json!({
        "reason": quarantine.reason.to_string(),
        "failures": quarantine.failures,
        "retry_ms": u64::try_from(quarantine.retry_in.as_millis()).unwrap_or(u64::MAX),
    })
}

/// Functions whose starts fail, for `GET /v1/sandboxes`.
#[must_use]
pub fn quarantined(host: &Host) -> Value {
    let functions = host.functions.load();
    let failing = functions.list().iter().filter_map(|function| {
        let mut shown = function.native.as_ref()?.quarantine()?;
        shown["function"] = function.name().into();
        Some(shown)
    });
    failing.collect()
}

/// Every sandbox of the host, for `GET /v1/sandboxes`.
#[must_use]
pub fn sandboxes(host: &Host) -> Value {
    let Some(sandboxing) = &host.sandboxing else { return json!([]) };
    let names = sandboxing.names.read().unwrap_or_else(PoisonError::into_inner);
    let describe = |(sandbox, used): (SandboxInfo, Option<Consumption>)| {
        json!({
            "id": sandbox.id.to_string(),
            "function": sandbox.function.and_then(|id| names.get(&id)).map(|name| &*name.text),
            "state": sandbox.state.name(),
            "pid": sandbox.pid,
            "reason": sandbox.ending.as_ref().map(ToString::to_string),
            "usage": used.as_ref().map(describe_consumption),
            "age_ms": u64::try_from(sandbox.age.as_millis()).unwrap_or(u64::MAX),
        })
    };
    let sandboxes = sandboxing.pool.sandboxes();
    let used = sandboxing.pool.consumption(&sandboxes);
    sandboxes.into_iter().zip(used).map(describe).collect()
}

/// How long a start took: the activation until the function accepted, as if it had a core of its own while the host has
/// computed for so long `beside` it, and the creation before it.
fn measure(chooser: &Chooser, phases: &[Phase], beside: Duration) {
    let find = |name: &str| phases.iter().find(|phase| phase.name == name);
    let since = |start: SystemTime, end: SystemTime| end.duration_since(start).ok();
    if let (Some(activate), Some(ready)) = (find("activate"), find("ready"))
        && let Some(took) = since(activate.start, ready.end)
    {
        let alone = took.div_f64(cores::start_slowed_by(took, beside));
        chooser.started(chooser::Kind::Activation, alone);
    }
    if let Some(create) = find("create")
        && let Some(took) = since(create.start, create.end)
    {
        chooser.started(chooser::Kind::Creation, took);
    }
}

/// What the pool has to say goes to the log and into traces.
fn tell(observer: &Observer, names: &Names, serving: &Serving, event: PoolEvent) {
    let names = names.read().unwrap_or_else(PoisonError::into_inner);
    let name = |id: &FunctionId| names.get(id).map_or("?", |name| &*name.text);
    match event {
        PoolEvent::Created { .. } => observer.metrics.created(),
        PoolEvent::Prepared { function, sandbox, pid, cause, outcome, phases, beside } => {
            if let (Ok(()), Some(known)) = (&outcome, names.get(&function)) {
                measure(&known.chooser, &phases, beside);
            }
            let function = name(&function);
            match &outcome {
                Ok(()) => tracing::debug!(function, %sandbox, pid, "sandbox ready"),
                Err(reason) => {
                    tracing::warn!(function, %sandbox, %reason, "the native build did not start");
                }
            }
            count_start(observer, function, cause, &outcome, &phases);
            if cause.sampled {
                observer.trace(prepare::trace(function, sandbox, pid, cause, &outcome, &phases));
            }
        }
        PoolEvent::Frozen { function, sandbox, cause, phase } => {
            let function = name(&function);
            tracing::debug!(function, %sandbox, "sandbox frozen");
            if cause.sampled {
                let span = span::SANDBOX_FREEZE;
                observer.trace(prepare::befell(span, Some(function), sandbox, "idle", &phase));
            }
        }
        PoolEvent::Thawed { function, sandbox, cause, reason, phase } => {
            let (function, reason) = (name(&function), reason.to_string());
            tracing::debug!(function, %sandbox, reason, "sandbox thawed");
            if cause.sampled {
                let span = span::SANDBOX_THAW;
                observer.trace(prepare::befell(span, Some(function), sandbox, &reason, &phase));
            }
        }
        PoolEvent::Gone { function, cause, phase, sandbox, reason, usage } => {
            let function = function.as_ref().map(name);
            let last = serving.of(sandbox).pop();
            serving.forget(sandbox);
            observer.metrics.removed(word(&reason), usage.oom_kills);
            if let Some(function) = function {
                let cpu = Duration::from_nanos(usage.cpu_ns);
                observer.metrics.of(function).used(cpu, usage.memory_peak);
            }
            if cause.sampled {
                observer.trace(prepare::removed(function, sandbox, &reason, last, &phase));
            }
            tracing::debug!(function, %sandbox, %reason, cpu_ns = usage.cpu_ns, memory_peak = usage.memory_peak, "sandbox gone");
        }
        PoolEvent::Output { function, sandbox, stream, line } => {
            let Some(name) = names.get(&function) else { return };
            let served = serving.of(sandbox);
            let writer = Writer {
                function: &name.text,
                revision: &name.digest,
                tier: Tier::Native,
                instance: &sandbox.to_string(),
                stream: match stream {
                    Stream::Stdout => "stdout",
                    Stream::Stderr => "stderr",
                },
                // One request at a time: the last one is the one at work.
                request: served.last().copied().filter(|_| name.alone),
                served: &served,
            };
            observer.line(writer, &line);
        }
    }
}

/// Counts a start, from the request that caused it (or its first step) until it accepts.
fn count_start(
    observer: &Observer,
    function: &str,
    cause: Cause,
    outcome: &Result<(), Reason>,
    phases: &[Phase],
) {
    let first = phases.iter().map(|phase| phase.start).min();
    let began = cause.at.or(first);
    let ended = phases.iter().map(|phase| phase.end).max();
    let took = began.zip(ended).and_then(|(began, ended)| ended.duration_since(began).ok());
    let took = outcome.as_ref().map(|()| took.unwrap_or_default()).map_err(drop);
    observer.metrics.of(function).started(Tier::Native, took);
    let waited = cause.at.map(|at| prepare::since(at, phases));
    if waited.is_some_and(|phases| phases.iter().any(|phase| phase.name == "create")) {
        observer.metrics.parked_miss();
    }
}

/// The word for an end, of low cardinality.
fn word(reason: &Reason) -> &'static str {
    match reason {
        Reason::Idle => "idle",
        Reason::Evicted => "evicted",
        Reason::Surplus => "surplus",
        Reason::Tainted => "tainted",
        Reason::Retired => "retired",
        Reason::Shutdown => "shutdown",
        Reason::DaemonLost => "daemon-lost",
        Reason::NeverAccepted => "never-accepted",
        Reason::OutOfMemory => "oom",
        Reason::Exit(_) => "exit",
        Reason::Died => "died",
        Reason::Start(_) => "start-failed",
        Reason::Create(_) => "create-failed",
    }
}
