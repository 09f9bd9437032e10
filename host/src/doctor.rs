//! `baton doctor`: what this machine offers, and what Baton does without the rest.

use std::fmt::Write as _;

use baton_pool::daemon::probe::{CgroupVersion, Machine};
use nix::sys::utsname::uname;
use wasmtime::PoolingAllocationConfig;

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
