//! The privileged process: makes sandboxes, watches them and removes them.
//!
//! One thread and one loop. It owns the control group `cgroup_parent` and everything below; a sandbox's group is
//! `cgroup_parent/ID` and tells a restarted daemon what its predecessor left. Workers make sandboxes,
//! and each sandbox's init ends up as this process's child, so that its end is always seen here.
//!
//! ```text
//! Queued ─▶ Making ─▶ Live ─▶ (reaped, group removed) Gone      Inherited ─▶ Gone
//!   └─────────┴─ Remove or failure ─▶ Gone or CreateFailed
//! ```
//!
//! It ends when the host's socket does or on SIGTERM, and then nothing of its sandboxes is left.

pub(crate) mod cgroup;
mod crew;
pub mod delegation;
mod network;
mod priority;
pub mod probe;
mod root;
mod seccomp;
mod spec;
mod state;
pub mod sweep;
mod visit;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as StdError;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use nix::sys::signal::{SigSet, SigmaskHow, Signal as NixSignal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::alarm;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getpid, getrlimit,
    kill_process, pidfd_open, pidfd_send_signal, set_child_subreaper, setrlimit, umask, wait,
    waitpid,
};

use self::cgroup::{Group, Usage};
use self::crew::Worker;
use self::priority::Priority;
pub use self::priority::stand_behind;
use self::probe::Machine;
use self::root::{Attachment, Given};
use self::worker::Workshop;
use crate::cores::Cores;
use crate::protocol::{self, Exit, FromDaemon, Question, Root, SandboxId, ToDaemon};

/// Seconds that anything may take that the host asks for. A root may lie in a file system that does not answer any
/// more, and whoever waits for that keeps every other sandbox waiting.
const ASKED_MAX: u32 = 10;

/// The group of the daemon itself, beside those of its sandboxes.
const OWN: &str = "daemon";

/// What a daemon is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// A directory to build its own small file system over; nothing is written to the directory itself.
    pub state: PathBuf,
    /// The control group that it owns, such as `baton/ID`.
    pub cgroup_parent: String,
    /// Sandboxes made at once.
    pub workers: usize,
    /// Outside users and groups for sandboxes, two each; nobody else's, never 0 or 65534.
    pub uids: Range<u32>,
}

