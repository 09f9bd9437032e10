//! The pool as the host sees it: add functions, lease their sandboxes, hear what becomes of them.
//!
//! ```text
//! requests ──try_lease, lease, release──▶ Shared: a short mutex around the Schedule
//!                                            ▲ events        │ effects
//!                        keepers, one a ─────┤               ▼
//!                        running sandbox ◀── driver ◀──SEQPACKET──▶ pool daemon
//! ```
//! The mutex is never held over I/O, an await or the host's code. A lease of a warm sandbox and its
//! return touch nothing else, so they cost no task switch.

use crate::cores::Cores;
use crate::driver;
use crate::lease::{Endpoint, Lease, Phase};
use crate::lifecycle::State;
use crate::meter::{Consumption, Meter, Meters};
use crate::output::Stream;
use crate::protocol::{Question, SandboxId, ToDaemon};
use crate::reason::{LeaseError, Reason, Usage};
use crate::schedule::{
    Bounds, Cause, Effect, Event, FunctionId, Outlook, Quarantine, SandboxInfo, Schedule,
    Statistics, WaiterId,
};
use crate::spec::FunctionSpec;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot, watch};

/// The pool's own configuration.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Generic sandboxes kept ready.
    pub parked: usize,
    /// Bytes that all sandboxes may cost together.
    pub memory: u64,
    /// Creations at once.
    pub creating_max: usize,
    /// Requests of one function that may wait at once.
    pub waiters_max: usize,
    /// A directory of mode 0700 that is the host's own and empty, for the functions' sockets; its
    /// path is at most 80 bytes long, for the sake of `sun_path`.
    pub sockets: PathBuf,
}

/// What the pool has to tell.
#[derive(Clone, Debug)]
pub enum PoolEvent {
    /// A sandbox was created and is parked.
    Created {
        /// Which.
        sandbox: SandboxId,
    },
    /// A start is over.
    Prepared {
        /// Of which function.
        function: FunctionId,
        /// In which sandbox.
        sandbox: SandboxId,
        /// Its init.
        pid: u32,
        /// Which request caused it.
        cause: Cause,
        /// It accepts connections, or why not.
        outcome: Result<(), Reason>,
        /// What was done, from creation on.
        phases: Vec<Phase>,
        /// How long this process has computed beside the start, from its activation on.
        beside: Duration,
    },
    /// An idle sandbox was stopped.
    Frozen {
        /// Whose it is.
        function: FunctionId,
        /// Which.
        sandbox: SandboxId,
        /// Which request its start was caused by.
        cause: Cause,
        /// When.
        phase: Phase,
    },
    /// A stopped one continues so that it can end; one that a request needs is thawed by [`Pool::try_lease`] and
    /// [`Pool::lease`], and the lease knows when.
    Thawed {
        /// Whose it is.
        function: FunctionId,
        /// Which.
        sandbox: SandboxId,
        /// Which request its start was caused by.
        cause: Cause,
        /// Why it ends.
        reason: Reason,
        /// When.
        phase: Phase,
    },
    /// Nothing is left of a sandbox.
    Gone {
        /// Whose it was.
        function: Option<FunctionId>,
        /// Which request its start was caused by, if one was.
        cause: Cause,
        /// From the first word about its end to the last.
        phase: Phase,
        /// Which.
        sandbox: SandboxId,
        /// Why.
        reason: Reason,
        /// What it used over its life.
        usage: Usage,
    },
    /// A function wrote a line, without its line feed, at most [`LINE_MAX`](crate::output::LINE_MAX) bytes long.
    Output {
        /// Which function.
        function: FunctionId,
        /// In which sandbox.
        sandbox: SandboxId,
        /// Where to.
        stream: Stream,
        /// What.
        line: Vec<u8>,
    },
}

/// Hears what the pool has to tell, on the pool's own tasks: it must be quick.
pub type Events = Arc<dyn Fn(PoolEvent) + Send + Sync>;

