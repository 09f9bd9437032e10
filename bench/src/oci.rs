//! Containers of runc and crun as a baseline: a native build with the listener as descriptor 3.
//!
//! On a machine with both versions of control groups mounted crun refuses to work, so both runtimes
//! are started in a mount namespace without the second hierarchy, by the same shell: what that costs,
//! it costs both.

use std::fmt::{self, Display};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use crate::cgroup::Cgroup;
use crate::machine::first_line;

/// What a container's root file system holds besides the function.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Rootfs {
    /// Nothing.
    Scratch,
    /// A Debian, unpacked in this directory.
    Debian(PathBuf),
}

impl Display for Rootfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scratch => "scratch",
            Self::Debian(_) => "debian",
        })
    }
}

/// Why there can be no such container here, if there cannot.
#[must_use]
pub fn lacks(runtime: &str, rootfs: &Rootfs) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some(format!("{runtime} needs root here"));
    }
    if first_line(&[runtime, "--version"]).is_none() {
        return Some(format!("{runtime} is not installed"));
    }
    match rootfs {
        Rootfs::Debian(path) if !path.join("etc/debian_version").exists() => {
            Some("there is no unpacked Debian (docs/benchmarks.md says how to make one)".to_owned())
        }
        _ => None,
    }
}

/// A container that can be started once.
#[derive(Debug)]
pub struct Container {
    runtime: String,
    id: String,
    bundle: PathBuf,
    cgroup: Cgroup,
}

/// Starts a runtime with the listener moved from standard input to descriptor 3.
const START: &str = r#"
    if [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi
    exec "$@" 3<&0 </dev/null"#;
/// A namespace of its own only where there is something to hide.
const DELETE: &str = r#"
    if [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi
    exec "$@" </dev/null"#;

/// A killed container may take so long to be gone.
const GONE_MAX: Duration = Duration::from_secs(5);

impl Container {
    /// Writes the bundle of a container for `native` below `directory`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn prepare(
        runtime: &str,
        rootfs: &Rootfs,
        native: &Path,
        scratch: bool,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("baton-bench-{}-{number}", std::process::id());
        let group = format!("baton/{id}");
        let root = match rootfs {
            Rootfs::Scratch => {
                let root = directory.join("rootfs");
                fs::create_dir_all(&root)?;
                for mount_point in ["proc", "dev", "tmp"] {
                    fs::create_dir(root.join(mount_point))?;
                }
                fs::copy(native, root.join("function"))?;
                root
            }
            Rootfs::Debian(path) => {
                // Renamed into place: another container may be executing the file that is there.
                let copy = path.join(&id);
                fs::copy(native, &copy).context("the Debian must be writable")?;
                fs::rename(copy, path.join("function"))?;
                path.clone()
            }
        };
        let config = config(&root, &group, scratch).to_string();
        fs::write(directory.join("config.json"), config)?;
        let (runtime, bundle) = (runtime.to_owned(), directory.to_owned());
        Ok(Self { runtime, id, bundle, cgroup: Cgroup::new(group) })
    }

    /// The command that creates and starts it, and lives as long as it does.
    #[must_use]
    pub fn command(&self, listener: UnixListener) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", START, "sh", &self.runtime, "run"]);
        command.args(["--preserve-fds", "1", "--bundle"]).arg(&self.bundle).arg(&self.id);
        command.stdin(OwnedFd::from(listener));
        command
    }

    /// Its control group.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Kills and removes it.
    ///
    /// # Errors
    /// When the runtime cannot.
    pub fn delete(&self) -> anyhow::Result<()> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", DELETE, "sh", &self.runtime, "delete", "--force"]);
        let output = command.arg(&self.id).output()?;
        // A runtime that waits for its container may have deleted it already, and then this one
        // fails; what counts is that nothing is left.
        let deadline = Instant::now() + GONE_MAX;
        loop {
            self.cgroup.remove();
            if self.cgroup.directories().is_empty() {
                return Ok(());
            }
            let errors = String::from_utf8_lossy(&output.stderr);
            anyhow::ensure!(Instant::now() < deadline, "{} delete: {errors}", self.runtime);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Already gone when it was deleted; of use only after a failure.
        if !self.cgroup.directories().is_empty() {
            let _ = self.delete();
        }
        Cgroup::new("baton").remove();
    }
}

fn config(root: &Path, group: &str, scratch: bool) -> serde_json::Value {
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "mode=755", "size=64k"]}),
    ];
    if scratch {
        mounts.push(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
                           "options": ["nosuid", "nodev", "mode=1777", "size=32m"]}));
    }
    let namespaces = ["pid", "ipc", "uts", "mount", "network"];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/function"],
            "env": ["LISTEN_FDS=1", "LISTEN_PID=1", "LISTEN_FDNAMES=http"],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": true,
        },
        "root": {"path": root, "readonly": true},
        "hostname": "function",
        "mounts": mounts,
        "linux": {
            "cgroupsPath": format!("/{group}"),
            "resources": {"memory": {"limit": 512 << 20}, "pids": {"limit": 64}},
            "namespaces": namespaces.map(|kind| json!({"type": kind})),
        },
    })
}
