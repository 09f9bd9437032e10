//! The task that starts one function in one sandbox and stays with it until its process has ended.
//!
//! ```text
//! its berth (berth.rs) ─▶ activate ─▶ HandedOver ─▶ backlog empty ─▶ Accepted ─▶ process ended ─▶ Died
//!        └─────────────┴─▶ StartFailed    └─▶ process ended ─▶ StartFailed, by what the stub has said, or Died
//! ```
//! A function that makes its own socket is connected to until that succeeds, and is HandedOver and Accepted then. One
//! with a root gets that first.
//!
//! Nothing wakes the host when the function is executed: that would take the core from it before its first
//! instruction. Whoever waits has written its request by then, and a stub that cannot execute the function ends.
//!
//! However the task ends, the schedule hears of it: no sandbox is without a keeper. The driver
//! tells nobody that a sandbox is gone before its keeper has said all.

use crate::activation::{Activating, Freezer, Parked, Start};
use crate::berth::{Berth, BerthError, Door, Name};
use crate::client::{PoolEvent, Shared};
use crate::ice::Ice;
use crate::lease::{Endpoint, Phase};
use crate::meter::computed;
use crate::output::{Stream, lines};
use crate::pause::Pauses;
use crate::protocol::{Question, SandboxId};
use crate::readiness::watch;
use crate::schedule::{Event, FunctionId};
use crate::spec::{EGRESS_PORT, Egress, FunctionSpec, Listen, Serving};
use crate::warm::{Backlog, FIRST, LOOK};
use crate::way::{self, CLIENTS, Way};
use std::error::Error;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, SetOnce};

