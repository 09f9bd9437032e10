//! Death of the daemon and of its workers.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use baton_pool::daemon::sweep::{RunLock, sweep};
use baton_pool::protocol::{Exit, FromDaemon, Question, SandboxId, ToDaemon};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::process::{Pid, Signal, kill_process};

use crate::root::keep;
use crate::support::{Daemon, LIMITS, Run, cgroup_file, is_v2};

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn is_dead(pid: u32) -> bool {
    // A zombie is dead: somebody else has to reap it.
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn a_sweep_removes_what_a_killed_daemon_left() {
    let mut daemon = Daemon::start();
    let running = daemon.park(1).activate(&daemon.run, LIMITS);
    let parked = daemon.park(2);
    let run = daemon.kill();
    assert_eq!(running.get("/").unwrap(), "hello", "sandboxes outlive their daemon");
    let (swept, failed) = sweep(&run.state_root, &run.cgroup_root);
    assert!(swept.contains(&"run".to_owned()) && failed.is_empty(), "{swept:?} {failed:?}");
    assert!(is_dead(running.pid) && is_dead(parked.pid));
    assert!(!run.state_root.join("run").exists());
    run.clean();
}

#[test]
fn a_sweep_leaves_the_sandboxes_of_a_living_run_alone() {
    let mut daemon = Daemon::start();
    let lock = RunLock::claim(&daemon.run.state_root, "run").unwrap();
    let function = daemon.park(1).activate(&daemon.run, LIMITS);
    let (swept, _) = sweep(&daemon.run.state_root, &daemon.run.cgroup_root);
    assert!(!swept.contains(&"run".to_owned()), "{swept:?}");
    assert_eq!(function.get("/").unwrap(), "hello");
    drop(lock);
    daemon.end();
}

#[test]
fn a_successor_spares_what_is_in_use_and_removes_the_rest() {
    let mut daemon = Daemon::start();
    let used = daemon.park(1).activate(&daemon.run, LIMITS);
    let idle = daemon.park(2);
    let mut successor = Daemon::start_in(daemon.kill(), 2);
    successor.tell(&ToDaemon::Hello { in_use: vec![used.id, SandboxId(77)] });
    let gone = successor.hear().0;
    assert!(
        matches!(gone, FromDaemon::Gone { id: SandboxId(77), .. }),
        "one that died in between: {gone:?}"
    );
    assert!(is_dead(idle.pid));
    assert_eq!(used.get("/").unwrap(), "hello");
    let gone = successor.remove(used.id);
    assert!(matches!(gone, FromDaemon::Gone { id: SandboxId(1), exit: None, .. }), "{gone:?}");
    assert!(is_dead(used.pid));
    successor.end();
}

#[test]
fn a_successor_tells_the_end_of_what_it_spared() {
    let mut daemon = Daemon::start();
    let used = daemon.park(1).activate(&daemon.run, LIMITS);
    let mut successor = Daemon::start_in(daemon.kill(), 2);
    successor.tell(&ToDaemon::Hello { in_use: vec![used.id] });
    used.get("/exit/0").unwrap_err();
    let gone = successor.hear().0;
    assert!(matches!(gone, FromDaemon::Gone { id: SandboxId(1), .. }), "{gone:?}");
    successor.end();
}

#[test]
fn a_worker_killed_with_a_job_fails_only_that_job() {
    let mut daemon = Daemon::start_in(Run::new(), 1);
    let worker = daemon.workers()[0];
    signal(worker, Signal::STOP);
    daemon.tell(&ToDaemon::Create { id: SandboxId(1), scratch: 0, egress: None });
    // The daemon has given the job away when it answers what came after it, here a user that is taken.
    daemon.tell(&ToDaemon::Create { id: SandboxId(1 + 2048), scratch: 0, egress: None });
    assert!(matches!(daemon.hear().0, FromDaemon::CreateFailed { id: SandboxId(2049), .. }));
    signal(worker, Signal::KILL);
    let failed = daemon.hear().0;
    assert!(
        matches!(&failed, FromDaemon::CreateFailed { id: SandboxId(1), error } if error == "its worker ended half way with signal 9"),
        "{failed:?}"
    );
    daemon.park(2);
    daemon.end();
}

#[test]
fn a_worker_killed_half_way_leaves_nothing() {
    let mut daemon = Daemon::start_in(Run::new(), 1);
    let (root, switch, frozen, thawed) = if is_v2() {
        ("/sys/fs/cgroup", "cgroup.freeze", "1", "0")
    } else {
        ("/sys/fs/cgroup/freezer", "freezer.state", "FROZEN", "THAWED")
    };
    let parent = Path::new(root).join(daemon.run.cgroup());
    for id in 1..=10 {
        let worker = daemon.workers()[0];
        // The fault point: whoever enters the sandbox's group stops there, and the worker waits for it.
        fs::write(parent.join(switch), frozen).unwrap();
        daemon.tell(&ToDaemon::Create { id: SandboxId(id), scratch: 0, egress: None });
        let processes = parent.join(id.to_string()).join("cgroup.procs");
        while fs::read_to_string(&processes).is_ok_and(|text| text.is_empty())
            || !processes.exists()
        {
            std::thread::yield_now();
        }
        signal(worker, Signal::KILL);
        fs::write(parent.join(switch), thawed).unwrap();
        let failed = daemon.hear().0;
        assert!(
            matches!(&failed, FromDaemon::CreateFailed { error, .. } if error.ends_with("signal 9")),
            "{failed:?}"
        );
        assert!(!processes.exists());
    }
    let sandbox = daemon.park(11);
    daemon.remove(sandbox.id);
    daemon.end();
}

/// What became of a child or a traced process.
fn next_stop(pid: i32) -> WaitStatus {
    waitpid(nix::unistd::Pid::from_raw(pid), Some(WaitPidFlag::__WALL)).unwrap()
}

/// The fault point: a process that makes this system call next is stopped there; `meanwhile` made it do so.
fn stop_at(pid: i32, call: libc::c_long, meanwhile: impl FnOnce()) {
    let traced = nix::unistd::Pid::from_raw(pid);
    let stop = || next_stop(pid);
    ptrace::attach(traced).unwrap();
    stop();
    meanwhile();
    loop {
        ptrace::syscall(traced, None).unwrap();
        assert!(matches!(stop(), WaitStatus::Stopped(..)), "it ended without the call");
        let at = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
        if at.split(' ').next() == Some(&call.to_string()) {
            break;
        }
    }
}

/// The same, and it is killed there.
fn kill_at(pid: i32, call: libc::c_long, meanwhile: impl FnOnce()) {
    stop_at(pid, call, meanwhile);
    signal(pid, Signal::KILL);
    while !matches!(next_stop(pid), WaitStatus::Signaled(..)) {}
}

#[test]
fn what_a_daemon_leaves_that_was_killed_while_it_attached_a_root_its_successor_removes() {
    let calls = [
        libc::SYS_open_tree,
        libc::SYS_mount_setattr,
        libc::SYS_setns,
        libc::SYS_move_mount,
        libc::SYS_pivot_root,
        libc::SYS_umount2,
    ];
    for call in calls {
        let mut daemon = Daemon::start_in(Run::new(), 1);
        keep(&daemon, 1, None, Some("/run/function.sock"));
        let sandbox = daemon.park(1);
        kill_at(daemon.process.id().cast_signed(), call, || {
            daemon.tell(&ToDaemon::Ask { id: sandbox.id, question: Question::Attach { root: 1 } });
        });
        let mut successor = Daemon::start_in(daemon.run, 1);
        successor.tell(&ToDaemon::Hello { in_use: vec![] });
        keep(&successor, 1, None, Some("/run/function.sock"));
        let next = successor.park(2);
        assert!(is_dead(sandbox.pid));
        successor.ask(next.id, Question::Attach { root: 1 }).unwrap();
        successor.end();
    }
}

#[test]
fn a_daemon_that_is_held_up_in_a_root_ends() {
    let mut daemon = Daemon::start_in(Run::new(), 1);
    keep(&daemon, 1, None, None);
    let sandbox = daemon.park(1);
    let pid = daemon.process.id().cast_signed();
    stop_at(pid, libc::SYS_open_tree, || {
        daemon.tell(&ToDaemon::Ask { id: sandbox.id, question: Question::Attach { root: 1 } });
    });
    // It stays in the call until its time is over.
    let alarmed = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
        u64::from_str_radix(pending.trim(), 16).unwrap() & (1 << (libc::SIGALRM - 1)) != 0
    };
    let began = Instant::now();
    while !alarmed() {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing ends it");
        std::thread::sleep(Duration::from_millis(100));
    }
    ptrace::detach(nix::unistd::Pid::from_raw(pid), None).unwrap();
    assert!(matches!(next_stop(pid), WaitStatus::Signaled(_, nix::sys::signal::SIGALRM, _)));
    let mut successor = Daemon::start_in(daemon.run, 1);
    successor.tell(&ToDaemon::Hello { in_use: vec![] });
    successor.park(2);
    assert!(is_dead(sandbox.pid));
    successor.end();
}

