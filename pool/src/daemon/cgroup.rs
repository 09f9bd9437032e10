//! Control groups of sandboxes, on v1 and v2.
//!
//! Everything that becomes of a sandbox's group is here, libcontainer sees none: its making, its limit files, what was
//! used, and its removal, which has to work as well for groups that a killed process left behind. A group is a path
//! below the root of every hierarchy at once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::fs::hierarchies;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

use super::delegation::RUNS;
use super::probe::CgroupVersion;
use crate::cores::Cores;
use crate::protocol::{CPU_PERIOD_US, CgroupFile, PARKED_QUOTA_US};

/// The v1 controllers that a sandbox is put under; v2 has one hierarchy for all of them.
pub(super) const V1_CONTROLLERS: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "freezer"];
/// The v2 controllers that a sandbox's limits need.
pub(super) const V2_CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// CPU weight of all sandboxes together, half of what others have by default.
const SHARES: &str = "512";
const WEIGHT: &str = "50";
/// What makes a group have only what is left of the cores, since Linux 5.15.
const IDLE: &str = "cpu.idle";
/// How often a group is made before its making fails, when the one around it goes away each time.
const CREATE_ATTEMPTS: u32 = 16;
/// How long processes may take to die once they were killed. The kernel needs milliseconds.
const DEATH_MAX: Duration = Duration::from_secs(10);

/// The mounted hierarchies.
#[derive(Clone, Debug)]
pub(crate) struct Hierarchies {
    pub(crate) version: CgroupVersion,
    /// Roots by controller; on v2 the one root under its controllers' names.
    roots: BTreeMap<String, PathBuf>,
}

/// A group's directories, one in each hierarchy.
#[derive(Clone, Debug)]
pub(crate) struct Group<'a> {
    hierarchies: &'a Hierarchies,
    path: PathBuf,
}

/// What a sandbox used in its life; zeros where the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) oom_kills: u64,
    pub(crate) cpu_ns: u64,
    pub(crate) memory_peak: u64,
    /// Time for which it was kept from running by its CPU quota.
    pub(crate) throttled_ns: u64,
}

impl Hierarchies {
    /// Finds what is mounted in this mount namespace.
    pub(crate) fn find() -> Hierarchies {
        let hierarchy = hierarchies::auto();
        let version = if hierarchy.v2() { CgroupVersion::V2 } else { CgroupVersion::V1 };
        let roots = hierarchy
            .subsystems()
            .iter()
            .map(|subsystem| {
                (subsystem.controller_name(), subsystem.to_controller().path().to_owned())
            })
            .collect();
        Hierarchies { version, roots }
    }

    /// Controllers by their kernel name.
    pub(super) fn controllers(&self) -> impl Iterator<Item = &str> {
        self.roots.keys().map(String::as_str)
    }

    /// The root of v2's hierarchy.
    pub(super) fn unified(&self) -> Option<&Path> {
        self.roots
            .values()
            .next()
            .filter(|_| self.version == CgroupVersion::V2)
            .map(PathBuf::as_path)
    }

    /// The hierarchies that sandboxes use as they are when each of their roots is mounted at its number below
    /// `place`, and what to mount where.
    pub(super) fn moved(&self, place: &Path) -> (Hierarchies, Vec<(PathBuf, PathBuf)>) {
        let used: &[&str] = match self.version {
            CgroupVersion::V1 => &V1_CONTROLLERS,
            CgroupVersion::V2 => &V2_CONTROLLERS,
        };
        let mut roots: BTreeMap<_, _> = self.roots.clone();
        roots.retain(|name, _| used.contains(&name.as_str()));
        let numbered = distinct(roots.values()).into_iter().map(Path::to_owned).enumerate();
        let mounts: Vec<_> =
            numbered.map(|(number, root)| (root, place.join(number.to_string()))).collect();
        for root in roots.values_mut() {
            if let Some((_, target)) = mounts.iter().find(|(from, _)| from == root) {
                target.clone_into(root);
            }
        }
        (Hierarchies { version: self.version, roots }, mounts)
    }

