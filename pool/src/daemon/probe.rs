//! What this machine offers sandboxes, as found by looking; nothing is tried out.

use std::fs;

use serde::{Deserialize, Serialize};

use super::cgroup::{Hierarchies, V1_CONTROLLERS, V2_CONTROLLERS};

/// Namespaces that every sandbox gets, by their name in `/proc/self/ns`.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
/// `CAP_DAC_OVERRIDE`, `CAP_KILL`, `CAP_SETGID`, `CAP_SETUID`, `CAP_SETPCAP`, `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`, as
/// bits of `/proc/self/status`.
const CAPABILITIES: u64 = 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 21;

/// What this machine offers sandboxes, for `baton doctor` and for the daemon's first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The process has the capabilities that making sandboxes needs.
    pub privileged: bool,
    /// The cgroup version that limits sandboxes; `None` when controllers are missing.
    pub cgroup: Option<CgroupVersion>,
    /// Controllers found, by their kernel name, sorted.
    pub controllers: Vec<String>,
    /// Namespace kinds of this kernel, by their name in `/proc/self/ns`, sorted.
    pub namespaces: Vec<String>,
    /// System calls can be filtered.
    pub seccomp: bool,
}

/// Which cgroup interface the controllers are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupVersion {
    /// One hierarchy a controller (also when v2 is mounted beside them without controllers).
    V1,
    /// The unified hierarchy.
    V2,
}

impl Machine {
    /// Looks at this machine from this process. What cannot be read counts as missing.
    pub fn probe() -> Machine {
        let hierarchies = Hierarchies::find();
        let controllers: Vec<String> = hierarchies.controllers().map(str::to_owned).collect();
        let needed: &[&str] = match hierarchies.version {
            CgroupVersion::V1 => &V1_CONTROLLERS,
            CgroupVersion::V2 => &V2_CONTROLLERS,
        };
        let complete = needed.iter().all(|name| controllers.iter().any(|found| found == name));
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Machine {
            privileged: effective_capabilities(&status) & CAPABILITIES == CAPABILITIES,
            cgroup: complete.then_some(hierarchies.version),
            controllers,
            namespaces: namespaces(),
            seccomp: status.lines().any(|line| line.starts_with("Seccomp_filters:"))
                || fs::exists("/proc/sys/kernel/seccomp/actions_avail").unwrap_or(false),
        }
    }

    /// Why sandboxes are not possible here, a sentence each; empty when they are.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.privileged {
            missing.push("this process lacks capabilities that root has".to_owned());
        }
        if self.cgroup.is_none() {
            missing.push(format!(
                "cgroup controllers are missing, found only: {}",
                self.controllers.join(", ")
            ));
        }
        for kind in NAMESPACES {
            if !self.namespaces.iter().any(|found| found == kind) {
                missing.push(format!("this kernel has no {kind} namespaces"));
            }
        }
        if !self.seccomp {
            missing.push("this kernel cannot filter system calls".to_owned());
        }
        missing
    }
}

fn effective_capabilities(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

fn namespaces() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir("/proc/self/ns")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.ends_with("_for_children"))
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unprivileged_machine_says_so() {
        let machine = Machine {
            privileged: false,
            cgroup: Some(CgroupVersion::V2),
            controllers: V2_CONTROLLERS.map(str::to_owned).to_vec(),
            namespaces: NAMESPACES.map(str::to_owned).to_vec(),
            seccomp: true,
        };
        assert_eq!(machine.missing(), ["this process lacks capabilities that root has"]);
    }

    #[test]
    fn capabilities_are_read_from_the_status() {
        assert_eq!(
            effective_capabilities("CapPrm:\t00ff\nCapEff:\t000001ffffffffff\n"),
            0x1ff_ffff_ffff
        );
        assert_eq!(effective_capabilities(""), 0);
    }
}
