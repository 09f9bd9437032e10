//! OCI images, and what `docker save` writes.
//!
//! Contract: [`Image::open`] finds the image for this machine in a layout directory, an archive of one or a saved
//! image, and believes nothing that it has a digest for until it was compared. It writes nothing.
//!
//! | what | is recognised by |
//! |---|---|
//! | an OCI layout, a directory or a tar archive (`oci-archive`) | `oci-layout` and `index.json` |
//! | an older `docker save`, a tar archive | `manifest.json` |

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::wasm::hex;

/// No index, manifest or configuration is longer.
const DOCUMENT_MAX: u64 = 4 << 20;
/// How deep indexes may lie in indexes, and links of an archive lead to links.
const DEPTH_MAX: usize = 4;

/// Why a path is no image that can be served here; what follows the path in a sentence.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is something else.
    #[error("is not an image: {0}")]
    Other(String),
    /// A part that it names is not in it.
    #[error("lacks its part {0}")]
    Missing(String),
    /// A part is not what it should be.
    #[error("is damaged: {part} has the digest sha256:{found}")]
    Digest {
        /// The part, by the digest that it should have.
        part: String,
        /// The digest that it has.
        found: String,
    },
    /// A document in it is not understood.
    #[error("is damaged: {part} is not understood: {error}")]
    Document {
        /// Which.
        part: String,
        /// Why not.
        error: serde_json::Error,
    },
    /// It is for other machines.
    #[error("is an image for {found}, and this machine is linux/{here}")]
    Architecture {
        /// What it is for.
        found: String,
        /// What runs here.
        here: &'static str,
    },
    /// Nobody said what to run.
    #[error("says no command: it has neither Entrypoint nor Cmd")]
    NoCommand,
}

/// An image for this machine.
#[derive(Debug)]
pub struct Image {
    parts: Parts,
    layers: Vec<String>,
    /// How its program is started, and which uncompressed layers it consists of.
    pub config: Configuration,
    /// The SHA-256 of its configuration in hexadecimal, which names it.
    pub digest: String,
    /// The digest of its manifest, `sha256:` and hexadecimal; a saved image has none.
    pub manifest: Option<String>,
}

/// An image's configuration, as far as it matters here.
#[derive(Debug, Deserialize)]
pub struct Configuration {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    config: Process,
    rootfs: Layers,
}

#[derive(Debug, Deserialize)]
struct Layers {
    diff_ids: Vec<String>,
}

/// How a program is started.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Process {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// An entry of what an older `docker save` writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

/// The files that an image consists of.
#[derive(Debug)]
enum Parts {
    Directory(PathBuf),
    /// Where each begins in the archive and how long it is.
    Archive {
        file: File,
        at: BTreeMap<String, (u64, u64)>,
    },
}

impl Image {
    /// Finds the image for this machine at `path` and compares its digests.
    ///
    /// # Errors
    /// Why there is none.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let parts = Parts::open(path)?;
        let image = if parts.has("index.json") && parts.has("oci-layout") {
            layout(parts)?
        } else if parts.has("manifest.json") {
            saved(parts)?
        } else {
            let lacks = "it has neither oci-layout and index.json nor manifest.json";
            return Err(ImageError::Other(lacks.to_owned()));
        };
        let Configuration { architecture, os, .. } = &image.config;
        if (architecture.as_str(), os.as_str()) != (here(), "linux") {
            let found = format!("{os}/{architecture}");
            return Err(ImageError::Architecture { found, here: here() });
        }
        if image.command().is_empty() {
            return Err(ImageError::NoCommand);
        }
        Ok(image)
    }

    /// What it runs, and its arguments; never empty.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        let Process { entrypoint, cmd, .. } = &self.config.config;
        entrypoint.iter().chain(cmd).flatten().cloned().collect()
    }

    /// Its environment.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        let entries = self.config.config.env.iter().flatten();
        let pairs = entries.filter_map(|entry| entry.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Where it starts, an absolute path.
    #[must_use]
    pub fn directory(&self) -> &str {
        let directory = self.config.config.working_dir.as_deref().unwrap_or_default();
        if directory.starts_with('/') { directory } else { "/" }
    }

    /// Its layers, the lowest first: a reader of each as it is stored, and the digest of what is in it.
    pub fn layers(&self) -> impl Iterator<Item = io::Result<(Box<dyn Read + '_>, &str)>> {
        let digests = self.config.rootfs.diff_ids.iter().map(String::as_str);
        self.layers.iter().zip(digests).map(|(name, digest)| Ok((self.parts.read(name)?, digest)))
    }
}

/// This machine in the words of images.
fn here() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn layout(parts: Parts) -> Result<Image, ImageError> {
    let (manifest, manifest_digest) = manifest(&parts, "index.json", DEPTH_MAX)?;
    let (config, digest) = parts.document::<Configuration>(&blob(&manifest.config.digest)?)?;
    let mut layers = Vec::new();
    for layer in &manifest.layers {
        let name = blob(&layer.digest)?;
        let found = hex(&hash(parts.read(&name)?)?);
        compare(&layer.digest, found)?;
        layers.push(name);
    }
    complete(Image { parts, layers, config, digest, manifest: Some(manifest_digest) })
}