/// The sandbox pool. `C` is the host's idea of a connection kept alive.
pub struct Pool<C: Send + 'static> {
    shared: Arc<Shared<C>>,
}

impl<C: Send + 'static> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Pool { shared: Arc::clone(&self.shared) }
    }
}

/// What the pool, its leases, its driver and its keepers share.
pub(crate) struct Shared<C: Send + 'static> {
    inner: Mutex<Inner<C>>,
    /// The driver has something to do.
    pub(crate) changed: Notify,
    /// The schedule was told of something.
    told: Notify,
    pub(crate) closed: watch::Sender<bool>,
    pub(crate) meters: Meters,
    /// Some function has a way out: sandboxes are created with a listener for it.
    pub(crate) egress: AtomicBool,
    /// The switch that sandboxes claim the cores with; `None` where they have their share in any case. Locked before
    /// `inner`.
    cores: Mutex<Option<Cores>>,
    events: Events,
}

struct Inner<C: Send + 'static> {
    schedule: Schedule,
    effects: Vec<Effect>,
    records: BTreeMap<SandboxId, Record<C>>,
    waiters: BTreeMap<WaiterId, oneshot::Sender<Answer<C>>>,
    specs: BTreeMap<FunctionId, Arc<FunctionSpec>>,
    /// By functions in sandboxes that are gone.
    consumed: BTreeMap<FunctionId, Consumption>,
    daemon: Option<OwnedFd>,
    /// For the daemon, and who waits for its answers, in order for each sandbox.
    asks: Vec<ToDaemon>,
    asked: BTreeMap<SandboxId, VecDeque<oneshot::Sender<Told>>>,
    /// When the driver wakes up by itself.
    armed: Option<Instant>,
    next: u64,
}

/// What is known of a parked or running sandbox beside its place in the schedule.
struct Record<C> {
    pid: u32,
    meter: Meter,
    phases: Vec<Phase>,
    /// As in [`PoolEvent::Prepared`].
    beside: Duration,
    endpoint: Option<Arc<Endpoint<C>>>,
}

/// What the daemon answered to a question.
type Told = Result<Vec<OwnedFd>, String>;

type Answer<C> = Result<Lease<C>, LeaseError>;
type Grant<C> = Result<(Arc<Endpoint<C>>, bool), LeaseError>;

/// What the driver has to do now.
pub(crate) struct Work {
    pub(crate) daemon: Option<OwnedFd>,
    pub(crate) asks: Vec<ToDaemon>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) wake: Option<Instant>,
}

/// How long a request goes on alone before a sandbox is started behind it: a short one has its answer by then, and a
/// start takes its cores, which cost the smallest function here a millisecond more than it takes by itself.
const HEAD_START: Duration = Duration::from_millis(1);