    /// The group at `path`, relative to the roots, whether it exists or not.
    pub(crate) fn group(&self, path: impl AsRef<Path>) -> Group<'_> {
        let path = path.as_ref();
        Group { hierarchies: self, path: path.strip_prefix("/").unwrap_or(path).to_owned() }
    }

    /// Where a group's weight is written, and that of all sandboxes together.
    fn weight(&self) -> (&'static str, &'static str) {
        match self.version {
            CgroupVersion::V1 => ("cpu.shares", SHARES),
            CgroupVersion::V2 => ("cpu.weight", WEIGHT),
        }
    }

    /// The group that counts this process's CPU time, from the root of its hierarchy.
    pub(super) fn own_cpu_group(&self) -> io::Result<PathBuf> {
        let text = fs::read_to_string("/proc/self/cgroup")?;
        Ok(cpu_group(&text, self.version).ok_or(io::ErrorKind::NotFound)?.to_owned())
    }

    /// Gives a new group its weight; hierarchies without the controller have no such file.
    fn weigh(&self, directory: &Path) {
        let (name, weight) = self.weight();
        if let Ok(mut file) = File::options().write(true).open(directory.join(name)) {
            // Weights are a courtesy to the host, without which everything works.
            let _ = file.write_all(weight.as_bytes());
        }
    }

    /// Memory limits can count swap. Without swap accounting there is only the limit of memory itself.
    pub(super) fn counts_swap(&self) -> bool {
        match self.version {
            CgroupVersion::V2 => true,
            CgroupVersion::V1 => self
                .roots
                .get("memory")
                .is_some_and(|root| root.join("memory.memsw.limit_in_bytes").exists()),
        }
    }
}

/// Makes a directory and those above it. Others who end at this moment may be removing the one around it, each once.
fn create(directory: &Path) -> io::Result<()> {
    let mut attempts = CREATE_ATTEMPTS;
    loop {
        attempts -= 1;
        match fs::create_dir_all(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempts > 0 => {}
            made => return made.map_err(|error| at(directory, &error)),
        }
    }
}

