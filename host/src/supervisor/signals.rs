//! The supervisor's signals, read from a descriptor.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that the supervisor takes.
pub(super) struct Signals(SignalFd, OwnedFd);

impl Signals {
    /// Blocks them, so that they are only read; children begin with an empty mask.
    pub(super) fn block() -> anyhow::Result<Self> {
        use std::os::fd::AsFd as _;
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
            set.add(signal);
        }
        set.thread_block().context("cannot block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = SignalFd::with_flags(&set, flags).context("cannot make a signal descriptor")?;
        let poll = fd.as_fd().try_clone_to_owned()?;
        Ok(Self(fd, poll))
    }

    /// The next signal, or `None` after `timeout`.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> anyhow::Result<Option<Signal>> {
        super::readable(&self.1, timeout)?;
        let info = self.0.read_signal().context("cannot read a signal")?;
        Ok(info.and_then(|info| Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()))
    }
}

/// Whether a signal asks Baton to stop.
pub(super) fn stops(signal: Option<Signal>) -> bool {
    matches!(signal, Some(Signal::SIGTERM | Signal::SIGINT))
}