/// Why the daemon did not start or did not end cleanly.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It would fork with other threads around.
    #[error("the pool daemon needs a process with one thread, this one has {0}")]
    Threads(usize),
    /// The range of users does not hold a single sandbox or has one that belongs to somebody.
    #[error("the users {}..{} cannot be given to sandboxes", .0.start, .0.end)]
    Users(Range<u32>),
    /// This machine lacks something.
    #[error("sandboxes are not possible here: {0}")]
    Machine(String),
    /// It could not set itself up.
    #[error("the pool daemon cannot {0}")]
    Setup(&'static str, #[source] io::Error),
    /// The system call filter does not compile.
    #[error("the pool daemon cannot compile the system call filter")]
    Filter(#[source] seccompiler::BackendError),
    /// The loop could not go on.
    #[error("the pool daemon lost its footing")]
    Loop(#[source] io::Error),
    /// Something of its sandboxes is left.
    #[error("the pool daemon could not remove everything")]
    Removal(#[source] io::Error),
}

/// Runs the daemon in this process until the host is gone or SIGTERM comes. `host` is one end of
/// [`channel`](protocol::channel), and so is `supervisor`, which says what roots there are. The process should have been executed for this: with one thread, without
/// environment variables, and with nothing open but these two and its standard descriptors.
///
/// # Errors
/// When it cannot start, or cannot go on, or cannot remove everything; in every case what can be removed is.
pub fn run(config: Config, host: OwnedFd, supervisor: OwnedFd) -> Result<(), Error> {
    let mut daemon = Daemon::start(config, host, supervisor)?;
    let ended = daemon.serve().map_err(Error::Loop);
    let removed = daemon.remove_everything().map_err(Error::Removal);
    ended.and(removed)
}

struct Daemon {
    config: Config,
    /// As it was before this process moved into its own world.
    machine: Machine,
    workshop: Workshop,
    host: OwnedFd,
    /// `None` once it has nothing more to say.
    supervisor: Option<OwnedFd>,
    signals: SignalFd,
    /// Roots that sandboxes can be given.
    roots: BTreeMap<u32, root::Kept>,
    /// Where it came from, when it has a control group of its own.
    left: Option<PathBuf>,
    workers: Vec<Worker>,
    sandboxes: BTreeMap<SandboxId, Sandbox>,
}

enum Sandbox {
    /// Waits for a worker.
    Queued { scratch: u64, egress: Option<u16> },
    /// A worker is at it; a doomed one is removed as soon as it is made.
    Making { doomed: bool },
    /// Its init is this process's child (or about to be).
    Live { init: Pid, root: Option<Given> },
    /// Of a daemon that died; somebody else reaps its processes.
    Inherited { processes: Vec<OwnedFd> },
}

/// Whether to go on.
enum Flow {
    On,
    End,
}

impl Daemon {
    fn start(config: Config, host: OwnedFd, supervisor: OwnedFd) -> Result<Daemon, Error> {
        let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        if threads != 1 {
            return Err(Error::Threads(threads));
        }
        let users = &config.uids;
        if users.start == 0 || users.len() < spec::UIDS_EACH as usize || users.contains(&65534) {
            return Err(Error::Users(config.uids.clone()));
        }
        let priority = Priority::lower();
        let machine = Machine::probe();
        let missing = machine.missing();
        if !missing.is_empty() {
            return Err(Error::Machine(missing.join("; ")));
        }
        prepare_process().map_err(|error| Error::Setup("prepare its process", error))?;
        let signals = take_signals().map_err(|error| Error::Setup("take signals", error))?;
        let hierarchies = state::enter(&config.state)
            .map_err(|error| Error::Setup("build its file system", error))?;
        let stub =
            state::install_stub().map_err(|error| Error::Setup("install the stub", error))?;
        let workshop = Workshop {
            hierarchies,
            stub: Rc::new(stub),
            filter: Rc::new(seccomp::filter().map_err(Error::Filter)?),
            priority,
        };
        let mut daemon = Daemon {
            config,
            machine,
            workshop,
            host,
            supervisor: Some(supervisor),
            signals,
            roots: BTreeMap::new(),
            left: None,
            workers: Vec::new(),
            sandboxes: BTreeMap::new(),
        };
        daemon.group().create().map_err(|error| Error::Setup("make its control group", error))?;
        daemon.settle();
        daemon.hire().map_err(|error| Error::Setup("fork its workers", error))?;
        Ok(daemon)
    }

    fn serve(&mut self) -> io::Result<()> {
        if let Flow::End = self.tell_ready()? {
            return Ok(());
        }
        loop {
            let ready = self.wait()?;
            if ready.signals && matches!(self.on_signals()?, Flow::End) {
                return Ok(());
            }
            for index in 0..self.workers.len() {
                if let Flow::End = self.hear_worker(index)? {
                    return Ok(());
                }
            }
            // Before the host, which asks for what the supervisor has named.
            if ready.supervisor {
                self.on_supervisor()?;
            }
            if ready.host && matches!(self.on_host()?, Flow::End) {
                return Ok(());
            }
            // After the host was heard: what it asks to be kept may be dead already, and then nothing wakes this loop.
            if let Flow::End = self.check_inherited()? {
                return Ok(());
            }
            self.give_up_late_workers();
            self.assign()?;
        }
    }

    /// Moves to a group beside those of sandboxes, so that this process and its workers claim and yield the cores as they
    /// do. Where that cannot be, it stays where it was.
    fn settle(&mut self) {
        let Some(_cores) = self.claim_cores() else { return };
        let entered = self.workshop.hierarchies.own_cpu_group().and_then(|left| {
            self.group().child(OWN).enter_for_cpu(true)?;
            Ok(left)
        });
        match entered {
            Ok(left) => self.left = Some(left),
            Err(error) => tracing::debug!(%error, "the daemon has no control group of its own"),
        }
    }

    /// Goes back to where it was, or as far out as it can.
    fn unsettle(&mut self) {
        let Some(left) = self.left.take() else { return };
        let hierarchies = &self.workshop.hierarchies;
        let groups = [left.as_path(), Path::new("")];
        if !groups.iter().any(|group| hierarchies.group(group).enter_for_cpu(false).is_ok()) {
            tracing::warn!("the daemon cannot leave its control group");
        }
    }

    /// Claims the cores for as long as the value lives, or a copy of its descriptors: a predecessor may have yielded them,
    /// and there may be no host yet, or no more.
    fn claim_cores(&self) -> Option<Cores> {
        let cores = self.group().cores()?;
        cores.claim().is_ok().then_some(cores)
    }

    fn tell_ready(&self) -> io::Result<Flow> {
        let machine = self.machine.clone();
        match self.claim_cores() {
            None => self.tell(&FromDaemon::Ready { machine, weight: None }, &[]),
            Some(cores) => {
                let (weight, descriptors) = cores.parts();
                self.tell(&FromDaemon::Ready { machine, weight: Some(weight) }, &descriptors)
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> io::Result<Ready> {
        let mut watched =
            vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.host, PollFlags::IN)];
        let speaking = self.workers.iter().filter(|worker| worker.has_more_to_say());
        watched.extend(speaking.map(|worker| PollFd::new(&worker.socket, PollFlags::IN)));
        for sandbox in self.sandboxes.values() {
            if let Sandbox::Inherited { processes } = sandbox {
                watched.extend(processes.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
            }
        }
        let supervisor = watched.len();
        watched.extend(self.supervisor.iter().map(|socket| PollFd::new(socket, PollFlags::IN)));
        let first_deadline = self.workers.iter().filter_map(Worker::deadline).min();
        let patience = first_deadline
            .map(|deadline| Timespec::try_from(deadline.saturating_duration_since(Instant::now())))
            .transpose()
            .map_err(io::Error::other)?;
        rustix::io::retry_on_intr(|| poll(&mut watched, patience.as_ref()))?;
        Ok(Ready {
            signals: !watched[0].revents().is_empty(),
            host: !watched[1].revents().is_empty(),
            supervisor: watched.get(supervisor).is_some_and(|socket| !socket.revents().is_empty()),
        })
    }

    fn on_signals(&mut self) -> io::Result<Flow> {
        while let Some(signal) = self.signals.read_signal()? {
            if signal.ssi_signo == NixSignal::SIGTERM as u32 {
                return Ok(Flow::End);
            }
        }
        self.reap()
    }

    /// Takes a root that sandboxes can be given from now on. The supervisor's end is not this process's: the host's is.
    fn on_supervisor(&mut self) -> io::Result<()> {
        let Some(supervisor) = &self.supervisor else { return Ok(()) };
        match protocol::receive_now::<Root>(supervisor) {
            Ok(Some((root, descriptors))) => {
                let number = root.number;
                match root::keep(root, descriptors) {
                    Ok(kept) => drop(self.roots.insert(number, kept)),
                    Err(error) => {
                        tracing::error!(root = number, %error, "cannot keep a root");
                    }
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Ok(None) | Err(_) => {
                self.supervisor = None;
                Ok(())
            }
        }
    }

    fn on_host(&mut self) -> io::Result<Flow> {
        match protocol::receive(&self.host) {
            Ok(Some((ToDaemon::Hello { in_use }, _))) => {
                self.take_over(&in_use.into_iter().collect())
            }
            Ok(Some((ToDaemon::Create { id, scratch, egress }, _))) => {
                self.queue(id, scratch, egress)
            }
            Ok(Some((ToDaemon::Ask { id, question }, _))) => self.asked(id, &question),
            Ok(Some((ToDaemon::Terminate { id }, _))) => {
                self.terminate(id);
                Ok(Flow::On)
            }
            Ok(Some((ToDaemon::Remove { id }, _))) => self.remove(id),
            Ok(Some((ToDaemon::Forget { root }, _))) => {
                // A predecessor may have known it.
                if let Some(kept) = self.roots.remove(&root)
                    && let Err(error) = kept.forget()
                {
                    tracing::warn!(root, %error, "cannot let go of a root");
                }
                Ok(Flow::On)
            }
            Ok(None) => Ok(Flow::End),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Flow::End),
            Err(error) => Err(error),
        }
    }

    /// Removes what an earlier daemon left but for `in_use`, which is kept until it is asked for or dies.
    fn take_over(&mut self, in_use: &BTreeSet<SandboxId>) -> io::Result<Flow> {
        for name in self.group().children().into_iter().filter(|name| name != OWN) {
            let group = self.group().child(&name);
            match name.parse().map(SandboxId) {
                Ok(id) if in_use.contains(&id) => {
                    let processes = group.processes().into_iter();
                    let processes = processes
                        .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
                        .collect();
                    self.sandboxes.insert(id, Sandbox::Inherited { processes });
                }
                _ => {
                    group.kill()?;
                    group.remove()?;
                }
            }
        }
        for id in in_use {
            if !self.sandboxes.contains_key(id)
                && let Flow::End = self.tell_gone(*id, None, Usage::default())?
            {
                return Ok(Flow::End);
            }
        }
        Ok(Flow::On)
    }

    /// Does what the host cannot do itself.
    fn asked(&mut self, id: SandboxId, question: &Question) -> io::Result<Flow> {
        let uid = self.uid(id);
        let Some(Sandbox::Live { init, root }) = self.sandboxes.get_mut(&id) else {
            return self.answer(id, Err("no such sandbox lives".to_owned()), &[]);
        };
        let _bound = Bound::begin();
        let done = match question {
            Question::Clients { count } => network::clients(*init, *count).map_err(|it| chain(&it)),
            Question::Listener { port } => {
                let made = network::listener(*init, *port);
                made.map(|listener| vec![listener]).map_err(|it| chain(&it))
            }
            Question::Socket => {
                let path = root.as_ref().and_then(|given| given.socket.as_deref());
                let path = path.ok_or_else(|| io::ErrorKind::Unsupported.into());
                let opened = path.and_then(|path| root::socket(*init, path));
                opened.map(|socket| vec![socket]).map_err(|it| it.to_string())
            }
            Question::Attach { .. } if root.is_some() => Err("it has a root already".to_owned()),
            Question::Attach { root: number } => match self.roots.get(number) {
                None => Err(format!("there is no root {number}")),
                Some(kept) => {
                    // Before it is known whether that succeeds: some of it may be there even so.
                    *root = Some(kept.given.clone());
                    let attachment = Attachment { init: *init, root: kept, uid };
                    root::attach(&attachment).map(|()| vec![]).map_err(|it| chain(&it))
                }
            },
        };
        let descriptors = done.as_deref().unwrap_or_default();
        self.answer(id, done.as_ref().map(drop).map_err(Clone::clone), descriptors)
    }

    fn answer(
        &self,
        id: SandboxId,
        done: Result<(), String>,
        descriptors: &[OwnedFd],
    ) -> io::Result<Flow> {
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        self.tell(&FromDaemon::Answer { id, done }, &descriptors)
    }

    fn queue(&mut self, id: SandboxId, scratch: u64, egress: Option<u16>) -> io::Result<Flow> {
        let uid = self.uid(id);
        if self.sandboxes.keys().any(|other| self.uid(*other) == uid) {
            let error = format!("its user {uid} is taken by a sandbox that is still there");
            return self.tell(&FromDaemon::CreateFailed { id, error }, &[]);
        }
        self.sandboxes.insert(id, Sandbox::Queued { scratch, egress });
        Ok(Flow::On)
    }

    fn terminate(&self, id: SandboxId) {
        // Whoever is dead already needs no signal.
        match self.sandboxes.get(&id) {
            Some(Sandbox::Live { init, .. }) => {
                let _ = kill_process(*init, Signal::TERM);
            }
            Some(Sandbox::Inherited { processes }) => {
                for pidfd in processes {
                    let _ = pidfd_send_signal(pidfd, Signal::TERM);
                }
            }
            Some(Sandbox::Queued { .. } | Sandbox::Making { .. }) | None => {}
        }
    }

    fn remove(&mut self, id: SandboxId) -> io::Result<Flow> {
        match self.sandboxes.get_mut(&id) {
            None => Ok(Flow::On),
            Some(Sandbox::Queued { .. }) => {
                self.sandboxes.remove(&id);
                self.tell_gone(id, None, Usage::default())
            }
            Some(Sandbox::Making { doomed }) => {
                *doomed = true;
                Ok(Flow::On)
            }
            Some(Sandbox::Live { init, .. }) => {
                let init = *init;
                self.end(id, init);
                Ok(Flow::On)
            }
            Some(Sandbox::Inherited { .. }) => {
                self.group_of(id).kill()?;
                self.finish(id, None)
            }
        }
    }

    /// Kills a sandbox's init, and with it everything in its pid namespace; the rest follows when it is reaped.
    fn end(&self, id: SandboxId, init: Pid) {
        // It is our child and not reaped, so that this pid is its own.
        let _ = kill_process(init, Signal::KILL);
        self.group_of(id).thaw();
    }

    /// Collects every child that has ended.
    fn reap(&mut self) -> io::Result<Flow> {
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some(ended)) => ended,
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(Flow::On),
                Err(error) => return Err(error.into()),
            };
            // A worker reports before it ends, and only then is its sandbox's init a child of this process: what the
            // dead child is can be told once every report is heard.
            for index in 0..self.workers.len() {
                if let Flow::End = self.hear_worker(index)? {
                    return Ok(Flow::End);
                }
            }
            let flow = if let Some(index) = self.workers.iter().position(|worker| worker.pid == pid)
            {
                self.on_worker_end(index, status)?
            } else if let Some(id) = self.live(pid) {
                self.finish(id, exit_of(status))?
            } else {
                // What was left of a creation that failed.
                Flow::On
            };
            if let Flow::End = flow {
                return Ok(Flow::End);
            }
        }
    }

    fn live(&self, pid: Pid) -> Option<SandboxId> {
        let is_init =
            |sandbox: &Sandbox| matches!(sandbox, Sandbox::Live { init, .. } if *init == pid);
        self.sandboxes.iter().find_map(|(id, sandbox)| is_init(sandbox).then_some(*id))
    }

    /// Finishes sandboxes of an earlier daemon whose processes are dead.
    fn check_inherited(&mut self) -> io::Result<Flow> {
        let mut dead = Vec::new();
        let parent = self.workshop.hierarchies.group(&self.config.cgroup_parent);
        for (id, sandbox) in &mut self.sandboxes {
            let Sandbox::Inherited { processes } = sandbox else { continue };
            processes.retain(is_alive);
            if processes.is_empty() {
                // Its init may have started others since they were listed.
                *processes = open_processes(&parent.child(id.to_string()));
            }
            if processes.is_empty() {
                dead.push(*id);
            }
        }
        for id in dead {
            if let Flow::End = self.finish(id, None)? {
                return Ok(Flow::End);
            }
        }
        Ok(Flow::On)
    }

    /// Removes a sandbox whose processes are dead, and says so.
    fn finish(&mut self, id: SandboxId, exit: Option<Exit>) -> io::Result<Flow> {
        let group = self.group_of(id);
        let usage = group.usage();
        group.remove()?;
        self.sandboxes.remove(&id);
        self.tell_gone(id, exit, usage)
    }

    fn tell_gone(&self, id: SandboxId, exit: Option<Exit>, usage: Usage) -> io::Result<Flow> {
        let Usage { oom_kills, cpu_ns, memory_peak, throttled_ns: _ } = usage;
        self.tell(&FromDaemon::Gone { id, exit, oom_kills, cpu_ns, memory_peak }, &[])
    }

    fn tell(
        &self,
        message: &FromDaemon,
        descriptors: &[rustix::fd::BorrowedFd<'_>],
    ) -> io::Result<Flow> {
        match protocol::send(&self.host, message, descriptors) {
            Ok(()) => Ok(Flow::On),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(Flow::End)
            }
            Err(error) => Err(error),
        }
    }

    fn uid(&self, id: SandboxId) -> u32 {
        let Range { start, end } = self.config.uids;
        let slots = u64::from((end - start) / spec::UIDS_EACH);
        // Below the number of slots, which came from a u32.
        start + u32::try_from(id.0 % slots).unwrap_or(0) * spec::UIDS_EACH
    }

    fn group(&self) -> Group<'_> {
        self.workshop.hierarchies.group(&self.config.cgroup_parent)
    }

    fn group_of(&self, id: SandboxId) -> Group<'_> {
        self.group().child(id.to_string())
    }

    /// The end: no worker, no sandbox, no group.
    fn remove_everything(&mut self) -> io::Result<()> {
        let _cores = self.claim_cores();
        for worker in &self.workers {
            let _ = kill_process(worker.pid, Signal::KILL);
        }
        // A half-made sandbox's processes become children of this process when their worker is gone, and may be in
        // no group yet.
        for worker in self.workers.drain(..) {
            rustix::io::retry_on_intr(|| waitpid(Some(worker.pid), WaitOptions::empty()))?;
        }
        loop {
            let children = children();
            if children.is_empty() {
                break;
            }
            self.group().children().iter().for_each(|name| self.group().child(name).thaw());
            for pid in children {
                let _ = kill_process(pid, Signal::KILL);
                rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()))?;
            }
        }
        self.unsettle();
        self.group().kill()?;
        self.group().remove()
    }
}

