//! The directory and the cgroup of one run, and what earlier runs have left.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use baton_pool::daemon::sweep::{RunLock, sweep};

use super::Misuse;
use crate::manifest;

/// This run's directory; its lock is held while the supervisor lives.
pub struct RunDir {
    lock: RunLock,
    cgroup: String,
    state_dir: PathBuf,
    cgroup_parent: String,
}

impl RunDir {
    /// Removes what runs that have died left behind, then makes a directory for this one below
    /// `state_dir`; its cgroup is to be below `cgroup_parent`.
    ///
    /// # Errors
    /// When the state directory cannot be written.
    pub fn create(state_dir: &Path, cgroup_parent: String) -> anyhow::Result<Self> {
        clean(state_dir, &cgroup_parent);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = format!("{}-{:x}", std::process::id(), now.as_millis());
        let lock = RunLock::claim(state_dir, &id)?;
        let cgroup = format!("{cgroup_parent}/{id}");
        Ok(Self { lock, cgroup, state_dir: state_dir.to_owned(), cgroup_parent })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.lock.directory()
    }

    /// A descriptor that keeps the run alive, for the host, which outlives a killed supervisor until
    /// its requests have ended. The daemon gets none: its sandboxes would inherit it.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn hold(&self) -> io::Result<OwnedFd> {
        Ok(self.lock.as_lock().try_clone()?.into())
    }

    /// The run's cgroup, from the root of the hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// A directory for the sockets of functions that only the host can enter.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn sockets(&self, host: &manifest::Host) -> anyhow::Result<PathBuf> {
        let sockets = self.path().join("s");
        let (uid, gid) = super::child::ids(&host.user)?;
        if let Some(closed) = self.path().ancestors().find(|dir| !may_enter(dir, uid, gid)) {
            return Err(Misuse::StateDir { closed: closed.to_owned(), uid }.into());
        }
        DirBuilder::new().mode(0o700).create(&sockets)?;
        chown(&sockets, Some(uid), Some(gid))?;
        Ok(sockets)
    }

    /// A directory for the pool daemon.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn pool(&self) -> io::Result<PathBuf> {
        let pool = self.path().join("pool");
        DirBuilder::new().recursive(true).mode(0o700).create(&pool)?;
        Ok(pool)
    }

    /// Gives up the run and removes everything that is left of it.
    pub fn remove(self) {
        let Self { lock, cgroup, state_dir, cgroup_parent } = self;
        let directory = lock.directory().to_owned();
        drop(lock);
        clean(&state_dir, &cgroup_parent);
        if directory.exists() {
            tracing::warn!(directory = %directory.display(), cgroup, "something of this run is left");
        }
        // The directory of all runs goes with the last one.
        let _ = fs::remove_dir(&state_dir);
    }
}

/// Whether a user may pass through a directory, by its owner, group and mode.
fn may_enter(dir: &Path, uid: u32, gid: u32) -> bool {
    let Ok(meta) = fs::metadata(dir) else { return true };
    let execute = match () {
        () if meta.uid() == uid => 0o100,
        () if meta.gid() == gid => 0o010,
        () => 0o001,
    };
    meta.mode() & execute != 0
}

fn clean(state_dir: &Path, cgroup_parent: &str) {
    let (removed, failed) = sweep(state_dir, cgroup_parent);
    for run in removed {
        tracing::debug!(run, "removed what a run left");
    }
    for error in failed {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "something of an earlier run is left");
    }
}
