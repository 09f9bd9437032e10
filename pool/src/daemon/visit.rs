//! Working in a namespace of a sandbox for a moment.
//!
//! The daemon and its workers have one thread each, so one of them can enter a namespace, do something that can only
//! be done in there, and come back.

use std::fs::File;
use std::io;

use nix::sched::{CloneFlags, setns};
use rustix::process::Pid;

/// Which namespace is entered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Namespace {
    /// Whoever comes back has the root and the working directory that its own namespace begins with.
    Mount,
    Network,
}

/// This process is in the wrong namespace now, and must not go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot come back from a sandbox's namespace")]
pub(super) struct Stranded(#[source] io::Error);

/// Does `work` in a namespace of the sandbox whose process is `init`; it must not be reaped yet, so that its number is
/// its own.
pub(super) fn visit<T, E: From<io::Error>>(
    init: Pid,
    namespace: Namespace,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<Result<T, E>, Stranded> {
    let (name, flag) = match namespace {
        Namespace::Mount => ("mnt", CloneFlags::CLONE_NEWNS),
        Namespace::Network => ("net", CloneFlags::CLONE_NEWNET),
    };
    let open = |process: &str| File::open(format!("/proc/{process}/ns/{name}"));
    let entered = open("self").and_then(|own| {
        setns(open(&init.to_string())?, flag)?;
        Ok(own)
    });
    let own = match entered {
        Ok(own) => own,
        Err(error) => return Ok(Err(error.into())),
    };
    let done = work();
    setns(own, flag).map_err(|error| Stranded(error.into()))?;
    Ok(done)
}
