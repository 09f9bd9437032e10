//! Sockets of a sandbox's network namespace, made from outside it.
//!
//! A socket belongs to the namespace it was made in, wherever it is used. The daemon and its workers have one
//! thread each, so one of them can enter a sandbox's namespace for a moment, make sockets, and come back; the
//! host then accepts or connects there without any privilege. The only interface is the loopback.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Pid;

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetworkError {
    /// It is where it was before.
    #[error("cannot make sockets in the sandbox's network")]
    Inside(#[from] io::Error),
    /// This process is in the wrong network now, and must not go on.
    #[error("cannot come back from the sandbox's network")]
    Stranded(#[source] io::Error),
}

/// A TCP listener at `127.0.0.1:port` of a sandbox, which only the sandbox can reach.
pub(super) fn listener(init: Pid, port: u16) -> Result<OwnedFd, NetworkError> {
    inside(init, || {
        raise_loopback()?;
        Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.into())
    })
}

/// Unconnected TCP sockets whose loopback is a sandbox's.
pub(super) fn clients(init: Pid, count: u8) -> Result<Vec<OwnedFd>, NetworkError> {
    let client = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
    };
    inside(init, || {
        raise_loopback()?;
        Ok((0..count).map(|_| client()).collect::<Result<_, _>>()?)
    })
}

/// Does `work` in the network namespace of the sandbox whose process is `init`; it must not be reaped yet, so that
/// its number is its own.
fn inside<T>(init: Pid, work: impl FnOnce() -> io::Result<T>) -> Result<T, NetworkError> {
    let namespace = |process: &str| File::open(format!("/proc/{process}/ns/net"));
    let (own, theirs) = (namespace("self")?, namespace(&init.to_string())?);
    setns(theirs, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
    let done = work();
    setns(own, CloneFlags::CLONE_NEWNET).map_err(|error| NetworkError::Stranded(error.into()))?;
    Ok(done?)
}

mod request {
    nix::ioctl_write_ptr_bad!(
        /// Sets an interface's flags.
        set_flags, libc::SIOCSIFFLAGS, libc::ifreq
    );
}

/// A new network namespace has a loopback without addresses; raised, it has them.
#[expect(unsafe_code, reason = "interfaces are raised by an ioctl, which has no safe interface")]
fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all zeros are a valid `ifreq`.
    let mut loopback: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in loopback.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    loopback.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    // SAFETY: the kernel reads one `ifreq`, which lives until the call returns.
    unsafe { request::set_flags(socket.as_raw_fd(), &raw const loopback) }?;
    Ok(())
}
