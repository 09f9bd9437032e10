//! Sandboxes with a root of their function's own.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use baton_pool::activation::{Program, StartFailure};
use baton_pool::protocol::{self, FromDaemon, Question, Root, SandboxId, ToDaemon};
use rustix::fs::{FlockOperation, flock};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::support::{Daemon, Function, LIMITS, Sandbox, dynamic_program, server, status};

/// A directory with the server, linked dynamically, and what its loader needs.
fn directory(daemon: &Daemon) -> PathBuf {
    let root = daemon.run.state_root.join("root");
    for name in ["dev", "proc", "tmp", "run", "bin"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let program = dynamic_program("server");
    let listed = Command::new("ldd").arg(&program).output().unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(library, to).unwrap();
    }
    fs::copy(program, root.join("bin/server")).unwrap();
    fs::write(root.join("greeting"), "from the root").unwrap();
    root
}

/// Tells the daemon of a root, as the supervisor does.
pub(crate) fn keep(daemon: &Daemon, number: u32, directory: Option<&Path>, socket: Option<&str>) {
    keep_holding(daemon, number, directory, socket, None);
}

/// The same, with a descriptor that stays open as long as the root is needed.
fn keep_holding(
    daemon: &Daemon,
    number: u32,
    directory: Option<&Path>,
    socket: Option<&str>,
    hold: Option<File>,
) {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = directory.map(|directory| open_tree(rustix::fs::CWD, directory, flags).unwrap());
    let tree = tree.iter().map(AsFd::as_fd);
    let descriptors: Vec<_> = tree.chain(hold.iter().map(AsFd::as_fd)).collect();
    let root = Root { number, socket: socket.map(PathBuf::from) };
    protocol::send(&daemon.supervisor, &root, &descriptors).unwrap();
}

fn at(path: &str) -> Program {
    Program::Path { path: CString::new(path).unwrap(), directory: c"".to_owned() }
}

fn attached(daemon: &mut Daemon, id: u64, scratch: u64) -> Sandbox {
    daemon.tell(&ToDaemon::Create { id: SandboxId(id), scratch, egress: None });
    let sandbox = daemon.parked();
    assert!(daemon.ask(sandbox.id, Question::Attach { root: 1 }).unwrap().is_empty());
    sandbox
}

/// A daemon with the directory as root 1, and the server in a sandbox with it.
fn serving(scratch: u64) -> (Daemon, Function) {
    let mut daemon = Daemon::start();
    let root = directory(&daemon);
    keep(&daemon, 1, Some(&root), None);
    let sandbox = attached(&mut daemon, 1, scratch);
    let function = sandbox.start(&daemon.run, LIMITS, &at("/bin/server")).unwrap();
    (daemon, function)
}

