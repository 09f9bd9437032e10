//! The private `/tmp` of components' instances.
//!
//! The supervisor makes a tmpfs for each instance that a function may have at once, so the kernel
//! itself bounds each of them; they are mounted nowhere and reached by descriptors alone.
//!
//! ```text
//! free ── take: a new directory in it ─▶ Held ── drop: the directory and all in it removed ─▶ free
//! ```
//! A directory has a name of its own, so that whoever still holds the one before, such as a write
//! that outlives its guest, can make nothing in the next.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

/// The places of one function.
pub struct Scratch {
    free: Mutex<Vec<Place>>,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
}

/// One tmpfs.
struct Place {
    root: OwnedFd,
    /// How often it was taken, the name of its present directory.
    taken: u64,
}

impl Place {
    fn root(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.root.as_raw_fd()).into()
    }

    fn directory(&self) -> PathBuf {
        self.root().join(self.taken.to_string())
    }
}

impl Scratch {
    /// Takes over the places in `roots`, emptied of what an earlier host left in them. Removals that
    /// take longer are tasks of `tasks`.
    ///
    /// # Errors
    /// When one cannot be emptied.
    pub fn new(roots: Vec<OwnedFd>, tasks: &TaskTracker) -> io::Result<Arc<Self>> {
        let places = Arc::new(Semaphore::new(roots.len()));
        let free = roots.into_iter().map(|root| Place { root, taken: 0 }).collect::<Vec<_>>();
        free.iter().try_for_each(|place| empty(&place.root()))?;
        Ok(Arc::new(Self { free: Mutex::new(free), places, tasks: tasks.clone() }))
    }

    /// An empty directory, once a place is free.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn take(self: &Arc<Self>) -> io::Result<Held> {
        let permit = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        let place = self.lock().pop().ok_or(io::ErrorKind::NotFound)?;
        let mut held = Held { scratch: Arc::clone(self), place: None };
        let (place, _) = held.place.insert((place, permit));
        place.taken += 1;
        fs::create_dir(place.directory())?;
        Ok(held)
    }

    /// The place is free for the next.
    fn give_back(&self, place: Place, permit: OwnedSemaphorePermit) {
        self.lock().push(place);
        drop(permit);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Place>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A directory for one instance.
pub struct Held {
    scratch: Arc<Scratch>,
    /// `None` once it is given back.
    place: Option<(Place, OwnedSemaphorePermit)>,
}

impl Held {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.place.as_ref().map(|(place, _)| place.directory()).unwrap_or_default()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some((place, permit)) = self.place.take() else { return };
        let scratch = Arc::clone(&self.scratch);
        if fs::remove_dir(place.directory()).is_ok() {
            return scratch.give_back(place, permit);
        }
        // There are files in it: not on a thread that serves others.
        self.scratch.tasks.spawn_blocking(move || match empty(&place.root()) {
            Ok(()) => scratch.give_back(place, permit),
            Err(error) => {
                tracing::error!(%error, "a scratch directory cannot be emptied and is used no more");
                permit.forget();
            }
        });
    }
}

/// Removes everything in `root`, which only we can name things in. A directory's directories are moved
/// up before it is removed: however deep a guest has nested them, no path and no recursion is longer.
fn empty(root: &Path) -> io::Result<()> {
    let mut moved = 0_u64;
    loop {
        let mut found = false;
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            found = true;
            if !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
                continue;
            }
            for inner in fs::read_dir(entry.path())? {
                let inner = inner?;
                if inner.file_type()?.is_dir() {
                    moved += 1;
                    fs::rename(inner.path(), root.join(format!("removed-{moved}")))?;
                } else {
                    fs::remove_file(inner.path())?;
                }
            }
            match fs::remove_dir(entry.path()) {
                // What a write that outlives its guest has just made is found in the next round.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                removed => removed?,
            }
        }
        if !found {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// One place, in a directory instead of a tmpfs.
    fn scratch() -> (TempDir, TaskTracker, Arc<Scratch>) {
        let (directory, tasks) = (TempDir::new().unwrap(), TaskTracker::new());
        let root = OwnedFd::from(fs::File::open(directory.path()).unwrap());
        let scratch = Scratch::new(vec![root], &tasks).unwrap();
        (directory, tasks, scratch)
    }

    #[tokio::test]
    async fn the_next_instance_finds_an_empty_directory_of_another_name() {
        let (_directory, _tasks, scratch) = scratch();
        let first = scratch.take().await.unwrap();
        let left = first.path();
        fs::write(left.join("secret"), "secret").unwrap();
        fs::create_dir_all(left.join("a/b/c")).unwrap();
        drop(first);
        let second = scratch.take().await.unwrap();
        assert_ne!(second.path(), left);
        assert!(!left.exists());
        assert_eq!(fs::read_dir(second.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_an_earlier_host_left_is_removed() {
        let (directory, tasks, scratch) = scratch();
        drop(scratch);
        fs::create_dir_all(directory.path().join("7/deep/er")).unwrap();
        fs::write(directory.path().join("7/file"), "left").unwrap();
        let root = OwnedFd::from(fs::File::open(directory.path()).unwrap());
        let _scratch = Scratch::new(vec![root], &tasks).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn directories_nested_past_any_path_are_removed() {
        let (directory, tasks, scratch) = scratch();
        let held = scratch.take().await.unwrap();
        let mut deepest = fs::File::open(held.path()).unwrap();
        for _ in 0..3_000 {
            nix::sys::stat::mkdirat(&deepest, "d", nix::sys::stat::Mode::S_IRWXU).unwrap();
            let inner = format!("/proc/self/fd/{}/d", deepest.as_raw_fd());
            deepest = fs::File::open(inner).unwrap();
        }
        drop(held);
        tasks.close();
        tasks.wait().await;
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn who_finds_no_place_waits_for_one() {
        let (_directory, _tasks, scratch) = scratch();
        let held = scratch.take().await.unwrap();
        let mut waiting = std::pin::pin!(scratch.take());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(held);
        assert!(waiting.await.is_ok());
    }
}
