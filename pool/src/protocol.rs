//! What the pool's two halves say to each other.
//!
//! One message is one datagram of JSON on a Unix `SEQPACKET` socket, with the descriptors that belong to it as
//! `SCM_RIGHTS`. The host speaks first ([`ToDaemon::Hello`]); the daemon answers everything it was asked, in
//! any order between sandboxes, and in order for one:
//!
//! ```text
//! Create ─▶ Parked ─▶ (Terminate) ─▶ Remove ─▶ Gone        also: Parked ─▶ Gone when the process ends by itself
//!       └─▶ CreateFailed
//! Ask ─▶ Answer
//! ```
//!
//! The supervisor has a socket of its own to the daemon, on which it says what the host may only ask for by number
//! ([`Root`]).
//!
//! End of file on either side means that the other process is gone.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::daemon::probe::Machine;

/// The largest message, in bytes.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// The most descriptors that one message carries.
pub const DESCRIPTORS_MAX: usize = 16;

/// A sandbox, named by the host; a number is never used again during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SandboxId(pub u64);

impl fmt::Display for SandboxId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// From the supervisor to the daemon: a root that sandboxes can be given. With a descriptor of a detached mount, the
/// root is that; without one it is empty but for what every sandbox has and the directory of the socket. A second
/// descriptor stays open as long as the root is known or a sandbox has it, for the sake of a lock on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Its number, never used for another root in the daemon's life.
    pub number: u32,
    /// Where functions with this root make their socket, an absolute path in it; its directory is then theirs to
    /// write. `None` when they inherit one or listen on TCP.
    pub socket: Option<PathBuf>,
}

/// From the host to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDaemon {
    /// The first message. A restarted daemon removes every sandbox of its predecessor but those named here, which
    /// still serve requests and are kept until [`ToDaemon::Remove`].
    Hello {
        /// Sandboxes of the predecessor that are still at work.
        in_use: Vec<SandboxId>,
    },
    /// Make a sandbox and park it.
    Create {
        /// Its name from now on.
        id: SandboxId,
        /// Bytes of a private `/tmp`; 0 for none. A parked sandbox with a `/tmp` fits only functions of that size.
        scratch: u64,
        /// Make a TCP listener at this port of its loopback, for a proxy: its only way out.
        egress: Option<u16>,
    },
    /// Do something in a sandbox that lives; one [`FromDaemon::Answer`] follows, in order for each sandbox.
    Ask {
        /// Which one.
        id: SandboxId,
        /// What.
        question: Question,
    },
    /// Send SIGTERM to the function: finish and leave.
    Terminate {
        /// Which one.
        id: SandboxId,
    },
    /// Kill what runs in it, in whatever state it is, and leave nothing. A sandbox that is already gone is ignored.
    Remove {
        /// Which one.
        id: SandboxId,
    },
    /// No sandbox will be given this root any more; those that have it keep it.
    Forget {
        /// The root's number.
        root: u32,
    },
}

/// What the host needs a privileged process for while a sandbox lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// A TCP listener at this port of its loopback, which only the sandbox can reach.
    Listener {
        /// The port.
        port: u16,
    },
    /// Unconnected, nonblocking TCP sockets whose loopback is the sandbox's; its loopback is up from then on.
    Clients {
        /// How many, at most [`DESCRIPTORS_MAX`].
        count: u8,
    },
    /// Give a parked sandbox another root.
    Attach {
        /// The root's number.
        root: u32,
    },
    /// The socket that the function made in its root, as a place to connect to (`O_PATH`).
    Socket,
}

/// From the daemon to the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromDaemon {
    /// Once, after start: sandboxes can be asked for. With `weight` come three descriptors of the control group around
    /// those of all runs: its directory, its `cpu.idle`, and the file that takes `weight`.
    Ready {
        /// What this machine offers them.
        machine: Machine,
        /// The CPU weight of all sandboxes together; `None` where they have one in any case.
        weight: Option<String>,
    },
    /// A sandbox waits for its function. Descriptors: control socket, pidfd, then one for each of `files`, then the
    /// listener of `egress`.
    Parked {
        /// Which one.
        id: SandboxId,
        /// Its init, in the daemon's pid namespace.
        pid: u32,
        /// Which cgroup files the descriptors after the first two are, in order.
        files: Vec<CgroupFile>,
        /// The last descriptor is the listener that was asked for.
        egress: bool,
        /// How the time was spent.
        steps: Vec<Step>,
    },
    /// It could not be made, and nothing of it is left.
    CreateFailed {
        /// Which one.
        id: SandboxId,
        /// The chain of causes in one line.
        error: String,
    },
    /// What became of a [`ToDaemon::Ask`], with the descriptors that were asked for.
    Answer {
        /// Where.
        id: SandboxId,
        /// It was done, or the chain of causes in one line.
        done: Result<(), String>,
    },
    /// Nothing is left of it: no process, cgroup, mount or file.
    Gone {
        /// Which one.
        id: SandboxId,
        /// How its init ended; `None` for one inherited from a daemon that died.
        exit: Option<Exit>,
        /// Processes in it that the kernel killed for want of memory.
        oom_kills: u64,
        /// CPU time in nanoseconds, all its processes together.
        cpu_ns: u64,
        /// Most memory charged to it at once, in bytes.
        memory_peak: u64,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(formatter, "exit {code}"),
            Exit::Signal(signal) => write!(formatter, "signal {signal}"),
        }
    }
}

