//! Does what the schedule decides: speaks to the daemon, starts keepers, wakes up in time.

use crate::activation::Parked;
use crate::berth::Berth;
use crate::client::{PoolEvent, Shared};
use crate::cores::Cores;
use crate::keeper::{Keeper, Ready, socket_path};
use crate::lease::Phase;
use crate::protocol::{self, FromDaemon, SandboxId, Step, ToDaemon};
use crate::readiness::watch;
use crate::reason::Usage;
use crate::schedule::{Effect, Event, FunctionId};
use crate::spec::EGRESS_PORT;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::{self, JoinError, JoinSet};

/// The driver: everything that it owns ends with it.
struct Driver<C: Send + 'static> {
    shared: Arc<Shared<C>>,
    sockets: PathBuf,
    daemon: Option<AsyncFd<OwnedFd>>,
    /// At most two messages a sandbox, and a greeting.
    outbox: VecDeque<ToDaemon>,
    /// For the sandboxes that the daemon is making, as far as they are made.
    berths: BTreeMap<SandboxId, Option<Berth>>,
    parked: BTreeMap<SandboxId, Ready>,
    /// Sandboxes, being made or parked, for which a berth has to be.
    bare: VecDeque<SandboxId>,
    keepers: JoinSet<()>,
    kept: HashMap<task::Id, SandboxId>,
    /// What is left of sandboxes whose keepers have not said all yet: why a start failed, the last lines.
    gone: BTreeMap<SandboxId, Usage>,
    /// Since when sandboxes are being ended.
    ending: BTreeMap<SandboxId, SystemTime>,
    closed: bool,
}

/// Runs the pool until it has been shut down.
pub(crate) async fn drive<C: Send + 'static>(shared: Arc<Shared<C>>, sockets: PathBuf) {
    let mut driver = Driver {
        shared,
        sockets,
        daemon: None,
        outbox: VecDeque::new(),
        berths: BTreeMap::new(),
        parked: BTreeMap::new(),
        bare: VecDeque::new(),
        keepers: JoinSet::new(),
        kept: HashMap::new(),
        gone: BTreeMap::new(),
        ending: BTreeMap::new(),
        closed: false,
    };
    while !driver.closed {
        driver.turn().await;
    }
    // Without a daemon there was nobody to end their sandboxes.
    driver.keepers.shutdown().await;
    driver.shared.closed.send_replace(true);
}