/// How long the pipes of an ended function are emptied; the kernel closes their other ends at once.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long after a function accepts its first request may take. What its start was done with is closed then: closing
/// ten descriptors earlier would take the core from it.
const SETTLED: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Berth(#[from] BerthError),
    #[error("cannot watch the sandbox")]
    Watch(#[source] io::Error),
    #[error("cannot give the sandbox its root")]
    Attach(#[source] io::Error),
    #[error("cannot reach the sandbox's network")]
    Network(#[source] io::Error),
    #[error("cannot let everybody write the function's output")]
    Output(#[source] io::Error),
    #[error("cannot hand the function to its sandbox")]
    Activate(#[source] io::Error),
    #[error("cannot listen for what the function asks of others")]
    Egress(#[source] io::Error),
}

/// A sandbox that waits for its function, and what else a start needs.
pub(crate) struct Ready {
    parked: Parked,
    /// Readable once the sandbox's init has ended.
    end: io::Result<AsyncFd<OwnedFd>>,
    /// Not made yet, or it could not be.
    pub(crate) berth: Option<Berth>,
}

impl Ready {
    /// Must be called within tokio.
    pub(crate) fn new(parked: Parked, berth: Option<Berth>) -> Ready {
        let pidfd = parked.pidfd().try_clone_to_owned();
        let end = pidfd.and_then(|pidfd| watch(pidfd, Interest::READABLE));
        Ready { parked, end, berth }
    }
}

/// A function that was handed to its sandbox.
struct Process<C> {
    /// Readable once it has ended.
    end: AsyncFd<OwnedFd>,
    readiness: Readiness<C>,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    egress: Option<Serving>,
    started_with: StartedWith,
    /// Of its listener.
    _name: Option<Name>,
}

/// What a start is done with: closed a while after the function accepts, or when it has ended.
struct StartedWith {
    activating: Activating,
    _outputs: [OwnedFd; 2],
}

/// How it is found out that a function accepts.
enum Readiness<C> {
    /// A connection made before its start leaves the backlog of its listener.
    /// By which endpoint a request has been written to it, if one has.
    Backlog(Backlog, Option<Arc<Endpoint<C>>>),
    /// A connection to its own socket succeeds. Sockets for TCP, and what came of the activation.
    Connect(Vec<OwnedFd>, HandedOver),
}

/// What came of an activation.
struct HandedOver {
    activated: Phase,
    freezer: Option<Freezer>,
}

/// Who keeps which sandbox for which function.
pub(crate) struct Keeper<C: Send + 'static> {
    pub(crate) shared: Arc<Shared<C>>,
    pub(crate) id: SandboxId,
    pub(crate) function: FunctionId,
    pub(crate) spec: Arc<FunctionSpec>,
    pub(crate) pid: u32,
    pub(crate) path: PathBuf,
}

impl<C: Send + 'static> Drop for Keeper<C> {
    fn drop(&mut self) {
        self.shared.tell(Event::Died(self.id));
    }
}

impl<C: Send + 'static> Keeper<C> {
    /// Starts the function and watches it to its end.
    pub(crate) async fn keep(self, ready: Ready) {
        let computed = computed();
        match self.start(ready).await {
            Ok(process) => {
                let mut talk = pin!(async {
                    tokio::join!(
                        self.relay(process.stdout, Stream::Stdout),
                        self.relay(process.stderr, Stream::Stderr),
                    );
                });
                // What it asks of others ends with it.
                let mut life = pin!(async {
                    tokio::select! {
                        () = self.watch(process.end, process.readiness, process.started_with, computed) => {}
                        () = self.serve(process.egress) => {}
                    }
                });
                tokio::select! {
                    () = &mut talk => life.await,
                    // What it said before it ended is still in the pipes.
                    () = &mut life => drop(tokio::time::timeout(LAST_WORDS, talk).await),
                }
            }
            Err(error) => self.shared.tell(Event::StartFailed(self.id, chain(&error))),
        }
    }

    async fn start(&self, ready: Ready) -> Result<Process<C>, StartError> {
        let began = SystemTime::now();
        let Ready { mut parked, end, berth } = ready;
        let egress = self.egress(&mut parked).await.map_err(StartError::Egress)?;
        if let Some(root) = self.spec.root {
            let attached = self.shared.ask(self.id, Question::Attach { root }).await;
            attached.map_err(StartError::Attach)?;
        }
        let mut sockets = Vec::new();
        if let Listen::Tcp(_) = self.spec.listen {
            // The loopback is up when the function starts.
            let clients = Question::Clients { count: CLIENTS };
            sockets = self.shared.ask(self.id, clients).await.map_err(StartError::Network)?;
        }
        let inherits = matches!(self.spec.listen, Listen::Inherited);
        let berth = match berth {
            Some(berth) => berth,
            None => Berth::make(inherits.then_some(self.path.as_path()))?,
        };
        let end = end.map_err(StartError::Watch)?;
        let Berth { door, stdout, stderr } = berth;
        let door = door.filter(|_| inherits);
        if self.spec.root.is_some() {
            // Servers open their log by name, /dev/stderr, and are not the owner of the pipe behind it.
            for pipe in [&stdout, &stderr] {
                let mode = rustix::fs::Mode::from_raw_mode(0o622);
                rustix::fs::fchmod(&pipe.writer, mode)
                    .map_err(|error| StartError::Output(error.into()))?;
            }
        }
        if let Some(door) = &door {
            door.backlog.arm();
        }
        let mut activating = parked
            .activate(&Start {
                program: &self.spec.program,
                listener: door.as_ref().map(|door| door.listener.as_fd()),
                stdout: stdout.writer.as_fd(),
                stderr: stderr.writer.as_fd(),
                argv: &self.spec.argv,
                env: &self.spec.env,
                limits: self.spec.limits,
            })
            .map_err(StartError::Activate)?;
        // While this process holds the listener too, whoever connects would not see that the function has closed it.
        let door = door.map(|Door { listener: _, backlog, first, name }| (backlog, first, name));
        let activated = Phase { name: "activate".to_owned(), start: began, end: SystemTime::now() };
        let handed_over = HandedOver { activated, freezer: activating.take_freezer() };
        let (readiness, name) = match door {
            Some((backlog, first, name)) => {
                let way = Way::Inherited(self.path.clone());
                let endpoint = self.handed_over(way, first, handed_over);
                // Whoever waits for it writes its request first: it is to be there when the function accepts.
                tokio::task::yield_now().await;
                let asked = endpoint.filter(|endpoint| endpoint.first_is_taken());
                (Readiness::Backlog(backlog, asked), Some(name))
            }
            None => (Readiness::Connect(sockets, handed_over), None),
        };
        let started_with = StartedWith { activating, _outputs: [stdout.writer, stderr.writer] };
        let (stdout, stderr) = (stdout.reader, stderr.reader);
        Ok(Process { end, readiness, stdout, stderr, egress, started_with, _name: name })
    }

    fn handed_over(
        &self,
        way: Way,
        first: way::Stream,
        handed_over: HandedOver,
    ) -> Option<Arc<Endpoint<C>>> {
        self.shared.handed_over(self.id, |mut phases, meter| {
            phases.push(handed_over.activated);
            Endpoint {
                id: self.id,
                pid: self.pid,
                meter,
                way,
                first: Mutex::new(Some(first)),
                idle: Mutex::new(Vec::new()),
                idle_max: usize::try_from(self.spec.concurrency.max(1)).unwrap_or(usize::MAX),
                phases,
                ice: Ice::new(handed_over.freezer),
                answered: Notify::new(),
                end: SetOnce::new(),
            }
        })
    }

    /// What serves the function's way out; one that was parked before any function had one gets
    /// its listener now.
    async fn egress(&self, parked: &mut Parked) -> io::Result<Option<Serving>> {
        let Some(Egress(serve)) = &self.spec.egress else { return Ok(None) };
        let listener = match parked.take_egress() {
            Some(listener) => Some(listener),
            None => {
                let question = Question::Listener { port: EGRESS_PORT };
                self.shared.ask(self.id, question).await?.pop()
            }
        };
        let listener = listener.ok_or(ErrorKind::InvalidData)?;
        Ok(Some(serve(self.id, listener.into())))
    }

    /// Never returns: a way out that cannot be served any more is closed, which the function sees.
    async fn serve(&self, egress: Option<Serving>) {
        if let Some(serving) = egress {
            let Err(error) = serving.await;
            tracing::error!(%error, sandbox = %self.id, "a sandbox has lost its way out");
        }
        std::future::pending::<()>().await;
    }

    /// Waits until the function accepts; returns by which endpoint it was asked something already, and what waits.
    async fn ready(
        &self,
        readiness: Readiness<C>,
    ) -> io::Result<Option<(Backlog, Arc<Endpoint<C>>)>> {
        match readiness {
            Readiness::Backlog(backlog, None) => backlog.emptied(FIRST).await.map(|()| None),
            // The request tells when it is read.
            Readiness::Backlog(backlog, Some(endpoint)) => {
                backlog.emptied(LOOK.1).await.map(|()| Some((backlog, endpoint)))
            }
            Readiness::Connect(sockets, handed_over) => {
                let (way, first) = self.connected(sockets).await?;
                self.handed_over(way, first, handed_over);
                Ok(None)
            }
        }
    }

    /// Connects to the socket that the function makes, as soon as it is there.
    async fn connected(&self, sockets: Vec<OwnedFd>) -> io::Result<(Way, way::Stream)> {
        let pauses = Pauses::new()?;
        let (mut pause, longest) = LOOK;
        let mut way = match self.spec.listen {
            Listen::Tcp(port) => Some(Way::Tcp { port, sockets: Mutex::new(sockets) }),
            Listen::Unix | Listen::Inherited => None,
        };
        loop {
            if !matches!(way, Some(Way::Tcp { .. })) {
                // It may have been replaced since it was opened last.
                let opened = self.shared.ask(self.id, Question::Socket).await;
                way = opened.ok().and_then(|mut opened| opened.pop()).map(Way::Unix);
            }
            if let Some(there) = way {
                if let Ok(first) = there.connect(&self.shared, self.id).await {
                    return Ok((there, first));
                }
                way = Some(there);
            }
            pauses.pause(pause).await?;
            pause = longest.min(pause * 2);
        }
    }

    async fn watch(
        &self,
        end: AsyncFd<OwnedFd>,
        readiness: Readiness<C>,
        started_with: StartedWith,
        before: Duration,
    ) {
        let began = SystemTime::now();
        let died = async || end.readable().await.map(drop);
        let ready = tokio::select! {
            biased;
            _ = died() => None,
            ready = self.ready(readiness) => Some(ready),
        };
        match ready {
            Some(ready) => {
                let phase =
                    Phase { name: "ready".to_owned(), start: began, end: SystemTime::now() };
                let beside = computed().saturating_sub(before);
                let asked = ready.unwrap_or_else(|error| {
                    // Then the handing over has to do: the backlog absorbs the rest.
                    tracing::warn!(%error, "cannot see whether a function accepts");
                    None
                });
                if let Some((backlog, endpoint)) = asked {
                    // What is done here before it has answered takes its core.
                    tokio::select! {
                        biased;
                        _ = died() => {}
                        () = endpoint.answered.notified() => {}
                        () = backlog.rest(LOOK.1) => {}
                    }
                }
                self.shared.accepted(self.id, phase, beside);
                tokio::select! {
                    biased;
                    _ = died() => {}
                    () = tokio::time::sleep(SETTLED) => {}
                }
            }
            None => {
                if let Ok(Err(failure)) = started_with.activating.outcome() {
                    let failure = format!("cannot execute: {failure}");
                    self.shared.tell(Event::StartFailed(self.id, failure));
                }
            }
        }
        drop(started_with);
        if let Err(error) = died().await {
            tracing::error!(%error, sandbox = %self.id, "cannot watch a sandbox");
        }
        self.shared.tell(Event::Died(self.id));
    }

    async fn relay(&self, pipe: pipe::Receiver, stream: Stream) {
        let (function, sandbox) = (self.function, self.id);
        let said = lines(pipe, |line| {
            let line = line.to_vec();
            self.shared.report(PoolEvent::Output { function, sandbox, stream, line });
        });
        if let Err(error) = said.await {
            tracing::warn!(%error, %sandbox, "lost a function's output");
        }
    }
}

/// An error and all its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// Where the function in a sandbox listens.
pub(crate) fn socket_path(sockets: &Path, id: SandboxId) -> PathBuf {
    sockets.join(format!("{id}.sock"))
}
