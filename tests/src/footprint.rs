//! What a running Baton has on the machine, and what of it is left later.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use nix::unistd::Pid;

use crate::baton::{Baton, Place, cgroups, children};

/// Everything of one Baton by which it could be found after its end.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// Each process with the time at which it was started: numbers are used again.
    processes: BTreeSet<(i32, String)>,
    /// Network namespaces of its sandboxes, as `/proc` shows them. Each is held, so that the kernel gives
    /// its number to no other meanwhile.
    networks: BTreeMap<PathBuf, Arc<File>>,
    state: PathBuf,
    cgroup_parent: String,
}

impl Footprint {
    /// Of a Baton as it is now.
    #[must_use]
    pub fn of(baton: &Baton) -> Self {
        let mut pids = vec![baton.pid()];
        let mut next = 0;
        while let Some(&pid) = pids.get(next) {
            pids.extend(children(pid));
            next += 1;
        }
        let inside = members(&baton.place);
        let ours = network(std::process::id().cast_signed());
        let held = |pid: &i32| Some((network(*pid)?, Arc::new(File::open(network_of(*pid)).ok()?)));
        let networks = inside.iter().filter_map(held);
        let networks = networks.filter(|(network, _)| Some(network) != ours.as_ref()).collect();
        let all = pids.into_iter().map(Pid::as_raw).chain(inside);
        Self {
            processes: all.filter_map(|pid| Some((pid, started(pid)?))).collect(),
            networks,
            state: baton.place.state(),
            cgroup_parent: baton.place.cgroup_parent.clone(),
        }
    }

    /// How many sandboxes it had, by their network namespaces.
    #[must_use]
    pub fn sandboxes(&self) -> usize {
        self.networks.len()
    }

    /// What is still there, in words; nothing is as it should be.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let alive = |(pid, start): &&(i32, String)| started(*pid).as_ref() == Some(start);
        left.extend(self.processes.iter().filter(alive).map(|(pid, _)| format!("process {pid}")));
        for pid in processes() {
            if network(pid).is_some_and(|network| self.networks.contains_key(&network)) {
                left.push(format!("network namespace of process {pid}"));
            }
            let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            left.extend(
                mounts
                    .lines()
                    .filter(|line| self.owns(line))
                    .map(|line| format!("mount in process {pid}: {line}")),
            );
        }
        let inside = |root: PathBuf| fs::read_dir(root).into_iter().flatten().flatten();
        let cgroups = cgroups(&self.cgroup_parent).into_iter().flat_map(inside);
        let cgroups = cgroups.filter(|entry| entry.path().is_dir());
        left.extend(cgroups.map(|entry| format!("cgroup {}", entry.path().display())));
        left.extend(inside(self.state.clone()).map(|entry| format!("{}", entry.path().display())));
        left
    }

    /// Whether a line of mountinfo is about its directories, or pins a network of its sandboxes.
    fn owns(&self, line: &str) -> bool {
        let pinned = |network: &PathBuf| line.contains(&network.display().to_string());
        line.contains(&self.state.display().to_string()) || self.networks.keys().any(pinned)
    }
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The processes in a place's control groups.
fn members(place: &Place) -> BTreeSet<i32> {
    let mut directories = place.cgroups();
    let mut members = BTreeSet::new();
    while let Some(directory) = directories.pop() {
        let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        members.extend(listed.lines().filter_map(|pid| pid.parse::<i32>().ok()));
        let inside = fs::read_dir(directory).into_iter().flatten().flatten();
        directories.extend(inside.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    members
}

fn network(pid: i32) -> Option<PathBuf> {
    fs::read_link(network_of(pid)).ok()
}

fn network_of(pid: i32) -> String {
    format!("/proc/{pid}/ns/net")
}

fn started(pid: i32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = status.rsplit(") ").next()?.split(' ').collect();
    // A process that has ended and was not waited for is nobody's any more.
    if fields.first() == Some(&"Z") { None } else { fields.get(19).map(|&ticks| ticks.to_owned()) }
}
