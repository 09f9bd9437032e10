//! The directory and the cgroup of one run, and what earlier runs have left.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};

use super::Places;
use crate::manifest;

/// The directory of this run; its lock is held while it lives.
pub struct RunDir {
    path: PathBuf,
    cgroup: String,
    _lock: Flock<File>,
}

impl RunDir {
    /// Removes what runs that have died left behind, then makes a directory for this one.
    ///
    /// # Errors
    /// When the state directory cannot be written.
    pub fn create(places: &Places) -> anyhow::Result<Self> {
        let root = &places.state_dir;
        let context = || format!("cannot use the state directory {}", root.display());
        DirBuilder::new().recursive(true).mode(0o755).create(root).with_context(context)?;
        sweep(places);
        let id = format!("{}-{:x}", std::process::id(), start_time());
        let path = root.join(&id);
        DirBuilder::new().mode(0o711).create(&path).with_context(context)?;
        let lock = lock(&path).with_context(context)?;
        let lock = lock.context("another run has this run's directory")?;
        let cgroup = format!("{}/{id}", places.cgroup_parent.trim_matches('/'));
        Ok(Self { path, cgroup, _lock: lock })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
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
        let sockets = self.path.join("s");
        let (uid, gid) = super::child::ids(&host.user)?;
        DirBuilder::new().mode(0o700).create(&sockets)?;
        chown(&sockets, Some(uid), Some(gid))?;
        Ok(sockets)
    }

    /// Removes the directory and the cgroup with all that is left in them.
    pub fn remove(&self) {
        remove(&self.path, &self.cgroup);
    }
}

/// Removes the directories and cgroups of runs whose lock nobody holds.
fn sweep(places: &Places) {
    let Ok(entries) = fs::read_dir(&places.state_dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if let (Some(id), Ok(Some(_lock))) = (entry.file_name().to_str(), lock(&path)) {
            tracing::info!(run = id, "removing what an earlier run left");
            let cgroup = format!("{}/{id}", places.cgroup_parent.trim_matches('/'));
            remove(&path, &cgroup);
        }
    }
}

fn remove(path: &Path, cgroup: &str) {
    tracing::debug!(cgroup, "removing a run");
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a run's directory");
    }
}

/// The lock of a run's directory; `None` while its run lives.
fn lock(run: &Path) -> io::Result<Option<Flock<File>>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(run.join("lock"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Distinguishes this process from an earlier one with the same id.
fn start_time() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
