//! Native builds, opened: what is executed, and the roots that the pool daemon is told of.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use baton_pool::protocol::{self, Root};
use rustix::mount::{OpenTreeFlags, open_tree};
use sha2::{Digest, Sha256};

use super::artifacts::{OpenError, seal};
use super::images;
use crate::artifact::image::{Image, ImageError};
use crate::artifact::rootfs;
use crate::artifact::unpack::make_directories;
use crate::handover::{Command, FunctionRoot, NativeBuild};
use crate::manifest::{self, Listen, NativeSource};

/// Opens the native build of a function; an image is unpacked below `cache`. `roots` is the last number that a root got; `revision` takes in what it is.
pub(super) fn open(
    spec: &manifest::Function,
    cache: &Path,
    roots: &mut u32,
    revision: &mut Sha256,
) -> Result<Option<NativeBuild>, OpenError> {
    let Some(source) = spec.native.as_ref().filter(|_| spec.policy.uses_native()) else {
        return Ok(None);
    };
    let (executable, directory, command) = match source {
        NativeSource::Executable(path) => {
            let sealed = seal(path)?;
            revision.update(&sealed.digest);
            (Some(sealed.file), None, None)
        }
        NativeSource::Rootfs { dir, command } => {
            let command = Command {
                path: command.first().cloned().unwrap_or_default(),
                directory: String::new(),
                arguments: command.clone(),
                env: Vec::new(),
                image: None,
            };
            (None, Some(open_directory(dir, revision)?), Some(command))
        }
        NativeSource::Image(path) => {
            let (root, command, digest) = image(path, cache, &spec.listen).map_err(|error| {
                OpenError { path: path.clone(), source: io::Error::other(error) }
            })?;
            revision.update(digest);
            (None, Some(root), Some(command))
        }
    };
    let socket = socket(&spec.listen);
    let has_root = directory.is_some() || socket.is_some();
    let root = has_root.then(|| {
        *roots += 1;
        FunctionRoot { root: Root { number: *roots, socket }, directory }
    });
    Ok(Some(NativeBuild { executable, root, command }))
}

/// The unpacked root of an image with a place for the function's socket, what it runs, and its digest.
fn image(
    path: &Path,
    cache: &Path,
    listen: &Listen,
) -> Result<(OwnedFd, Command, String), ImageError> {
    let image = Image::open(path)?;
    let root = images::unpacked(cache, &image)?;
    let places = [Some(Path::new(image.directory())), rootfs::socket_directory(listen)];
    for place in places.into_iter().flatten() {
        make_directories(&root, place)?;
    }
    let arguments = image.command();
    let program = arguments.first().map_or("", String::as_str);
    let path = rootfs::find(&root, program, image.directory(), &image.env())
        .map_err(|(path, problem)| ImageError::Other(format!("{path} {problem}")))?;
    let command = Command {
        path,
        directory: image.directory().to_owned(),
        arguments,
        env: image.env(),
        image: image.manifest,
    };
    Ok((root.into(), command, image.digest))
}

/// Another directory at the same path is another revision; what changes inside is served as it is.
fn open_directory(path: &Path, revision: &mut Sha256) -> Result<OwnedFd, OpenError> {
    let fail = |source| OpenError { path: path.to_owned(), source };
    let opened = File::open(path).map_err(fail)?;
    let metadata = opened.metadata().map_err(fail)?;
    revision.update(metadata.dev().to_ne_bytes());
    revision.update(metadata.ino().to_ne_bytes());
    Ok(opened.into())
}

fn socket(listen: &Listen) -> Option<PathBuf> {
    match listen {
        Listen::Unix(path) => Some(path.clone()),
        Listen::Inherited | Listen::Tcp(_) => None,
    }
}

/// Tells a daemon of a root. Its copy of the mount goes with it, and the directory, on which an image has its lock.
pub(super) fn send(own: &FunctionRoot, daemon: &OwnedFd) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = own.directory.as_ref().map(|directory| open_tree(directory, "", flags));
    let tree = tree.transpose()?;
    let descriptors: Vec<_> = tree.iter().chain(&own.directory).map(AsFd::as_fd).collect();
    protocol::send(daemon, &own.root, &descriptors)
}