fn list(function: &Function, path: &str) -> Vec<String> {
    let listed = function.get(&format!("/list/{path}")).unwrap();
    let mut names: Vec<_> = listed.lines().map(str::to_owned).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_dynamic_executable_serves_from_its_root() {
    let (daemon, function) = serving(0);
    assert_eq!(function.get("/").unwrap(), "hello");
    assert_eq!(function.get("/read/greeting").unwrap(), "from the root");
    daemon.end();
}

#[test]
fn a_script_is_executed_by_its_interpreter() {
    let mut daemon = Daemon::start();
    let root = directory(&daemon);
    fs::write(root.join("bin/script"), "#!/bin/server of a script\n").unwrap();
    fs::set_permissions(root.join("bin/script"), Permissions::from_mode(0o755)).unwrap();
    keep(&daemon, 1, Some(&root), None);
    let sandbox = attached(&mut daemon, 1, 0);
    let function = sandbox.start(&daemon.run, LIMITS, &at("/bin/script")).unwrap();
    assert_eq!(function.get("/").unwrap(), "hello");
    daemon.end();
}

#[test]
fn a_root_is_read_only_and_keeps_the_sandboxs_own_devices_and_processes() {
    let (daemon, function) = serving(0);
    assert_eq!(function.get("/write/file").unwrap(), "Read-only file system (os error 30)");
    assert_eq!(list(&function, "proc"), ["1", "self", "thread-self"]);
    assert!(list(&function, "dev").contains(&"null".to_owned()));
    assert_eq!(function.get("/write/tmp/file").unwrap(), "Read-only file system (os error 30)");
    daemon.end();
}

#[test]
fn a_root_shows_nothing_of_the_root_before_it() {
    let (daemon, function) = serving(0);
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", function.pid)).unwrap();
    let places: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    assert_eq!(places.iter().filter(|place| **place == "/").count(), 1, "{mounts}");
    let options = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    for option in ["ro", "nosuid", "nodev"] {
        assert!(options.split([' ', ',']).any(|word| word == option), "{options}");
    }
    daemon.end();
}

#[test]
fn a_scratch_stays_in_a_root() {
    let (daemon, function) = serving(1 << 20);
    assert_eq!(function.get("/write/tmp/file").unwrap(), "written");
    assert_eq!(function.get("/read/tmp/file").unwrap(), "written");
    daemon.end();
}

#[test]
fn a_root_gives_no_privileges() {
    let mut daemon = Daemon::start();
    let root = directory(&daemon);
    fs::set_permissions(root.join("bin/server"), Permissions::from_mode(0o6755)).unwrap();
    keep(&daemon, 1, Some(&root), None);
    let function =
        attached(&mut daemon, 1, 0).start(&daemon.run, LIMITS, &at("/bin/server")).unwrap();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(status(function.pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(function.pid, "Uid"), "2000003\t2000003\t2000003\t2000003");
    assert_eq!(status(function.pid, "Seccomp_filters"), "1");
    daemon.end();
}

#[test]
fn two_sandboxes_share_a_root_and_nothing_else() {
    let (mut daemon, first) = serving(0);
    let second = attached(&mut daemon, 2, 0);
    let second = second.start(&daemon.run, LIMITS, &at("/bin/server")).unwrap();
    for function in [&first, &second] {
        assert_eq!(function.get("/read/greeting").unwrap(), "from the root");
        assert_eq!(list(function, "proc"), ["1", "self", "thread-self"]);
    }
    daemon.end();
}

#[test]
fn a_program_that_is_not_in_the_root_is_named_with_the_kernels_answer() {
    let mut daemon = Daemon::start();
    let root = directory(&daemon);
    keep(&daemon, 1, Some(&root), None);
    let sandbox = attached(&mut daemon, 1, 0);
    let failed = sandbox.start(&daemon.run, LIMITS, &at("/bin/nothing")).err().unwrap();
    assert_eq!(failed, StartFailure { step: "execveat".to_owned(), errno: libc::ENOENT });
    daemon.end();
}

#[test]
fn a_root_that_the_supervisor_did_not_name_is_refused() {
    let mut daemon = Daemon::start();
    let sandbox = daemon.park(1);
    let refused = daemon.ask(sandbox.id, Question::Attach { root: 7 }).unwrap_err();
    assert_eq!(refused, "there is no root 7");
    daemon.end();
}

#[test]
fn a_sandbox_is_given_one_root() {
    let mut daemon = Daemon::start();
    keep(&daemon, 1, None, None);
    let sandbox = attached(&mut daemon, 1, 0);
    let refused = daemon.ask(sandbox.id, Question::Attach { root: 1 }).unwrap_err();
    assert_eq!(refused, "it has a root already");
    daemon.end();
}

#[test]
fn what_is_mounted_where_a_root_leads_out_stays_inside() {
    let mut daemon = Daemon::start();
    let root = directory(&daemon);
    for name in ["dev", "proc"] {
        fs::remove_dir(root.join(name)).unwrap();
    }
    // A place outside, which the daemon must neither mount over nor show.
    symlink("/", root.join("proc")).unwrap();
    symlink("../../../dev", root.join("dev")).unwrap();
    keep(&daemon, 1, Some(&root), None);
    let sandbox = attached(&mut daemon, 1, 0);
    let function = sandbox.start(&daemon.run, LIMITS, &at("/bin/server")).unwrap();
    assert!(list(&function, "proc").contains(&"greeting".to_owned()), "its own root");
    daemon.end();
}

fn connect(socket: &OwnedFd) -> std::io::Result<UnixStream> {
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd()))
}