impl<C: Send + 'static> Pool<C> {
    /// A pool without functions and without a daemon, and the future that does its work. The
    /// future ends after [`Pool::shutdown`]; dropping it earlier abandons the sandboxes to the daemon.
    pub fn start(config: PoolConfig, events: Events) -> (Pool<C>, impl Future<Output = ()> + Send) {
        let bounds = Bounds {
            parked: config.parked,
            memory: config.memory,
            creating_max: config.creating_max,
            waiters_max: config.waiters_max,
        };
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                schedule: Schedule::new(bounds),
                effects: Vec::new(),
                records: BTreeMap::new(),
                waiters: BTreeMap::new(),
                specs: BTreeMap::new(),
                consumed: BTreeMap::new(),
                daemon: None,
                asks: Vec::new(),
                asked: BTreeMap::new(),
                armed: None,
                next: 0,
            }),
            changed: Notify::new(),
            told: Notify::new(),
            closed: watch::Sender::default(),
            meters: Meters::find(),
            egress: AtomicBool::new(false),
            cores: Mutex::new(None),
            events,
        });
        let driver = driver::drive(Arc::clone(&shared), config.sockets);
        (Pool { shared }, driver)
    }

    /// Takes up work with a daemon, the first one or the next. Sandboxes of the one before finish
    /// the requests that they have.
    pub fn connect(&self, daemon: OwnedFd) {
        self.shared.lock().daemon = Some(daemon);
        self.shared.changed.notify_one();
    }

    /// Adds a revision of a function.
    pub fn add(&self, spec: FunctionSpec) -> FunctionId {
        let policy = spec.policy();
        self.shared.egress.fetch_or(spec.egress.is_some(), Ordering::Relaxed);
        let mut added = FunctionId(0);
        self.shared.tell_with(|inner| {
            added = FunctionId(inner.number());
            inner.specs.insert(added, Arc::new(spec));
            Event::Add(added, policy)
        });
        added
    }

    /// Gives a function no more requests; its sandboxes end when they have none.
    pub fn retire(&self, function: FunctionId) {
        self.shared.tell_with(|inner| {
            let root = inner.specs.remove(&function).and_then(|spec| spec.root);
            let shared = |root: &u32| inner.specs.values().any(|spec| spec.root == Some(*root));
            if let Some(root) = root.filter(|root| !shared(root)) {
                inner.asks.push(ToDaemon::Forget { root });
            }
            inner.consumed.remove(&function);
            Event::Retire(function)
        });
        // Whatever the schedule makes of it.
        self.shared.changed.notify_one();
    }

    /// A warm sandbox with room, if there is one.
    pub fn try_lease(&self, function: FunctionId) -> Option<Lease<C>> {
        let now = Instant::now();
        let mut guard = self.shared.lock();
        let inner = &mut *guard;
        let mut effects = Vec::new();
        let id = inner.schedule.try_lease(now, function, &mut effects)?;
        // Whatever is warm was handed over, and then its endpoint was noted.
        let endpoint = Arc::clone(inner.records.get(&id)?.endpoint.as_ref()?);
        drop(guard);
        if !effects.is_empty() {
            self.shared.switch_cores();
        }
        Some(Lease::new(Arc::clone(&self.shared), endpoint, false))
    }

    /// Keeps idle sandboxes of a function at most so long from the next release on.
    pub fn keep_at_most(&self, function: FunctionId, keep: Duration) {
        self.shared.lock().schedule.keep_at_most(function, keep);
    }

    /// What there is for one more request of a function; nothing is done.
    pub fn outlook(&self, function: FunctionId) -> Outlook {
        self.shared.lock().schedule.outlook(Instant::now(), function)
    }

    /// Has sandboxes started for the `wanted` requests that are now in flight in a function, as
    /// far as its bounds, the budget and its recent failures allow.
    pub fn prepare(&self, function: FunctionId, wanted: u32, cause: Cause) {
        if self.shared.note(|_| Event::Prepare { function, wanted, cause }) {
            self.wake_behind();
        }
    }

    /// Wakes the driver, but not from here: it would wait in this worker's own place, which no other worker takes from,
    /// until the component that answers now lets go of the worker, for milliseconds.
    fn wake_behind(&self) {
        let shared = Arc::clone(&self.shared);
        let wake = move || {
            std::thread::sleep(HEAD_START);
            shared.changed.notify_one();
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(wake)),
            Err(_) => self.shared.changed.notify_one(),
        }
    }

    /// A sandbox with room, as soon as there is one; it may not have accepted a connection yet.
    /// Dropping the future gives up the place in the queue.
    ///
    /// # Errors
    /// Why there is none, at the latest after the function's start timeout.
    pub async fn lease(&self, function: FunctionId, cause: Cause) -> Result<Lease<C>, LeaseError> {
        let (sender, receiver) = oneshot::channel();
        let mut waiter = WaiterId(0);
        self.shared.tell_with(|inner| {
            waiter = WaiterId(inner.number());
            inner.waiters.insert(waiter, sender);
            Event::Wait { function, waiter, cause }
        });
        let mut waiting = Waiting { shared: &self.shared, function, waiter, receiver };
        // A warm sandbox was granted already, and polling might yield all the same.
        match waiting.receiver.try_recv() {
            Ok(answer) => answer,
            Err(_) => (&mut waiting.receiver).await.unwrap_or(Err(LeaseError::Draining)),
        }
    }

    /// Ends all sandboxes, each after its grace time at the latest, and returns when nothing of
    /// them is left or no daemon is there to end them.
    pub async fn shutdown(&self) {
        self.shared.tell(Event::Shutdown);
        // The sender lives in `shared`, so waiting cannot fail.
        let _ = self.shared.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// The pool in numbers, as of now.
    pub fn statistics(&self) -> Statistics {
        self.shared.lock().schedule.statistics()
    }

    /// Waits until the pool's numbers are as wanted.
    pub async fn until(&self, wanted: impl Fn(&Statistics) -> bool) {
        let mut told = pin!(self.shared.told.notified());
        loop {
            told.as_mut().enable();
            if wanted(&self.statistics()) {
                return;
            }
            told.as_mut().await;
            told.set(self.shared.told.notified());
        }
    }

    /// What sandboxes used until now. Reads some files for each.
    pub fn consumption(&self, of: &[SandboxInfo]) -> Vec<Option<Consumption>> {
        let meters = {
            let inner = self.shared.lock();
            let meter = |info: &SandboxInfo| Some(inner.records.get(&info.id)?.meter.clone());
            of.iter().map(meter).collect::<Vec<_>>()
        };
        meters.into_iter().map(|meter| meter?.read()).collect()
    }

    /// What the sandboxes of a function used that are gone.
    pub fn consumed(&self, function: FunctionId) -> Consumption {
        self.shared.lock().consumed.get(&function).copied().unwrap_or_default()
    }

    /// Whether a function is left alone for a while because its starts fail, and why they do.
    pub fn quarantine(&self, function: FunctionId) -> Option<Quarantine> {
        self.shared.lock().schedule.quarantine(Instant::now(), function)
    }

    /// Every sandbox there is, as of now.
    pub fn sandboxes(&self) -> Vec<SandboxInfo> {
        let inner = self.shared.lock();
        inner
            .schedule
            .sandboxes(Instant::now())
            .map(|info| SandboxInfo {
                pid: inner.records.get(&info.id).map(|record| record.pid),
                ..info
            })
            .collect()
    }
}

