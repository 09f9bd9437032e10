//! Notices that files have changed.
//!
//! Contract: a change is told once, and only when the files have been the same for two looks, so
//! that whoever writes one has probably finished. A file is followed by its path, whatever puts
//! another in its place: a rename, a symbolic link to elsewhere.
//!
//! It looks, and is told of nothing: inotify sees neither what happens on network file systems nor
//! behind symbolic links, and the comparison would be needed all the same.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks. A few files a look cost microseconds.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// Files that are looked at again and again.
#[derive(Debug, Default)]
pub(super) struct Watch {
    files: Vec<(PathBuf, Stamp)>,
    /// What the last look saw.
    seen: Vec<Stamp>,
}

/// Device, inode, size, and time of the last change in seconds and nanoseconds; nothing for a file
/// that is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Watch {
    /// Follows `paths` from now on. A file that was followed before has not changed unless that
    /// was told already.
    pub(super) fn follow(&mut self, paths: Vec<PathBuf>) {
        let known = std::mem::take(&mut self.files);
        let with_stamp = |path: PathBuf| {
            let known = known.iter().find(|(other, _)| *other == path).map(|(_, stamp)| *stamp);
            let stamp = known.unwrap_or_else(|| stamp(&path));
            (path, stamp)
        };
        self.files = paths.into_iter().map(with_stamp).collect();
        self.seen = self.files.iter().map(|(_, stamp)| *stamp).collect();
    }

    /// Whether there is anything to look at.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Looks: whether the files have changed since that was told last.
    pub(super) fn changed(&mut self) -> bool {
        let now: Vec<Stamp> = self.files.iter().map(|(path, _)| stamp(path)).collect();
        let settled = now == self.seen;
        self.seen = now;
        let mut changed = false;
        if settled {
            for ((_, known), now) in self.files.iter_mut().zip(&self.seen) {
                changed |= known != now;
                *known = *now;
            }
        }
        changed
    }
}

fn stamp(path: &Path) -> Stamp {
    let meta = path.metadata().ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn watching(names: &[&str]) -> (tempfile::TempDir, Watch) {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let mut watch = Watch::default();
        watch.follow(names.iter().map(|name| dir.path().join(name)).collect());
        (dir, watch)
    }

    fn looks(watch: &mut Watch) -> [bool; 3] {
        [watch.changed(), watch.changed(), watch.changed()]
    }

    #[test]
    fn a_change_is_told_once_and_when_it_has_settled() {
        let (dir, mut watch) = watching(&["a"]);
        assert_eq!(looks(&mut watch), [false; 3]);
        fs::write(dir.path().join("a"), "longer").unwrap();
        assert_eq!(looks(&mut watch), [false, true, false]);
    }

    #[test]
    fn a_file_put_in_the_place_of_another_is_a_change() {
        let (dir, mut watch) = watching(&["a"]);
        fs::write(dir.path().join("new"), "a").unwrap();
        fs::rename(dir.path().join("new"), dir.path().join("a")).unwrap();
        assert_eq!(looks(&mut watch), [false, true, false]);
    }

    #[test]
    fn a_link_that_points_elsewhere_is_a_change() {
        let (dir, mut watch) = watching(&["a", "b"]);
        let link = dir.path().join("link");
        symlink("a", &link).unwrap();
        watch.follow(vec![link.clone()]);
        fs::remove_file(&link).unwrap();
        symlink("b", &link).unwrap();
        assert_eq!(looks(&mut watch), [false, true, false]);
    }

    #[test]
    fn a_change_before_other_files_are_followed_is_still_told() {
        let (dir, mut watch) = watching(&["a", "b"]);
        fs::write(dir.path().join("a"), "longer").unwrap();
        watch.follow(vec![dir.path().join("a")]);
        assert_eq!(looks(&mut watch), [false, true, false]);
    }
}
