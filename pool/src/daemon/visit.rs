//! Working in a namespace of a sandbox for a moment.
//!
//! The daemon and its workers have one thread each, so one of them can enter a namespace, do something that can only
//! be done in there, and come back. Whoever cannot come back ends at once: where it stands, no path means what it
//! should, and others remove what it leaves.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::abort;

use nix::sched::{CloneFlags, setns};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Pid, chroot, fchdir};

/// Does `work` in the network namespace of the sandbox whose process is `init`; it must not be reaped yet, so that its
/// number is its own.
pub(super) fn network<T, E: From<io::Error>>(
    init: Pid,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let (own, theirs) = namespaces("net", init)?;
    visit(&own, &theirs, CloneFlags::CLONE_NEWNET, work)
}

/// The same in its mount namespace, whose root is the root meanwhile.
pub(super) fn mounts<T, E: From<io::Error>>(
    init: Pid,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let (own, theirs) = namespaces("mnt", init)?;
    let root = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)?;
    let done = visit(&own, &theirs, CloneFlags::CLONE_NEWNS, work);
    // Coming back leads to the namespace's root, which is not this process's where that was changed.
    if fchdir(&root).and_then(|()| chroot(".")).is_err() {
        abort();
    }
    done
}

fn namespaces(name: &str, init: Pid) -> io::Result<(OwnedFd, OwnedFd)> {
    let open = |process: &str| File::open(format!("/proc/{process}/ns/{name}"));
    Ok((open("self")?.into(), open(&init.to_string())?.into()))
}

fn visit<T, E: From<io::Error>>(
    own: &OwnedFd,
    theirs: &OwnedFd,
    kind: CloneFlags,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    setns(theirs, kind).map_err(io::Error::from)?;
    let done = work();
    if setns(own, kind).is_err() {
        abort();
    }
    done
}
