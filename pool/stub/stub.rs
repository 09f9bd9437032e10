//! What a parked sandbox runs until its function comes: a static program of a few pages, without libc.
//!
//! It starts with the control socket as descriptor 0 and `/dev/null` as 1 and 2, moves the socket out of the
//! function's way, closes 1 and 2, says `parked`, and waits for one message (`activation::encode` is its other half):
//!
//! ```text
//! u32 arguments, u32 environment entries, u32 limits, u32 which descriptors come
//! limits × (u64 resource, u64 soft, u64 hard)
//! working directory, path, arguments and environment entries, each with its NUL
//! descriptors: standard output, standard error, listening socket, executable
//! ```
//!
//! The kernel gives the lowest free numbers to the descriptors, so they come to the places where the function has them.
//! A listener may be missing, when the function makes its own, and the executable, when it is at the path; the
//! path is empty otherwise, and so is a working directory that stays `/`. By then the daemon may have given the
//! sandbox another root, which this process does not notice.
//! Then it becomes the function. The socket closes on exec, so its end of file says that this worked;
//! when a step fails it holds `i32 errno` and the step's name before, and the stub ends with status 127.
//! Nothing here may need `memcpy`, a relocation or the heap.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::mem::size_of;
use core::ptr::{addr_of, addr_of_mut, null};

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {park}", "ud2", park = sym park);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "bl {park}", "brk #1", park = sym park);

#[cfg(target_arch = "x86_64")]
mod number {
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const RECVMSG: usize = 47;
    pub const FCNTL: usize = 72;
    pub const CHDIR: usize = 80;
    pub const EXIT_GROUP: usize = 231;
    pub const DUP3: usize = 292;
    pub const PRLIMIT64: usize = 302;
    pub const EXECVEAT: usize = 322;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const WRITE: usize = 64;
    pub const CLOSE: usize = 57;
    pub const RECVMSG: usize = 212;
    pub const FCNTL: usize = 25;
    pub const CHDIR: usize = 49;
    pub const EXIT_GROUP: usize = 94;
    pub const DUP3: usize = 24;
    pub const PRLIMIT64: usize = 261;
    pub const EXECVEAT: usize = 281;
}

const F_SETFD: usize = 2;
const FD_CLOEXEC: usize = 1;
const F_DUPFD_CLOEXEC: usize = 1030;
const AT_EMPTY_PATH: usize = 0x1000;
const AT_FDCWD: usize = -100_isize as usize;
const EINTR: isize = -4;
const EBADMSG: isize = -74;
const E2BIG: isize = -7;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;

/// Where the control socket goes: past everything that the function is given.
const CONTROL_MIN: usize = 10;
/// The function's standard output, the first descriptor that comes.
const STDOUT: i32 = 1;
/// A listening socket comes.
const WITH_LISTENER: usize = 1;
/// An executable comes.
const WITH_EXECUTABLE: usize = 2;
/// At least `protocol::MESSAGE_MAX`.
const MESSAGE_MAX: usize = 64 * 1024;
/// Arguments and environment entries together, with the two closing nulls.
const POINTERS_MAX: usize = 4096;

#[repr(C)]
struct Buffer {
    name: *const u8,
    length: usize,
}

/// `struct msghdr`.
#[repr(C)]
struct Header {
    name: usize,
    name_length: usize,
    buffers: *const Buffer,
    buffers_length: usize,
    control: *mut Rights,
    control_length: usize,
    flags: usize,
}

/// `struct cmsghdr` with the two to four descriptors that come.
#[repr(C)]
struct Rights {
    length: usize,
    level: i32,
    kind: i32,
    descriptors: [i32; 4],
}

/// The message's counts.
struct Counts {
    arguments: usize,
    entries: usize,
    limits: usize,
    descriptors: usize,
}

// Of these only the first pages cost anything before a long message comes.
static mut MESSAGE: [u64; MESSAGE_MAX / 8] = [0; MESSAGE_MAX / 8];
static mut POINTERS: [*const u8; POINTERS_MAX] = [null(); POINTERS_MAX];