#[test]
fn a_stub_killed_at_its_exec_is_gone_with_its_signal() {
    let mut daemon = Daemon::start();
    let sandbox = daemon.park(1);
    let (pid, run) = (sandbox.pid.cast_signed(), daemon.run.clone());
    let started = std::thread::spawn({
        let traced = std::sync::mpsc::sync_channel(1);
        let (told, heard) = traced;
        let killer = std::thread::spawn(move || {
            kill_at(pid, libc::SYS_execveat, || told.send(()).unwrap());
        });
        move || {
            heard.recv().unwrap();
            // Its end closes the control socket, as a successful exec does: only the process's end says which it was.
            let started = sandbox.activate(&run, LIMITS);
            killer.join().unwrap();
            started
        }
    });
    let function = started.join().unwrap();
    let gone = daemon.hear().0;
    assert!(
        matches!(gone, FromDaemon::Gone { exit: Some(Exit::Signal(libc::SIGKILL)), .. }),
        "{gone:?}"
    );
    assert!(is_dead(function.pid));
    daemon.end();
}

#[test]
fn a_function_killed_while_it_is_frozen_is_removed() {
    let mut daemon = Daemon::start();
    let mut function = daemon.park(1).activate(&daemon.run, LIMITS);
    function.activating.take_freezer().unwrap().freeze().unwrap();
    // The fault point: it is stopped.
    let (file, stopped) =
        if is_v2() { ("cgroup.events", "frozen 1") } else { ("freezer.state", "FROZEN") };
    while !cgroup_file(&daemon.run, function.id, "freezer", file).contains(stopped) {
        std::thread::yield_now();
    }
    signal(function.pid.cast_signed(), Signal::KILL);
    // On v2 it dies of that; on v1 it has to be thawed first, which its removal does.
    let gone = daemon.remove(function.id);
    assert!(
        matches!(gone, FromDaemon::Gone { exit: Some(Exit::Signal(libc::SIGKILL)), .. }),
        "{gone:?}"
    );
    daemon.end();
}

#[test]
fn sigterm_ends_the_daemon_and_its_sandboxes() {
    let mut daemon = Daemon::start();
    let function = daemon.park(1).activate(&daemon.run, LIMITS);
    signal(daemon.process.id().cast_signed(), Signal::TERM);
    assert!(daemon.process.wait().unwrap().success());
    assert!(is_dead(function.pid));
    daemon.run.check_empty();
    daemon.run.clean();
}
