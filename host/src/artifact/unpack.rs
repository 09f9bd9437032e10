//! Unpacks the layers of an image into a directory that becomes a function's root.
//!
//! Contract: nothing outside the directory is touched, whatever the layers hold: every parent is opened as a process
//! whose root the directory is would open it, and the last part of a path is never followed. Devices are left out,
//! set-user-id and set-group-id are dropped, all belongs to whoever unpacks, and others may read and execute what its
//! owner may: the function owns none of it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::image::{Image, ImageError, compare};
use crate::wasm::hex;

/// Files of an image.
const ENTRIES_MAX: usize = 1 << 20;
/// Bytes of an image, unpacked.
const BYTES_MAX: u64 = 16 << 30;
/// What every root has: places for what sandboxes bring along.
const PLACES: [&str; 4] = ["dev", "proc", "run", "tmp"];

/// Unpacks `image` into the empty directory `root`.
///
/// # Errors
/// When a layer is damaged or past the bounds, or cannot be written.
pub fn unpack(image: &Image, root: &File) -> Result<(), ImageError> {
    let mut unpacking = Unpacking { root, entries: 0, bytes: 0, fresh: BTreeSet::new() };
    for layer in image.layers() {
        let (stored, wanted) = layer?;
        unpacking.fresh.clear();
        let mut hashed = Hashed { reader: decompress(stored)?, digest: Sha256::new() };
        let mut archive = tar::Archive::new(&mut hashed);
        for entry in archive.entries()? {
            unpacking.put(entry?)?;
        }
        // The archive's padding belongs to the digest.
        io::copy(&mut hashed, &mut io::sink())?;
        compare(wanted, hex(&hashed.digest.finalize()))?;
    }
    for place in PLACES {
        make_directories(root.as_fd(), Path::new(place))?;
    }
    Ok(())
}

/// Makes a directory of `root` and those above it, where they are not there.
///
/// # Errors
/// When something else is there.
pub fn make_directories(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let mut made = PathBuf::new();
    let mut at = open(&root, Path::new("."))?;
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
            // Whatever the file creation mask is.
            Ok(()) => rustix::fs::chmodat(&at, name, Mode::from_raw_mode(0o755), AtFlags::empty())?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        made.push(name);
        at = open(&root, &made)?;
    }
    Ok(at)
}

/// Opens a directory as a process whose root is `root` would.
fn open(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), how)?)
}

struct Unpacking<'a> {
    root: &'a File,
    entries: usize,
    bytes: u64,
    /// What this layer has put: an opaque directory hides only what is below.
    fresh: BTreeSet<PathBuf>,
}

impl Unpacking<'_> {
    fn put<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<(), ImageError> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.size());
        if self.entries > ENTRIES_MAX || self.bytes > BYTES_MAX {
            let bounds = format!("it has more than {ENTRIES_MAX} files or {BYTES_MAX} bytes");
            return Err(ImageError::Other(bounds));
        }
        let path = down(&entry.path()?)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(()); // the root itself
        };
        let directory = make_directories(self.root, parent)?;
        if let Some(hidden) = name.to_str().and_then(|name| name.strip_prefix(".wh.")) {
            return Ok(self.hide(&directory, parent, hidden)?);
        }
        let mode = entry.header().mode()? & 0o777;
        let mode = Mode::from_raw_mode(mode | ((mode >> 6) & 0o5));
        match entry.header().entry_type() {
            tar::EntryType::Directory => put_directory(&directory, Path::new(name), mode)?,
            kind if kind.is_file() => {
                remove(&directory, Path::new(name))?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let file = rustix::fs::openat(&directory, name, flags | OFlags::CLOEXEC, mode);
                let mut file = File::from(file.map_err(io::Error::from)?);
                io::copy(&mut entry, &mut file)?;
                rustix::fs::fchmod(&file, mode).map_err(io::Error::from)?;
            }
            tar::EntryType::Symlink => {
                let Some(target) = entry.link_name()? else { return Ok(()) };
                remove(&directory, Path::new(name))?;
                rustix::fs::symlinkat(&*target, &directory, name).map_err(io::Error::from)?;
            }
            tar::EntryType::Link => {
                let Some(target) = entry.link_name()? else { return Ok(()) };
                let target = down(&target)?;
                let (Some(above), Some(linked)) = (target.parent(), target.file_name()) else {
                    return Err(ImageError::Other("it has a link to its root".to_owned()));
                };
                let above = open(self.root, &Path::new(".").join(above))?;
                remove(&directory, Path::new(name))?;
                rustix::fs::linkat(&above, linked, &directory, name, AtFlags::empty())
                    .map_err(io::Error::from)?;
            }
            // Devices, pipes, and headers for what follows.
            _ => return Ok(()),
        }
        self.fresh.insert(path);
        Ok(())
    }

    /// A whiteout: removes what lower layers have here.
    fn hide(&self, directory: &OwnedFd, parent: &Path, hidden: &str) -> io::Result<()> {
        if hidden != ".wh..opq" {
            // A name with dots only would be the directory itself or the one above it.
            return match hidden {
                "" | "." | ".." => Ok(()),
                hidden => remove(directory, Path::new(hidden)),
            };
        }
        for entry in rustix::fs::Dir::read_from(directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let path = parent.join(&name);
            let is_fresh =
                self.fresh.range(path.clone()..).next().is_some_and(|at| at.starts_with(&path));
            if name != "." && name != ".." && !is_fresh {
                remove(directory, Path::new(&name))?;
            }
        }
        Ok(())
    }
}

