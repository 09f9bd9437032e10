//! Sockets of a sandbox's network namespace, made from outside it.
//!
//! A socket belongs to the namespace it was made in, wherever it is used. So the daemon and its workers make some in
//! there; the host then accepts or connects there without any privilege. The only interface is the loopback.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Pid;

use super::visit;

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
#[error("cannot make sockets in the sandbox's network")]
pub(super) struct NetworkError(#[from] io::Error);

/// A TCP listener at `127.0.0.1:port` of a sandbox, which only the sandbox can reach.
pub(super) fn listener(init: Pid, port: u16) -> Result<OwnedFd, NetworkError> {
    visit::network(init, || {
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
    visit::network(init, || {
        raise_loopback()?;
        let made: Result<_, _> = (0..count).map(|_| client()).collect();
        Ok(made.map_err(io::Error::from)?)
    })
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
