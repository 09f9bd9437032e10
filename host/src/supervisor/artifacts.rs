//! Artifacts, opened once and sealed: what is served cannot change under the host, and a sandbox
//! sees no path of the machine.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest, Sha256};

use super::Misuse;
use super::natives;
use crate::artifact::Component;
use crate::handover::{Artifact, Deployment, TlsFiles};
use crate::manifest::{self, Manifest};
use crate::wasm::hex;

/// An artifact that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {}", path.display())]
pub struct OpenError {
    pub(super) path: PathBuf,
    #[source]
    pub(super) source: io::Error,
}

/// Opens every artifact of the manifest, and makes the places of its functions' `/tmp`; `roots` is
/// the last number that a root got.
pub(super) fn open(
    manifest: &Manifest,
    components: &[Option<Component>],
    roots: &mut u32,
) -> anyhow::Result<Vec<Deployment>> {
    let owner = super::child::host_ids(&manifest.host.user).map_err(Misuse::User)?;
    let found = components.iter().map(Option::as_ref).chain(std::iter::repeat(None));
    let cache = &manifest.host.cache.dir;
    let deploy = |(spec, found)| {
        let deployment = deployment(spec, found, cache, roots)?;
        let scratch = super::scratch::places(spec, owner).map_err(Misuse::Scratch)?;
        Ok(Deployment { scratch, ..deployment })
    };
    manifest.functions.iter().zip(found).map(deploy).collect()
}

fn deployment(
    spec: &manifest::Function,
    found: Option<&Component>,
    cache: &Path,
    roots: &mut u32,
) -> Result<Deployment, OpenError> {
    let component = spec.component.as_deref().filter(|_| spec.policy.uses_wasm());
    let component = component.map(seal).transpose()?;
    let mut revision = Sha256::new();
    if let Some(artifact) = &component {
        revision.update(&artifact.digest);
    }
    let native = natives::open(spec, cache, roots, &mut revision)?;
    Ok(Deployment {
        spec: spec.clone(),
        digest: format!("sha256:{}", hex(&revision.finalize())),
        component,
        precompiled: found == Some(&Component::Precompiled),
        native,
        scratch: Vec::new(),
    })
}

/// Sealed copies of the certificate and its key, which were found to fit each other.
pub(super) fn tls(host: &manifest::Host) -> anyhow::Result<Option<TlsFiles>> {
    let Some(tls) = &host.tls else { return Ok(None) };
    let (certificate, key) = (seal(&tls.certificate)?.file, seal(&tls.key)?.file);
    let files = TlsFiles { certificate, key };
    crate::tls::config(&files).map_err(Misuse::Tls)?;
    Ok(Some(files))
}

/// How often sealing is tried while pages are held.
const SEAL_TRIES: u32 = 20;

/// A sealed copy of the file at `path`.
///
/// # Errors
/// When it cannot be read.
pub fn seal(path: &Path) -> Result<Artifact, OpenError> {
    let fail = |source| OpenError { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(fail)?;
    copy(&mut file).map_err(fail)
}

fn copy(file: &mut File) -> io::Result<Artifact> {
    let mut sealed = memory_file()?;
    let mut digest = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            read => {
                digest.update(&chunk[..read]);
                sealed.write_all(&chunk[..read])?;
            }
        }
    }
    sealed.rewind()?;
    add_seals(&sealed)?;
    // A descriptor that can be written keeps the file from being executed.
    let read_only =
        File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&sealed)))?;
    Ok(Artifact { file: OwnedFd::from(read_only), digest: hex(&digest.finalize()) })
}

/// Nobody can change the file any more. The kernel answers EBUSY while somebody holds a page of it, as it does itself when
/// it moves pages, and waits for that only some 150 ms.
fn add_seals(file: &File) -> io::Result<()> {
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SEAL;
    let mut tries = SEAL_TRIES;
    loop {
        tries -= 1;
        match fcntl(file, FcntlArg::F_ADD_SEALS(seals)) {
            Err(nix::Error::EBUSY) if tries > 0 => {}
            sealed => return Ok(sealed.map(drop)?),
        }
    }
}

fn memory_file() -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    match memfd_create("artifact", flags | MFdFlags::from_bits_retain(nix::libc::MFD_EXEC)) {
        // Before Linux 6.3 every such file is executable and the flag is unknown.
        Err(nix::Error::EINVAL) => Ok(memfd_create("artifact", flags)?.into()),
        file => Ok(file?.into()),
    }
}

/// The cache directory, made if need be and given to the host's user; without one, components are
/// compiled at each start.
pub(super) fn cache(host: &manifest::Host) -> Option<OwnedFd> {
    let dir = &host.cache.dir;
    match open_cache(host) {
        Ok(dir) => Some(dir),
        Err(error) => {
            tracing::warn!(
                dir = %dir.display(),
                %error,
                "no cache of compiled components: they are compiled at each start"
            );
            None
        }
    }
}

/// The opened cache directory, made if need be and given to the host's user.
///
/// # Errors
/// When it cannot be made, or somebody else can write it.
pub fn open_cache(host: &manifest::Host) -> anyhow::Result<OwnedFd> {
    let dir = host.cache.dir.as_path();
    let privileged = nix::unistd::geteuid().is_root();
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let opened = File::open(dir)?;
    let meta = opened.metadata()?;
    anyhow::ensure!(meta.is_dir(), "it is not a directory");
    let (uid, gid) = super::child::host_ids(&host.user)?;
    if privileged && meta.uid() == 0 {
        chown(dir, Some(uid), Some(gid))?;
    }
    let meta = opened.metadata()?;
    anyhow::ensure!(
        meta.uid() == uid && meta.mode() & 0o022 == 0,
        "whoever can write it could run code as Baton: it must belong to user {uid} and be \
         writable by nobody else"
    );
    Ok(opened.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_whose_page_somebody_holds_for_a_while_is_sealed_all_the_same() {
        let mut file = memory_file().unwrap();
        file.write_all(&[1; 4096]).unwrap();
        let (pipe, writer) = io::pipe().unwrap();
        let flags = rustix::pipe::SpliceFlags::empty();
        // The page itself is in the pipe now.
        assert_eq!(rustix::pipe::splice(&file, Some(&mut 0), &writer, None, 4096, flags), Ok(4096));
        let holder = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(400));
            drop((pipe, writer));
        });
        add_seals(&file).unwrap();
        holder.join().unwrap();
        assert!(file.write_all(&[2]).is_err());
    }
}
