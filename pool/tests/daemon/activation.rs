//! From a parked sandbox to a function that serves.

use std::fs::{self, File};
use std::io::Read;

use baton_pool::protocol::{Exit, FromDaemon};

use crate::support::{Daemon, LIMITS, server};

#[test]
fn a_parked_sandbox_serves_after_activation() {
    let mut daemon = Daemon::start();
    let function = daemon.park(1).activate(&daemon.run, LIMITS);
    assert_eq!(function.get("/").unwrap(), "hello");
    daemon.end();
}

#[test]
fn a_function_has_its_own_environment_arguments_and_output() {
    let mut daemon = Daemon::start();
    let mut function = daemon.park(1).activate(&daemon.run, LIMITS);
    let environment = function.get("/environment").unwrap();
    assert_eq!(environment, "GREETING=hello\nLISTEN_PID=1\nLISTEN_FDS=1\nLISTEN_FDNAMES=http\n");
    let mut line = [0; 22];
    function.output.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"serving server --flag\n");
    daemon.end();
}

#[test]
fn a_function_has_no_descriptor_but_its_streams_its_listener_and_what_it_accepts() {
    let mut daemon = Daemon::start();
    let function = daemon.park(1).activate(&daemon.run, LIMITS);
    assert_eq!(function.get("/descriptors").unwrap(), "0 1 2 3 4 ");
    daemon.end();
}

#[test]
fn a_file_that_is_no_program_is_reported_with_its_errno() {
    let mut daemon = Daemon::start();
    let path = daemon.run.state_root.join("text");
    fs::write(&path, "no program").unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let sandbox = daemon.park(1);
    let failure = sandbox.execute(&daemon.run, LIMITS, &File::open(&path).unwrap()).err().unwrap();
    assert_eq!((failure.step.as_str(), failure.errno), ("execveat", libc::ENOEXEC));
    let gone = daemon.hear().0;
    assert!(matches!(gone, FromDaemon::Gone { exit: Some(Exit::Code(127)), .. }), "{gone:?}");
    daemon.end();
}

#[test]
fn a_file_without_permission_is_reported_with_its_errno() {
    let mut daemon = Daemon::start();
    let path = daemon.run.state_root.join("server");
    fs::copy(server(), &path).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let sandbox = daemon.park(1);
    let failure = sandbox.execute(&daemon.run, LIMITS, &File::open(&path).unwrap()).err().unwrap();
    assert_eq!(failure.to_string(), "execveat failed: Permission denied (os error 13)");
    daemon.end();
}

#[test]
fn a_parked_sandbox_that_the_host_lets_go_of_ends_by_itself() {
    let mut daemon = Daemon::start();
    drop(daemon.park(1));
    let gone = daemon.hear().0;
    assert!(matches!(gone, FromDaemon::Gone { exit: Some(Exit::Code(0)), .. }), "{gone:?}");
    daemon.end();
}

#[test]
fn the_end_of_a_function_is_told_with_its_status() {
    let mut daemon = Daemon::start();
    let function = daemon.park(1).activate(&daemon.run, LIMITS);
    function.get("/exit/7").unwrap_err();
    let gone = daemon.hear().0;
    assert!(
        matches!(
            gone,
            FromDaemon::Gone { exit: Some(Exit::Code(7)), cpu_ns: 1.., memory_peak: 1.., .. }
        ),
        "{gone:?}"
    );
    daemon.end();
}

#[test]
fn the_steps_of_a_creation_follow_each_other() {
    let mut daemon = Daemon::start();
    let sandbox = daemon.park(1);
    let names: Vec<&str> = sandbox.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["group", "configure", "create", "start", "park", "open limits"]);
    assert!(sandbox.steps.windows(2).all(|pair| pair[0].end_unix_ns == pair[1].start_unix_ns));
    daemon.end();
}
