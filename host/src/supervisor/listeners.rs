//! The sockets that clients connect to. The supervisor binds them: it may use any port and path,
//! and a host that dies leaves none of its clients refused.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

use crate::manifest::{self, Listener};

/// Connections that the kernel holds while the host does not accept.
const BACKLOG: i32 = 4096;

/// A listener that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listener}{}", hint(.source))]
pub struct BindError {
    listener: Listener,
    #[source]
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ": another process listens there",
        io::ErrorKind::PermissionDenied => ": it needs more privilege",
        _ => "",
    }
}

/// The bound listeners.
pub(super) struct Listeners {
    pub functions: Vec<OwnedFd>,
    pub admin: OwnedFd,
    /// Socket files to remove at the end.
    _files: Vec<SocketFile>,
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nothing depends on it; the next start removes a stale one.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listeners {
    /// Binds every listener of the manifest.
    pub(super) fn bind(host: &manifest::Host) -> Result<Self, BindError> {
        let mut files = Vec::new();
        let mut one = |listener: &Listener| {
            let bound = bind_one(listener)
                .map_err(|source| BindError { listener: listener.clone(), source })?;
            if let Listener::Unix(path) = listener {
                files.push(SocketFile(path.clone()));
            }
            Ok(bound)
        };
        let functions = host.listen.iter().map(&mut one).collect::<Result<_, _>>()?;
        let admin = one(&host.admin)?;
        Ok(Self { functions, admin, _files: files })
    }

    /// Says on standard output where functions are served; the port may have been the kernel's
    /// choice. It is said in one piece, and Baton serves whether or not anybody listens to it.
    pub(super) fn announce(&self, host: &manifest::Host) -> io::Result<()> {
        use std::io::Write as _;
        let mut text = String::new();
        for (fd, listener) in self.functions.iter().zip(&host.listen) {
            text.push_str(&format!("listening on {}\n", address(fd, listener)?));
        }
        text.push_str(&format!("administration on {}\n", address(&self.admin, &host.admin)?));
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            tracing::warn!(%error, "cannot say on standard output where functions are served");
        }
        Ok(())
    }
}

fn address(fd: &OwnedFd, listener: &Listener) -> io::Result<String> {
    if let Listener::Unix(path) = listener {
        return Ok(format!("unix:{}", path.display()));
    }
    match TcpListener::from(fd.try_clone()?).local_addr() {
        Ok(address) => Ok(format!("http://{address}")),
        // An inherited Unix socket has no address to show.
        Err(_) => Ok(listener.to_string()),
    }
}

fn bind_one(listener: &Listener) -> io::Result<OwnedFd> {
    match listener {
        Listener::Tcp(address) => bind_tcp(*address),
        Listener::Unix(path) => bind_unix(path),
        Listener::Fd(fd) => inherit(*fd),
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

/// Binds a Unix socket; a file that nobody answers on is one that an earlier run left.
fn bind_unix(path: &Path) -> io::Result<OwnedFd> {
    let is_socket = |meta: std::fs::Metadata| meta.file_type().is_socket();
    if path.symlink_metadata().is_ok_and(is_socket) {
        if UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener.into())
}

/// A listening socket that Baton was started with (`fd:3`).
fn inherit(fd: i32) -> io::Result<OwnedFd> {
    if !Path::new(&format!("/proc/self/fd/{fd}")).exists() {
        return Err(io::Error::other(format!("no descriptor {fd} was inherited")));
    }
    #[expect(unsafe_code, reason = "an inherited descriptor is only known by its number")]
    // SAFETY: it is open, it was open when the process started (the manifest's numbers are checked
    // to be 3 or more, and listeners are bound before anything else is opened), and a manifest
    // names each one once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}
