//! Unpacked images: each is unpacked once, into a directory that its digest names.
//!
//! They lie in `images` in the cache directory. The rest of that directory is the host's to write, so this one is
//! opened without following links and must be this process's own; who unpacks or removes holds its lock, and a
//! directory has its name only as long as it is complete.
//!
//! Whoever uses an image holds a shared lock on its directory: the supervisor while a function names it, the pool
//! daemon while a sandbox may be given it or has it. The kernel drops a lock with its last holder, however that ended.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, flock, futimens,
    mkdirat, openat, renameat, syncfs,
};
use rustix::io::Errno;

use crate::artifact::image::{Image, ImageError};
use crate::artifact::unpack::{remove, unpack};

/// Where images are in the cache directory.
const IMAGES: &str = "images";
/// An image that is being unpacked or removed, or was when the machine stopped.
const PARTIAL: &str = ".partial";

/// How long an image that nobody uses stays for those who may come back to it.
pub(super) const UNUSED_MAX: Duration = Duration::from_secs(3600);

/// The root directory of an image, unpacked if it is not yet, with a shared lock on it.
pub(super) fn unpacked(cache: &Path, image: &Image) -> Result<File, ImageError> {
    let images = open(cache)?;
    flock(&images, FlockOperation::LockExclusive).map_err(io::Error::from)?;
    match open_directory(&images, &image.digest) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return Ok(taken(opened?)?),
    }
    remove(&images, Path::new(PARTIAL))?;
    let partial = make_directory(&images, PARTIAL, 0o755)?;
    unpack(image, &File::from(partial.try_clone()?))?;
    syncfs(&partial).map_err(io::Error::from)?;
    renameat(&images, PARTIAL, &images, &image.digest).map_err(io::Error::from)?;
    Ok(taken(partial)?)
}

/// Notes that an image is used, from now on and as long as the answer or a copy of it is open.
fn taken(directory: OwnedFd) -> io::Result<File> {
    flock(&directory, FlockOperation::LockShared)?;
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    futimens(&directory, &Timestamps { last_access: now, last_modification: now })?;
    Ok(directory.into())
}

/// Removes images that nobody uses, in this Baton or another, and nobody took up for `unused`. While
/// somebody else unpacks or removes, nothing is done.
pub(super) fn prune(cache: &Path, unused: Duration) -> io::Result<()> {
    let images = match File::open(cache).and_then(|cache| open_directory(&cache.into(), IMAGES)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => own(opened?)?,
    };
    match flock(&images, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(()),
        locked => locked?,
    }
    remove(&images, Path::new(PARTIAL))?;
    for entry in Dir::read_from(&images)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." && is_unused(&images, &name, unused)? {
            tracing::info!(image = name, "an unpacked image that nobody uses is removed");
            // Under its own name it would count as complete.
            renameat(&images, &name, &images, PARTIAL)?;
            remove(&images, Path::new(PARTIAL))?;
        }
    }
    Ok(())
}

fn is_unused(images: &OwnedFd, name: &str, unused: Duration) -> io::Result<bool> {
    let image = open_directory(images, name)?;
    match flock(&image, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(false),
        locked => locked?,
    }
    let taken = File::from(image).metadata()?.modified()?;
    // The future is no age.
    Ok(taken.elapsed().is_ok_and(|age| age >= unused))
}

fn open(cache: &Path) -> io::Result<OwnedFd> {
    if let Some(parent) = cache.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(cache) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    own(make_directory(&File::open(cache)?.into(), IMAGES, 0o700)?)
}

/// The directory of images, if it is this process's own.
fn own(images: OwnedFd) -> io::Result<OwnedFd> {
    let owner = File::from(images.try_clone()?).metadata()?.uid();
    if owner != rustix::process::geteuid().as_raw() {
        let problem = format!("its directory of images belongs to user {owner}, not to Baton");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
    }
    Ok(images)
}

/// Opens a directory, made if it is not there.
fn make_directory(at: &OwnedFd, name: &str, mode: u32) -> io::Result<OwnedFd> {
    let mode = Mode::from_raw_mode(mode);
    match mkdirat(at, name, mode) {
        // Whatever the file creation mask is.
        Ok(()) => rustix::fs::chmodat(at, name, mode, AtFlags::empty())?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    open_directory(at, name)
}

fn open_directory(at: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    /// A cache with images of these names.
    fn cache(names: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let cache = tempfile::tempdir().unwrap();
        drop(open(cache.path()).unwrap());
        let images = cache.path().join(IMAGES);
        for name in names {
            fs::create_dir_all(images.join(name).join("bin")).unwrap();
            fs::write(images.join(name).join("bin/app"), "program").unwrap();
        }
        (cache, images)
    }

    fn left(images: &Path) -> Vec<String> {
        let entries = fs::read_dir(images).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    fn take(images: &Path, name: &str) -> File {
        taken(File::open(images.join(name)).unwrap().into()).unwrap()
    }

    #[test]
    fn an_image_that_nobody_uses_is_removed_with_all_that_is_in_it() {
        let (cache, images) = cache(&["old", ".partial"]);
        prune(cache.path(), Duration::ZERO).unwrap();
        assert_eq!(left(&images), <[String; 0]>::default());
    }

    #[test]
    fn an_image_that_two_batons_use_stays_until_neither_does() {
        let (cache, images) = cache(&["shared"]);
        let (ours, theirs) = (take(&images, "shared"), take(&images, "shared"));
        // The pool daemon has a copy.
        let daemons = theirs.try_clone().unwrap();
        for user in [ours, theirs, daemons] {
            prune(cache.path(), Duration::ZERO).unwrap();
            assert_eq!(left(&images), ["shared"]);
            drop(user);
        }
        prune(cache.path(), Duration::ZERO).unwrap();
        assert_eq!(left(&images), <[String; 0]>::default());
    }

    #[test]
    fn an_image_that_was_taken_up_lately_stays_for_a_while() {
        let (cache, images) = cache(&["old", "young"]);
        let past = std::time::SystemTime::now() - 2 * DAY;
        for name in ["old", "young"] {
            File::open(images.join(name)).unwrap().set_modified(past).unwrap();
        }
        drop(take(&images, "young"));
        prune(cache.path(), DAY).unwrap();
        assert_eq!(left(&images), ["young"]);
    }

    #[test]
    fn nothing_is_removed_while_another_baton_unpacks() {
        let (cache, images) = cache(&["old", ".partial"]);
        let unpacking = open(cache.path()).unwrap();
        flock(&unpacking, FlockOperation::LockExclusive).unwrap();
        prune(cache.path(), Duration::ZERO).unwrap();
        assert_eq!(left(&images), [".partial", "old"]);
    }

    #[test]
    fn a_cache_without_images_is_left_as_it_is() {
        let cache = tempfile::tempdir().unwrap();
        prune(cache.path(), Duration::ZERO).unwrap();
        prune(&cache.path().join("nowhere"), Duration::ZERO).unwrap();
        assert_eq!(left(cache.path()), <[String; 0]>::default());
    }
}
