//! The daemon's workers: forked ahead of need, given sandboxes to make, heard, and replaced when they have ended.
//!
//! ```text
//! Idle ──Making──▶ Making ──Parked──▶ Done ──▶ ended, and another is forked
//!                    └─ Failed, or killed ──▶ ended: what there is of the sandbox is cleared up
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, fork};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_parent_process_death_signal,
    waitpid,
};

use super::cgroup::Usage;
use super::worker::{self, Making, Report};
use super::{Daemon, Flow, Sandbox, children, exit_of, state};
use crate::protocol::{self, Exit, FromDaemon, SandboxId};

/// Longest time that making a sandbox may take; the slowest seen needed 40 ms.
const MAKING_MAX: Duration = Duration::from_secs(10);

/// A process that makes a sandbox, or waits for one to make.
pub(super) struct Worker {
    pub(super) pid: Pid,
    pub(super) socket: OwnedFd,
    state: WorkerState,
}

enum WorkerState {
    Idle,
    Making {
        id: SandboxId,
        since: Instant,
        failure: Option<String>,
    },
    /// It has made this sandbox and is about to end.
    Done(SandboxId),
}

impl Daemon {
    /// Gives idle workers the longest waiting sandboxes.
    pub(super) fn assign(&mut self) -> io::Result<()> {
        for index in 0..self.workers.len() {
            if !matches!(self.workers[index].state, WorkerState::Idle) {
                continue;
            }
            let next = self.sandboxes.iter().find_map(|(id, sandbox)| match sandbox {
                Sandbox::Queued { scratch, egress } => Some((*id, *scratch, *egress)),
                _ => None,
            });
            let Some((id, scratch, egress)) = next else { break };
            let making = Making {
                id,
                cgroup: format!("{}/{id}", self.config.cgroup_parent.trim_matches('/')),
                uid: self.uid(id),
                scratch,
                egress,
            };
            let worker = &mut self.workers[index];
            match protocol::send(&worker.socket, &making, &[]) {
                Ok(()) => {
                    worker.state = WorkerState::Making { id, since: Instant::now(), failure: None };
                    self.sandboxes.insert(id, Sandbox::Making { doomed: false });
                }
                // It was killed while idle: the next round has its successor.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes a worker's report if there is one.
    pub(super) fn hear_worker(&mut self, index: usize) -> io::Result<Flow> {
        let worker = &mut self.workers[index];
        let WorkerState::Making { id, failure, .. } = &mut worker.state else {
            return Ok(Flow::On);
        };
        let id = *id;
        match protocol::receive_now::<Report>(&worker.socket) {
            Ok(Some((Report::Parked { pid, files, egress, steps }, descriptors))) => {
                worker.state = WorkerState::Done(id);
                let Some(init) = Pid::from_raw(pid) else { return Ok(Flow::On) };
                let doomed = matches!(
                    self.sandboxes.insert(id, Sandbox::Live { init, root: None }),
                    Some(Sandbox::Making { doomed: true })
                );
                if doomed {
                    self.end(id, init);
                    return Ok(Flow::On);
                }
                let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                self.tell(
                    &FromDaemon::Parked { id, pid: pid.unsigned_abs(), files, egress, steps },
                    &descriptors,
                )
            }
            Ok(Some((Report::Failed { error }, _))) => {
                *failure = Some(error);
                Ok(Flow::On)
            }
            // Nothing yet, or it died, which a signal tells.
            Ok(None) => Ok(Flow::On),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(Flow::On)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn on_worker_end(&mut self, index: usize, status: WaitStatus) -> io::Result<Flow> {
        let worker = self.workers.swap_remove(index);
        self.hire()?;
        let (id, failure) = match worker.state {
            WorkerState::Making { id, failure, .. } => (id, failure),
            WorkerState::Done(id) if exit_of(status) != Some(Exit::Code(0)) => {
                // Killed between its report and its last act.
                remove_files(id)?;
                return Ok(Flow::On);
            }
            WorkerState::Idle | WorkerState::Done(_) => return Ok(Flow::On),
        };
        let error = failure.unwrap_or_else(|| half_way(status));
        self.clear_up(id)?;
        match self.sandboxes.remove(&id) {
            Some(Sandbox::Making { doomed: true }) => self.tell_gone(id, None, Usage::default()),
            _ => self.tell(&FromDaemon::CreateFailed { id, error }, &[]),
        }
    }

    /// Removes whatever a worker left of a sandbox that it did not finish.
    fn clear_up(&mut self, id: SandboxId) -> io::Result<()> {
        loop {
            // Taken before the reports are heard: a child that is unknown after that belongs to no good sandbox.
            let children = children();
            for index in 0..self.workers.len() {
                self.hear_worker(index)?;
            }
            let known = |pid: &Pid| {
                self.workers.iter().any(|worker| worker.pid == *pid) || self.live(*pid).is_some()
            };
            let orphans: Vec<Pid> = children.into_iter().filter(|pid| !known(pid)).collect();
            if orphans.is_empty() {
                break;
            }
            for pid in orphans {
                let _ = kill_process(pid, Signal::KILL);
                rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()))?;
            }
        }
        self.group_of(id).kill()?;
        self.group_of(id).remove()?;
        remove_files(id)
    }

    pub(super) fn give_up_late_workers(&self) {
        let now = Instant::now();
        for worker in self
            .workers
            .iter()
            .filter(|worker| worker.deadline().is_some_and(|deadline| deadline <= now))
        {
            let _ = kill_process(worker.pid, Signal::KILL);
        }
    }

    /// Brings the workers up to their number.
    pub(super) fn hire(&mut self) -> io::Result<()> {
        while self.workers.len() < self.config.workers.max(1) {
            let worker = self.fork_worker()?;
            self.workers.push(worker);
        }
        Ok(())
    }

    #[expect(
        unsafe_code,
        reason = "fork, and leaving a forked process without running this one's destructors"
    )]
    fn fork_worker(&self) -> io::Result<Worker> {
        let (socket, inside) = protocol::channel()?;
        let daemon = getpid();
        // SAFETY: this process has one thread, so that the child may do whatever this process may.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                let pid = Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::InvalidData)?;
                Ok(Worker { pid, socket, state: WorkerState::Idle })
            }
            ForkResult::Child => {
                let others =
                    [self.host.as_raw_fd(), self.signals.as_fd().as_raw_fd(), socket.as_raw_fd()];
                let roots = self.sandboxes.values().filter_map(|sandbox| match sandbox {
                    Sandbox::Live { root, .. } => root.as_ref()?.hold.as_ref(),
                    _ => None,
                });
                let roots: BTreeSet<RawFd> = roots
                    .chain(self.roots.values().filter_map(|kept| kept.given.hold.as_ref()))
                    .map(|hold| hold.as_raw_fd())
                    .collect();
                let others = others
                    .into_iter()
                    .chain(roots)
                    .chain(self.supervisor.iter().map(AsRawFd::as_raw_fd))
                    .chain(self.workers.iter().map(|worker| worker.socket.as_raw_fd()));
                let worked = begin_work(daemon, others)
                    .and_then(|()| worker::work(inside.as_fd(), &self.workshop));
                // SAFETY: ends the process at once; everything it shares with its parent is the parent's to clean.
                unsafe { libc::_exit(i32::from(worked.is_err())) }
            }
        }
    }
}

impl Worker {
    /// One that is done, or reported a failure, has not; its end comes as a signal.
    pub(super) fn has_more_to_say(&self) -> bool {
        matches!(self.state, WorkerState::Making { failure: None, .. })
    }

    /// When it is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            WorkerState::Making { since, .. } => Some(since + MAKING_MAX),
            WorkerState::Idle | WorkerState::Done(_) => None,
        }
    }
}

/// Removes what a worker wrote to make a sandbox.
fn remove_files(id: SandboxId) -> io::Result<()> {
    for directory in [state::BUNDLES, state::CONTAINERS] {
        match fs::remove_dir_all(format!("{directory}/{id}")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// What a forked worker does first: dies with the daemon, takes signals as usual, lets go of the daemon's own.
fn begin_work(daemon: Pid, others: impl Iterator<Item = RawFd>) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(daemon) {
        return Err(io::ErrorKind::NotConnected.into());
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    for descriptor in others {
        nix::unistd::close(descriptor)?;
    }
    Ok(())
}

fn half_way(status: WaitStatus) -> String {
    match exit_of(status) {
        Some(exit) => format!("its worker ended half way with {exit}"),
        None => "its worker ended half way".to_owned(),
    }
}
