//! What a parked sandbox is, in the words of the OCI runtime specification, and what it may use.
//!
//! It fits every function without a root file system of its own: all namespaces, a read-only root that is empty
//! but for `/dev` and `/proc`, one unprivileged user, no capabilities. A private `/tmp` is there only when the
//! sandbox was created with one, because the root of a generic sandbox is shared and nothing can be mounted into
//! it later by those who live there.

use serde_json::{Value, json};

/// The function's user and group inside; 0 is mapped too, because libcontainer sets the sandbox up as root of it.
pub(super) const FUNCTION_UID: u32 = 1;
/// Outside users that a sandbox takes.
pub(super) const UIDS_EACH: u32 = 2;
/// Memory of a parked sandbox, swap included, in bytes: below what any function needs, so that activation raises
/// it, and far above what setting the sandbox up takes.
pub(super) const PARKED_MEMORY: u64 = 16 << 20;
/// Processes of a parked sandbox: its init and, while it is set up, those that make it.
pub(super) const PARKED_PIDS: u32 = 8;
/// Bytes of a scratch for each file or directory that it may hold, and how few and how many these are at most.
const SCRATCH_FILE: u64 = 4096;
const SCRATCH_FILES: (u64, u64) = (64, 65_536);
/// The kernel takes memory from sandboxes before it takes it from the host.
const OOM_SCORE: i32 = 500;

/// What differs between sandboxes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sandbox<'a> {
    /// The root directory, as the daemon sees it.
    pub(super) root: &'a str,
    /// The first of its outside users and groups.
    pub(super) uid: u32,
    /// Bytes of `/tmp`; 0 for none.
    pub(super) scratch: u64,
}

/// The runtime configuration, `config.json`.
pub(super) fn runtime(sandbox: &Sandbox<'_>) -> Value {
    let mapping = json!([{ "containerID": 0, "hostID": sandbox.uid, "size": UIDS_EACH }]);
    let kinds = ["user", "mount", "pid", "network", "ipc", "uts", "cgroup"];
    json!({
        "ociVersion": "1.1.0",
        "root": { "path": sandbox.root, "readonly": true },
        "hostname": "sandbox",
        "process": {
            "terminal": false,
            "user": { "uid": FUNCTION_UID, "gid": FUNCTION_UID },
            "args": ["stub"],
            // Without it libcontainer asks the name service for the user's.
            "env": ["HOME=/"],
            "cwd": "/",
            "capabilities": { "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": [] },
            "noNewPrivileges": true,
            "oomScoreAdj": OOM_SCORE,
            "rlimits": [{ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }],
        },
        "mounts": mounts(sandbox.scratch),
        "linux": {
            "namespaces": kinds.map(|kind| json!({ "type": kind })),
            "uidMappings": mapping,
            "gidMappings": mapping,
            // /proc shows processes only, and only the sandbox's own, so nothing of it is left to mask.
            "maskedPaths": [],
            "readonlyPaths": [],
        },
    })
}

fn mounts(scratch: u64) -> Vec<Value> {
    let mut mounts = vec![
        json!({
            "destination": "/proc", "type": "proc", "source": "proc",
            "options": ["nosuid", "noexec", "nodev", "hidepid=2", "subset=pid"],
        }),
        json!({
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "noexec", "mode=755", "size=64k", "nr_inodes=32"],
        }),
    ];
    if scratch > 0 {
        let files = (scratch / SCRATCH_FILE).clamp(SCRATCH_FILES.0, SCRATCH_FILES.1);
        mounts.push(json!({
            "destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "nodev", "mode=1777", format!("size={scratch}"), format!("nr_inodes={files}")],
        }));
    }
    mounts
}