/// Ends this process when it is not dropped in time; its successor goes on.
struct Bound;

impl Bound {
    fn begin() -> Bound {
        alarm::set(ASKED_MAX);
        Bound
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        alarm::cancel();
    }
}

/// Which of the two descriptors that matter most have something.
struct Ready {
    signals: bool,
    host: bool,
    supervisor: bool,
}

fn prepare_process() -> io::Result<()> {
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    set_child_subreaper(Some(getpid()))?;
    nix::unistd::setgroups(&[])?;
    // What a function may have at most is what this process may have; nothing here needs many.
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// SIGCHLD and SIGTERM come by descriptor. SIGINT, which a terminal sends to everybody, is left to the supervisor.
fn take_signals() -> io::Result<SignalFd> {
    let mut taken = SigSet::empty();
    taken.extend([NixSignal::SIGCHLD, NixSignal::SIGTERM, NixSignal::SIGINT]);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&taken), None)?;
    Ok(SignalFd::with_flags(&taken, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn exit_of(status: WaitStatus) -> Option<Exit> {
    status.exit_status().map(Exit::Code).or_else(|| status.terminating_signal().map(Exit::Signal))
}

fn open_processes(group: &Group<'_>) -> Vec<OwnedFd> {
    group
        .processes()
        .into_iter()
        .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .collect()
}

fn is_alive(pidfd: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut watched, Some(&now)).is_ok_and(|ready| ready == 0)
}

/// This process's children, dead ones included.
fn children() -> Vec<Pid> {
    let text = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)).collect()
}

/// An error with its causes, in one line.
fn chain(error: &dyn StdError) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}
