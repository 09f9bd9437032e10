//! Nothing remains of a sandbox, whatever its state was.

use std::collections::BTreeSet;

use baton_pool::protocol::{Exit, FromDaemon, SandboxId, ToDaemon};

use crate::support::{Daemon, LIMITS, Run, is_v2};

#[test]
fn a_parked_sandbox_is_removed() {
    let mut daemon = Daemon::start();
    let sandbox = daemon.park(1);
    let gone = daemon.remove(sandbox.id);
    assert!(
        matches!(gone, FromDaemon::Gone { id: SandboxId(1), exit: Some(Exit::Signal(9)), .. }),
        "{gone:?}"
    );
    daemon.end();
}

#[test]
fn a_running_function_is_removed() {
    let mut daemon = Daemon::start();
    let function = daemon.park(1).activate(&daemon.run, LIMITS);
    let gone = daemon.remove(function.id);
    assert!(
        matches!(gone, FromDaemon::Gone { id: SandboxId(1), exit: Some(Exit::Signal(9)), .. }),
        "{gone:?}"
    );
    assert!(function.get("/").is_err());
    daemon.end();
}

#[test]
fn a_frozen_function_is_removed() {
    let mut daemon = Daemon::start();
    let mut function = daemon.park(1).activate(&daemon.run, LIMITS);
    function.activating.take_freezer().unwrap().freeze().unwrap();
    let gone = daemon.remove(function.id);
    assert!(matches!(gone, FromDaemon::Gone { id: SandboxId(1), .. }), "{gone:?}");
    daemon.end();
}

#[test]
fn a_frozen_function_is_removed_at_the_daemons_end() {
    let mut daemon = Daemon::start();
    let mut function = daemon.park(1).activate(&daemon.run, LIMITS);
    function.activating.take_freezer().unwrap().freeze().unwrap();
    daemon.end();
}

#[test]
fn sandboxes_that_are_queued_or_being_made_are_removed() {
    let mut daemon = Daemon::start();
    for id in 1..=6 {
        daemon.tell(&ToDaemon::Create { id: SandboxId(id), scratch: 0, egress: None });
    }
    for id in 1..=6 {
        daemon.tell(&ToDaemon::Remove { id: SandboxId(id) });
    }
    let mut gone = BTreeSet::new();
    while gone.len() < 6 {
        match daemon.hear().0 {
            FromDaemon::Gone { id, .. } => assert!(gone.insert(id)),
            // It was made before the daemon read that it shall not be.
            FromDaemon::Parked { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    daemon.end();
}

#[test]
fn the_end_of_the_host_takes_every_sandbox_with_it() {
    let mut daemon = Daemon::start();
    let _running = daemon.park(1).activate(&daemon.run, LIMITS);
    let _parked = daemon.park(2);
    daemon.tell(&ToDaemon::Create { id: SandboxId(3), scratch: 0, egress: None });
    daemon.end();
}

#[test]
fn a_user_is_not_given_to_two_sandboxes_at_once() {
    let mut daemon = Daemon::start();
    let _first = daemon.park(1);
    daemon.tell(&ToDaemon::Create { id: SandboxId(1 + 2048), scratch: 0, egress: None });
    let failed = daemon.hear().0;
    assert!(matches!(failed, FromDaemon::CreateFailed { id: SandboxId(2049), .. }), "{failed:?}");
    daemon.end();
}

#[test]
fn fifty_creations_four_at_a_time_all_succeed() {
    create_and_remove(50, 4);
}

#[test]
#[ignore = "a thousand sandboxes alive need half a gibibyte of kernel memory; run by just test-pool-slow"]
fn a_thousand_sandboxes_live_at_once_and_are_all_removed() {
    let mut daemon = Daemon::start();
    for id in 0..1000 {
        daemon.tell(&ToDaemon::Create { id: SandboxId(id), scratch: 0, egress: None });
    }
    let mut sandboxes: Vec<_> = (0..1000).map(|_| daemon.parked()).collect();
    println!("memory of each: {} bytes", memory_of_each(&daemon));
    let function = sandboxes.remove(500).activate(&daemon.run, LIMITS);
    assert_eq!(function.get("/").unwrap(), "hello");
    daemon.end();
}

/// Charged to the group of all, kernel memory included, a sandbox.
fn memory_of_each(daemon: &Daemon) -> u64 {
    let root = std::path::Path::new("/sys/fs/cgroup");
    let file = if is_v2() { "memory.current" } else { "memory.usage_in_bytes" };
    let root = if is_v2() { root.to_owned() } else { root.join("memory") };
    let text = std::fs::read_to_string(root.join(daemon.run.cgroup()).join(file)).unwrap();
    text.trim().parse::<u64>().unwrap() / 1000
}

#[test]
#[ignore = "a thousand, for leaks that the fifty in CI are too few to show; run by just test-pool-slow"]
fn a_thousand_creations_sixteen_at_a_time_all_succeed() {
    println!("1000 made and removed in {:?}", create_and_remove(1000, 16));
}

/// Keeps `at_once` sandboxes being made or parked until `count` were made; each is removed as soon as it is parked.
fn create_and_remove(count: u64, at_once: u64) -> std::time::Duration {
    let mut daemon = Daemon::start_in(Run::new(), 2);
    let mut next = 0;
    let mut gone = 0;
    let begun = std::time::Instant::now();
    while gone < count {
        while next < count && next - gone < at_once {
            daemon.tell(&ToDaemon::Create { id: SandboxId(next), scratch: 0, egress: None });
            next += 1;
        }
        match daemon.hear().0 {
            FromDaemon::Parked { id, .. } => daemon.tell(&ToDaemon::Remove { id }),
            FromDaemon::Gone { .. } => gone += 1,
            other => panic!("{other:?}"),
        }
    }
    let taken = begun.elapsed();
    daemon.end();
    taken
}