#[test]
fn a_function_is_reached_by_the_socket_that_it_makes_in_the_empty_root() {
    let mut daemon = Daemon::start();
    keep(&daemon, 1, None, Some("/run/deep/function.sock"));
    let function = attached(&mut daemon, 1, 0)
        .start(&daemon.run, LIMITS, &Program::Executable(File::open(server()).unwrap().into()))
        .unwrap();
    daemon.ask(SandboxId(1), Question::Socket).unwrap_err();
    assert_eq!(function.get("/listen-unix/run/deep/function.sock").unwrap(), "listening");
    let socket = daemon.ask(SandboxId(1), Question::Socket).unwrap().pop().unwrap();
    connect(&socket).unwrap();
    assert_eq!(list(&function, ""), ["dev", "proc", "run", "tmp"]);
    daemon.end();
}

#[test]
fn a_function_is_reached_by_the_socket_that_it_makes_in_its_root() {
    let mut daemon = Daemon::start();
    let root = directory(&daemon);
    fs::create_dir(root.join("var")).unwrap();
    symlink("/run", root.join("var/run")).unwrap();
    keep(&daemon, 1, Some(&root), Some("/var/run/function.sock"));
    let sandbox = attached(&mut daemon, 1, 0);
    let function = sandbox.start(&daemon.run, LIMITS, &at("/bin/server")).unwrap();
    assert_eq!(function.get("/listen-unix/run/function.sock").unwrap(), "listening");
    let socket = daemon.ask(SandboxId(1), Question::Socket).unwrap().pop().unwrap();
    connect(&socket).unwrap();
    daemon.end();
}

#[test]
fn a_place_for_the_socket_that_leads_out_of_the_root_is_refused() {
    let mut daemon = Daemon::start();
    let root = directory(&daemon);
    fs::remove_dir(root.join("run")).unwrap();
    let outside = daemon.run.state_root.join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, root.join("run")).unwrap();
    keep(&daemon, 1, Some(&root), Some("/run/function.sock"));
    let sandbox = daemon.park(1);
    let refused = daemon.ask(sandbox.id, Question::Attach { root: 1 }).unwrap_err();
    assert!(refused.starts_with("the root has no directory /run for the socket"), "{refused}");
    daemon.end();
}

/// Whether nobody has a lock on the directory.
fn is_free(directory: &Path) -> bool {
    let operation = FlockOperation::NonBlockingLockExclusive;
    flock(File::open(directory).unwrap(), operation).is_ok()
}

#[test]
fn a_forgotten_root_is_let_go_of_once_no_sandbox_has_it() {
    let mut daemon = Daemon::start();
    let root = directory(&daemon);
    let hold = File::open(&root).unwrap();
    flock(&hold, FlockOperation::LockShared).unwrap();
    keep_holding(&daemon, 1, Some(&root), None, Some(hold));
    let function = attached(&mut daemon, 1, 0);
    let function = function.start(&daemon.run, LIMITS, &at("/bin/server")).unwrap();
    // Workers that are hired from here on inherit what the daemon has open, and must let go of it.
    let other = daemon.park(2);
    daemon.tell(&ToDaemon::Forget { root: 1 });
    let refused = daemon.ask(other.id, Question::Attach { root: 1 }).unwrap_err();
    assert_eq!(refused, "there is no root 1");
    assert_eq!(function.get("/read/greeting").unwrap(), "from the root");
    assert!(!is_free(&root), "a sandbox has it");
    assert!(matches!(daemon.remove(function.id), FromDaemon::Gone { .. }));
    // A worker that was hired before it was forgotten may not have run yet, so it has it for a moment more.
    while !is_free(&root) {
        std::thread::yield_now();
    }
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", daemon.process.id())).unwrap();
    assert!(!mounts.contains(" /roots/"), "{mounts}");
    assert!(root.join("greeting").exists(), "what is in it is not the daemon's to remove");
    daemon.end();
}

#[test]
fn a_forgotten_root_without_a_directory_leaves_nothing() {
    let mut daemon = Daemon::start();
    keep(&daemon, 1, None, Some("/run/a/b.sock"));
    let _sandbox = attached(&mut daemon, 1, 0);
    let kept = PathBuf::from(format!("/proc/{}/root/roots", daemon.process.id()));
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 1);
    daemon.tell(&ToDaemon::Forget { root: 1 });
    // It has heard that before it answers this.
    let _other = daemon.park(2);
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 0);
    daemon.end();
}
