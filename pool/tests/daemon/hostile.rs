//! The hostile function: every attempt of a native function to get out of its sandbox, to see what is not its own, or
//! to take more than it was given, one test each, made from inside by a function that reports what came of it.
//!
//! What a system call outside of the filter answers is [`NO_SUCH_CALL`], whoever asks for whatever.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use baton_pool::activation::{Limits, Program};
use baton_pool::protocol::{Exit, FromDaemon, SandboxId, ToDaemon};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::support::{Daemon, Function, LIMITS, server};

const NO_SUCH_CALL: &str = "Function not implemented (os error 38)";
const NO_SUCH_FILE: &str = "No such file or directory (os error 2)";
const NO_SUCH_PROCESS: &str = "No such process (os error 3)";
const NOT_PERMITTED: &str = "Operation not permitted (os error 1)";
const READ_ONLY: &str = "Read-only file system (os error 30)";

/// A daemon with a hostile function in it.
fn hostile() -> (Daemon, Function) {
    let mut daemon = Daemon::start();
    let function = daemon.park(1).activate(&daemon.run, LIMITS);
    (daemon, function)
}

/// What a system call with these arguments answers inside.
fn call(function: &Function, number: libc::c_long, arguments: &[i64]) -> String {
    let words = [number]
        .iter()
        .chain(arguments)
        .fold(String::new(), |so_far, word| so_far + "/" + &word.to_string());
    function.get(&format!("/call{words}")).unwrap()
}

/// None of these calls exists inside.
fn none_exists(calls: &[(&str, libc::c_long)]) {
    let (daemon, function) = hostile();
    for (name, number) in calls {
        assert_eq!(call(&function, *number, &[]), NO_SUCH_CALL, "{name}");
    }
    daemon.end();
}

/// Names and numbers of system calls.
macro_rules! calls {
    ($($number:ident)*) => { &[$((stringify!($number), libc::$number)),*] };
}

#[test]
fn it_sees_no_process_but_itself() {
    let (daemon, function) = hostile();
    let mut entries: Vec<_> =
        function.get("/list/proc").unwrap().lines().map(str::to_owned).collect();
    entries.sort_unstable();
    assert_eq!(entries, ["1", "self", "thread-self"]);
    daemon.end();
}

#[test]
fn it_signals_no_process_but_itself() {
    let (daemon, function) = hostile();
    let own = i64::from(std::process::id());
    let daemons = i64::from(daemon.process.id());
    for target in [own, daemons, -1] {
        assert_eq!(call(&function, libc::SYS_kill, &[target, 0]), NO_SUCH_PROCESS, "{target}");
        assert_eq!(call(&function, libc::SYS_pidfd_open, &[target]), NO_SUCH_CALL);
    }
    assert_eq!(call(&function, libc::SYS_pidfd_send_signal, &[0]), NO_SUCH_CALL);
    daemon.end();
}

#[test]
fn it_mounts_nothing_and_changes_no_root() {
    none_exists(calls![
        SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount
        SYS_fspick SYS_mount_setattr SYS_quotactl SYS_swapon SYS_open_by_handle_at SYS_name_to_handle_at
    ]);
}

#[test]
fn it_makes_and_enters_no_namespace() {
    let (daemon, function) = hostile();
    let kinds = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    for kind in kinds {
        let kind = i64::from(kind);
        let flags = kind | i64::from(libc::SIGCHLD);
        assert_eq!(call(&function, libc::SYS_clone, &[flags]), NO_SUCH_CALL, "{kind:#x}");
        assert_eq!(call(&function, libc::SYS_unshare, &[kind]), NO_SUCH_CALL, "{kind:#x}");
        assert_eq!(call(&function, libc::SYS_setns, &[3, kind]), NO_SUCH_CALL, "{kind:#x}");
    }
    // Its flags lie in memory, where no filter can look.
    assert_eq!(call(&function, libc::SYS_clone3, &[]), NO_SUCH_CALL);
    daemon.end();
}

#[test]
fn it_traces_no_process_and_reads_no_other_memory() {
    none_exists(calls![
        SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_process_madvise SYS_kcmp SYS_pidfd_getfd
    ]);
}

#[test]
fn it_reaches_no_keyring() {
    none_exists(calls![SYS_keyctl SYS_add_key SYS_request_key]);
}

#[test]
fn it_loads_no_bpf_program() {
    none_exists(calls![SYS_bpf]);
}

#[test]
fn it_opens_no_performance_counter() {
    none_exists(calls![SYS_perf_event_open]);
}

#[test]
fn it_handles_no_page_faults() {
    none_exists(calls![SYS_userfaultfd]);
}

#[test]
fn it_makes_no_ring_of_calls() {
    none_exists(
        calls![SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register SYS_io_setup SYS_io_submit],
    );
}

#[test]
fn it_changes_nothing_of_the_machine() {
    none_exists(calls![
        SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_reboot SYS_sethostname SYS_setdomainname
        SYS_settimeofday SYS_clock_settime SYS_adjtimex SYS_syslog SYS_acct SYS_mbind SYS_set_mempolicy
        SYS_sched_setscheduler SYS_setpriority SYS_ioprio_set SYS_personality SYS_vhangup
    ]);
}

