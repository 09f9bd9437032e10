//! Removing what dead runs left behind.
//!
//! A run owns `STATE_ROOT/ID`, where it holds an exclusive lock on the file `lock` as long as it lives, and the
//! control group `CGROUP_ROOT/ID`. The kernel drops the lock with the run's last process that has it, however that
//! ended: a run whose lock can be taken is dead, and what it owned may be removed by whoever took it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::cgroup::{Group, Hierarchies};
use crate::cores::Cores;

/// A run's claim on its ID: the lock lasts as long as this value or any copy of its descriptor.
#[derive(Debug)]
pub struct RunLock {
    directory: PathBuf,
    lock: File,
}

/// Why a run could not take its ID.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another run has it.
    #[error("{} belongs to a run that is alive", .0.display())]
    Taken(PathBuf),
    /// The directory or the lock cannot be made.
    #[error("cannot make the run's directory {}", .directory.display())]
    Directory {
        /// Which one.
        directory: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why something of a dead run is still there.
#[derive(Debug, thiserror::Error)]
#[error("cannot remove what the dead run {id} left")]
pub struct SweepError {
    /// The run's ID.
    pub id: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl RunLock {
    /// Makes the run's directory and takes its lock.
    ///
    /// # Errors
    /// When another run holds it or it cannot be made.
    pub fn claim(state_root: &Path, id: &str) -> Result<RunLock, ClaimError> {
        let directory = state_root.join(id);
        let failed = |source| ClaimError::Directory { directory: directory.clone(), source };
        // A sweep may remove the new directory before it is locked; then it is made again.
        loop {
            DirBuilder::new().recursive(true).mode(0o755).create(&directory).map_err(failed)?;
            match take(&directory, true) {
                Ok(Some(lock)) => return Ok(RunLock { directory, lock }),
                Ok(None) => return Err(ClaimError::Taken(directory)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// The lock, for a process that is to keep the run alive as well.
    pub fn as_lock(&self) -> &File {
        &self.lock
    }

    /// The run's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Removes everything of dead runs: processes, control groups and directories, and the group around them when no run
/// is left in it. Answers the IDs of those it removed; a living run, and one that is being swept by somebody else, is
/// left alone.
pub fn sweep(state_root: &Path, cgroup_root: &str) -> (Vec<String>, Vec<SweepError>) {
    let hierarchies = Hierarchies::find();
    let root = hierarchies.group(cgroup_root);
    // A group whose ID has no directory here may belong to somebody who keeps directories elsewhere.
    let directories = fs::read_dir(state_root).into_iter().flatten().flatten();
    let directories = directories.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let ids = directories.filter_map(|entry| entry.file_name().into_string().ok());
    let (mut swept, mut failed) = (Vec::new(), Vec::new());
    for id in ids {
        match sweep_run(&state_root.join(&id), &root.child(&id)) {
            Ok(true) => swept.push(id),
            Ok(false) => {}
            Err(source) => failed.push(SweepError { id, source }),
        }
    }
    root.remove_where_empty();
    (swept, failed)
}

/// Whether it was dead.
fn sweep_run(directory: &Path, group: &Group<'_>) -> io::Result<bool> {
    // Held to the end, so that nobody claims the ID while it is being removed.
    let _lock = match take(directory, false) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Ok(false),
        // It is being claimed at this moment, or no run's.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    // What dies needs a core for it, and whoever was the last to yield them may be this run.
    let cores = group.cores();
    let _claim = cores.as_ref().map(Cores::claim);
    group.kill()?;
    group.remove()?;
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(true),
    }
}

/// Takes the lock of a run's directory; `None` when somebody has it, `NotFound` when it is not there (any more).
fn take(directory: &Path, create: bool) -> io::Result<Option<File>> {
    let path = directory.join("lock");
    let lock = File::options().write(true).create(create).truncate(false).open(&path)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        locked => locked?,
    }
    // Between opening and locking, its last owner may have removed it: then this lock guards nothing.
    if fs::metadata(&path)?.ino() == lock.metadata()?.ino() {
        Ok(Some(lock))
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> PathBuf {
        let directory = std::env::temp_dir().join(format!(
            "baton-sweep-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn a_living_run_is_not_swept_and_a_dead_one_is() {
        let root = scratch();
        let alive = RunLock::claim(&root, "alive").unwrap();
        drop(RunLock::claim(&root, "dead").unwrap());
        fs::create_dir(root.join("no-run")).unwrap();
        let (swept, failed) = sweep(&root, "baton-no-such-group");
        assert_eq!(swept, ["dead"]);
        assert!(root.join("no-run").exists());
        assert!(failed.is_empty());
        assert!(alive.directory().join("lock").exists());
        assert!(!root.join("dead").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn an_id_is_claimed_once_at_a_time() {
        let root = scratch();
        let first = RunLock::claim(&root, "run").unwrap();
        assert!(matches!(RunLock::claim(&root, "run"), Err(ClaimError::Taken(_))));
        drop(first);
        assert!(RunLock::claim(&root, "run").is_ok());
        fs::remove_dir_all(root).unwrap();
    }
}
