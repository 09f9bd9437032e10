//! Whether a function has accepted, seen from outside it, by socket diagnostics.
//!
//! The host connects before the function is started, so that connection waits in the listener's
//! backlog; an empty backlog afterwards means that somebody accepted it. When a request waits in it too, the
//! kernel says when that is read. Of any later connection it knows the other end by number once it is accepted. Looking takes no privilege, only the
//! network namespace that the socket was made in, which is the host's own.

use crate::pause::Pauses;
use crate::readiness::watch;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

const HEADER: usize = 16;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const AF_UNIX: u8 = 1;
const UDIAG_SHOW_PEER: u32 = 0x04;
const UDIAG_SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_RQLEN: u16 = 4;
const NO_COOKIE: u32 = u32::MAX;

/// How long to wait before the second look, and between two looks at most.
pub(crate) const LOOK: (Duration, Duration) =
    (Duration::from_micros(250), Duration::from_millis(20));

/// How long a function is left alone before the first look at its backlog: few start sooner, and looking may take its
/// core from it.
pub(crate) const FIRST: Duration = Duration::from_millis(1);

/// Tells when the backlog of a listener has become empty.
#[derive(Debug)]
pub(crate) struct Backlog {
    looks: Diagnostics,
    pauses: Pauses,
    /// The connection that waits in it, whose writing end the kernel calls ready again when somebody has read from it.
    first: AsyncFd<OwnedFd>,
}

impl Backlog {
    /// Of a listener, which may be closed here afterwards, and the connection that waits in it. Must be called within
    /// tokio.
    pub(crate) fn of(listener: impl AsFd, first: impl AsFd) -> io::Result<Backlog> {
        let first = watch(first.as_fd().try_clone_to_owned()?, Interest::WRITABLE)?;
        Ok(Backlog { looks: Diagnostics::of(inode(listener)?)?, pauses: Pauses::new()?, first })
    }

    /// From here on what is written to the connection tells when it is read. To be called before anything is, and before
    /// there is a function.
    pub(crate) fn arm(&self) {
        // It is ready from the start.
        let unread = |_: &OwnedFd| Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = self.first.try_io(Interest::WRITABLE, unread);
    }

    /// Waits until whoever connected before the function's start is accepted: what was written there is read by nobody
    /// else. Looks too, after a first `pause`, and then more and more rarely.
    ///
    /// # Errors
    /// When it cannot be seen.
    pub(crate) async fn emptied(&self, mut pause: Duration) -> io::Result<()> {
        let (shortest, longest) = LOOK;
        let mut next = if pause < longest { shortest } else { longest };
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                read = self.read(), if open => match read? {
                    true => return Ok(()),
                    false => open = false,
                },
                paused = self.pauses.pause(pause) => paused?,
            }
            match self.looks.backlog() {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // It closed its listener; perhaps its end is about to be seen.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            (pause, next) = (next, longest.min(next * 2));
        }
    }

    /// Leaves the function alone for so long.
    pub(crate) async fn rest(&self, pause: Duration) {
        // Without a timer there is nothing to wait for.
        let _ = self.pauses.pause(pause).await;
    }

    /// Waits until somebody has read from the connection; `false` when it was closed, which nobody can tell from that.
    async fn read(&self) -> io::Result<bool> {
        let mut ready = self.first.writable().await?;
        let open = !ready.ready().is_write_closed();
        ready.clear_ready();
        Ok(open)
    }
}

/// Looks at one Unix socket.
#[derive(Debug)]
struct Diagnostics {
    diagnostics: OwnedFd,
    inode: u32,
}

/// The number by which socket diagnostics know a socket, also once it is closed here.
fn inode(socket: impl AsFd) -> io::Result<u32> {
    u32::try_from(rustix::fs::fstat(socket)?.st_ino).map_err(io::Error::other)
}

/// Waits until the other end of `stream`, to which nothing was written yet, was accepted.
///
/// # Errors
/// When it never will be, or it cannot be seen.
pub(crate) async fn accepted(stream: &UnixStream) -> io::Result<()> {
    let looks = Diagnostics::of(inode(stream)?)?;
    if looks.is_accepted()? {
        return Ok(());
    }
    let pauses = Pauses::new()?;
    let (mut pause, longest) = LOOK;
    loop {
        tokio::select! {
            biased;
            // Nobody has asked anything, so this is its end; but who accepts may also speak first.
            ready = stream.ready(Interest::READABLE) => {
                ready?;
                let accepted = looks.is_accepted()?;
                return accepted.then_some(()).ok_or_else(|| io::ErrorKind::ConnectionReset.into());
            }
            paused = pauses.pause(pause) => paused?,
        }
        if looks.is_accepted()? {
            return Ok(());
        }
        pause = longest.min(pause * 2);
    }
}

