//! Unpacked images: each is unpacked once, into a directory that its digest names.
//!
//! They lie in `images` in the cache directory. The rest of that directory is the host's to write, so this one is
//! opened without following links and must be this process's own; who unpacks holds its lock, and a directory has its
//! name only once it is complete.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, mkdirat, openat, renameat, syncfs};
use rustix::io::Errno;

use crate::artifact::image::{Image, ImageError};
use crate::artifact::unpack::{remove, unpack};

/// An image that is being unpacked, or was when the machine stopped.
const PARTIAL: &str = ".partial";

/// The root directory of an image, unpacked if it is not yet.
pub(super) fn unpacked(cache: &Path, image: &Image) -> Result<File, ImageError> {
    let images = open(cache)?;
    flock(&images, FlockOperation::LockExclusive).map_err(io::Error::from)?;
    match open_directory(&images, &image.digest) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return Ok(opened?.into()),
    }
    remove(&images, Path::new(PARTIAL))?;
    let partial = make_directory(&images, PARTIAL, 0o755)?;
    unpack(image, &File::from(partial.try_clone()?))?;
    syncfs(&partial).map_err(io::Error::from)?;
    renameat(&images, PARTIAL, &images, &image.digest).map_err(io::Error::from)?;
    Ok(partial.into())
}

fn open(cache: &Path) -> io::Result<OwnedFd> {
    if let Some(parent) = cache.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(cache) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let images = make_directory(&File::open(cache)?.into(), "images", 0o700)?;
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
