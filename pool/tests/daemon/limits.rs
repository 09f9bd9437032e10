//! What a function may use.

use baton_pool::activation::Limits;
use baton_pool::protocol::{Exit, FromDaemon};

use crate::support::{Daemon, LIMITS, cgroup_file, is_v2};

#[test]
fn the_limits_of_an_activation_are_those_of_the_cgroup() {
    let mut daemon = Daemon::start();
    let limits = Limits { memory: 96 << 20, cpu: 0.5, pids: 24, descriptors: 128 };
    let function = daemon.park(1).activate(&daemon.run, limits);
    let read = |controller, name| cgroup_file(&daemon.run, function.id, controller, name);
    assert_eq!(read("pids", "pids.max"), "24");
    if is_v2() {
        assert_eq!(read("memory", "memory.max"), (96 << 20).to_string());
        assert_eq!(read("memory", "memory.swap.max"), "0");
        assert_eq!(read("cpu", "cpu.max"), "50000 100000");
    } else {
        assert_eq!(read("memory", "memory.limit_in_bytes"), (96 << 20).to_string());
        assert_eq!(read("memory", "memory.memsw.limit_in_bytes"), (96 << 20).to_string());
        assert_eq!(read("cpu", "cpu.cfs_quota_us"), "50000");
        assert_eq!(read("cpu", "cpu.cfs_period_us"), "100000");
    }
    daemon.end();
}

#[test]
fn limits_below_those_of_a_parked_sandbox_are_written_too() {
    let mut daemon = Daemon::start();
    let function = daemon.park(1).activate(&daemon.run, Limits { memory: 8 << 20, ..LIMITS });
    let name = if is_v2() { "memory.max" } else { "memory.memsw.limit_in_bytes" };
    assert_eq!(cgroup_file(&daemon.run, function.id, "memory", name), (8 << 20).to_string());
    assert_eq!(function.get("/").unwrap(), "hello");
    daemon.end();
}

#[test]
fn one_core_is_what_a_sandbox_is_parked_with() {
    let mut daemon = Daemon::start();
    let sandbox = daemon.park(1);
    let id = sandbox.id;
    let (name, core) =
        if is_v2() { ("cpu.max", "100000 100000") } else { ("cpu.cfs_quota_us", "100000") };
    assert_eq!(cgroup_file(&daemon.run, id, "cpu", name), core);
    let function = sandbox.activate(&daemon.run, Limits { cpu: 1.0, ..LIMITS });
    assert_eq!(function.get("/").unwrap(), "hello");
    assert_eq!(cgroup_file(&daemon.run, id, "cpu", name), core);
    daemon.end();
}

#[test]
fn resource_limits_reach_the_function() {
    let mut daemon = Daemon::start();
    let function = daemon.park(1).activate(&daemon.run, Limits { descriptors: 77, ..LIMITS });
    let limits = function.get("/read/proc/self/limits").unwrap();
    let line = |name| {
        limits
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap()
            .split_whitespace()
            .rev()
            .take(3)
            .collect::<Vec<_>>()
    };
    assert_eq!(line("Max open files"), ["files", "77", "77"]);
    assert_eq!(line("Max core file size"), ["bytes", "0", "0"]);
    daemon.end();
}

#[test]
fn a_function_that_takes_too_much_memory_is_killed_and_counted() {
    let mut daemon = Daemon::start();
    let function = daemon.park(1).activate(&daemon.run, LIMITS);
    function.get("/burn/200000000").unwrap_err();
    let gone = daemon.hear().0;
    assert!(
        matches!(
            gone,
            FromDaemon::Gone { exit: Some(Exit::Signal(libc::SIGKILL)), oom_kills: 1, .. }
        ),
        "{gone:?}"
    );
    daemon.end();
}

#[test]
fn all_sandboxes_together_weigh_less_than_a_neighbour() {
    let daemon = Daemon::start();
    let (file, default) = if is_v2() { ("cpu.weight", 100) } else { ("cpu.shares", 1024) };
    let groups = daemon.run.cgroup_directories().into_iter().map(|it| it.join("run").join(file));
    let weights = groups.filter_map(|file| std::fs::read_to_string(file).ok());
    let weights: Vec<u64> = weights.map(|weight| weight.trim().parse().unwrap()).collect();
    assert!(!weights.is_empty() && weights.iter().all(|weight| *weight < default), "{weights:?}");
    daemon.end();
}

#[test]
fn the_daemon_stands_behind_for_a_core_and_what_a_sandbox_runs_does_not() {
    let nice = |pid: u32| {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed());
        rustix::process::getpriority_process(pid).unwrap()
    };
    let usual = nice(std::process::id());
    let mut daemon = Daemon::start();
    let sandbox = daemon.park(1);
    assert_eq!(nice(sandbox.pid), usual);
    let function = sandbox.activate(&daemon.run, LIMITS);
    assert_eq!((nice(function.pid), nice(daemon.process.id())), (usual, usual + 10));
    daemon.end();
}

#[test]
fn a_function_does_not_take_the_core_from_who_hands_it_a_request() {
    let mut daemon = Daemon::start();
    let function = daemon.park(1).activate(&daemon.run, LIMITS);
    let status = std::fs::read_to_string(format!("/proc/{}/stat", function.pid)).unwrap();
    // Of the fields after the name (`proc_pid_stat(5)`), the 41st of all: the scheduling policy.
    let policy = status.rsplit(')').next().unwrap().split_whitespace().nth(41 - 3);
    assert_eq!(policy, Some("3"), "SCHED_BATCH");
    daemon.end();
}
