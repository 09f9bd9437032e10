//! What a sandbox is made of; what a function may try against it is in `hostile`.

use std::fs;

use baton_pool::protocol::{SandboxId, ToDaemon};

use crate::support::{Daemon, LIMITS, status};

fn no_privileges(pid: u32) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert_eq!(status(pid, "Seccomp"), "2");
    assert_eq!(status(pid, "Seccomp_filters"), "1");
    assert_eq!(status(pid, "Groups"), "");
}

#[test]
fn a_parked_sandbox_has_no_privileges() {
    let mut daemon = Daemon::start();
    let sandbox = daemon.park(1);
    no_privileges(sandbox.pid);
    daemon.end();
}

#[test]
fn a_function_has_no_privileges() {
    let mut daemon = Daemon::start();
    let function = daemon.park(1).activate(&daemon.run, LIMITS);
    no_privileges(function.pid);
    daemon.end();
}

#[test]
fn each_sandbox_has_its_own_outside_user() {
    let mut daemon = Daemon::start();
    let (first, second) = (daemon.park(1), daemon.park(2));
    assert_eq!(status(first.pid, "Uid"), "2000003\t2000003\t2000003\t2000003");
    assert_eq!(status(first.pid, "Gid"), "2000003\t2000003\t2000003\t2000003");
    assert_eq!(status(second.pid, "Uid"), "2000005\t2000005\t2000005\t2000005");
    daemon.end();
}

#[test]
fn a_sandbox_shares_no_namespace_with_the_host() {
    let mut daemon = Daemon::start();
    let sandbox = daemon.park(1);
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(namespace(&sandbox.pid.to_string()), namespace("self"), "{kind}");
    }
    daemon.end();
}

#[test]
fn the_root_is_read_only_and_has_nothing_but_devices_and_processes() {
    let mut daemon = Daemon::start();
    let function = daemon.park(1).activate(&daemon.run, LIMITS);
    let mut entries: Vec<_> = function.get("/list/").unwrap().lines().map(str::to_owned).collect();
    entries.sort_unstable();
    assert_eq!(entries, ["dev", "proc"]);
    assert_eq!(function.get("/write/file").unwrap(), "Read-only file system (os error 30)");
    assert_eq!(function.get("/write/dev/file").unwrap(), "Permission denied (os error 13)");
    daemon.end();
}

#[test]
fn a_scratch_is_private_writable_and_bounded() {
    let mut daemon = Daemon::start();
    daemon.tell(&ToDaemon::Create { id: SandboxId(1), scratch: 1 << 20, egress: None });
    let function = daemon.parked().activate(&daemon.run, LIMITS);
    assert_eq!(function.get("/write/tmp/file").unwrap(), "written");
    assert_eq!(function.get("/read/tmp/file").unwrap(), "written");
    assert_eq!(
        function.get("/fill/tmp/full/2000000").unwrap(),
        "No space left on device (os error 28)"
    );
    daemon.end();
}
