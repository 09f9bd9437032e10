//! Which system calls a sandbox may make.
//!
//! One filter, the last that is done before the stub is executed: a list, and of some calls the arguments (no new
//! namespaces, no socket families but Unix and IP, few `prctl` and `ioctl` commands). What is not allowed does not exist
//! (`ENOSYS`), so that libraries fall back, as the C library does from `clone3`.
//!
//! It is compiled once. While libcontainer compiled one, for each sandbox anew, a cold start took an eighth longer. The
//! kernel looks through each filter for each of its calls when it is installed, and is not preempted meanwhile: a
//! third of a millisecond where it was measured.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

macro_rules! calls {
    ($($number:ident)*) => { &[$(libc::$number),*] };
}

type Calls = &'static [libc::c_long];

/// What a server needs on every architecture, whatever the arguments.
const PLAIN: Calls = calls![
    SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_lseek SYS_sendfile SYS_close
    SYS_close_range SYS_dup SYS_dup3 SYS_pipe2 SYS_fcntl SYS_fsync SYS_fdatasync SYS_ftruncate
    SYS_ppoll SYS_pselect6 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_eventfd2
    SYS_timerfd_create SYS_timerfd_settime
    SYS_openat SYS_newfstatat SYS_fstat SYS_statx SYS_faccessat SYS_faccessat2 SYS_readlinkat SYS_getdents64
    SYS_getcwd SYS_chdir SYS_mkdirat SYS_unlinkat SYS_renameat2 SYS_fchmod SYS_fchmodat SYS_umask
    SYS_mmap SYS_munmap SYS_mprotect SYS_mremap SYS_madvise SYS_brk
    SYS_execve SYS_execveat SYS_wait4 SYS_exit SYS_exit_group SYS_kill SYS_tgkill
    SYS_getpid SYS_getppid SYS_gettid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid
    SYS_set_tid_address SYS_set_robust_list SYS_rseq SYS_futex SYS_sched_yield SYS_sched_getaffinity
    SYS_clock_gettime SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday
    SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_sigaltstack
    SYS_restart_syscall SYS_prlimit64 SYS_getrusage SYS_sysinfo SYS_uname SYS_getrandom
    SYS_bind SYS_connect SYS_listen SYS_accept SYS_accept4 SYS_getsockname SYS_getpeername SYS_getsockopt
    SYS_setsockopt SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_shutdown
];

/// Older names of the above that only this architecture has.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Calls = calls![
    SYS_open SYS_stat SYS_lstat SYS_access SYS_readlink SYS_unlink SYS_rename SYS_mkdir SYS_rmdir SYS_poll SYS_epoll_create SYS_epoll_wait
    SYS_chmod SYS_pipe SYS_dup2 SYS_arch_prctl SYS_vfork
];
/// Older names of the above that only this architecture has.
#[cfg(not(target_arch = "x86_64"))]
const ARCHITECTURE: Calls = &[];

/// Any of `clone`'s flags for a new namespace: mount, cgroup, uts, ipc, user, pid, net.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
const FAMILIES: [libc::c_int; 3] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
/// Naming threads and memory, parent death signals, dumpability, and asking.
const PRCTL_COMMANDS: [libc::c_int; 8] = [
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_SET_PDEATHSIG,
    libc::PR_GET_DUMPABLE,
    libc::PR_SET_DUMPABLE,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_CAPBSET_READ,
    libc::PR_SET_VMA,
];
/// Blocking mode, close-on-exec, bytes to read, and whether it is a terminal.
const IOCTL_COMMANDS: [libc::Ioctl; 6] =
    [libc::FIONBIO, libc::FIOASYNC, libc::FIOCLEX, libc::FIONCLEX, libc::FIONREAD, libc::TCGETS];

type Rules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

/// The filter, compiled.
///
/// # Errors
/// On an architecture that seccompiler does not know.
pub(super) fn filter() -> Result<BpfProgram, BackendError> {
    let mut rules = whatever_arguments();
    rules.append(&mut certain_arguments()?);
    Ok(deadly_in_the_way_of_x32(compiled(rules)?))
}

fn whatever_arguments() -> Rules {
    [PLAIN, ARCHITECTURE].into_iter().flatten().map(|number| (*number, Vec::new())).collect()
}

fn certain_arguments() -> Result<Rules, BackendError> {
    let namespaces = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(NEW_NAMESPACES),
        0,
    )?;
    let unsigned = |value: libc::c_int| u64::from(value.unsigned_abs());
    Ok(BTreeMap::from([
        (libc::SYS_clone, vec![SeccompRule::new(vec![namespaces])?]),
        (libc::SYS_socket, any_of(0, FAMILIES.map(unsigned))?),
        (libc::SYS_socketpair, any_of(0, [unsigned(libc::AF_UNIX)])?),
        (libc::SYS_prctl, any_of(0, PRCTL_COMMANDS.map(unsigned))?),
        (libc::SYS_ioctl, any_of(1, IOCTL_COMMANDS)?),
    ]))
}

/// The kernel takes the numbers of the x32 ABI for calls of the same architecture, told apart by one bit. Whoever uses
/// them means to get past a filter. Jumps count from where they stand, so instructions may come first.
#[cfg(target_arch = "x86_64")]
fn deadly_in_the_way_of_x32(filter: BpfProgram) -> BpfProgram {
    use seccompiler::sock_filter;
    /// `__X32_SYSCALL_BIT` of asm/unistd.h.
    const X32: u32 = 0x4000_0000;
    /// `BPF_LD | BPF_W | BPF_ABS` of linux/bpf_common.h, as the next three.
    const LOAD: u16 = 0x20;
    /// `BPF_JMP | BPF_JGE | BPF_K`.
    const AT_LEAST: u16 = 0x35;
    /// `BPF_JMP | BPF_JEQ | BPF_K`.
    const EQUALS: u16 = 0x15;
    /// `BPF_RET | BPF_K`.
    const RETURN: u16 = 0x06;
    let entry = [
        // The number comes first in `struct seccomp_data`.
        sock_filter { code: LOAD, jt: 0, jf: 0, k: 0 },
        sock_filter { code: AT_LEAST, jt: 0, jf: 2, k: X32 },
        // -1 is no call, which is not deadly.
        sock_filter { code: EQUALS, jt: 1, jf: 0, k: u32::MAX },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS },
    ];
    entry.into_iter().chain(filter).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn deadly_in_the_way_of_x32(filter: BpfProgram) -> BpfProgram {
    filter
}

fn compiled(rules: Rules) -> Result<BpfProgram, BackendError> {
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(
        rules,
        unknown,
        SeccompAction::Allow,
        TargetArch::try_from(std::env::consts::ARCH)?,
    )?
    .try_into()
}

/// One rule a value: the argument, a C `int`, equals one of them.
fn any_of<const N: usize>(
    argument: u8,
    values: [u64; N],
) -> Result<Vec<SeccompRule>, BackendError> {
    values
        .into_iter()
        .map(|value| {
            let equal =
                SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
            SeccompRule::new(vec![equal])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_than_120_calls_are_allowed() {
        let allowed = whatever_arguments().len() + certain_arguments().unwrap().len();
        assert!(allowed < 120, "{allowed}");
    }

    #[test]
    fn no_call_is_listed_twice() {
        let plain = whatever_arguments();
        assert_eq!(plain.len(), PLAIN.len() + ARCHITECTURE.len());
        assert!(certain_arguments().unwrap().keys().all(|number| !plain.contains_key(number)));
    }

    #[test]
    fn the_filter_compiles() {
        assert!(filter().is_ok_and(|filter| !filter.is_empty()));
    }
}
