//! The cache of compiled components on disk.
//!
//! An entry is one file, `KEY-DIGEST.cwasm`: KEY names the component and everything that its
//! machine code depends on, DIGEST is the SHA-256 of the file itself. A file is opened, hashed and
//! then mapped through the very descriptor that was hashed, so a torn or rotten entry is found and
//! compiled anew; it never runs. That finds corruption, not an attacker: whoever may write the
//! directory may run code as Baton, so only Baton's own user can.

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

/// Tells the writers of this process apart.
static WRITERS: AtomicU64 = AtomicU64::new(0);

/// Why the cache could not be used; the component is then compiled and kept in memory only.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} the cache of compiled components at {}", path.display())]
pub struct CacheError {
    verb: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Names a component and everything that its machine code depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The key on `engine` of the component whose SHA-256 is `digest`, in hexadecimal.
    #[must_use]
    pub fn new(engine: &Engine, digest: &str) -> Self {
        let mut settings = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut settings);
        Self(format!("{digest}-{:016x}", settings.finish()))
    }
}

/// A directory of compiled components, bounded in bytes.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
    size: u64,
}

impl Cache {
    /// Uses `dir`, which exists and which only Baton's user can write, for at most `size` bytes.
    #[must_use]
    pub fn new(dir: PathBuf, size: u64) -> Self {
        Self { dir, size }
    }

    /// The compiled component under `key`, if a whole one is there.
    ///
    /// A damaged entry is removed and reported through `tracing`.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn load(&self, engine: &Engine, key: &Key) -> Result<Option<Component>, CacheError> {
        let entries = self.entries().map_err(|source| self.error("read", source))?;
        for entry in entries.into_iter().filter(|entry| entry.key == key.0) {
            match map(engine, &entry) {
                Ok(component) => {
                    // What was used last stays longest.
                    let _ = File::open(&entry.path)
                        .and_then(|file| file.set_modified(SystemTime::now()));
                    return Ok(Some(component));
                }
                Err(reason) => {
                    tracing::warn!(entry = %entry.path.display(), reason, "removing a damaged cache entry");
                    let _ = fs::remove_file(&entry.path);
                }
            }
        }
        Ok(None)
    }

    /// Stores the machine code of a component, then removes the entries unused for longest until
    /// the directory is within its bound. Answers the new file.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn store(&self, key: &Key, code: &[u8]) -> Result<PathBuf, CacheError> {
        let name = format!("{}-{}.cwasm", key.0, hex(&Sha256::digest(code)));
        // Two functions may have the same component and be loaded at once.
        let writer = WRITERS.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!(".{name}.{}-{writer}", std::process::id()));
        write(&temporary, code)
            .and_then(|()| fs::rename(&temporary, self.dir.join(&name)))
            .inspect_err(|_| drop(fs::remove_file(&temporary)))
            .map_err(|source| self.error("write", source))?;
        self.prune(&name).map_err(|source| self.error("prune", source))?;
        Ok(self.dir.join(name))
    }

    fn prune(&self, keep: &str) -> io::Result<()> {
        let mut entries = self.entries()?;
        entries.sort_by_key(|entry| entry.used);
        let mut total: u64 = entries.iter().map(|entry| entry.size).sum();
        for entry in entries {
            if total <= self.size {
                break;
            }
            if !entry.path.ends_with(keep) {
                fs::remove_file(&entry.path)?;
                total -= entry.size;
            }
        }
        Ok(())
    }

    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.dir)? {
            let file = file?;
            // Another Baton may remove a file while we look.
            if let (Some(name), Ok(meta)) = (file.file_name().to_str(), file.metadata())
                && let Some((key, digest)) =
                    name.strip_suffix(".cwasm").and_then(|stem| stem.rsplit_once('-'))
                && !key.starts_with('.')
            {
                entries.push(Entry {
                    path: file.path(),
                    key: key.to_owned(),
                    digest: digest.to_owned(),
                    size: meta.len(),
                    used: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                });
            }
        }
        Ok(entries)
    }

    fn error(&self, verb: &'static str, source: io::Error) -> CacheError {
        CacheError { verb, path: self.dir.clone(), source }
    }
}