impl<C: Send + 'static> Inner<C> {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Takes the answers to waiters out of the newest effects; leases are made of them unlocked.
    fn answers(&mut self, from: usize) -> Vec<(oneshot::Sender<Answer<C>>, Grant<C>)> {
        let is_answer =
            |effect: &mut Effect| matches!(effect, Effect::Grant { .. } | Effect::Refuse { .. });
        let (records, waiters) = (&self.records, &mut self.waiters);
        let answer = |effect| match effect {
            Effect::Grant { waiter, sandbox, cold } => {
                let endpoint = records.get(&sandbox)?.endpoint.as_ref()?;
                Some((waiters.remove(&waiter)?, Ok((Arc::clone(endpoint), cold))))
            }
            Effect::Refuse { waiter, error } => Some((waiters.remove(&waiter)?, Err(error))),
            _ => None,
        };
        self.effects.extract_if(from.., is_answer).filter_map(answer).collect()
    }
}

impl<C: Send + 'static> Shared<C> {
    fn lock(&self) -> MutexGuard<'_, Inner<C>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the schedule what happened.
    pub(crate) fn tell(self: &Arc<Self>, event: Event) {
        self.tell_with(|_| event);
    }

    /// Tells the schedule what happened, together with what has to be noted at the same moment, and
    /// wakes the driver when there is something for it to do.
    fn tell_with(self: &Arc<Self>, note: impl FnOnce(&mut Inner<C>) -> Event) {
        if self.note(note) {
            self.changed.notify_one();
        }
    }

    /// Tells the schedule, answers waiters at once, and says whether there is something for the driver to do.
    fn note(self: &Arc<Self>, note: impl FnOnce(&mut Inner<C>) -> Event) -> bool {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let event = note(inner);
        let before = inner.effects.len();
        inner.schedule.on(Instant::now(), event, &mut inner.effects);
        let answers = inner.answers(before);
        let early = match (inner.schedule.wake(), inner.armed) {
            (Some(wake), Some(armed)) => wake < armed,
            (wake, None) => wake.is_some(),
            (None, Some(_)) => false,
        };
        let busy = early || inner.effects.len() > before;
        let claims = inner.effects[before..].contains(&Effect::ClaimCores);
        drop(guard);
        if claims {
            self.switch_cores();
        }
        self.told.notify_waiters();
        for (waiter, grant) in answers {
            let answer = grant.map(|(endpoint, cold)| Lease::new(Arc::clone(self), endpoint, cold));
            // Who went away in the meantime did the sandbox no harm.
            if let Err(Ok(lease)) = waiter.send(answer) {
                lease.release();
            }
        }
        busy
    }

    /// Takes up the switch that a daemon hands over.
    pub(crate) fn connect_cores(&self, cores: Option<Cores>) {
        *self.cores.lock().unwrap_or_else(PoisonError::into_inner) = cores;
    }

    /// Claims the cores for sandboxes or yields them, as the schedule has it by now. Whoever needs a sandbox claims them:
    /// the driver may have to wait for the very core.
    pub(crate) fn switch_cores(&self) {
        let mut cores = self.cores.lock().unwrap_or_else(PoisonError::into_inner);
        let claimed = self.lock().schedule.claims_cores();
        let switched = cores.as_mut().zip(claimed).map(|(cores, claimed)| cores.switch(claimed));
        if let Some(Err(error)) = switched {
            // They keep the share that they have; who asks for another may not be allowed to.
            tracing::debug!(%error, "cannot say how much of the cores sandboxes have");
            *cores = None;
        }
    }

    /// Notes that a sandbox is parked.
    pub(crate) fn parked(self: &Arc<Self>, id: SandboxId, pid: u32, phases: Vec<Phase>) {
        let meter = self.meters.of(pid);
        self.tell_with(|inner| {
            inner
                .records
                .insert(id, Record { pid, meter, phases, beside: Duration::ZERO, endpoint: None });
            Event::Created(id)
        });
        self.report(PoolEvent::Created { sandbox: id });
    }

    /// Notes how the function in a sandbox is reached, given how it came so far; `None` when it is gone already.
    pub(crate) fn handed_over(
        self: &Arc<Self>,
        id: SandboxId,
        endpoint: impl FnOnce(Vec<Phase>, Meter) -> Endpoint<C>,
    ) -> Option<Arc<Endpoint<C>>> {
        let mut noted = None;
        self.tell_with(|inner| {
            if let Some(record) = inner.records.get_mut(&id) {
                let endpoint =
                    Arc::new(endpoint(std::mem::take(&mut record.phases), record.meter.clone()));
                record.phases.clone_from(&endpoint.phases);
                record.endpoint = Some(Arc::clone(&endpoint));
                noted = Some(endpoint);
            }
            Event::HandedOver(id)
        });
        noted
    }

    /// Notes that the function in a sandbox accepts, and how long this process has computed beside its start.
    pub(crate) fn accepted(self: &Arc<Self>, id: SandboxId, phase: Phase, beside: Duration) {
        self.tell_with(|inner| {
            if let Some(record) = inner.records.get_mut(&id) {
                record.phases.push(phase);
                record.beside = beside;
            }
            Event::Accepted(id)
        });
    }

    /// The init of a sandbox.
    pub(crate) fn pid(&self, id: SandboxId) -> Option<u32> {
        Some(self.lock().records.get(&id)?.pid)
    }

    /// The init of a sandbox, how it came so far, and what this process has computed beside its start.
    pub(crate) fn progress(&self, id: SandboxId) -> Option<(u32, Vec<Phase>, Duration)> {
        let inner = self.lock();
        inner.records.get(&id).map(|record| (record.pid, record.phases.clone(), record.beside))
    }

    /// Stops a sandbox, unless it is in use by now. The host's connections into it are closed: a function whose own
    /// timers run out while it is stopped would close them in the face of the next request.
    pub(crate) fn freeze(&self, id: SandboxId) -> Option<io::Result<Option<Phase>>> {
        let endpoint = self.endpoint(id)?;
        Some(endpoint.ice.freeze(|| {
            let wanted = self.lock().schedule.state(id) == Some(State::Frozen);
            if wanted {
                endpoint.drop_idle();
            }
            wanted
        }))
    }

    /// Lets a stopped sandbox continue.
    pub(crate) fn thaw(&self, id: SandboxId) -> Option<io::Result<Option<Phase>>> {
        Some(self.endpoint(id)?.ice.thaw())
    }

    fn endpoint(&self, id: SandboxId) -> Option<Arc<Endpoint<C>>> {
        self.lock().records.get(&id)?.endpoint.clone()
    }

    /// Why a sandbox ends, if it does.
    pub(crate) fn ending(&self, id: SandboxId) -> Option<Reason> {
        self.lock().schedule.ending(id).cloned()
    }

    /// Adds up what a function used in a sandbox that is gone.
    pub(crate) fn spent(&self, function: FunctionId, usage: &Usage) {
        let used = Consumption {
            cpu: Duration::from_nanos(usage.cpu_ns),
            memory_peak: usage.memory_peak,
            oom_kills: usage.oom_kills,
            ..Consumption::default()
        };
        let mut inner = self.lock();
        if inner.specs.contains_key(&function) {
            let consumed = inner.consumed.entry(function).or_default();
            *consumed = consumed.and(used);
        }
    }

    /// Processes of a sandbox that the kernel killed for want of memory; `None` once it is gone, or about to be.
    pub(crate) fn oom_kills(&self, id: SandboxId) -> Option<u64> {
        let meter = self.lock().records.get(&id)?.meter.clone();
        meter.oom_kills()
    }

    /// Forgets a sandbox that is gone, and tells those who had requests in it why.
    pub(crate) fn forget(&self, id: SandboxId, reason: &Reason) {
        let mut inner = self.lock();
        // The host's connections in it, and those who wait for an answer, are dropped after the lock.
        let (record, _asked) = (inner.records.remove(&id), inner.asked.remove(&id));
        drop(inner);
        if let Some(endpoint) = record.and_then(|record| record.endpoint) {
            // It is gone once.
            let _ = endpoint.end.set(reason.clone());
        }
    }

    /// Has the daemon do something in a sandbox.
    ///
    /// # Errors
    /// When it cannot, or it or the sandbox ends meanwhile.
    pub(crate) async fn ask(&self, id: SandboxId, question: Question) -> io::Result<Vec<OwnedFd>> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut inner = self.lock();
            inner.asks.push(ToDaemon::Ask { id, question });
            inner.asked.entry(id).or_default().push_back(sender);
        }
        self.changed.notify_one();
        let told = receiver.await.map_err(|_| io::ErrorKind::ConnectionReset)?;
        told.map_err(io::Error::other)
    }

    /// Notes what the daemon answered.
    pub(crate) fn answer(&self, id: SandboxId, done: Result<(), String>, sockets: Vec<OwnedFd>) {
        let waiting = self.lock().asked.get_mut(&id).and_then(VecDeque::pop_front);
        if let Some(waiting) = waiting {
            // Who went away in the meantime needs no sockets.
            let _ = waiting.send(done.map(|()| sockets));
        }
    }

    /// Forgets what a daemon that is gone was asked.
    pub(crate) fn unanswered(&self) {
        let mut inner = self.lock();
        let _unanswered = (std::mem::take(&mut inner.asks), std::mem::take(&mut inner.asked));
        drop(inner);
    }

    pub(crate) fn spec(&self, function: FunctionId) -> Option<Arc<FunctionSpec>> {
        self.lock().specs.get(&function).cloned()
    }

    pub(crate) fn report(&self, event: PoolEvent) {
        (self.events)(event);
    }

    /// Hands the driver its work and notes until when it will sleep.
    pub(crate) fn work(&self) -> Work {
        let mut inner = self.lock();
        inner.armed = inner.schedule.wake();
        Work {
            daemon: inner.daemon.take(),
            asks: std::mem::take(&mut inner.asks),
            effects: std::mem::take(&mut inner.effects),
            wake: inner.armed,
        }
    }
}