impl<C: Send + 'static> Driver<C> {
    /// Does what is due, then waits for whatever comes first.
    async fn turn(&mut self) {
        let work = self.shared.work();
        for effect in work.effects {
            self.run(effect);
        }
        if self.closed {
            // Nothing may ever come again, above all where there was no daemon.
            return;
        }
        if let Some(daemon) = work.daemon {
            self.connect(daemon);
        }
        self.outbox.extend(work.asks);
        let wake = work.wake.map(tokio::time::Instant::from_std);
        tokio::select! {
            biased;
            sent = send(self.daemon.as_ref(), &mut self.outbox) => {
                if let Err(error) = sent {
                    self.disconnect(&error);
                }
            }
            () = self.shared.changed.notified() => {}
            () = sleep_until(wake) => self.shared.tell(Event::Tick),
            heard = receive(self.daemon.as_ref()) => self.heard(heard),
            Some(ended) = self.keepers.join_next_with_id() => self.ended(ended),
            // The daemon was told what to make, and whoever was parked for a function that waits has left by now.
            () = std::future::ready(()), if !self.bare.is_empty() => self.prepare(),
        }
    }

    fn run(&mut self, effect: Effect) {
        match effect {
            Effect::Hello { in_use } => {
                // All that was said before was meant for the daemon before.
                self.outbox.clear();
                self.berths.clear();
                self.parked.clear();
                self.outbox.push_back(ToDaemon::Hello { in_use });
            }
            Effect::Create { sandbox, scratch } => {
                let egress = self.shared.egress.load(Ordering::Relaxed).then_some(EGRESS_PORT);
                self.outbox.push_back(ToDaemon::Create { id: sandbox, scratch, egress });
                self.berths.insert(sandbox, None);
                self.bare.push_back(sandbox);
            }
            Effect::Activate { sandbox, function } => self.activate(sandbox, function),
            Effect::Terminate(id) => {
                self.ending.entry(id).or_insert_with(SystemTime::now);
                self.outbox.push_back(ToDaemon::Terminate { id });
            }
            Effect::Remove(id) => {
                self.ending.entry(id).or_insert_with(SystemTime::now);
                self.parked.remove(&id);
                self.berths.remove(&id);
                self.outbox.push_back(ToDaemon::Remove { id });
            }
            Effect::Freeze { sandbox, function, cause } => {
                if let Some(phase) = switched(sandbox, self.shared.freeze(sandbox)) {
                    self.shared.report(PoolEvent::Frozen { function, sandbox, cause, phase });
                }
            }
            Effect::Thaw { sandbox, function, cause, reason } => {
                if let Some(phase) = switched(sandbox, self.shared.thaw(sandbox)) {
                    let thawed = PoolEvent::Thawed { function, sandbox, cause, reason, phase };
                    self.shared.report(thawed);
                }
            }
            Effect::Prepared { sandbox, function, cause, outcome } => {
                let (pid, phases, beside) = self.shared.progress(sandbox).unwrap_or_default();
                self.shared.report(PoolEvent::Prepared {
                    function,
                    sandbox,
                    pid,
                    cause,
                    outcome,
                    phases,
                    beside,
                });
            }
            Effect::Gone { sandbox, function, cause, reason, usage } => {
                self.parked.remove(&sandbox);
                self.berths.remove(&sandbox);
                self.shared.forget(sandbox, &reason);
                if let Some(function) = function {
                    self.shared.spent(function, &usage);
                }
                let end = SystemTime::now();
                let start = self.ending.remove(&sandbox).unwrap_or(end);
                let phase = Phase { name: "remove".to_owned(), start, end };
                let gone = PoolEvent::Gone { function, cause, phase, sandbox, reason, usage };
                self.shared.report(gone);
            }
            Effect::Closed => self.closed = true,
            Effect::ClaimCores | Effect::YieldCores => self.shared.switch_cores(),
            // The schedule's teller has answered them already.
            Effect::Grant { .. } | Effect::Refuse { .. } => {}
        }
    }

    fn activate(&mut self, id: SandboxId, function: FunctionId) {
        let ready = self.parked.remove(&id);
        let (Some(ready), Some(pid), Some(spec)) =
            (ready, self.shared.pid(id), self.shared.spec(function))
        else {
            // Its daemon died or its function was retired before we came to it.
            self.shared.tell(Event::Died(id));
            return;
        };
        let path = socket_path(&self.sockets, id);
        let shared = Arc::clone(&self.shared);
        let keeper = Keeper { shared, id, function, spec, pid, path };
        let task = self.keepers.spawn(keeper.keep(ready));
        self.kept.insert(task.id(), id);
    }

    /// Makes a berth for a sandbox that has no function yet.
    fn prepare(&mut self) {
        let Some(id) = self.bare.pop_front() else { return };
        let parked = self.parked.get_mut(&id).map(|ready| &mut ready.berth);
        let Some(place) = parked.or_else(|| self.berths.get_mut(&id)) else { return };
        match Berth::make(Some(&socket_path(&self.sockets, id))) {
            Ok(berth) => *place = Some(berth),
            // The start will try again, and its failure says why.
            Err(error) => tracing::debug!(%error, sandbox = %id, "no berth is made ahead"),
        }
    }

    fn ended(&mut self, keeper: Result<(task::Id, ()), JoinError>) {
        let task = match keeper {
            Ok((task, ())) => task,
            Err(error) => {
                tracing::error!(%error, "the keeper of a sandbox failed");
                error.id()
            }
        };
        if let Some(id) = self.kept.remove(&task)
            && let Some(usage) = self.gone.remove(&id)
        {
            self.shared.tell(Event::Gone(id, usage));
        }
    }

    fn connect(&mut self, daemon: OwnedFd) {
        let registered = rustix::io::ioctl_fionbio(&daemon, true)
            .map_err(io::Error::from)
            .and_then(|()| watch(daemon, Interest::READABLE | Interest::WRITABLE));
        match registered {
            Ok(daemon) => {
                self.daemon = Some(daemon);
                self.shared.tell(Event::Connected);
            }
            Err(error) => self.disconnect(&error),
        }
    }

    fn disconnect(&mut self, error: &io::Error) {
        tracing::warn!(%error, "the pool daemon is lost");
        self.daemon = None;
        self.outbox.clear();
        self.shared.unanswered();
        self.shared.tell(Event::Disconnected);
    }

    fn heard(&mut self, heard: io::Result<(FromDaemon, Vec<OwnedFd>)>) {
        let (message, descriptors) = match heard {
            Ok(heard) => heard,
            Err(error) => return self.disconnect(&error),
        };
        match message {
            FromDaemon::Ready { machine: _, weight } => {
                self.shared.connect_cores(Cores::new(weight, descriptors));
                self.shared.tell(Event::Ready);
            }
            FromDaemon::Parked { id, pid, files, egress, steps } => {
                match Parked::new(&files, egress, descriptors) {
                    Ok(parked) => {
                        let berth = self.berths.remove(&id).flatten();
                        self.parked.insert(id, Ready::new(parked, berth));
                        self.shared.parked(id, pid, creation(&steps));
                    }
                    Err(error) => self.disconnect(&error),
                }
            }
            FromDaemon::CreateFailed { id, error } => {
                tracing::warn!(sandbox = %id, error, "cannot create a sandbox");
                self.berths.remove(&id);
                self.shared.tell(Event::CreateFailed(id, error));
            }
            FromDaemon::Answer { id, done } => self.shared.answer(id, done, descriptors),
            FromDaemon::Gone { id, exit, oom_kills, cpu_ns, memory_peak } => {
                let usage = Usage { exit, oom_kills, cpu_ns, memory_peak };
                if self.kept.values().any(|kept| *kept == id) {
                    self.gone.insert(id, usage);
                } else {
                    self.shared.tell(Event::Gone(id, usage));
                }
            }
        }
    }
}