impl Diagnostics {
    /// Of the socket with this inode.
    fn of(inode: u32) -> io::Result<Diagnostics> {
        let diagnostics = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(netlink::SOCK_DIAG),
        )?;
        Ok(Diagnostics { diagnostics, inode })
    }

    /// Connections that wait for this listener to accept them. `NotFound` once nobody listens.
    fn backlog(&self) -> io::Result<u32> {
        self.look(UDIAG_SHOW_RQLEN, UNIX_DIAG_RQLEN)
    }

    /// Whether the other end of this connection was accepted: it has no inode before.
    fn is_accepted(&self) -> io::Result<bool> {
        Ok(self.look(UDIAG_SHOW_PEER, UNIX_DIAG_PEER)? != 0)
    }

    /// Has an attribute shown, a number.
    fn look(&self, show: u32, attribute: u16) -> io::Result<u32> {
        rustix::net::send(&self.diagnostics, &self.request(show), SendFlags::empty())?;
        // The kernel answers while the request is being sent.
        let mut answer = [0; 512];
        let (_, length) =
            rustix::net::recv(&self.diagnostics, &mut answer[..], RecvFlags::empty())?;
        parse(answer.get(..length).unwrap_or_default(), attribute)
    }

    /// `nlmsghdr` and `unix_diag_req` of linux/netlink.h and linux/unix_diag.h.
    fn request(&self, show: u32) -> Vec<u8> {
        const LENGTH: u32 = 40;
        let mut request = Vec::with_capacity(40);
        request.extend(LENGTH.to_ne_bytes());
        request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        request.extend(NLM_F_REQUEST.to_ne_bytes());
        request.extend([0; 8]);
        request.extend([AF_UNIX, 0, 0, 0]);
        for number in [u32::MAX, self.inode, show, NO_COOKIE, NO_COOKIE] {
            request.extend(number.to_ne_bytes());
        }
        request
    }
}

/// Finds an attribute.
fn parse(answer: &[u8], attribute: u16) -> io::Result<u32> {
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "socket diagnostics were cut short");
    if u16_at(answer, 4).ok_or_else(cut)? == NLMSG_ERROR {
        let errno = u32_at(answer, HEADER).ok_or_else(cut)?.cast_signed();
        return Err(Errno::from_raw_os_error(-errno).into());
    }
    let mut at = HEADER + 16;
    loop {
        let length = usize::from(u16_at(answer, at).ok_or_else(cut)?);
        if u16_at(answer, at + 2) == Some(attribute) {
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
    use super::{Backlog, Diagnostics, accepted, inode};
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;
    use std::task::{Context, Waker};
    use std::time::Duration;

    fn socket(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("baton-{name}-{}.sock", std::process::id()))
    }

    #[test]
    fn a_backlog_is_empty_once_its_connections_are_accepted() {
        let path = socket("backlog");
        let listener = UnixListener::bind(&path).unwrap();
        let looks = Diagnostics::of(inode(&listener).unwrap()).unwrap();
        assert_eq!(looks.backlog().unwrap(), 0);
        let _streams = [UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap()];
        std::fs::remove_file(&path).unwrap();
        assert_eq!(looks.backlog().unwrap(), 2);
        let _accepted = [listener.accept().unwrap(), listener.accept().unwrap()];
        assert_eq!(looks.backlog().unwrap(), 0);
        drop(listener);
        assert_eq!(looks.backlog().unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_backlog_is_seen_to_be_empty_when_the_request_in_it_is_read() {
        let path = socket("read");
        let listener = UnixListener::bind(&path).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let backlog = Backlog::of(&listener, &stream).unwrap();
        // That it can be written to is known by now.
        drop(backlog.first.writable().await.unwrap());
        backlog.arm();
        stream.write_all(b"GET").unwrap();
        let no_pause_ends = Duration::from_secs(3600);
        let mut emptied = std::pin::pin!(backlog.emptied(no_pause_ends));
        assert!(emptied.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let (mut function, _) = listener.accept().unwrap();
        assert_eq!(function.read(&mut [0; 3]).unwrap(), 3);
        emptied.await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_is_accepted_only_once_the_function_has_it() {
        let path = socket("accepted");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        let mut seen = std::pin::pin!(accepted(&stream));
        assert!(seen.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let _function = listener.accept().await.unwrap();
        seen.await.unwrap();
        let left = tokio::net::UnixStream::connect(&path).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        drop(listener);
        assert_eq!(accepted(&left).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
