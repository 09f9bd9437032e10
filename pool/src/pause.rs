//! Pauses shorter than a millisecond, which is the least that tokio's own timer knows.

use crate::readiness::watch;
use nix::errno::Errno;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer of the kernel's.
#[derive(Debug)]
pub(crate) struct Pauses {
    timer: TimerFd,
    fired: AsyncFd<OwnedFd>,
}

impl Pauses {
    pub(crate) fn new() -> io::Result<Pauses> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let fired = watch(timer.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        Ok(Pauses { timer, fired })
    }

    /// Returns after `duration`, which is not zero.
    pub(crate) async fn pause(&self, duration: Duration) -> io::Result<()> {
        self.timer.set(Expiration::OneShot(duration.into()), TimerSetTimeFlags::empty())?;
        loop {
            let mut ready = self.fired.readable().await?;
            match self.timer.wait() {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                fired => return Ok(fired?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Pauses};
    use std::time::Instant;

    #[tokio::test]
    async fn a_pause_lasts_as_long_as_asked_every_time() {
        let pauses = Pauses::new().unwrap();
        for duration in [250, 500, 250].map(Duration::from_micros) {
            let began = Instant::now();
            pauses.pause(duration).await.unwrap();
            assert!(began.elapsed() >= duration);
        }
    }
}