impl Group<'_> {
    /// A group below this one.
    pub(super) fn child(&self, name: impl AsRef<Path>) -> Self {
        Group { hierarchies: self.hierarchies, path: self.path.join(name) }
    }

    /// Names of the groups directly below, in any hierarchy.
    pub(super) fn children(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .directories()
            .iter()
            .filter_map(|directory| fs::read_dir(directory).ok())
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Makes the group in every hierarchy. What was not there before weighs less than its neighbours, of which the
    /// host is one.
    pub(super) fn create(&self) -> io::Result<()> {
        for directory in self.directories() {
            let new: Vec<_> = directory.ancestors().take_while(|it| !it.exists()).collect();
            create(&directory)?;
            for made in new {
                self.hierarchies.weigh(made);
            }
        }
        self.delegate();
        Ok(())
    }

    /// On v2, has groups below this one limited by the controllers that they need, as far as this process may say.
    /// Who gives them to those below already, as everybody above a delegated group does, is left alone.
    fn delegate(&self) {
        if self.hierarchies.version == CgroupVersion::V1 {
            return;
        }
        let mut above: Vec<_> = self.path.ancestors().collect();
        above.reverse();
        for path in above {
            for directory in self.hierarchies.group(path).directories() {
                let control = directory.join("cgroup.subtree_control");
                let given = fs::read_to_string(&control).unwrap_or_default();
                let lacks = |name: &&str| !given.split_whitespace().any(|there| there == *name);
                let wanted: Vec<_> = V2_CONTROLLERS
                    .into_iter()
                    .filter(lacks)
                    .map(|name| format!("+{name}"))
                    .collect();
                if !wanted.is_empty() {
                    // Whoever may not be asked shows when a sandbox's limits are written.
                    let _ = fs::write(control, wanted.join(" "));
                }
            }
        }
    }

    /// Makes the group with limits of memory, swap included, processes and CPU time, and moves this process into it.
    pub(super) fn found(&self, memory: u64, pids: u32) -> io::Result<()> {
        for directory in self.directories() {
            fs::create_dir(&directory).map_err(|error| at(&directory, &error))?;
        }
        let (memory, pids) = (memory.to_string(), pids.to_string());
        match self.hierarchies.version {
            CgroupVersion::V1 => {
                self.write("memory", "memory.limit_in_bytes", &memory)?;
                if self.hierarchies.counts_swap() {
                    self.write("memory", "memory.memsw.limit_in_bytes", &memory)?;
                }
            }
            CgroupVersion::V2 => {
                self.write("memory", "memory.max", &memory)?;
                match self.write("memory", "memory.swap.max", "0") {
                    // A kernel without swap has no such file, and nothing to limit.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    written => written?,
                }
            }
        }
        self.write("pids", "pids.max", &pids)?;
        match self.hierarchies.version {
            // The period is the kernel's own.
            CgroupVersion::V1 => {
                self.write("cpu", "cpu.cfs_quota_us", &PARKED_QUOTA_US.to_string())?;
            }
            CgroupVersion::V2 => {
                self.write("cpu", "cpu.max", &format!("{PARKED_QUOTA_US} {CPU_PERIOD_US}"))?;
            }
        }
        self.enter()
    }

    /// Moves this process, which has one thread, into the group. On v1 as a thread that moves itself: only so the kernel
    /// does not first wait, for 12 to 19 ms, until nobody forks.
    pub(super) fn enter(&self) -> io::Result<()> {
        let list = match self.hierarchies.version {
            CgroupVersion::V1 => "tasks",
            CgroupVersion::V2 => "cgroup.procs",
        };
        for directory in self.directories() {
            fs::write(directory.join(list), "0").map_err(|error| at(&directory, &error))?;
        }
        Ok(())
    }

    /// Moves this process, which has one thread, into the group, which may have to be made: on v1 for its CPU time alone.
    pub(super) fn enter_for_cpu(&self, make: bool) -> io::Result<()> {
        let (controllers, list): (&[&str], _) = match self.hierarchies.version {
            CgroupVersion::V1 => (&["cpu", "cpuacct"], "tasks"),
            CgroupVersion::V2 => (&["cpu"], "cgroup.procs"),
        };
        for controller in controllers {
            let directory = self.file(controller, "");
            if make {
                create(&directory)?;
            }
            let list = directory.join(list);
            File::options()
                .write(true)
                .open(&list)
                .and_then(|mut list| list.write_all(b"0"))
                .map_err(|error| at(&list, &error))?;
        }
        Ok(())
    }

    /// The switch of the group around those of all runs; `None` where that is not theirs alone or has no such switch.
    pub(super) fn cores(&self) -> Option<Cores> {
        let around =
            self.path.ancestors().skip(1).find(|it| it.file_name() == Some(RUNS.as_ref()))?;
        let runs = self.hierarchies.group(around);
        let (name, usual) = self.hierarchies.weight();
        let is_idle = runs.number("cpu", IDLE)? != 0;
        // Another weight is an operator's.
        let usual = match runs.number("cpu", name) {
            Some(weight) if !is_idle => weight.to_string(),
            _ => usual.to_owned(),
        };
        let write =
            |name| Some(File::options().write(true).open(runs.file("cpu", name)).ok()?.into());
        let directory = File::open(runs.file("cpu", "")).ok()?;
        Cores::new(Some(usual), vec![directory.into(), write(IDLE)?, write(name)?])
    }

    /// Moves this process from the group to the one above where processes may be there, as on v1.
    pub(super) fn leave(&self) -> io::Result<()> {
        match (self.hierarchies.version, self.path.parent()) {
            (CgroupVersion::V1, Some(above)) => self.hierarchies.group(above).enter(),
            _ => Ok(()),
        }
    }

    fn write(&self, controller: &str, name: &str, text: &str) -> io::Result<()> {
        let path = self.file(controller, name);
        fs::write(&path, text).map_err(|error| at(&path, &error))
    }

    /// Opens what the host may write, in the order in which raised limits have to be written.
    pub(super) fn limit_files(&self) -> io::Result<Vec<(CgroupFile, File)>> {
        let mut files = match self.hierarchies.version {
            CgroupVersion::V1 => vec![
                (CgroupFile::MemoryLimit, "memory", "memory.limit_in_bytes"),
                (CgroupFile::CpuQuota, "cpu", "cpu.cfs_quota_us"),
                (CgroupFile::PidsMax, "pids", "pids.max"),
                (CgroupFile::FreezerState, "freezer", "freezer.state"),
            ],
            CgroupVersion::V2 => vec![
                (CgroupFile::MemoryMax, "memory", "memory.max"),
                (CgroupFile::SwapMax, "memory", "memory.swap.max"),
                (CgroupFile::CpuMax, "cpu", "cpu.max"),
                (CgroupFile::PidsMax, "pids", "pids.max"),
                (CgroupFile::Freeze, "freezer", "cgroup.freeze"),
            ],
        };
        if self.hierarchies.version == CgroupVersion::V1 && self.hierarchies.counts_swap() {
            files.insert(
                0,
                (CgroupFile::MemoryAndSwapLimit, "memory", "memory.memsw.limit_in_bytes"),
            );
        }
        let mut opened = Vec::with_capacity(files.len());
        for (file, controller, name) in files {
            let path = self.file(controller, name);
            match File::options().write(true).open(&path) {
                Ok(descriptor) => opened.push((file, descriptor)),
                // A kernel without swap has no such file, and nothing to limit.
                Err(error)
                    if file == CgroupFile::SwapMax && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at(&path, &error)),
            }
        }
        Ok(opened)
    }

    /// What was used so far.
    pub(crate) fn usage(&self) -> Usage {
        match self.hierarchies.version {
            CgroupVersion::V1 => Usage {
                oom_kills: self.oom_kills().unwrap_or(0),
                cpu_ns: self.cpu_ns().unwrap_or(0),
                memory_peak: self.number("memory", "memory.max_usage_in_bytes").unwrap_or(0),
                throttled_ns: self.keyed("cpu", "cpu.stat", "throttled_time").unwrap_or(0),
            },
            CgroupVersion::V2 => Usage {
                oom_kills: self.oom_kills().unwrap_or(0),
                cpu_ns: self.cpu_ns().unwrap_or(0),
                memory_peak: self.number("memory", "memory.peak").unwrap_or(0),
                throttled_ns: nanoseconds(self.keyed("cpu", "cpu.stat", "throttled_usec"))
                    .unwrap_or(0),
            },
        }
    }

    /// Processes killed so far for want of memory; `None` where there is no such group any more.
    pub(crate) fn oom_kills(&self) -> Option<u64> {
        let name = match self.hierarchies.version {
            CgroupVersion::V1 => "memory.oom_control",
            CgroupVersion::V2 => "memory.events",
        };
        let text = fs::read_to_string(self.file("memory", name)).ok()?;
        Some(value_of(&text, "oom_kill"))
    }

    /// CPU time used so far, in nanoseconds; `None` once the group is removed.
    pub(crate) fn cpu_ns(&self) -> Option<u64> {
        match self.hierarchies.version {
            CgroupVersion::V1 => self.number("cpuacct", "cpuacct.usage"),
            CgroupVersion::V2 => nanoseconds(self.keyed("cpu", "cpu.stat", "usage_usec")),
        }
    }

    /// Bytes charged now; `None` once the group is removed.
    pub(crate) fn memory(&self) -> Option<u64> {
        match self.hierarchies.version {
            CgroupVersion::V1 => self.number("memory", "memory.usage_in_bytes"),
            CgroupVersion::V2 => self.number("memory", "memory.current"),
        }
    }

    /// Kills what is in this group and in those below but this process, and waits until it is dead. Frozen groups are thawed, since
    /// v1 delivers no signal to them.
    pub(super) fn kill(&self) -> io::Result<()> {
        for name in self.children() {
            self.child(name).kill()?;
        }
        let deadline = Instant::now() + DEATH_MAX;
        loop {
            self.thaw();
            let dying: Vec<_> = self
                .processes()
                .into_iter()
                .filter(|pid| *pid != getpid())
                .filter_map(|pid| {
                    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
                    // It may have left the group, and its number been reused, since the list was read.
                    self.processes().contains(&pid).then_some(pidfd)
                })
                .collect();
            if dying.is_empty() {
                return Ok(());
            }
            for pidfd in &dying {
                // The only failure is that it is dead already.
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            }
            for pidfd in &dying {
                wait_for_death(pidfd, deadline)?;
            }
        }
    }

    /// Removes the group and those below from every hierarchy; they should be without processes, and who is there
    /// all the same is killed. What does not exist counts as removed.
    pub(super) fn remove(&self) -> io::Result<()> {
        for name in self.children() {
            self.child(name).remove()?;
        }
        for directory in self.directories() {
            self.remove_directory(&directory)?;
        }
        Ok(())
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        let deadline = Instant::now() + DEATH_MAX;
        loop {
            match fs::remove_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error)
                    if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
                {
                    // A worker that was killed while it moved a process here finishes that first.
                    self.kill()?;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(at(directory, &error)),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Removes the group from every hierarchy where it has neither processes nor groups below it.
    pub(super) fn remove_where_empty(&self) {
        for directory in self.directories() {
            let _ = fs::remove_dir(directory);
        }
    }

    /// Lets frozen processes continue; a group that is gone or not frozen stays as it is.
    pub(super) fn thaw(&self) {
        let (file, text) = match self.hierarchies.version {
            CgroupVersion::V1 => ("freezer.state", "THAWED"),
            CgroupVersion::V2 => ("cgroup.freeze", "0"),
        };
        let _ = fs::write(self.file("freezer", file), text);
    }

    /// Processes in the group itself, in any hierarchy.
    pub(super) fn processes(&self) -> Vec<Pid> {
        let lists = self
            .directories()
            .into_iter()
            .map(|directory| fs::read_to_string(directory.join("cgroup.procs")));
        let mut processes: Vec<i32> = Vec::new();
        for list in lists.flatten() {
            processes.extend(list.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        processes.sort_unstable();
        processes.dedup();
        processes.into_iter().filter_map(Pid::from_raw).collect()
    }

    fn directories(&self) -> Vec<PathBuf> {
        distinct(self.hierarchies.roots.values())
            .into_iter()
            .map(|root| root.join(&self.path))
            .collect()
    }

    fn file(&self, controller: &str, name: &str) -> PathBuf {
        let roots = &self.hierarchies.roots;
        // What belongs to no controller, such as v2's freezer, is in the only hierarchy there is.
        let root = roots.get(controller).or_else(|| roots.values().next());
        let root = root.map_or(Path::new("/sys/fs/cgroup"), PathBuf::as_path);
        root.join(&self.path).join(name)
    }

    fn number(&self, controller: &str, name: &str) -> Option<u64> {
        fs::read_to_string(self.file(controller, name)).ok()?.trim().parse().ok()
    }

    fn keyed(&self, controller: &str, name: &str, key: &str) -> Option<u64> {
        Some(value_of(&fs::read_to_string(self.file(controller, name)).ok()?, key))
    }
}

/// The group of the `cpu` controller in `/proc/self/cgroup`, from the root of its hierarchy; `None` for one outside of
/// what this process may see.
pub(super) fn cpu_group(text: &str, version: CgroupVersion) -> Option<&Path> {
    let named = |controllers: &str| match version {
        CgroupVersion::V1 => controllers.split(',').any(|name| name == "cpu"),
        CgroupVersion::V2 => controllers.is_empty(),
    };
    text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let path = Path::new(path);
        let path = path.strip_prefix("/").unwrap_or(path);
        (named(controllers) && !path.starts_with("..")).then_some(path)
    })
}

fn nanoseconds(microseconds: Option<u64>) -> Option<u64> {
    microseconds.map(|it| it.saturating_mul(1_000))
}

/// An error that says where.
fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn distinct<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Vec<&'a Path> {
    let mut paths: Vec<&Path> = paths.map(PathBuf::as_path).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// The number after `key` in lines of `key number`.
fn value_of(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

fn wait_for_death(pidfd: &impl rustix::fd::AsFd, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::TimedOut, "a killed process did not die")),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_that_counts_cpu_time_is_found_on_both_versions() {
        let hybrid = "12:memory:/m\n4:cpu,cpuacct:/c\n1:name=systemd:/s\n0::/u\n";
        assert_eq!(cpu_group(hybrid, CgroupVersion::V1), Some(Path::new("c")));
        assert_eq!(cpu_group(hybrid, CgroupVersion::V2), Some(Path::new("u")));
        assert_eq!(cpu_group("4:cpuacct:/c\n", CgroupVersion::V1), None);
        assert_eq!(cpu_group("4:cpu:/c\n1:name=systemd:/a\n", CgroupVersion::V2), None);
        assert_eq!(cpu_group("0::/\n", CgroupVersion::V2), Some(Path::new("")));
    }

    #[test]
    fn a_keyed_value_is_found_by_its_whole_key() {
        assert_eq!(value_of("oom 3\noom_kill 2\n", "oom_kill"), 2);
        assert_eq!(value_of("oom 3\n", "oom_kill"), 0);
    }
}
