//! CPU time and memory of a control group and everything below it, on version 1 and 2.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// A control group, by its path below the root of the hierarchies. It need not exist yet.
#[derive(Clone, Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// By its path, such as `baton/bench-17`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// CPU time used, of processes that ended too, in nanoseconds.
    #[must_use]
    pub fn cpu_ns(&self) -> Option<u64> {
        let nanoseconds = self.number("cpuacct", "cpuacct.usage");
        nanoseconds.or_else(|| Some(self.keyed("cpu.stat", "usage_usec")? * 1000))
    }

    /// Memory charged now, in bytes, with what the kernel holds for it.
    #[must_use]
    pub fn memory(&self) -> Option<u64> {
        let number = self.number("memory", "memory.usage_in_bytes");
        number.or_else(|| self.number("", "memory.current"))
    }

    /// The most memory that was ever charged, in bytes.
    #[must_use]
    pub fn memory_peak(&self) -> Option<u64> {
        let number = self.number("memory", "memory.max_usage_in_bytes");
        number.or_else(|| self.number("", "memory.peak"))
    }

    /// Where it exists.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        let root = Path::new(ROOT);
        let controllers = fs::read_dir(root).into_iter().flatten().flatten();
        let roots = controllers.map(|entry| entry.path()).chain([root.to_owned()]);
        roots.map(|root| root.join(&self.0)).filter(|path| path.is_dir()).collect()
    }

    /// Removes it wherever it exists and is empty.
    pub fn remove(&self) {
        for directory in self.directories() {
            let _ = fs::remove_dir(directory);
        }
    }

    fn number(&self, controller: &str, file: &str) -> Option<u64> {
        let path = Path::new(ROOT).join(controller).join(&self.0).join(file);
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    fn keyed(&self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(Path::new(ROOT).join(&self.0).join(file)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().parse().ok()
    }
}
