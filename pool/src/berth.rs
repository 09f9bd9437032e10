//! What a start needs of the host besides the sandbox, made while the daemon makes that: the function's listener, a
//! connection that waits in it, what tells when that is accepted, and pipes for the output.
//!
//! A name in a file system is the costly part: 10 µs on a tmpfs, 50 to 350 µs on ext4.

use crate::warm::Backlog;
use crate::way::Stream;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use tokio::net::unix::pipe;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BerthError {
    #[error("cannot listen on {path:?}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("cannot watch a listener's backlog")]
    Watch(#[source] io::Error),
    #[error("cannot make a pipe for the output")]
    Pipe(#[source] io::Error),
}

/// Everything for one start.
#[derive(Debug)]
pub(crate) struct Berth {
    /// `None` for a function that makes its own.
    pub(crate) door: Option<Door>,
    pub(crate) stdout: Pipe,
    pub(crate) stderr: Pipe,
}

/// Where a function is reached.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) listener: UnixListener,
    pub(crate) backlog: Backlog,
    /// Waits in the listener's backlog.
    pub(crate) first: Stream,
    pub(crate) name: Name,
}

/// A pipe whose reading end is the host's.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) reader: pipe::Receiver,
    pub(crate) writer: OwnedFd,
}

/// The listener's name, removed with this value.
#[derive(Debug)]
pub(crate) struct Name(PathBuf);

impl Berth {
    /// Makes it, with a listener at `door`, which is free. Must be called within tokio.
    pub(crate) fn make(door: Option<&Path>) -> Result<Berth, BerthError> {
        Ok(Berth {
            door: door.map(Door::make).transpose()?,
            stdout: Pipe::make().map_err(BerthError::Pipe)?,
            stderr: Pipe::make().map_err(BerthError::Pipe)?,
        })
    }
}

impl Door {
    fn make(path: &Path) -> Result<Door, BerthError> {
        let failed = |source| BerthError::Listen { path: path.to_owned(), source };
        let listener = match UnixListener::bind(path) {
            // A host that was killed left the name; its sandboxes ended with it.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                std::fs::remove_file(path).and_then(|()| UnixListener::bind(path))
            }
            bound => bound,
        };
        let listener = listener.map_err(failed)?;
        let name = Name(path.to_owned());
        // Its backlog is empty, so this does not wait.
        let first = UnixStream::connect(path).map_err(failed)?;
        first.set_nonblocking(true).map_err(failed)?;
        let first = tokio::net::UnixStream::from_std(first).map_err(failed)?;
        let backlog = Backlog::of(&listener, &first).map_err(BerthError::Watch)?;
        Ok(Door { listener, backlog, first: Stream::Unix(first), name })
    }
}

impl Pipe {
    fn make() -> io::Result<Pipe> {
        let (reader, writer) = io::pipe()?;
        let reader = pipe::Receiver::from_owned_fd(reader.into())?;
        Ok(Pipe { reader, writer: writer.into() })
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // Nothing else can be wrong with our own directory than that it is gone.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_a_killed_host_left_is_taken_over() {
        let path = std::env::temp_dir().join(format!("baton-left-{}.sock", std::process::id()));
        drop(UnixListener::bind(&path).unwrap());
        let berth = Berth::make(Some(&path)).unwrap();
        assert!(berth.door.unwrap().listener.accept().is_ok());
    }

    #[tokio::test]
    async fn a_berth_leaves_no_name_behind() {
        let path = std::env::temp_dir().join(format!("baton-berth-{}.sock", std::process::id()));
        let berth = Berth::make(Some(&path)).unwrap();
        assert!(path.exists());
        let door = berth.door.unwrap();
        assert!(door.listener.accept().is_ok(), "a connection waits in it");
        drop(door);
        assert!(!path.exists());
    }
}
