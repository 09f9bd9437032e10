//! `baton doctor`: what this machine offers, and what Baton does without the rest.

use std::fmt::Write as _;

use baton_pool::daemon::probe::{CgroupVersion, Machine};
use nix::sys::utsname::uname;
use wasmtime::PoolingAllocationConfig;

/// The first kernel with `cpu.idle`; some older ones have been given it.
const IDLE_GROUPS: [u32; 2] = [5, 15];

/// Whether control groups can be idle. Groups have a file for it: on v1 the root has it, on v2 those below.
fn has_idle_groups(release: &str) -> bool {
    let groups = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    is_at_least(release, IDLE_GROUPS)
        || groups.map(|group| group.path()).any(|group| group.join("cpu.idle").exists())
}

/// Whether a kernel's release, as in `6.18.44-cloud-amd64`, is this version or a later one.
fn is_at_least(release: &str, version: [u32; 2]) -> bool {
    let numbers = release.split(|it: char| !it.is_ascii_digit()).map(|it| it.parse().unwrap_or(0));
    numbers.take(2).collect::<Vec<u32>>() >= version.to_vec()
}

/// The report, one line a finding.
#[must_use]
pub fn report() -> String {
    let machine = Machine::probe();
    let kernel = uname().map(|name| name.release().to_string_lossy().into_owned());
    let mut text = String::new();
    let mut line = |good: bool, what: &str, found: &str, without: &str| {
        let mark = if good { "ok  " } else { "none" };
        let _ = write!(text, "{mark}  {what:<22} {found}");
        if !good {
            let _ = write!(text, "; {without}");
        }
        text.push('\n');
    };
    line(kernel.is_ok(), "kernel", kernel.as_deref().unwrap_or("unknown"), "");
    line(
        machine.privileged,
        "privilege",
        if machine.privileged { "root with all capabilities" } else { "not root" },
        "no sandboxes are made, everything is served from WebAssembly",
    );
    let cgroup = match machine.cgroup {
        Some(CgroupVersion::V1) => "version 1",
        Some(CgroupVersion::V2) => "version 2",
        None => "controllers are missing",
    };
    line(
        machine.cgroup.is_some(),
        "cgroup",
        &format!("{cgroup} ({})", machine.controllers.join(", ")),
        "sandboxes cannot be limited and are not made",
    );
    line(
        !machine.namespaces.is_empty(),
        "namespaces",
        &machine.namespaces.join(", "),
        "sandboxes are not made",
    );
    line(
        machine.seccomp,
        "seccomp",
        if machine.seccomp { "filters" } else { "no filters" },
        "sandboxes are not made",
    );
    let idle = kernel.as_deref().is_ok_and(has_idle_groups);
    line(
        idle,
        "idle cgroups",
        if idle { "cpu.idle" } else { "not offered (Linux 5.15 has them)" },
        "requests may feel on a busy machine that sandboxes are made",
    );
    let scan = PoolingAllocationConfig::is_pagemap_scan_available();
    line(
        scan,
        "pagemap scan",
        if scan { "PAGEMAP_SCAN" } else { "not offered (Linux 6.7 has it)" },
        "instances of components are reset more slowly",
    );
    let missing = machine.missing();
    if missing.is_empty() {
        text.push_str("\nBoth tiers work here.");
    } else {
        text.push_str("\nOnly WebAssembly works here:");
        for reason in missing {
            let _ = write!(text, "\n  - {reason}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        for release in ["5.15.0-91-generic", "5.15", "6.1.0", "10.2-rc1"] {
            assert!(is_at_least(release, IDLE_GROUPS), "{release}");
        }
        for release in ["5.9.16", "5.14.0-427.el9", "4.18", "5", ""] {
            assert!(!is_at_least(release, IDLE_GROUPS), "{release}");
        }
    }
}