/// One phase of making a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was done, a word or two.
    pub name: String,
    /// When it began, in nanoseconds of Unix time.
    pub start_unix_ns: u64,
    /// When it ended, in nanoseconds of Unix time.
    pub end_unix_ns: u64,
}

/// A file of a sandbox's cgroup that the host may write: its limits, and the switch that freezes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CgroupFile {
    /// v1 `memory.limit_in_bytes`.
    MemoryLimit,
    /// v1 `memory.memsw.limit_in_bytes`: memory and swap together, never below the former.
    MemoryAndSwapLimit,
    /// v1 `cpu.cfs_quota_us`, of a period of [`CPU_PERIOD_US`].
    CpuQuota,
    /// v1 `freezer.state`: `FROZEN` or `THAWED`.
    FreezerState,
    /// v2 `memory.max`.
    MemoryMax,
    /// v2 `memory.swap.max`.
    SwapMax,
    /// v2 `cpu.max`.
    CpuMax,
    /// v2 `cgroup.freeze`: `1` or `0`.
    Freeze,
    /// `pids.max` of either version.
    PidsMax,
}

/// The period of every CPU quota, in microseconds.
pub const CPU_PERIOD_US: u64 = 100_000;
/// The CPU quota that a sandbox is parked with, in microseconds a period: one core, as functions have by default.
/// Changing it makes the kernel look at every control group there is, so it is written at a start only where it differs.
pub const PARKED_QUOTA_US: u64 = CPU_PERIOD_US;

/// Makes a connected pair: one end for the daemon, one for the host. Both are blocking and close-on-exec.
///
/// # Errors
/// When the process or the machine has no descriptor left.
pub fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends one message with copies of `descriptors`. Never raises SIGPIPE.
///
/// # Errors
/// `BrokenPipe` when the other side is gone, `WouldBlock` on a nonblocking socket whose buffer is full,
/// `InvalidInput` for a message past [`MESSAGE_MAX`] or [`DESCRIPTORS_MAX`].
pub fn send<M: Serialize>(
    socket: impl AsFd,
    message: &M,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    send_bytes(socket, &text, descriptors)
}

/// [`send`] for a message that has its bytes already.
pub(crate) fn send_bytes(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if bytes.len() > MESSAGE_MAX || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} bytes with {} descriptors exceed a message of {MESSAGE_MAX} with {DESCRIPTORS_MAX}",
                bytes.len(),
                descriptors.len()
            ),
        ));
    }
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        // The space was sized for the most descriptors allowed, so this cannot be refused.
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Receives one message and its descriptors (close-on-exec); `None` at end of file.
///
/// # Errors
/// `WouldBlock` on a nonblocking socket without a message, `InvalidData` for what is not a whole message.
pub fn receive<M: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    receive_message(socket, RecvFlags::empty())
}

/// [`receive`] that never waits, whatever the socket is.
pub(crate) fn receive_now<M: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    receive_message(socket, RecvFlags::DONTWAIT)
}

fn receive_message<M: DeserializeOwned>(
    socket: impl AsFd,
    flags: RecvFlags,
) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; MESSAGE_MAX];
    let (length, descriptors) = receive_bytes(socket, &mut buffer, flags)?;
    match buffer.get(..length) {
        None | Some([]) => Ok(None),
        Some(text) => Ok(Some((serde_json::from_slice(text)?, descriptors))),
    }
}

/// Receives one message's bytes if there is one, else `WouldBlock`; a length of 0 is end of file.
pub(crate) fn receive_bytes_now(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_bytes(socket, buffer, RecvFlags::DONTWAIT)
}

fn receive_bytes(
    socket: impl AsFd,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(buffer)],
            &mut ancillary,
            flags | RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let descriptors = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was cut short"));
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (daemon, host) = channel().unwrap();
        let message = FromDaemon::Parked {
            id: SandboxId(7),
            pid: 42,
            files: vec![CgroupFile::MemoryMax],
            egress: false,
            steps: vec![Step { name: "create".to_owned(), start_unix_ns: 1, end_unix_ns: 2 }],
        };
        send(&daemon, &message, &[daemon.as_fd(), host.as_fd(), daemon.as_fd()]).unwrap();
        let (received, descriptors) = receive::<FromDaemon>(&host).unwrap().unwrap();
        assert_eq!(received, message);
        assert_eq!(descriptors.len(), 3);
    }

    #[test]
    fn the_other_sides_end_is_end_of_file() {
        let (daemon, host) = channel().unwrap();
        drop(daemon);
        assert!(receive::<FromDaemon>(&host).unwrap().is_none());
        let refused = send(&host, &ToDaemon::Remove { id: SandboxId(1) }, &[]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_message_past_the_bound_is_refused_before_it_is_sent() {
        let (daemon, _host) = channel().unwrap();
        let in_use = (0..100_000).map(SandboxId).collect();
        let refused = send(&daemon, &ToDaemon::Hello { in_use }, &[]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