/// Where it stopped, and the kernel's negative answer.
struct Failure(&'static [u8], isize);

extern "C" fn park() -> ! {
    let control = call(number::FCNTL, [0, F_DUPFD_CLOEXEC, CONTROL_MIN, 0, 0]);
    if control < 0 {
        exit(126);
    }
    let control = control as usize;
    // /dev/null is the function's standard input; its outputs come to the places that become free.
    call(number::DUP3, [1, 0, 0, 0, 0]);
    call(number::CLOSE, [1, 0, 0, 0, 0]);
    call(number::CLOSE, [2, 0, 0, 0, 0]);
    warm();
    let parked = b"parked";
    call(number::WRITE, [control, parked.as_ptr() as usize, parked.len(), 0, 0]);
    match become_function(control) {
        // The host let go of this sandbox.
        None => exit(0),
        Some(Failure(step, answer)) => {
            report(control, step, answer);
            exit(127)
        }
    }
}

/// Has the pages that a message comes to before it does: a fault costs some ten microseconds.
fn warm() {
    // SAFETY: one thread, and what is written is what stands there.
    unsafe {
        addr_of_mut!(MESSAGE).cast::<u64>().write_volatile(0);
        addr_of_mut!(POINTERS).cast::<*const u8>().write_volatile(null());
    }
}

/// Returns only when there is nothing to become (`None`) or when that failed.
fn become_function(control: usize) -> Option<Failure> {
    let mut rights = Rights { length: 0, level: 0, kind: 0, descriptors: [-1; 4] };
    let received = receive(control, &mut rights);
    if received == 0 {
        return None;
    }
    if received < 0 {
        return Some(Failure(b"recvmsg", received));
    }
    let failure = match placed(&rights) {
        Ok(executable) => execute(executable, received as usize),
        Err(failure) => failure,
    };
    Some(failure)
}

fn counts() -> Counts {
    let message = addr_of!(MESSAGE).cast::<[u32; 4]>();
    // SAFETY: the four counts lie at the start of the aligned buffer; a shorter message left zeros there.
    let [arguments, entries, limits, descriptors] = unsafe { message.read() };
    Counts {
        arguments: arguments as usize,
        entries: entries as usize,
        limits: limits as usize,
        descriptors: descriptors as usize,
    }
}

/// Whether what came is what was announced, at the places where the function has it. The executable is the last.
fn placed(rights: &Rights) -> Result<Option<i32>, Failure> {
    let kinds = counts().descriptors;
    let came = 2 + usize::from(kinds & WITH_LISTENER != 0) + usize::from(kinds & WITH_EXECUTABLE != 0);
    let whole = rights.length == size_of::<Rights>() - (4 - came) * size_of::<i32>()
        && rights.level == SOL_SOCKET
        && rights.kind == SCM_RIGHTS
        && rights.descriptors[0] == STDOUT;
    if !whole {
        return Err(Failure(b"descriptors", EBADMSG));
    }
    if kinds & WITH_EXECUTABLE == 0 {
        return Ok(None);
    }
    // STDOUT is the first of `came` in a row.
    let executable = came as i32;
    check(b"fcntl", call(number::FCNTL, [executable as usize, F_SETFD, FD_CLOEXEC, 0, 0]))?;
    Ok(Some(executable))
}

fn receive(control: usize, rights: &mut Rights) -> isize {
    let buffer = Buffer { name: addr_of!(MESSAGE).cast(), length: MESSAGE_MAX };
    let mut header = Header {
        name: 0,
        name_length: 0,
        buffers: &buffer,
        buffers_length: 1,
        control: rights,
        control_length: size_of::<Rights>(),
        flags: 0,
    };
    loop {
        let received = call(number::RECVMSG, [control, addr_of_mut!(header) as usize, 0, 0, 0]);
        if received != EINTR {
            return received;
        }
    }
}

fn execute(executable: Option<i32>, length: usize) -> Failure {
    let message = addr_of!(MESSAGE).cast::<u8>();
    let Counts { arguments, entries, limits, .. } = counts();
    if arguments + entries + 2 > POINTERS_MAX || 16 + limits * 24 > length {
        return Failure(b"message", E2BIG);
    }
    let mut at = 16;
    for _ in 0..limits {
        // SAFETY: `at` plus one limit's 24 bytes is within the message, as just checked, and stays aligned to 8.
        let (resource, pair) =
            unsafe { (message.add(at).cast::<u64>().read(), message.add(at + 8)) };
        if let Err(failure) =
            check(b"prlimit", call(number::PRLIMIT64, [0, resource as usize, pair as usize, 0, 0]))
        {
            return failure;
        }
        at += 24;
    }
    let (directory, path) = match (string(&mut at, length), string(&mut at, length)) {
        (Some(directory), Some(path)) => (directory, path),
        _ => return Failure(b"message", EBADMSG),
    };
    let pointers = addr_of_mut!(POINTERS).cast::<*const u8>();
    for index in 0..arguments + entries {
        // The environment follows the arguments and the null that closes them.
        let slot = if index < arguments { index } else { index + 1 };
        let Some(string) = string(&mut at, length) else { return Failure(b"message", EBADMSG) };
        // SAFETY: `slot` is below POINTERS_MAX by the first check.
        unsafe { pointers.add(slot).write(string) };
    }
    // SAFETY: a string has at least its NUL.
    if unsafe { directory.read() } != 0
        && let Err(failure) = check(b"chdir", call(number::CHDIR, [directory as usize, 0, 0, 0, 0]))
    {
        return failure;
    }
    let (argv, envp) =
        (pointers as usize, pointers as usize + (arguments + 1) * size_of::<usize>());
    let (at, flags) = match executable {
        Some(executable) => (executable as usize, AT_EMPTY_PATH),
        None => (AT_FDCWD, 0),
    };
    Failure(b"execveat", call(number::EXECVEAT, [at, path as usize, argv, envp, flags]))
}

/// The message's string at `at`, which then is past its NUL; `None` when the message ends before.
fn string(at: &mut usize, length: usize) -> Option<*const u8> {
    let message = addr_of!(MESSAGE).cast::<u8>();
    // SAFETY: `at` is at most `length`, which is at most the buffer's.
    let string = unsafe { message.add(*at) };
    while *at < length {
        *at += 1;
        // SAFETY: below `length`, as just checked.
        if unsafe { message.add(*at - 1).read() } == 0 {
            return Some(string);
        }
    }
    None
}

fn check(step: &'static [u8], answer: isize) -> Result<(), Failure> {
    if answer < 0 { Err(Failure(step, answer)) } else { Ok(()) }
}

fn report(control: usize, step: &[u8], answer: isize) {
    let buffer = addr_of_mut!(MESSAGE).cast::<u8>();
    // SAFETY: the buffer is far longer than a number and the longest step's name, and nobody else uses it.
    unsafe {
        buffer.cast::<i32>().write(-answer as i32);
        for (index, byte) in step.iter().enumerate() {
            // Volatile, or the compiler makes the loop a call of memcpy.
            buffer.add(4 + index).write_volatile(*byte);
        }
    }
    call(number::WRITE, [control, buffer as usize, 4 + step.len(), 0, 0]);
}

fn exit(status: usize) -> ! {
    loop {
        call(number::EXIT_GROUP, [status, 0, 0, 0, 0]);
    }
}

#[cfg(target_arch = "x86_64")]
fn call(number: usize, [a, b, c, d, e]: [usize; 5]) -> isize {
    let answer;
    // SAFETY: the kernel's calling convention; every pointer passed here is valid for the call's use of it.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

#[cfg(target_arch = "aarch64")]
fn call(number: usize, [a, b, c, d, e]: [usize; 5]) -> isize {
    let answer;
    // SAFETY: as above.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => answer, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
            options(nostack),
        );
    }
    answer
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(125)
}