#[test]
fn it_becomes_nobody_else() {
    none_exists(calls![
        SYS_setuid SYS_setgid SYS_setresuid SYS_setresgid SYS_setgroups SYS_setfsuid SYS_capset SYS_seccomp
        SYS_landlock_create_ruleset
    ]);
    let (daemon, function) = hostile();
    for command in
        [libc::PR_SET_SECCOMP, libc::PR_CAP_AMBIENT, libc::PR_SET_MM, libc::PR_SET_KEEPCAPS]
    {
        let command = i64::from(command);
        assert_eq!(call(&function, libc::SYS_prctl, &[command]), NO_SUCH_CALL, "{command}");
    }
    daemon.end();
}

#[test]
#[cfg(target_arch = "x86_64")]
fn it_dies_of_calls_in_the_way_of_other_architectures() {
    const X32: libc::c_long = 0x4000_0000;
    let mut daemon = Daemon::start();
    let ways = ["/old-call".to_owned(), format!("/call/{}", X32 | libc::SYS_getpid)];
    for (id, way) in (1..).zip(ways) {
        let function = daemon.park(id).activate(&daemon.run, LIMITS);
        function.get(&way).unwrap_err();
        let gone = daemon.hear().0;
        assert!(
            matches!(gone, FromDaemon::Gone { exit: Some(Exit::Signal(libc::SIGSYS)), .. }),
            "{gone:?}"
        );
    }
    daemon.end();
}

#[test]
fn it_types_nothing_into_a_terminal() {
    let (daemon, function) = hostile();
    let inject = i64::try_from(libc::TIOCSTI).unwrap();
    assert_eq!(call(&function, libc::SYS_ioctl, &[0, inject]), NO_SUCH_CALL);
    daemon.end();
}

#[test]
fn it_opens_no_raw_socket() {
    let (daemon, function) = hostile();
    let socket = |family: i32, kind: i32| {
        call(&function, libc::SYS_socket, &[i64::from(family), i64::from(kind), 1])
    };
    assert_eq!(socket(libc::AF_INET, libc::SOCK_RAW), NOT_PERMITTED);
    assert_eq!(socket(libc::AF_INET6, libc::SOCK_RAW), NOT_PERMITTED);
    for family in [libc::AF_PACKET, libc::AF_NETLINK, libc::AF_VSOCK, libc::AF_ALG, libc::AF_XDP] {
        assert_eq!(socket(family, libc::SOCK_RAW), NO_SUCH_CALL, "{family}");
    }
    daemon.end();
}

#[test]
fn it_reaches_no_abstract_socket_of_the_machine() {
    let (daemon, function) = hostile();
    let name = format!("baton-hostile-{}", std::process::id());
    let _listener =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    assert_eq!(
        function.get(&format!("/connect-abstract/{name}")).unwrap(),
        "Connection refused (os error 111)"
    );
    daemon.end();
}

#[test]
fn it_reaches_no_listener_of_the_machine() {
    let (daemon, function) = hostile();
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let tcp = format!("/connect/{}", tcp.local_addr().unwrap());
    assert_eq!(function.get(&tcp).unwrap(), "Network is unreachable (os error 101)");
    let unix = daemon.run.state_root.join("listener.sock");
    let _listener = UnixListener::bind(&unix).unwrap();
    assert_eq!(function.get(&format!("/connect-unix{}", unix.display())).unwrap(), NO_SUCH_FILE);
    daemon.end();
}

#[test]
fn it_reads_no_file_of_the_machine() {
    let (daemon, function) = hostile();
    for path in [
        "/etc/passwd",
        "/../../../etc/passwd",
        "/proc/1/root/etc/passwd",
        "/proc/self/cwd/../../etc/passwd",
        "/proc/self/root/../etc/passwd",
        "/dev/sda",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/fuse",
    ] {
        assert_eq!(function.get(&format!("/read{path}")).unwrap(), NO_SUCH_FILE, "{path}");
    }
    assert_eq!(call(&function, libc::SYS_mknodat, &[]), NO_SUCH_CALL);
    daemon.end();
}

#[test]
fn it_has_no_descriptor_but_those_that_it_was_given() {
    let (daemon, function) = hostile();
    // 4 is the connection of this very question, 5 the directory that is listed.
    assert_eq!(function.get("/descriptors").unwrap().trim(), "0 1 2 3 4");
    daemon.end();
}

