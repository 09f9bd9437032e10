//! Starting a function in a parked sandbox, from the host, without a word to the daemon.
//!
//! ```text
//! Parked ──activate──▶ Activating ──outcome──▶ executed (end of file) | StartFailure (step and errno)
//! ```
//! The function's limits, as far as they differ from what the sandbox was parked with, are written into the cgroup
//! files that the daemon handed over, then the stub in the
//! sandbox gets one message: standard output and error, listening socket, executable, resource limits, argv and
//! environment. The caller drops its own copies of the listener and of the pipes' write ends afterwards, so that
//! a function's death is seen.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;

use crate::protocol::{self, CPU_PERIOD_US, CgroupFile, PARKED_QUOTA_US};

/// The shortest CPU quota that the kernel accepts, in microseconds a period.
const CPU_QUOTA_MIN_US: u128 = 1_000;
/// What tells the function about its listener. It is process 1 of its pid namespace.
const LISTEN: [&[u8]; 3] = [b"LISTEN_PID=1", b"LISTEN_FDS=1", b"LISTEN_FDNAMES=http"];

/// A listening socket comes with the stub's message.
const WITH_LISTENER: usize = 1;
/// An executable comes with it.
const WITH_EXECUTABLE: usize = 2;

/// What a function may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of memory, swap included.
    pub memory: u64,
    /// Cores' worth of CPU time, such as 0.5.
    pub cpu: f64,
    /// Processes and threads at once.
    pub pids: u32,
    /// Open descriptors at once.
    pub descriptors: u64,
}

/// What a function executes.
#[derive(Debug)]
pub enum Program {
    /// A static executable, read-only: a sealed memfd or a file.
    Executable(OwnedFd),
    /// A path in the root that the sandbox was given.
    Path {
        /// The program or script, an absolute path.
        path: CString,
        /// Where it starts; empty for `/`.
        directory: CString,
    },
}

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The program.
    pub program: &'a Program,
    /// A listening socket, the function's descriptor 3; `None` when it makes its own.
    pub listener: Option<BorrowedFd<'a>>,
    /// Where its standard output goes.
    pub stdout: BorrowedFd<'a>,
    /// Where its standard error goes.
    pub stderr: BorrowedFd<'a>,
    /// Arguments, the program's name first.
    pub argv: &'a [CString],
    /// Environment as `NAME=value`; with a listener, `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` are added here.
    pub env: &'a [CString],
    /// What it may use.
    pub limits: Limits,
}

/// A sandbox that waits for its function.
#[derive(Debug)]
pub struct Parked {
    control: OwnedFd,
    pidfd: OwnedFd,
    files: Vec<(CgroupFile, OwnedFd)>,
    egress: Option<OwnedFd>,
}

/// A sandbox that was told its function; [`AsFd`] is the control socket, readable once the outcome is known.
#[derive(Debug)]
pub struct Activating {
    control: OwnedFd,
    pidfd: OwnedFd,
    files: Vec<(CgroupFile, OwnedFd)>,
}

/// Stops and continues every process of a sandbox.
#[derive(Debug)]
pub struct Freezer {
    file: CgroupFile,
    descriptor: OwnedFd,
}

/// Why the function could not be executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step} failed: {}", io::Error::from_raw_os_error(*.errno))]
pub struct StartFailure {
    /// What the stub was doing, a system call's name.
    pub step: String,
    /// What the kernel answered.
    pub errno: i32,
}

impl Parked {
    /// From the descriptors of [`FromDaemon::Parked`](crate::protocol::FromDaemon::Parked).
    ///
    /// # Errors
    /// `InvalidData` when their number does not match `files` and `egress`.
    pub fn new(
        files: &[CgroupFile],
        egress: bool,
        mut descriptors: Vec<OwnedFd>,
    ) -> io::Result<Parked> {
        let count = descriptors.len();
        let egress = if egress { descriptors.pop() } else { None };
        let rest = descriptors.len();
        let mut descriptors = descriptors.into_iter();
        match (descriptors.next(), descriptors.next()) {
            (Some(control), Some(pidfd)) if rest == files.len() + 2 => Ok(Parked {
                control,
                pidfd,
                files: files.iter().copied().zip(descriptors).collect(),
                egress,
            }),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{count} descriptors came with {} cgroup files", files.len()),
            )),
        }
    }

    /// The sandbox's init: readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The TCP listener on the sandbox's loopback, if it was made with one; whoever accepts there serves the
    /// sandbox's only way out. Dropped, connecting there is refused.
    pub fn take_egress(&mut self) -> Option<OwnedFd> {
        self.egress.take()
    }

    /// Writes the function's limits and hands it over to the stub, which executes it.
    ///
    /// # Errors
    /// When a limit cannot be written or the stub is gone. The sandbox is then of no use and has to be removed.
    pub fn activate(self, start: &Start<'_>) -> io::Result<Activating> {
        self.write_limits(&start.limits)?;
        let executable = match start.program {
            Program::Executable(executable) => Some(executable.as_fd()),
            Program::Path { .. } => None,
        };
        // The stub has them at descriptors 1, 2, 3 and on.
        let outputs = [start.stdout, start.stderr];
        let descriptors: Vec<_> =
            outputs.into_iter().chain(start.listener).chain(executable).collect();
        protocol::send_bytes(&self.control, &encode(start)?, &descriptors)?;
        Ok(Activating { control: self.control, pidfd: self.pidfd, files: self.files })
    }

    fn write_limits(&self, limits: &Limits) -> io::Result<()> {
        let quota = cpu_quota(limits.cpu)?;
        for (file, descriptor) in &self.files {
            match file {
                CgroupFile::MemoryAndSwapLimit => {
                    self.write_memory_and_swap(descriptor, limits.memory)?;
                }
                CgroupFile::MemoryLimit | CgroupFile::MemoryMax => {
                    write_number(descriptor, limits.memory)?;
                }
                CgroupFile::SwapMax => write_number(descriptor, 0)?,
                CgroupFile::CpuQuota | CgroupFile::CpuMax if quota == PARKED_QUOTA_US => {}
                CgroupFile::CpuQuota => write_number(descriptor, quota)?,
                CgroupFile::CpuMax => write(descriptor, &format!("{quota} {CPU_PERIOD_US}"))?,
                CgroupFile::PidsMax => write_number(descriptor, u64::from(limits.pids))?,
                CgroupFile::FreezerState | CgroupFile::Freeze => {}
            }
        }
        Ok(())
    }

    /// v1 refuses a limit of memory and swap below that of memory: when lowered, it comes second.
    fn write_memory_and_swap(&self, descriptor: &OwnedFd, bytes: u64) -> Result<(), Errno> {
        match write_number(descriptor, bytes) {
            Err(Errno::INVAL) => {
                for (_, memory) in
                    self.files.iter().filter(|(file, _)| *file == CgroupFile::MemoryLimit)
                {
                    write_number(memory, bytes)?;
                }
                write_number(descriptor, bytes)
            }
            written => written,
        }
    }
}

