//! Whether a function has begun to accept, seen from outside it, by socket diagnostics.
//!
//! The host connects before the function is started, so that connection waits in the listener's
//! backlog; an empty backlog afterwards means that somebody accepted it. Reading a backlog takes no
//! privilege, only the network namespace that the listener was made in, which is the host's own.

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

const HEADER: usize = 16;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const AF_UNIX: u8 = 1;
const UDIAG_SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_RQLEN: u16 = 4;
const NO_COOKIE: u32 = u32::MAX;

/// Looks into the backlog of one listening Unix socket.
#[derive(Debug)]
pub(crate) struct Backlog {
    diagnostics: OwnedFd,
    inode: u32,
}

/// The number by which socket diagnostics know `listener`, also once it is closed here.
pub(crate) fn inode(listener: impl AsFd) -> io::Result<u32> {
    u32::try_from(rustix::fs::fstat(listener)?.st_ino).map_err(io::Error::other)
}

impl Backlog {
    /// Of the listener with this inode.
    pub(crate) fn of(inode: u32) -> io::Result<Backlog> {
        let diagnostics = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(netlink::SOCK_DIAG),
        )?;
        Ok(Backlog { diagnostics, inode })
    }

    /// Connections that wait to be accepted. `NotFound` once nobody listens.
    pub(crate) fn len(&self) -> io::Result<u32> {
        rustix::net::send(&self.diagnostics, &self.request(), SendFlags::empty())?;
        // The kernel answers while the request is being sent.
        let mut answer = [0; 512];
        let (_, length) =
            rustix::net::recv(&self.diagnostics, &mut answer[..], RecvFlags::empty())?;
        parse(answer.get(..length).unwrap_or_default())
    }

    /// `nlmsghdr` and `unix_diag_req` of linux/netlink.h and linux/unix_diag.h.
    fn request(&self) -> Vec<u8> {
        const LENGTH: u32 = 40;
        let mut request = Vec::with_capacity(40);
        request.extend(LENGTH.to_ne_bytes());
        request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        request.extend(NLM_F_REQUEST.to_ne_bytes());
        request.extend([0; 8]);
        request.extend([AF_UNIX, 0, 0, 0]);
        for number in [u32::MAX, self.inode, UDIAG_SHOW_RQLEN, NO_COOKIE, NO_COOKIE] {
            request.extend(number.to_ne_bytes());
        }
        request
    }
}

/// Finds the length of the receive queue, which for a listener is its backlog.
fn parse(answer: &[u8]) -> io::Result<u32> {
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "socket diagnostics were cut short");
    if u16_at(answer, 4).ok_or_else(cut)? == NLMSG_ERROR {
        let errno = u32_at(answer, HEADER).ok_or_else(cut)?.cast_signed();
        return Err(Errno::from_raw_os_error(-errno).into());
    }
    let mut at = HEADER + 16;
    loop {
        let length = usize::from(u16_at(answer, at).ok_or_else(cut)?);
        if u16_at(answer, at + 2) == Some(UNIX_DIAG_RQLEN) {
            return u32_at(answer, at + 4).ok_or_else(cut);
        }
        at += length.next_multiple_of(4).max(4);
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::{Backlog, inode};
    use std::io::ErrorKind;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_backlog_is_empty_once_its_connections_are_accepted() {
        let directory = std::env::temp_dir();
        let path = directory.join(format!("baton-backlog-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let backlog = Backlog::of(inode(&listener).unwrap()).unwrap();
        assert_eq!(backlog.len().unwrap(), 0);
        let _streams = [UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap()];
        std::fs::remove_file(&path).unwrap();
        assert_eq!(backlog.len().unwrap(), 2);
        let _accepted = [listener.accept().unwrap(), listener.accept().unwrap()];
        assert_eq!(backlog.len().unwrap(), 0);
        drop(listener);
        assert_eq!(backlog.len().unwrap_err().kind(), ErrorKind::NotFound);
    }
}