#[test]
fn it_learns_nothing_of_the_machine_from_proc() {
    let (daemon, function) = hostile();
    for name in [
        "kallsyms",
        "kcore",
        "kmsg",
        "meminfo",
        "cpuinfo",
        "mounts",
        "net/dev",
        "sys/kernel/hostname",
        "sysrq-trigger",
        "modules",
        "version",
        "cmdline",
        "timer_list",
        "keys",
        "uptime",
        "stat",
    ] {
        let inside = function.get(&format!("/read/proc/{name}")).unwrap();
        // Two of them are links into /proc/self.
        let own = ["mounts", "net/dev"].contains(&name);
        assert!(own || inside == NO_SUCH_FILE, "{name}: {inside}");
    }
    let cgroup = function.get("/read/proc/self/cgroup").unwrap();
    assert!(cgroup.lines().all(|line| line.ends_with(":/")), "{cgroup}");
    let run = daemon.run.state_root.to_str().unwrap();
    let mounts = function.get("/read/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(run), "{mounts}");
    daemon.end();
}

#[test]
fn it_has_no_sys() {
    let (daemon, function) = hostile();
    assert_eq!(function.get("/list/sys").unwrap(), NO_SUCH_FILE);
    daemon.end();
}

#[test]
fn it_writes_nowhere_in_its_root() {
    let (daemon, function) = hostile();
    assert_eq!(function.get("/write/file").unwrap(), READ_ONLY);
    for path in ["/dev/file", "/proc/self/oom_score_adj", "/proc/self/uid_map", "/proc/self/mem"] {
        let answer = function.get(&format!("/write{path}")).unwrap();
        assert_ne!(answer, "written", "{path}");
    }
    assert_eq!(call(&function, libc::SYS_linkat, &[]), NO_SUCH_CALL);
    daemon.end();
}

#[test]
fn it_does_not_write_to_its_executable() {
    let (daemon, function) = hostile();
    assert_eq!(
        function.get("/write/proc/self/exe").unwrap(),
        "Permission denied (os error 13)",
        "a file"
    );
    daemon.end();
}

#[test]
fn it_does_not_write_to_its_executable_in_memory() {
    let mut daemon = Daemon::start();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create("function", flags).unwrap();
    let mut memory = File::from(memory);
    std::io::copy(&mut File::open(server()).unwrap(), &mut memory).unwrap();
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&memory, seals).unwrap();
    let before = memory.metadata().unwrap().len();
    let program = Program::Executable(memory.try_clone().unwrap().into());
    let function = daemon.park(1).start(&daemon.run, LIMITS, &program).unwrap();
    assert_ne!(function.get("/write/proc/self/exe").unwrap(), "written");
    assert_eq!(memory.metadata().unwrap().len(), before);
    assert_eq!(call(&function, libc::SYS_memfd_create, &[]), NO_SUCH_CALL);
    daemon.end();
}

#[test]
fn it_bombs_with_forks_only_itself() {
    let (daemon, function) = hostile();
    let bomb = format!("/fork/{}/{}/{}", libc::SYS_clone, libc::SIGCHLD, libc::SYS_close_range);
    assert_eq!(
        function.get(&bomb).unwrap(),
        format!("{} and then Resource temporarily unavailable (os error 11)", LIMITS.pids - 1)
    );
    assert_eq!(function.get("/").unwrap(), "hello");
    daemon.end();
}

#[test]
fn it_hogs_no_memory_but_its_own() {
    let (mut daemon, function) = hostile();
    let neighbour = daemon.park(2).activate(&daemon.run, LIMITS);
    function.get("/burn/200000000").unwrap_err();
    let gone = daemon.hear().0;
    assert!(matches!(gone, FromDaemon::Gone { id: SandboxId(1), oom_kills: 1, .. }), "{gone:?}");
    assert_eq!(neighbour.get("/").unwrap(), "hello");
    daemon.end();
}

#[test]
fn it_fills_no_scratch_but_its_own() {
    let mut daemon = Daemon::start();
    daemon.tell(&ToDaemon::Create { id: SandboxId(1), scratch: 1 << 20, egress: None });
    let function = daemon.parked().activate(&daemon.run, LIMITS);
    daemon.tell(&ToDaemon::Create { id: SandboxId(2), scratch: 1 << 20, egress: None });
    let neighbour = daemon.parked().activate(&daemon.run, LIMITS);
    assert_eq!(
        function.get("/fill/tmp/full/2000000").unwrap(),
        "No space left on device (os error 28)"
    );
    assert_eq!(neighbour.get("/write/tmp/file").unwrap(), "written");
    assert_eq!(neighbour.get("/list/tmp").unwrap(), "file\n");
    daemon.end();
}

#[test]
fn it_fills_its_scratch_with_no_more_files_than_fit() {
    let mut daemon = Daemon::start();
    daemon.tell(&ToDaemon::Create { id: SandboxId(1), scratch: 1 << 20, egress: None });
    let function = daemon.parked().activate(&daemon.run, LIMITS);
    let made = function.get("/files/tmp").unwrap();
    let (count, error) = made.split_once(" and then ").unwrap();
    assert_eq!(error, "No space left on device (os error 28)");
    assert!(count.parse::<u32>().unwrap() <= 256, "{made}");
    daemon.end();
}

#[test]
fn it_exhausts_no_descriptors_but_its_own() {
    let mut daemon = Daemon::start();
    let limits = Limits { descriptors: 64, ..LIMITS };
    let function = daemon.park(1).activate(&daemon.run, limits);
    assert_eq!(function.get("/open").unwrap(), "59 and then Too many open files (os error 24)");
    daemon.end();
}
