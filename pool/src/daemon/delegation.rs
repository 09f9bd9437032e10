//! A control group that a service manager has delegated to Baton.
//!
//! On v2 systemd leaves what is below a unit with `Delegate=` to the unit, says so by an extended attribute of the
//! unit's group, and manages all the rest alone. Groups are then made there. The kernel lets a group either hold
//! processes or give controllers to those below it, so what runs in the unit's group moves to a leaf beside them:
//!
//! ```text
//! baton.service            delegated, without processes of its own
//! ├─ host                  supervisor, daemon, host; already there where the unit has a DelegateSubgroup=
//! └─ baton                 as it is at the root of the machine where nothing is delegated
//!    └─ ID ─ sandboxes
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::getxattr;

use super::cgroup::{Hierarchies, V2_CONTROLLERS, cpu_group};
use super::probe::CgroupVersion;

/// Set to 1 by systemd, the second for those who may not read the first.
const ATTRIBUTES: [&str; 2] = ["trusted.delegate", "user.delegate"];
/// The leaf.
const LEAF: &str = "host";
/// The group of all runs, unless the operator names another.
pub(super) const RUNS: &str = "baton";
/// How often processes are looked for that were started while the others moved.
const PASSES: usize = 16;

/// Why a delegated group is not used.
#[derive(Debug, thiserror::Error)]
pub enum DelegationError {
    /// It was delegated without what sandboxes need.
    #[error(
        "the group {} was delegated without {}: with Delegate=yes it has all", .group.display(), .missing.join(", ")
    )]
    Controllers {
        /// The group, from the root of the hierarchy.
        group: PathBuf,
        /// The controllers.
        missing: Vec<&'static str>,
    },
    /// Its processes cannot be moved to a leaf.
    #[error("cannot move what runs in the delegated group {} to a leaf below it", .group.display())]
    Move {
        /// The group, from the root of the hierarchy.
        group: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The group for all runs within what was delegated to this process, from the root of the hierarchy, its processes
/// having moved out of the way; `None` where nothing was.
///
/// # Errors
/// Why a delegated group cannot be used.
pub fn settle() -> Result<Option<String>, DelegationError> {
    let hierarchies = Hierarchies::find();
    let (CgroupVersion::V2, Some(root)) = (hierarchies.version, hierarchies.unified()) else {
        return Ok(None);
    };
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = cpu_group(&text, CgroupVersion::V2) else { return Ok(None) };
    let Some(group) = delegated(own, |group| has_attribute(&root.join(group))) else {
        return Ok(None);
    };
    let directory = root.join(group);
    let controllers = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    let missing = missing(&controllers);
    if !missing.is_empty() {
        return Err(DelegationError::Controllers { group: group.to_owned(), missing });
    }
    if own == group {
        clear(&directory)
            .map_err(|source| DelegationError::Move { group: group.to_owned(), source })?;
    }
    Ok(group.join(RUNS).to_str().map(str::to_owned))
}

/// The group that was delegated to a process in `own`: its own, or, as `DelegateSubgroup=` makes it, the one
/// around that. Further up it was delegated to somebody else, such as the manager of a user's services.
fn delegated(own: &Path, is_delegated: impl Fn(&Path) -> bool) -> Option<&Path> {
    own.ancestors().take(2).find(|group| is_delegated(group))
}

fn has_attribute(directory: &Path) -> bool {
    ATTRIBUTES.iter().any(|name| {
        let mut value = [0; 8];
        getxattr(directory, *name, &mut value).is_ok_and(|length| value[..length] == *b"1")
    })
}

fn missing(controllers: &str) -> Vec<&'static str> {
    let there: Vec<&str> = controllers.split_whitespace().collect();
    V2_CONTROLLERS.into_iter().filter(|name| !there.contains(name)).collect()
}

/// Moves every process of a group to its leaf.
fn clear(directory: &Path) -> io::Result<()> {
    let leaf = directory.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for _ in 0..PASSES {
        let processes = fs::read_to_string(directory.join("cgroup.procs"))?;
        if processes.is_empty() {
            return Ok(());
        }
        for process in processes.lines() {
            match fs::write(leaf.join("cgroup.procs"), process) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                moved => moved?,
            }
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "system.slice/baton.service";

    fn chosen<'a>(own: &'a str, with_attribute: &str) -> Option<&'a Path> {
        delegated(Path::new(own), |group| group == Path::new(with_attribute))
    }

    #[test]
    fn a_unit_that_was_delegated_is_used() {
        assert_eq!(chosen(SERVICE, SERVICE), Some(Path::new(SERVICE)));
    }

    #[test]
    fn a_unit_that_begins_in_a_subgroup_is_used() {
        assert_eq!(chosen("system.slice/baton.service/main", SERVICE), Some(Path::new(SERVICE)));
    }

    #[test]
    fn what_was_delegated_to_somebody_else_is_left_alone() {
        let manager = "user.slice/user-1000.slice/user@1000.service";
        assert_eq!(chosen(&format!("{manager}/app.slice/terminal.scope"), manager), None);
        assert_eq!(chosen(SERVICE, "system.slice/other.service"), None);
    }

    #[test]
    fn a_containers_own_root_can_be_delegated() {
        assert_eq!(chosen("", ""), Some(Path::new("")));
        assert_eq!(Path::new("").join(RUNS), Path::new("baton"));
    }

    #[test]
    fn what_was_not_delegated_is_named() {
        assert_eq!(missing("cpuset cpu io memory pids"), <[&str; 0]>::default());
        assert_eq!(missing("memory\n"), ["cpu", "pids"]);
    }
}