/// A place in the queue; given up by dropping it.
struct Waiting<'a, C: Send + 'static> {
    shared: &'a Arc<Shared<C>>,
    function: FunctionId,
    waiter: WaiterId,
    receiver: oneshot::Receiver<Answer<C>>,
}

impl<C: Send + 'static> Drop for Waiting<'_, C> {
    fn drop(&mut self) {
        self.receiver.close();
        match self.receiver.try_recv() {
            // Granted, but nobody came for it: the sandbox is as good as before.
            Ok(Ok(lease)) => lease.release(),
            Ok(Err(_)) => {}
            Err(_) => self.shared.tell_with(|inner| {
                inner.waiters.remove(&self.waiter);
                Event::Cancel(self.function, self.waiter)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    //! What a lease does to its sandbox; the tests play the driver and need no daemon.

    use super::{Event, FunctionId, Pool, PoolConfig, Shared};
    use crate::activation::{Limits, Program};
    use crate::ice::Ice;
    use crate::lease::{Endpoint, Phase};
    use crate::lifecycle::State;
    use crate::meter::Meter;
    use crate::protocol::{SandboxId, ToDaemon};
    use crate::schedule::{Cause, Effect, KeepAlive};
    use crate::spec::{FunctionSpec, Listen};
    use crate::way::Way;
    use std::fs::File;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, Waker};
    use std::time::{Duration, SystemTime};
    use tokio::sync::{Notify, SetOnce};

    fn pool(parked: usize) -> Pool<u32> {
        let config = PoolConfig {
            parked,
            memory: 1 << 30,
            creating_max: 4,
            waiters_max: 10,
            sockets: "/nowhere".into(),
        };
        let (pool, _driver) = Pool::start(config, Arc::new(|_| {}));
        pool.shared.tell(Event::Connected);
        pool.shared.tell(Event::Ready);
        pool
    }

    fn spec() -> FunctionSpec {
        FunctionSpec {
            name: "test".into(),
            program: Program::Executable(File::open("/dev/null").unwrap().into()),
            root: None,
            listen: Listen::Inherited,
            argv: Vec::new(),
            env: Vec::new(),
            limits: Limits { memory: 64 << 20, cpu: 1.0, pids: 8, descriptors: 64 },
            scratch: 0,
            egress: None,
            min: 0,
            max: 1,
            concurrency: 1,
            idle_timeout: Duration::from_secs(60),
            keep_alive: KeepAlive::Fixed,
            freeze_after: Duration::from_secs(60),
            start_timeout: Duration::from_secs(10),
            grace: Duration::from_secs(5),
        }
    }

    /// Does at once whatever the schedule wants done.
    fn drive(shared: &Arc<Shared<u32>>) {
        for effect in shared.work().effects {
            match effect {
                Effect::Create { sandbox, .. } => shared.parked(sandbox, 7, Vec::new()),
                Effect::Activate { sandbox, .. } => {
                    shared.handed_over(sandbox, |phases, meter| endpoint(sandbox, phases, meter));
                    let now = SystemTime::now();
                    let phase = Phase { name: "ready".to_owned(), start: now, end: now };
                    shared.accepted(sandbox, phase, Duration::ZERO);
                }
                _ => {}
            }
        }
    }

    fn endpoint(id: SandboxId, phases: Vec<Phase>, meter: Meter) -> Endpoint<u32> {
        Endpoint {
            id,
            pid: 7,
            meter,
            way: Way::Inherited("/nowhere".into()),
            first: Mutex::new(None),
            idle: Mutex::new(Vec::new()),
            idle_max: 1,
            phases,
            ice: Ice::new(None),
            answered: Notify::new(),
            end: SetOnce::new(),
        }
    }

    fn warm() -> (Pool<u32>, FunctionId) {
        let pool = pool(1);
        let function = pool.add(spec());
        drive(&pool.shared);
        pool.prepare(function, 1, Cause::default());
        drive(&pool.shared);
        (pool, function)
    }

    fn states(pool: &Pool<u32>, function: FunctionId) -> Vec<State> {
        let sandboxes = pool.sandboxes().into_iter();
        sandboxes.filter(|it| it.function == Some(function)).map(|it| it.state).collect()
    }

    #[test]
    fn a_released_sandbox_serves_again_with_the_connection_left_in_it() {
        let (pool, function) = warm();
        let lease = pool.try_lease(function).unwrap();
        assert!(pool.try_lease(function).is_none());
        lease.put_idle(42);
        lease.put_idle(43);
        lease.release();
        let lease = pool.try_lease(function).unwrap();
        assert_eq!([lease.take_idle(), lease.take_idle()], [Some(42), None]);
        lease.release();
        assert_eq!(states(&pool, function), [State::Idle]);
    }

    #[test]
    fn a_lease_dropped_unreleased_ends_its_sandbox() {
        let (pool, function) = warm();
        drop(pool.try_lease(function).unwrap());
        assert!(pool.try_lease(function).is_none());
        assert_eq!(states(&pool, function), [State::Removing]);
    }

    #[test]
    fn a_root_is_forgotten_with_the_last_function_that_has_it() {
        let pool = pool(0);
        let [first, second] = [(); 2].map(|()| pool.add(FunctionSpec { root: Some(7), ..spec() }));
        pool.retire(first);
        assert_eq!(pool.shared.work().asks, []);
        pool.retire(second);
        assert_eq!(pool.shared.work().asks, [ToDaemon::Forget { root: 7 }]);
    }

    #[tokio::test]
    async fn a_lease_waits_for_a_start_and_says_so() {
        let pool = pool(0);
        let function = pool.add(spec());
        let mut lease = Box::pin(pool.lease(function, Cause::default()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(lease.as_mut().poll(&mut context).is_pending());
        drive(&pool.shared);
        drive(&pool.shared);
        assert!(lease.await.unwrap().was_cold());
    }

    #[test]
    fn a_grant_that_nobody_came_for_leaves_the_sandbox_warm() {
        let (pool, function) = warm();
        let held = pool.try_lease(function).unwrap();
        let mut lease = Box::pin(pool.lease(function, Cause::default()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(lease.as_mut().poll(&mut context).is_pending());
        held.release();
        assert_eq!(states(&pool, function), [State::Leased(std::num::NonZeroU32::MIN)]);
        drop(lease);
        assert_eq!(states(&pool, function), [State::Idle]);
    }

    #[test]
    fn a_given_up_wait_is_forgotten() {
        let pool = pool(0);
        let function = pool.add(spec());
        let mut lease = Box::pin(pool.lease(function, Cause::default()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(lease.as_mut().poll(&mut context), Poll::Pending));
        drop(lease);
        assert!(pool.shared.lock().waiters.is_empty());
    }
}
