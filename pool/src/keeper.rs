//! The task that starts one function in one sandbox and stays with it until its process has ended.
//!
//! ```text
//! bind, connect ─▶ activate ─▶ exec answered ─▶ Executed ─▶ backlog empty ─▶ Accepted ─▶ process ended
//!        └─────────────┴─────────────┴─▶ StartFailed                                         └─▶ Died
//! ```
//! However the task ends, the schedule hears of it: no sandbox is without a keeper. The driver
//! tells nobody that a sandbox is gone before its keeper has said all.

use crate::activation::{Activating, Freezer, Parked, Start, StartFailure};
use crate::client::{PoolEvent, Shared};
use crate::ice::Ice;
use crate::lease::{Endpoint, Phase};
use crate::output::{Stream, lines};
use crate::pause::Pauses;
use crate::protocol::SandboxId;
use crate::readiness::watch;
use crate::schedule::{Event, FunctionId};
use crate::spec::FunctionSpec;
use crate::warm::{Backlog, inode};
use std::error::Error;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// How long to wait before the second look at a backlog, and between two looks at most.
const LOOK: (Duration, Duration) = (Duration::from_micros(250), Duration::from_millis(20));

/// How long the pipes of an ended function are emptied; the kernel closes their other ends at once.
const LAST_WORDS: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot listen on {path:?}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("cannot make a pipe for the output")]
    Pipe(#[source] io::Error),
    #[error("cannot hand the function to its sandbox")]
    Activate(#[source] io::Error),
    #[error("cannot watch the sandbox")]
    Watch(#[source] io::Error),
    #[error("cannot execute")]
    Execute(#[source] StartFailure),
}

/// A function that was executed.
struct Process {
    pidfd: AsyncFd<OwnedFd>,
    /// Of its listener.
    inode: u32,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
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
        // One that never came so far has no socket; nothing else can be wrong with our own directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl<C: Send + 'static> Keeper<C> {
    /// Starts the function in `parked` and watches it to its end.
    pub(crate) async fn keep(self, parked: Parked) {
        match self.start(parked).await {
            Ok(process) => {
                let mut talk = pin!(async {
                    tokio::join!(
                        self.relay(process.stdout, Stream::Stdout),
                        self.relay(process.stderr, Stream::Stderr),
                    );
                });
                let mut watch = pin!(self.watch(process.pidfd, process.inode));
                tokio::select! {
                    () = &mut talk => watch.await,
                    // What it said before it ended is still in the pipes.
                    () = &mut watch => drop(tokio::time::timeout(LAST_WORDS, talk).await),
                }
            }
            Err(error) => self.shared.tell(Event::StartFailed(self.id, chain(&error))),
        }
    }

    async fn start(&self, parked: Parked) -> Result<Process, StartError> {
        let began = SystemTime::now();
        let cannot_listen = |source| StartError::Listen { path: self.path.clone(), source };
        let listener = UnixListener::bind(&self.path).map_err(cannot_listen)?;
        let first = UnixStream::connect(&self.path).await.map_err(cannot_listen)?;
        let inode = inode(&listener).map_err(StartError::Watch)?;
        let (stdout, stdout_writer) = output_pipe().map_err(StartError::Pipe)?;
        let (stderr, stderr_writer) = output_pipe().map_err(StartError::Pipe)?;
        let activating = parked
            .activate(&Start {
                executable: self.spec.executable.as_fd(),
                listener: listener.as_fd(),
                stdout: stdout_writer.as_fd(),
                stderr: stderr_writer.as_fd(),
                argv: &self.spec.argv,
                env: &self.spec.env,
                limits: self.spec.limits,
            })
            .map_err(StartError::Activate)?;
        // While anyone else holds these, the function's death would not be seen by whoever connects.
        drop((listener, stdout_writer, stderr_writer));
        let (pidfd, freezer) = executed(activating).await?;
        self.shared.executed(self.id, |mut phases| {
            phases.push(Phase {
                name: "activate".to_owned(),
                start: began,
                end: SystemTime::now(),
            });
            Endpoint {
                id: self.id,
                pid: self.pid,
                path: self.path.clone(),
                first: Mutex::new(Some(first)),
                idle: Mutex::new(Vec::new()),
                idle_max: usize::try_from(self.spec.concurrency.max(1)).unwrap_or(usize::MAX),
                phases,
                ice: Ice::new(freezer),
            }
        });
        let pidfd = watch(pidfd, Interest::READABLE).map_err(StartError::Watch)?;
        Ok(Process { pidfd, inode, stdout, stderr })
    }

    async fn watch(&self, pidfd: AsyncFd<OwnedFd>, inode: u32) {
        let began = SystemTime::now();
        let died = async || pidfd.readable().await.map(drop);
        tokio::select! {
            biased;
            _ = died() => {}
            looked = accepted(inode) => {
                if let Err(error) = looked {
                    // Then exec has to do: the backlog absorbs the rest.
                    tracing::warn!(%error, "cannot see whether a function accepts");
                }
                self.shared.accepted(self.id, Phase {
                    name: "ready".to_owned(),
                    start: began,
                    end: SystemTime::now(),
                });
            }
        }
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

/// Waits for the outcome of exec.
async fn executed(activating: Activating) -> Result<(OwnedFd, Option<Freezer>), StartError> {
    let control = activating.as_fd().try_clone_to_owned().map_err(StartError::Watch)?;
    let control = watch(control, Interest::READABLE).map_err(StartError::Watch)?;
    loop {
        let mut ready = control.readable().await.map_err(StartError::Watch)?;
        match activating.outcome() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) => return Err(StartError::Watch(error)),
            Ok(outcome) => {
                outcome.map_err(StartError::Execute)?;
                return Ok(activating.into_parts());
            }
        }
    }
}

/// Waits until the connection made before the start has left the backlog.
async fn accepted(inode: u32) -> io::Result<()> {
    let (backlog, pauses) = (Backlog::of(inode)?, Pauses::new()?);
    let (mut pause, longest) = LOOK;
    loop {
        match backlog.len() {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // It closed its listener; perhaps its end is about to be seen.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        pauses.pause(pause).await?;
        pause = longest.min(pause * 2);
    }
}

fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((pipe::Receiver::from_owned_fd(reader.into())?, writer.into()))
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
