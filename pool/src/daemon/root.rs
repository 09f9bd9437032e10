//! Roots of functions, and how a parked sandbox gets one.
//!
//! Only privileged processes name paths: the supervisor says what root has which number, and the host asks by number.
//! A root is kept at [`ROOTS`] in the daemon's own file system. The daemon clones it, makes the clone read-only,
//! nosuid and nodev, visits the sandbox's mount namespace, puts the clone over the root there, moves `/dev`, `/proc`
//! and `/tmp` into it, and pivots: the kernel then moves every process in there, the parked stub, to the new root. It
//! does so itself, for whoever asks waits to start a function, and another process would have to be woken for it.
//!
//! It is kept until the host says that no function needs it any more.
//!
//! What a root holds is the function's own and may be made to deceive: paths in it are resolved within it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::process::{Pid, fchdir, pivot_root};

use super::spec::FUNCTION_UID;
use super::state::ROOTS;
use super::visit;
use crate::protocol::Root;

/// What a sandbox's own root brings along, where the new one has a directory for it.
const KEPT: [&str; 3] = ["dev", "proc", "tmp"];

/// One root to give to one sandbox.
#[derive(Debug)]
pub(super) struct Attachment<'a> {
    pub(super) init: Pid,
    pub(super) root: &'a Kept,
    /// The first of the sandbox's outside users.
    pub(super) uid: u32,
}

/// A root that sandboxes can be given.
#[derive(Debug)]
pub(super) struct Kept {
    number: u32,
    mounted: bool,
    pub(super) given: Given,
}

/// What there is of a root as long as it is known or a sandbox has it.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// Where functions with it make their socket.
    pub(super) socket: Option<PathBuf>,
    /// What stays open.
    pub(super) hold: Option<Rc<OwnedFd>>,
}

