//! Where the bench of the pool keeps its things: a directory, a control group of its own, and a mount
//! namespace in which every runtime finds control groups that it understands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Start;
use crate::baton::{builds, target_dir};
use crate::cgroup::Cgroup;

/// crun refuses to work where this is mounted beside the controllers of version 1.
const UNIFIED: &str = "/sys/fs/cgroup/unified";
/// Only on version 1, where the bench can be counted together with the sandboxes that it makes.
const CPUACCT: &str = "/sys/fs/cgroup/cpuacct";

pub(super) struct Place {
    directory: tempfile::TempDir,
    /// Below the roots of the hierarchies, without a slash before it.
    pub(super) cgroup: String,
    counted: bool,
}

impl Place {
    /// Must be called before there is a second thread.
    pub(super) fn new() -> anyhow::Result<Self> {
        anyhow::ensure!(nix::unistd::geteuid().is_root(), "only root can make sandboxes");
        unshare(CloneFlags::CLONE_NEWNS).context("cannot enter a mount namespace")?;
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
        if Path::new(UNIFIED).exists() {
            umount2(UNIFIED, MntFlags::MNT_DETACH)?;
            // crun writes plain files where it would have been; they go with this.
            mount(Some("tmpfs"), UNIFIED, Some("tmpfs"), MsFlags::empty(), nothing)?;
        }
        // What a runtime's command leaves is ours to end.
        set_child_subreaper(true)?;
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;

        let directory = tempfile::tempdir()?;
        let cgroup = format!("baton/bench-pool-{}", std::process::id());
        let counter = Path::new(CPUACCT).join(&cgroup);
        let counted = Path::new(CPUACCT).exists();
        if counted {
            fs::create_dir_all(&counter)?;
            fs::write(counter.join("cgroup.procs"), std::process::id().to_string())?;
        }
        Ok(Self { directory, cgroup, counted })
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The static server that everything starts.
    pub(super) fn server() -> PathBuf {
        builds("hello").1
    }

    /// The same server, linked dynamically as the workspace's build leaves it.
    pub(super) fn dynamic_server() -> PathBuf {
        target_dir().join("release/hello")
    }

    /// A root file system with that, its loader and its libraries.
    pub(super) fn root(&self) -> anyhow::Result<PathBuf> {
        let root = self.path().join("root");
        for name in ["dev", "proc", "tmp", "run"] {
            fs::create_dir_all(root.join(name))?;
        }
        let server = Self::dynamic_server();
        let listed = Command::new("ldd").arg(&server).output().context("cannot run ldd")?;
        let listed = String::from_utf8(listed.stdout)?;
        let libraries: Vec<&Path> =
            listed.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new).collect();
        anyhow::ensure!(!libraries.is_empty(), "{} is not linked dynamically", server.display());
        for library in libraries {
            let copy = root.join(library.strip_prefix("/")?);
            fs::create_dir_all(copy.parent().unwrap_or(&root))?;
            fs::copy(library, copy)?;
        }
        fs::copy(server, root.join("server"))?;
        Ok(root)
    }

    /// Measures a start.
    pub(super) async fn measure(
        &self,
        start: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<Start> {
        let (cpu, begun) = (self.cpu_ms(), Instant::now());
        start.await?;
        let ms = begun.elapsed().as_secs_f64() * 1e3;
        let cpu_ms = self.cpu_ms().zip(cpu).map(|(after, before)| after - before);
        Ok(Start { ms, cpu_ms })
    }

    /// CPU time of the bench and of all that it started.
    fn cpu_ms(&self) -> Option<f64> {
        let used = self.counted.then(|| Cgroup::new(&self.cgroup).cpu_ns())?;
        Some(crate::stats::wide(used?) / 1e6)
    }

    /// Leaves the control group and removes it; those below it that somebody forgot.
    pub(super) fn end(self) -> anyhow::Result<Vec<PathBuf>> {
        if self.counted {
            let root = Path::new(CPUACCT).join("cgroup.procs");
            fs::write(root, std::process::id().to_string())?;
        }
        if Path::new(UNIFIED).exists() {
            umount2(UNIFIED, MntFlags::MNT_DETACH)?;
        }
        let group = Cgroup::new(&self.cgroup);
        let below = |directory: PathBuf| {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
        };
        let left = group.directories().into_iter().flat_map(below).collect();
        group.remove();
        Ok(left)
    }
}