/// A path of an archive; it must not go up.
fn down(path: &Path) -> Result<PathBuf, ImageError> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                let problem = format!("its path {} leads out of it", path.display());
                return Err(ImageError::Other(problem));
            }
        }
    }
    Ok(clean)
}

fn put_directory(directory: &OwnedFd, name: &Path, mode: Mode) -> io::Result<()> {
    match kind(directory, name)? {
        Some(FileType::Directory) => {}
        other => {
            if other.is_some() {
                remove(directory, name)?;
            }
            rustix::fs::mkdirat(directory, name, mode)?;
        }
    }
    Ok(rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?)
}

fn kind(directory: &OwnedFd, name: &Path) -> io::Result<Option<FileType>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(RawMode::from(stat.st_mode)))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes what is there, with all below it, and follows no link.
///
/// # Errors
/// When it cannot be removed; what is not there counts as removed.
pub fn remove(directory: &OwnedFd, name: &Path) -> io::Result<()> {
    match kind(directory, name)? {
        None => Ok(()),
        Some(FileType::Directory) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            for entry in rustix::fs::Dir::read_from(&below)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name != "." && name != ".." {
                    remove(&below, Path::new(&name))?;
                }
            }
            Ok(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?)
        }
        Some(_) => Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?),
    }
}

/// What a layer holds, by how it begins.
fn decompress<'a>(stored: Box<dyn Read + 'a>) -> Result<Box<dyn Read + 'a>, ImageError> {
    let mut stored = BufReader::with_capacity(1 << 16, stored);
    let start = io::BufRead::fill_buf(&mut stored)?;
    match start {
        [0x1f, 0x8b, ..] => Ok(Box::new(MultiGzDecoder::new(stored))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(stored);
            Ok(Box::new(decoder.map_err(|error| ImageError::Other(format!("a layer: {error}")))?))
        }
        _ => Ok(Box::new(stored)),
    }
}

struct Hashed<R> {
    reader: R,
    digest: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.digest.update(&buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use tar::EntryType;
    use tempfile::TempDir;

    use super::*;

    /// An entry of a layer: name, kind, mode, and what it links to or holds.
    type Entry<'a> = (&'a str, EntryType, u32, &'a str);

    fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, mode, rest) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            let content = if kind.is_file() { rest.as_bytes() } else { &[] };
            if !kind.is_file() {
                header.as_old_mut().linkname[..rest.len()].copy_from_slice(rest.as_bytes());
            }
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn digest(bytes: &[u8]) -> String {
        hex(&Sha256::digest(bytes))
    }