/// Why a sandbox did not get its root.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    #[error("cannot clone the root")]
    Clone(#[source] io::Error),
    #[error("cannot make a place for the socket")]
    Socket(#[source] io::Error),
    #[error("the root has no directory {} for the socket", .directory.display())]
    Directory { directory: PathBuf, source: io::Error },
    #[error("cannot enter the sandbox")]
    Enter(#[from] io::Error),
    #[error("cannot put the root in its place")]
    Place(#[source] io::Error),
}

/// Keeps a root for the sandboxes to come. `tree` is a detached mount; without it the root is empty but for what
/// every sandbox has and the directory of its socket.
/// The descriptors are those of [`Root`].
pub(super) fn keep(root: Root, descriptors: Vec<OwnedFd>) -> io::Result<Kept> {
    let directory = path(root.number);
    fs::create_dir(&directory)?;
    let mut descriptors = descriptors.into_iter();
    let (tree, hold) = (descriptors.next(), descriptors.next());
    let mounted = tree.is_some();
    match tree {
        Some(tree) => {
            // Nothing that is mounted below it later comes in.
            set_attributes(tree.as_fd(), 0, libc::MS_PRIVATE, None)?;
            move_mount(tree, "", CWD, &directory, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
        None => {
            let socket = root.socket.as_deref().and_then(Path::parent).map(inside);
            let mut kept = KEPT.iter().map(PathBuf::from).chain(socket.transpose()?);
            kept.try_for_each(|kept| fs::create_dir_all(directory.join(kept)))?;
        }
    }
    let given = Given { socket: root.socket, hold: hold.map(Rc::new) };
    Ok(Kept { number: root.number, mounted, given })
}

impl Kept {
    /// Lets go of it; sandboxes have mounts of their own.
    pub(super) fn forget(self) -> io::Result<()> {
        let directory = path(self.number);
        if self.mounted {
            unmount(&directory, UnmountFlags::DETACH)?;
            // Empty, or nothing is removed: what was mounted is the function's.
            fs::remove_dir(directory)
        } else {
            fs::remove_dir_all(directory)
        }
    }
}

fn path(number: u32) -> PathBuf {
    Path::new(ROOTS).join(number.to_string())
}

/// An absolute path as seen from its root; it must go down only.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let down = path.strip_prefix("/").ok().filter(|path| {
        path.components().all(|component| matches!(component, Component::Normal(_)))
    });
    down.map(Path::to_owned).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Gives the sandbox its root.
pub(super) fn attach(attachment: &Attachment<'_>) -> Result<(), AttachError> {
    let tree = clone(attachment).map_err(AttachError::Clone)?;
    let directory = attachment.root.given.socket.as_deref().and_then(Path::parent);
    let place = directory.map(|directory| Ok((socket_place(attachment.uid)?, directory)));
    let place = place.transpose().map_err(AttachError::Socket)?;
    visit::mounts(attachment.init, || {
        put(tree.as_fd(), CWD, "/").map_err(AttachError::Place)?;
        for name in KEPT {
            move_over(name, tree.as_fd()).map_err(AttachError::Place)?;
        }
        if let Some((place, directory)) = place {
            put_socket_place(place, directory, tree.as_fd())?;
        }
        enter(tree.as_fd()).map_err(AttachError::Place)
    })
}

fn clone(attachment: &Attachment<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path(attachment.root.number), flags)?;
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    let users = File::open(format!("/proc/{}/ns/user", attachment.init))?;
    match set_attributes(tree.as_fd(), attributes, libc::MS_PRIVATE, Some(users.as_fd())) {
        // Not every file system can show other owners; its files then belong to nobody in the sandbox.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => {
            set_attributes(tree.as_fd(), attributes, libc::MS_PRIVATE, None)?;
        }
        set => set?,
    }
    Ok(tree)
}

/// A directory that only the function can write, for its socket.
fn socket_place(uid: u32) -> io::Result<OwnedFd> {
    let file_system = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let owner = (uid + FUNCTION_UID).to_string();
    let owner = owner.as_str();
    let options =
        [("size", "64k"), ("nr_inodes", "32"), ("mode", "0755"), ("uid", owner), ("gid", owner)];
    for (key, value) in options {
        fsconfig_set_string(&file_system, key, value)?;
    }
    fsconfig_create(&file_system)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&file_system, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Puts it over the socket's directory, unless that is in the function's own `/tmp`.
fn put_socket_place(
    place: OwnedFd,
    directory: &Path,
    tree: BorrowedFd<'_>,
) -> Result<(), AttachError> {
    let failed = |source| AttachError::Directory { directory: directory.to_owned(), source };
    let target = within(tree, directory, OFlags::DIRECTORY).map_err(failed)?;
    if is_writable(&target).map_err(failed)? {
        return Ok(());
    }
    put(place.as_fd(), target.as_fd(), "").map_err(AttachError::Place)
}

/// Whether it is on a mount that may be written: then it is the sandbox's `/tmp`.
fn is_writable(directory: &OwnedFd) -> io::Result<bool> {
    let flags = rustix::fs::fstatvfs(directory)?.f_flag;
    Ok(!flags.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Moves what is mounted at `/name` to the same place below `tree`; a root that has no such place does without.
fn move_over(name: &str, tree: BorrowedFd<'_>) -> io::Result<()> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = match openat2(tree, name, flags, Mode::empty(), how) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        target => target?,
    };
    let to_descriptor = MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    match move_mount(CWD, format!("/{name}"), &target, "", to_descriptor) {
        // A sandbox without a scratch has no `/tmp`.
        Err(Errno::NOENT) => Ok(()),
        // Nothing is mounted there.
        Err(Errno::INVAL) if name == "tmp" => Ok(()),
        moved => Ok(moved?),
    }
}

fn put(mount: BorrowedFd<'_>, at: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if path.is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    Ok(move_mount(mount, "", at, path, flags)?)
}

/// Makes `tree` the root of everybody in this mount namespace, and lets go of the root before.
fn enter(tree: BorrowedFd<'_>) -> io::Result<()> {
    fchdir(tree)?;
    pivot_root(".", ".")?;
    Ok(unmount(".", UnmountFlags::DETACH)?)
}

/// Opens the function's socket for connecting to it, once it is there; it may be replaced by anything at any time.
pub(super) fn socket(init: Pid, path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_in(&File::open(format!("/proc/{init}/root"))?, path)?;
    // The host is neither root nor the function, and nobody else is there.
    let everybody = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
    rustix::fs::chmod(format!("/proc/self/fd/{}", socket.as_raw_fd()), everybody)?;
    Ok(socket)
}

fn socket_in(root: &File, path: &Path) -> io::Result<OwnedFd> {
    let socket = within(root.as_fd(), path, OFlags::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode) {
        FileType::Socket => Ok(socket),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a socket")),
    }
}

/// Opens a path as a process whose root is `root` would, as a place only.
fn within(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat2(root, path, flags, Mode::empty(), how)?)
}

#[expect(unsafe_code, reason = "mount_setattr has no safe interface")]
fn set_attributes(
    tree: BorrowedFd<'_>,
    attributes: u64,
    propagation: u64,
    users: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut wanted =
        libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation, userns_fd: 0 };
    if let Some(users) = users {
        wanted.attr_set |= libc::MOUNT_ATTR_IDMAP;
        wanted.userns_fd = u64::try_from(users.as_raw_fd()).map_err(io::Error::other)?;
    }
    // SAFETY: the path is a C string and the kernel reads one `mount_attr`, whose size is passed.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_sockets_place_goes_down_from_the_root_only() {
        assert_eq!(inside(Path::new("/run/a")).unwrap(), Path::new("run/a"));
        assert_eq!(inside(Path::new("/")).unwrap(), Path::new(""));
        for outside in ["run", "/run/../../etc", "/.."] {
            assert!(inside(Path::new(outside)).is_err(), "{outside}");
        }
    }

    #[test]
    fn a_planted_link_leads_nowhere_but_into_the_root() {
        let place = std::env::temp_dir().join(format!("baton-root-{}", std::process::id()));
        let root = place.join("root");
        fs::create_dir_all(root.join("run")).unwrap();
        let _outside = UnixListener::bind(place.join("outside.sock")).unwrap();
        let _inside = UnixListener::bind(root.join("inside.sock")).unwrap();
        let (link, opened) = (root.join("run/function.sock"), File::open(&root).unwrap());
        let open = |target: &Path| {
            let _ = fs::remove_file(&link);
            symlink(target, &link).unwrap();
            socket_in(&opened, Path::new("/run/function.sock"))
        };
        let refused = [
            place.join("outside.sock"),
            "../../outside.sock".into(),
            "/../outside.sock".into(),
            format!("/proc/{}/root/{}", std::process::id(), place.join("outside.sock").display())
                .into(),
            "function.sock".into(),
            "/run".into(),
        ];
        for target in refused {
            open(&target).expect_err(&target.to_string_lossy());
        }
        open(Path::new("/inside.sock")).unwrap();
        open(Path::new("../../../inside.sock")).unwrap();
        fs::remove_dir_all(place).unwrap();
    }
}
