//! The places of components' `/tmp`: a tmpfs for each instance at once, mounted nowhere.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use crate::manifest::Function;

/// Instances of one function that have a `/tmp` at once; more wait for one.
const PLACES_MAX: usize = 128;

/// Files and directories in one of them: as many as have a page each, within these bounds.
const FILES: (u64, u64) = (64, 1 << 16);

const PAGE: u64 = 4 << 10;

/// No place could be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "function {function} asks for limits.scratch, and no file system can be made for it: start Baton as root, on Linux 5.2 or later"
)]
pub struct ScratchError {
    function: String,
    #[source]
    source: io::Error,
}

/// As many as the function's component may need; none when it asks for none. They belong to `owner`,
/// a user and a group.
pub(super) fn places(function: &Function, owner: (u32, u32)) -> Result<Vec<OwnedFd>, ScratchError> {
    let bytes = function.limits.scratch.0;
    if bytes == 0 || function.component.is_none() || !function.policy.uses_wasm() {
        return Ok(Vec::new());
    }
    let count = function.limits.concurrency.min(PLACES_MAX);
    let made = (0..count).map(|_| place(bytes, owner)).collect::<io::Result<_>>();
    made.map_err(|source| ScratchError { function: function.name.clone(), source })
}

fn place(bytes: u64, (uid, gid): (u32, u32)) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let files = (bytes / PAGE).clamp(FILES.0, FILES.1);
    for (key, value) in [
        ("size", bytes.to_string()),
        ("nr_inodes", files.to_string()),
        ("mode", "0700".to_owned()),
        ("uid", uid.to_string()),
        ("gid", gid.to_string()),
    ] {
        fsconfig_set_string(context.as_fd(), key, value)?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::manifest::Manifest;

    fn function(scratch: &str) -> Function {
        let text = format!(
            "[[function]]\nname = \"f\"\nroute = \"/f\"\ncomponent = \"f.wasm\"\n\
             limits.concurrency = 2\nlimits.scratch = {scratch:?}\n"
        );
        Manifest::parse(&text, Path::new("baton.toml")).unwrap().functions.remove(0)
    }

    fn path(place: &OwnedFd) -> PathBuf {
        format!("/proc/self/fd/{}", place.as_raw_fd()).into()
    }

    #[test]
    fn a_place_holds_what_it_may_and_not_a_page_more() {
        let places = places(&function("1MiB"), (0, 0)).unwrap();
        assert_eq!(places.len(), 2);
        let file = path(&places[0]).join("file");
        fs::write(&file, vec![0; 1 << 20]).unwrap();
        let full = fs::write(path(&places[0]).join("more"), "x").unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        // The other one has its own.
        fs::write(path(&places[1]).join("file"), vec![0; 1 << 20]).unwrap();
    }

    #[test]
    fn a_function_that_asks_for_none_gets_none() {
        assert!(places(&function("0"), (0, 0)).unwrap().is_empty());
    }
}
