//! How sandboxes claim the cores and yield them: a switch of the control group around those of all runs.
//!
//! In an idle group (`cpu.idle`, since Linux 5.15) everything has the cores that nobody else wants, and whoever else wakes
//! up has one at once. The kernel compares groups where they are neighbours, so the switch is the group's in which the
//! runs are, beside whatever else the machine does, and several runs share it. Each that claims the cores holds a lock
//! on the group's directory together with the others; the last to let go, which is the one that can have the lock alone,
//! makes the group idle.
//!
//! ```text
//! claim:    lock together ─▶ not idle, with its weight
//! give up:  lock alone? ─ yes ─▶ idle ─▶ unlock
//!                       └ no: another run claims the cores ─▶ unlock
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, pwrite};

/// How often the lock is tried for. A run that has it alone has it for two system calls; anybody else who has it must not
/// keep sandboxes from the cores.
const ATTEMPTS: usize = 64;

/// The control group around those of all runs.
#[derive(Debug)]
pub(crate) struct Cores {
    directory: OwnedFd,
    idle: OwnedFd,
    weight: OwnedFd,
    /// What `weight` says when the group is not idle. The kernel forgets it when it is.
    usual: String,
    /// What was done last.
    claimed: Option<bool>,
}

impl Cores {
    /// From the descriptors of [`FromDaemon::Ready`](crate::protocol::FromDaemon::Ready); `None` without them.
    pub(crate) fn new(usual: Option<String>, descriptors: Vec<OwnedFd>) -> Option<Cores> {
        let [directory, idle, weight] = descriptors.try_into().ok()?;
        Some(Cores { directory, idle, weight, usual: usual?, claimed: None })
    }

    /// What [`Cores::new`] takes.
    pub(crate) fn parts(&self) -> (String, [BorrowedFd<'_>; 3]) {
        (self.usual.clone(), [self.directory.as_fd(), self.idle.as_fd(), self.weight.as_fd()])
    }

    /// Claims the cores or gives them up, unless that was done last.
    pub(crate) fn switch(&mut self, claimed: bool) -> io::Result<()> {
        match self.claimed.replace(claimed) == Some(claimed) {
            true => Ok(()),
            false if claimed => self.claim(),
            false => self.give_up(),
        }
    }

    /// Gives sandboxes their share of the cores.
    pub(crate) fn claim(&self) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            match flock(&self.directory, FlockOperation::NonBlockingLockShared) {
                Err(Errno::WOULDBLOCK) => std::thread::yield_now(),
                _ => break,
            }
        }
        pwrite(&self.idle, b"0", 0)?;
        pwrite(&self.weight, self.usual.as_bytes(), 0)?;
        Ok(())
    }

    /// Leaves them what nobody else wants, unless another run claims the cores.
    fn give_up(&self) -> io::Result<()> {
        match flock(&self.directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let written = pwrite(&self.idle, b"1", 0);
                flock(&self.directory, FlockOperation::Unlock)?;
                written?;
                Ok(())
            }
            // The attempt may have cost the lock that was held, or not.
            Err(Errno::WOULDBLOCK) => Ok(flock(&self.directory, FlockOperation::Unlock)?),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::path::Path;

    fn run(group: &Path) -> Cores {
        let open = |name: &str| File::options().write(true).open(group.join(name)).unwrap();
        Cores {
            directory: File::open(group).unwrap().into(),
            idle: open("cpu.idle").into(),
            weight: open("cpu.weight").into(),
            usual: "50".to_owned(),
            claimed: None,
        }
    }

    /// Two runs in one group, played by a directory.
    fn two_runs() -> (tempfile::TempDir, Cores, Cores) {
        let group = tempfile::tempdir().unwrap();
        fs::write(group.path().join("cpu.idle"), "0").unwrap();
        fs::write(group.path().join("cpu.weight"), "3 ").unwrap();
        let (one, other) = (run(group.path()), run(group.path()));
        (group, one, other)
    }

    fn is_idle(group: &tempfile::TempDir) -> bool {
        fs::read_to_string(group.path().join("cpu.idle")).unwrap() == "1"
    }

    #[test]
    fn a_run_that_is_alone_yields_and_claims() {
        let (group, one, _) = two_runs();
        one.claim().unwrap();
        one.give_up().unwrap();
        assert!(is_idle(&group));
        one.claim().unwrap();
        assert!(!is_idle(&group));
    }

    #[test]
    fn a_claim_comes_with_the_usual_weight() {
        let (group, one, _) = two_runs();
        one.claim().unwrap();
        assert_eq!(fs::read_to_string(group.path().join("cpu.weight")).unwrap(), "50");
    }

    #[test]
    fn the_last_run_to_yield_makes_the_group_idle() {
        let (group, one, other) = two_runs();
        one.claim().unwrap();
        other.claim().unwrap();
        one.give_up().unwrap();
        assert!(!is_idle(&group), "the other still claims the cores");
        other.give_up().unwrap();
        assert!(is_idle(&group));
    }

    #[test]
    fn a_claim_counts_for_as_long_as_its_run_lives() {
        let (group, one, other) = two_runs();
        one.claim().unwrap();
        drop(one);
        other.give_up().unwrap();
        assert!(is_idle(&group));
    }

    #[test]
    fn whoever_keeps_the_lock_does_not_keep_sandboxes_from_the_cores() {
        let (group, one, other) = two_runs();
        other.give_up().unwrap();
        flock(&other.directory, FlockOperation::LockExclusive).unwrap();
        one.claim().unwrap();
        assert!(!is_idle(&group));
    }
}