/// When a sandbox was frozen or thawed, if it was.
fn switched(id: SandboxId, outcome: Option<io::Result<Option<Phase>>>) -> Option<Phase> {
    outcome?.unwrap_or_else(|error| {
        tracing::warn!(%error, sandbox = %id, "cannot freeze or thaw a sandbox");
        None
    })
}

async fn sleep_until(wake: Option<tokio::time::Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

/// The next message; an error once the daemon is gone. Loses nothing when it is dropped.
async fn receive(daemon: Option<&AsyncFd<OwnedFd>>) -> io::Result<(FromDaemon, Vec<OwnedFd>)> {
    let Some(daemon) = daemon else { return std::future::pending().await };
    loop {
        let mut ready = daemon.readable().await?;
        if let Ok(received) = ready.try_io(protocol::receive) {
            return received?.ok_or_else(|| ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Sends all that waits. What is not sent when it is dropped still waits.
async fn send(
    daemon: Option<&AsyncFd<OwnedFd>>,
    outbox: &mut VecDeque<ToDaemon>,
) -> io::Result<()> {
    let Some(daemon) = daemon.filter(|_| !outbox.is_empty()) else {
        return std::future::pending().await;
    };
    while let Some(message) = outbox.front() {
        let mut ready = daemon.writable().await?;
        if let Ok(sent) = ready.try_io(|socket| protocol::send(socket, message, &[])) {
            sent?;
            outbox.pop_front();
        }
    }
    Ok(())
}

/// The whole creation and its parts.
fn creation(steps: &[Step]) -> Vec<Phase> {
    let at = |unix_ns| SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_ns);
    let parts = steps.iter().map(|step| Phase {
        name: format!("create/{}", step.name),
        start: at(step.start_unix_ns),
        end: at(step.end_unix_ns),
    });
    let start = steps.iter().map(|step| step.start_unix_ns).min();
    let end = steps.iter().map(|step| step.end_unix_ns).max();
    let whole = start.zip(end).map(|(start, end)| Phase {
        name: "create".to_owned(),
        start: at(start),
        end: at(end),
    });
    whole.into_iter().chain(parts).collect()
}
