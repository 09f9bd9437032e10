//! The daemon's own small world.
//!
//! A mount namespace whose root is a tmpfs with `/proc`, `/dev` and the control groups that sandboxes use, and
//! nothing else of the machine. libcontainer does not find these groups, because they are not where and not named as
//! it expects: it would move each process by a list that the kernel guards with a lock of the whole machine. So there is no file of the host that a half-made sandbox could see; copying the
//! namespace, which each sandbox does, takes no time; and all of it vanishes with the last process in it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use rustix::process::{chdir, pivot_root};

use super::cgroup::Hierarchies;

/// The root of generic sandboxes.
pub(super) const ROOT: &str = "/root";
/// The root of sandboxes with a `/tmp`.
pub(super) const ROOT_WITH_TMP: &str = "/root-with-tmp";
/// Roots of functions that have one, by number.
pub(super) const ROOTS: &str = "/roots";
/// Runtime configurations of sandboxes being made.
pub(super) const BUNDLES: &str = "/bundles";
/// libcontainer's state of sandboxes being made.
pub(super) const CONTAINERS: &str = "/containers";

const STUB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stub"));
/// Where hierarchies are mounted, by number.
const CGROUPS: &str = "/cgroups";
/// Where libcontainer looks for them, and finds an empty directory of a tmpfs.
const NO_CGROUPS: &str = "sys/fs/cgroup";

/// Moves this process into a world of its own, built over the directory `state`; returns what control groups it has.
pub(super) fn enter(state: &Path) -> io::Result<Hierarchies> {
    let visible = Hierarchies::find();
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What is mounted from here on reaches no other namespace, and nothing that is mounted there comes in.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    mount("baton", state, "tmpfs", MountFlags::NOSUID, c"mode=755,size=64m")?;
    chdir(state)?;
    for directory in ["proc", "dev", NO_CGROUPS] {
        fs::create_dir_all(directory)?;
    }
    mount_bind("/proc", "proc")?;
    mount_bind("/dev", "dev")?;
    let (hierarchies, mounts) = visible.moved(Path::new(CGROUPS));
    for (root, target) in mounts {
        let target = Path::new(".").join(target.strip_prefix("/").unwrap_or(&target));
        fs::create_dir_all(&target)?;
        mount_bind(root, target)?;
    }
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    for directory in [BUNDLES, CONTAINERS, ROOTS] {
        fs::create_dir(directory)?;
        fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    }
    for (root, directories) in
        [(ROOT, &["proc", "dev"][..]), (ROOT_WITH_TMP, &["proc", "dev", "tmp"])]
    {
        for directory in directories {
            fs::create_dir_all(Path::new(root).join(directory))?;
        }
    }
    Ok(hierarchies)
}

/// Writes the stub's executable and opens it for reading; nobody can write it while it is executed.
pub(super) fn install_stub() -> io::Result<OwnedFd> {
    let path = "/stub";
    fs::write(path, STUB)?;
    fs::set_permissions(path, Permissions::from_mode(0o555))?;
    Ok(File::open(path)?.into())
}