fn write_number(descriptor: &OwnedFd, number: u64) -> Result<(), Errno> {
    write(descriptor, &number.to_string())
}

fn write(descriptor: &OwnedFd, text: &str) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::io::write(descriptor, text.as_bytes())).map(drop)
}

/// Microseconds of CPU time in each period.
fn cpu_quota(cores: f64) -> io::Result<u64> {
    let period = Duration::from_micros(CPU_PERIOD_US).as_secs_f64();
    Duration::try_from_secs_f64(cores * period)
        .ok()
        .and_then(|quota| u64::try_from(quota.as_micros().max(CPU_QUOTA_MIN_US)).ok())
        .ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{cores} is no number of cores"))
        })
}

/// The stub's message, in the machine's byte order: the numbers of arguments, environment entries and resource
/// limits as `u32` and which descriptors come with it; each limit as three `u64`, resource, soft and hard; then the
/// strings with their NUL, first the working directory and the path.
fn encode(start: &Start<'_>) -> io::Result<Vec<u8>> {
    let rlimits = [(libc::RLIMIT_NOFILE, start.limits.descriptors)];
    let mut message = Vec::with_capacity(1024);
    let listen = if start.listener.is_some() { &LISTEN[..] } else { &[] };
    let (directory, path) = match start.program {
        Program::Executable(_) => (c"", c""),
        Program::Path { path, directory } => (directory.as_c_str(), path.as_c_str()),
    };
    let descriptors = usize::from(start.listener.is_some()) * WITH_LISTENER
        + usize::from(matches!(start.program, Program::Executable(_))) * WITH_EXECUTABLE;
    let counts = [start.argv.len(), start.env.len() + listen.len(), rlimits.len(), descriptors];
    for count in counts {
        let count = u32::try_from(count)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        message.extend(count.to_ne_bytes());
    }
    for (resource, limit) in rlimits {
        for number in [u64::from(resource), limit, limit] {
            message.extend(number.to_ne_bytes());
        }
    }
    let strings = start.argv.iter().chain(start.env).map(|text| text.as_bytes());
    let before = [directory.to_bytes(), path.to_bytes()].into_iter();
    for string in before.chain(strings).chain(listen.iter().copied()) {
        message.extend(string);
        message.push(0);
    }
    Ok(message)
}

impl Activating {
    /// What became of it, without waiting. A stub that was killed looks executed: ask the pidfd.
    ///
    /// # Errors
    /// `WouldBlock` while it is open, or when the control socket cannot be read.
    pub fn outcome(&self) -> io::Result<Result<(), StartFailure>> {
        let mut report = [0; 64];
        let (length, _) = protocol::receive_bytes_now(&self.control, &mut report)?;
        if length == 0 {
            return Ok(Ok(()));
        }
        match report[..length].split_first_chunk() {
            Some((errno, step)) => Ok(Err(StartFailure {
                step: String::from_utf8_lossy(step).into_owned(),
                errno: i32::from_ne_bytes(*errno),
            })),
            None => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the stub's report was cut short"))
            }
        }
    }

    /// The sandbox's init: readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Keeps the init's pidfd and closes the rest, once the outcome is known.
    pub fn into_pidfd(self) -> OwnedFd {
        self.pidfd
    }

    /// What stops and continues the sandbox; `None` the second time.
    pub fn take_freezer(&mut self) -> Option<Freezer> {
        let freezes =
            |file: &CgroupFile| matches!(file, CgroupFile::FreezerState | CgroupFile::Freeze);
        let at = self.files.iter().position(|(file, _)| freezes(file))?;
        let (file, descriptor) = self.files.swap_remove(at);
        Some(Freezer { file, descriptor })
    }
}

impl Freezer {
    /// Stops every process; on v1 some may still run for a moment.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub fn freeze(&self) -> io::Result<()> {
        let text = if self.file == CgroupFile::Freeze { "1" } else { "FROZEN" };
        Ok(write(&self.descriptor, text)?)
    }

    /// Lets them continue.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub fn thaw(&self) -> io::Result<()> {
        let text = if self.file == CgroupFile::Freeze { "0" } else { "THAWED" };
        Ok(write(&self.descriptor, text)?)
    }
}

impl AsFd for Activating {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}