    /// A layout of these layers, each as it is stored and as it is.
    fn layout(layers: &[(Vec<u8>, Vec<u8>)]) -> TempDir {
        let layout = tempfile::tempdir().unwrap();
        let blobs = layout.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8]| {
            fs::write(blobs.join(digest(bytes)), bytes).unwrap();
            format!("sha256:{}", digest(bytes))
        };
        let stored: Vec<_> = layers
            .iter()
            .map(|(stored, _)| serde_json::json!({ "digest": put(stored), "size": stored.len() }))
            .collect();
        let diff_ids: Vec<_> =
            layers.iter().map(|(_, layer)| format!("sha256:{}", digest(layer))).collect();
        let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "config": { "Cmd": ["/app"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = put(config.to_string().as_bytes());
        let manifest = serde_json::json!({ "config": { "digest": config }, "layers": stored });
        let manifest = put(manifest.to_string().as_bytes());
        let index = serde_json::json!({ "manifests": [{ "digest": manifest }] });
        fs::write(layout.path().join("index.json"), index.to_string()).unwrap();
        fs::write(layout.path().join("oci-layout"), "{}").unwrap();
        layout
    }

    fn plain(entries: &[Entry<'_>]) -> (Vec<u8>, Vec<u8>) {
        let layer = layer(entries);
        (layer.clone(), layer)
    }

    /// Unpacks layers into `root` of a new directory.
    fn unpacked(layers: &[(Vec<u8>, Vec<u8>)]) -> (TempDir, Result<(), ImageError>) {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("root")).unwrap();
        let layout = layout(layers);
        let image = Image::open(layout.path()).unwrap();
        let root = File::open(place.path().join("root")).unwrap();
        let done = unpack(&image, &root);
        (place, done)
    }

    const FILE: EntryType = EntryType::Regular;
    const DIRECTORY: EntryType = EntryType::Directory;

    #[test]
    fn a_layer_adds_to_those_below_and_hides_of_them() {
        let lower = plain(&[
            ("a", FILE, 0o600, "a"),
            ("d/", DIRECTORY, 0o700, ""),
            ("d/old", FILE, 0o644, "old"),
            ("e/f", FILE, 0o644, "f"),
        ]);
        let upper = plain(&[
            (".wh.a", FILE, 0o644, ""),
            ("d/new", FILE, 0o644, "new"),
            ("d/.wh..wh..opq", FILE, 0o644, ""),
            ("e/g", EntryType::Link, 0o644, "e/f"),
            ("l", EntryType::Symlink, 0o777, "/e"),
            ("l/h", FILE, 0o644, "h"),
        ]);
        let (place, done) = unpacked(&[lower, upper]);
        done.unwrap();
        let read = |name: &str| fs::read_to_string(place.path().join("root").join(name)).ok();
        assert_eq!(read("a"), None);
        assert_eq!((read("d/old"), read("d/new").as_deref()), (None, Some("new")));
        assert_eq!((read("e/g").as_deref(), read("e/h").as_deref()), (Some("f"), Some("h")));
    }

    #[test]
    fn others_may_read_what_the_owner_may_and_nobody_gets_anothers_identity() {
        let (place, done) = unpacked(&[plain(&[
            ("program", FILE, 0o6700, ""),
            ("device", EntryType::Char, 0o666, ""),
            ("pipe", EntryType::Fifo, 0o666, ""),
        ])]);
        done.unwrap();
        let root = place.path().join("root");
        let mode = fs::metadata(root.join("program")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o705);
        assert!(!root.join("device").exists() && !root.join("pipe").exists());
    }

    #[test]
    fn no_layer_reaches_out_of_the_root() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let out = outside.path().to_str().unwrap();
        let escapes: [&[Entry<'_>]; 6] = [
            &[("../evil", FILE, 0o644, "evil")],
            &[("a/../../evil", FILE, 0o644, "evil")],
            &[("l", EntryType::Symlink, 0o777, out), ("l/evil", FILE, 0o644, "evil")],
            &[("l", EntryType::Symlink, 0o777, "../.."), ("l/evil", FILE, 0o644, "evil")],
            &[("l", EntryType::Symlink, 0o777, out), ("h", EntryType::Link, 0o644, "l/secret")],
            &[("l", EntryType::Symlink, 0o777, out), ("l/.wh.secret", FILE, 0o644, "")],
        ];
        for escape in escapes {
            let (place, _either) = unpacked(&[plain(escape)]);
            let names: Vec<_> = fs::read_dir(place.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            assert_eq!(names, ["root"], "{escape:?}");
            assert!(!place.path().join("root/h").exists(), "{escape:?}");
        }
        let names: Vec<_> =
            fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
    }

    #[test]
    fn a_file_takes_the_place_of_a_link_and_does_not_follow_it() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().join("file");
        fs::write(&target, "before").unwrap();
        let (place, done) = unpacked(&[plain(&[
            ("f", EntryType::Symlink, 0o777, target.to_str().unwrap()),
            ("f", FILE, 0o644, "after"),
        ])]);
        done.unwrap();
        assert_eq!(fs::read_to_string(target).unwrap(), "before");
        assert_eq!(fs::read_to_string(place.path().join("root/f")).unwrap(), "after");
    }

    #[test]
    fn layers_may_be_compressed() {
        let layer = layer(&[("f", FILE, 0o644, "compressed")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&layer).unwrap();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let zstd = ruzstd::encoding::compress_to_vec(&layer[..], level);
        for stored in [gzip.finish().unwrap(), zstd] {
            let (place, done) = unpacked(&[(stored, layer.clone())]);
            done.unwrap();
            assert_eq!(fs::read_to_string(place.path().join("root/f")).unwrap(), "compressed");
        }
    }

    #[test]
    fn a_layer_that_is_not_what_the_configuration_names_is_refused() {
        let (_, other) = plain(&[("f", FILE, 0o644, "other")]);
        let (stored, _) = plain(&[("f", FILE, 0o644, "this")]);
        let (_place, done) = unpacked(&[(stored, other)]);
        assert!(matches!(done, Err(ImageError::Digest { .. })), "{done:?}");
    }

    #[test]
    fn a_blob_that_was_changed_is_refused_before_anything_is_unpacked() {
        let (stored, layer) = plain(&[("f", FILE, 0o644, "f")]);
        let name = digest(&stored);
        let layout = layout(&[(stored, layer)]);
        fs::write(layout.path().join("blobs/sha256").join(&name), "changed").unwrap();
        let refused = Image::open(layout.path()).unwrap_err().to_string();
        assert!(
            refused.starts_with(&format!("is damaged: sha256:{name} has the digest")),
            "{refused}"
        );
    }
}