/// Finds the manifest for this machine below an index, with its digest.
fn manifest(parts: &Parts, name: &str, depth: usize) -> Result<(Manifest, String), ImageError> {
    let (index, _) = parts.document::<Index>(name)?;
    let fits = |descriptor: &&Descriptor| match &descriptor.platform {
        None => true,
        Some(platform) => {
            (platform.architecture.as_str(), platform.os.as_str()) == (here(), "linux")
        }
    };
    let Some(found) = index.manifests.iter().find(fits) else {
        let platforms =
            index.manifests.iter().filter_map(|descriptor| descriptor.platform.as_ref());
        let found: Vec<_> = platforms
            .map(|platform| format!("{}/{}", platform.os, platform.architecture))
            .collect();
        let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
        return Err(ImageError::Architecture { found, here: here() });
    };
    let name = blob(&found.digest)?;
    let is_index = found.media_type.contains("index") || found.media_type.contains("manifest.list");
    match depth.checked_sub(1) {
        Some(depth) if is_index => manifest(parts, &name, depth),
        None => Err(ImageError::Other("its indexes do not end".to_owned())),
        Some(_) => Ok((parts.document(&name)?.0, found.digest.clone())),
    }
}

fn saved(parts: Parts) -> Result<Image, ImageError> {
    let (saved, _) = parts.document::<Vec<Saved>>("manifest.json")?;
    let Some(first) = saved.into_iter().next() else {
        return Err(ImageError::Other("its manifest.json is empty".to_owned()));
    };
    let (config, digest) = parts.document::<Configuration>(&first.config)?;
    complete(Image { parts, layers: first.layers, config, digest, manifest: None })
}

fn complete(image: Image) -> Result<Image, ImageError> {
    let (stored, named) = (image.layers.len(), image.config.rootfs.diff_ids.len());
    if stored != named {
        let problem = format!("it has {stored} layers, and its configuration names {named}");
        return Err(ImageError::Other(problem));
    }
    match image.layers.iter().find(|name| !image.parts.has(name)) {
        Some(missing) => Err(ImageError::Missing(missing.clone())),
        None => Ok(image),
    }
}

/// Where a blob lies in a layout.
fn blob(digest: &str) -> Result<String, ImageError> {
    let name = digest
        .strip_prefix("sha256:")
        .filter(|name| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let unknown = || ImageError::Other(format!("\"{digest}\" is not a SHA-256 digest"));
    name.map(|name| format!("blobs/sha256/{name}")).ok_or_else(unknown)
}

pub(super) fn compare(wanted: &str, found: String) -> Result<(), ImageError> {
    if wanted.strip_prefix("sha256:") == Some(found.as_str()) {
        return Ok(());
    }
    Err(ImageError::Digest { part: wanted.to_owned(), found })
}

fn hash(mut reader: impl Read) -> io::Result<Vec<u8>> {
    let mut digest = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match reader.read(&mut chunk)? {
            0 => return Ok(digest.finalize().to_vec()),
            read => digest.update(&chunk[..read]),
        }
    }
}

impl Parts {
    fn open(path: &Path) -> Result<Self, ImageError> {
        let metadata = path.metadata()?;
        if metadata.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        if !metadata.is_file() {
            return Err(ImageError::Other("it is no file and no directory".to_owned()));
        }
        let mut file = File::open(path)?;
        let mut start = [0; 4];
        let length = file.read(&mut start)?;
        if matches!(&start[..length], [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd]) {
            return Err(ImageError::Other("the archive is compressed, unpack it first".to_owned()));
        }
        file.rewind()?;
        let at = entries(&file)?;
        Ok(Self::Archive { file, at })
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(path) => path.join(name).is_file(),
            Self::Archive { at, .. } => at.contains_key(name),
        }
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        match self {
            Self::Directory(path) => Ok(Box::new(File::open(path.join(name))?)),
            Self::Archive { file, at } => {
                let (start, length) = at.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
                Ok(Box::new(Section { file, at: start, end: start + length }))
            }
        }
    }

    /// A document and its digest, compared when the name is one.
    fn document<T: DeserializeOwned>(&self, name: &str) -> Result<(T, String), ImageError> {
        if !self.has(name) {
            return Err(ImageError::Missing(name.to_owned()));
        }
        let mut text = Vec::new();
        self.read(name)?.take(DOCUMENT_MAX).read_to_end(&mut text)?;
        let digest = hex(&hash(&text[..])?);
        if let Some(wanted) = name.strip_prefix("blobs/sha256/") {
            compare(&format!("sha256:{wanted}"), digest.clone())?;
        }
        let document = serde_json::from_slice(&text);
        let document =
            document.map_err(|error| ImageError::Document { part: name.to_owned(), error });
        Ok((document?, digest))
    }
}

/// The files of an archive; a link in it stands for what it leads to.
fn entries(file: &File) -> Result<BTreeMap<String, (u64, u64)>, ImageError> {
    let unreadable = |error: io::Error| ImageError::Other(format!("it is no tar archive: {error}"));
    let mut archive = tar::Archive::new(file);
    let (mut at, mut links) = (BTreeMap::new(), Vec::new());
    for entry in archive.entries_with_seek().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.path().map_err(unreadable)?.to_string_lossy().into_owned();
        let name = name.trim_start_matches("./").to_owned();
        if entry.header().entry_type().is_file() {
            at.insert(name, (entry.raw_file_position(), entry.size()));
        } else if let Some(target) = entry.link_name().map_err(unreadable)? {
            links.push((name, target.to_string_lossy().into_owned()));
        }
    }
    for _ in 0..DEPTH_MAX {
        for (name, target) in &links {
            let target = target.trim_start_matches("../");
            if let Some(found) = at.get(target).copied() {
                at.insert(name.clone(), found);
            }
        }
    }
    Ok(at)
}

/// A part of a file; readers of one file do not disturb each other.
struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let mut file = self.file;
        file.seek(SeekFrom::Start(self.at))?;
        let read = file.read(&mut buffer[..length])?;
        self.at += read as u64;
        Ok(read)
    }
}