struct Entry {
    path: PathBuf,
    key: String,
    digest: String,
    size: u64,
    used: SystemTime,
}

fn write(path: &Path, code: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(code)?;
    file.sync_data()
}

fn map(engine: &Engine, entry: &Entry) -> Result<Component, String> {
    let mut file = File::open(&entry.path).map_err(|error| error.to_string())?;
    let mut code = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk).map_err(|error| error.to_string())? {
            0 => break,
            read => code.update(&chunk[..read]),
        }
    }
    if hex(&code.finalize()) != entry.digest {
        return Err("its content does not have the digest in its name".into());
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    #[expect(unsafe_code, reason = "mapping machine code is what the cache is for")]
    // SAFETY: the file was written by `store` from `Component::serialize` of this very engine
    // configuration (the key holds its hash), its digest was just verified on this descriptor, and
    // files are only ever replaced by rename, never written in place, in a directory that no
    // other user can write.
    let component = unsafe { Component::deserialize_file(engine, path) };
    component.map_err(|error| format!("{error:#}"))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> Engine {
        Engine::new(&crate::wasm::Generation::Second.compiler()).unwrap()
    }

    const WASM: &[u8] = b"\0asm\x0d\0\x01\0"; // the empty component

    fn stored(dir: &Path, engine: &Engine) -> (Cache, Key) {
        let cache = Cache::new(dir.to_owned(), 1 << 30);
        let key = Key::new(engine, &hex(&Sha256::digest(WASM)));
        let code = Component::new(engine, WASM).unwrap().serialize().unwrap();
        cache.store(&key, &code).unwrap();
        (cache, key)
    }

    fn only_entry(dir: &Path) -> PathBuf {
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files.remove(0)
    }

    #[test]
    fn what_was_stored_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine();
        let (cache, key) = stored(dir.path(), &engine);
        assert!(cache.load(&engine, &key).unwrap().is_some());
    }

    #[test]
    fn a_corrupted_entry_is_removed_and_never_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine();
        let (cache, key) = stored(dir.path(), &engine);
        let path = only_entry(dir.path());
        let mut code = fs::read(&path).unwrap();
        let middle = code.len() / 2;
        code[middle] ^= 1;
        fs::write(&path, code).unwrap();
        assert!(cache.load(&engine, &key).unwrap().is_none());
        assert!(!path.exists());
    }

    #[test]
    fn a_truncated_entry_is_removed_and_never_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine();
        let (cache, key) = stored(dir.path(), &engine);
        let path = only_entry(dir.path());
        OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
        assert!(cache.load(&engine, &key).unwrap().is_none());
    }

    #[test]
    fn the_entry_unused_for_longest_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned(), 250);
        for (name, age) in [("a", 30), ("b", 20), ("c", 10)] {
            let key = Key(name.into());
            cache.store(&key, &[0; 100]).unwrap();
            let entry = cache.entries().unwrap().into_iter().find(|e| e.key == name);
            if let Some(entry) = entry {
                let used = SystemTime::now() - std::time::Duration::from_secs(age);
                File::open(entry.path).unwrap().set_modified(used).unwrap();
            }
        }
        let mut keys: Vec<_> = cache.entries().unwrap().into_iter().map(|e| e.key).collect();
        keys.sort();
        assert_eq!(keys, ["b", "c"]);
    }

    #[test]
    fn writers_of_the_same_entry_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned(), 1 << 30);
        let key = Key("a".into());
        std::thread::scope(|scope| {
            let writers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| cache.store(&key, &[7; 1 << 20]))).collect();
            assert!(writers.into_iter().all(|writer| writer.join().unwrap().is_ok()));
        });
        only_entry(dir.path());
    }

    #[test]
    fn two_settings_do_not_share_an_entry() {
        let other = Engine::new(&crate::wasm::Generation::Third.compiler()).unwrap();
        assert_ne!(Key::new(&engine(), "a"), Key::new(&other, "a"));
    }
}
