//! What a sandbox uses, as the host sees it: the files of control groups may be read by everybody. And what this process
//! has computed.

use crate::daemon::cgroup::{Group, Hierarchies};
use crate::daemon::probe::CgroupVersion;
use nix::time::{ClockId, clock_gettime};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// What the processes of one sandbox used, from its making on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consumption {
    /// CPU time.
    pub cpu: Duration,
    /// Bytes charged now.
    pub memory: u64,
    /// Most bytes charged at once.
    pub memory_peak: u64,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
    /// Time for which its CPU quota kept it from running.
    pub throttled: Duration,
}

impl Consumption {
    /// Both together; a peak is that of the larger.
    #[must_use]
    pub fn and(self, other: Consumption) -> Consumption {
        Consumption {
            cpu: self.cpu + other.cpu,
            memory: self.memory + other.memory,
            memory_peak: self.memory_peak.max(other.memory_peak),
            oom_kills: self.oom_kills + other.oom_kills,
            throttled: self.throttled + other.throttled,
        }
    }
}

/// Reads what sandboxes use.
#[derive(Clone, Debug)]
pub(crate) struct Meters(Arc<Hierarchies>);

/// Reads what one sandbox uses.
#[derive(Clone, Debug)]
pub struct Meter {
    hierarchies: Arc<Hierarchies>,
    /// `None` when it had ended before that could be asked.
    group: Option<Arc<str>>,
}

impl Meters {
    pub(crate) fn find() -> Meters {
        Meters(Arc::new(Hierarchies::find()))
    }

    /// The meter of the sandbox with this init. To be made once, while that lives: v1 shows a process that has ended in
    /// the root group, and another process may get its number.
    pub(crate) fn of(&self, pid: u32) -> Meter {
        let group = path(pid, self.0.version).filter(|path| path != "/");
        Meter { hierarchies: Arc::clone(&self.0), group: group.map(Into::into) }
    }
}

impl Meter {
    /// CPU time used so far; `None` once the sandbox is gone.
    #[must_use]
    pub fn cpu(&self) -> Option<Duration> {
        self.group()?.cpu_ns().map(Duration::from_nanos)
    }

    /// All that was used so far; `None` once the sandbox is gone.
    #[must_use]
    pub fn read(&self) -> Option<Consumption> {
        let group = self.group()?;
        let memory = group.memory()?;
        let usage = group.usage();
        Some(Consumption {
            cpu: Duration::from_nanos(usage.cpu_ns),
            memory,
            memory_peak: usage.memory_peak,
            oom_kills: usage.oom_kills,
            throttled: Duration::from_nanos(usage.throttled_ns),
        })
    }

    /// Processes that the kernel killed for want of memory; `None` once the sandbox is gone.
    pub(crate) fn oom_kills(&self) -> Option<u64> {
        self.group()?.oom_kills()
    }

    fn group(&self) -> Option<Group<'_>> {
        Some(self.hierarchies.group(self.group.as_deref()?))
    }
}

/// The group of a process, which is the same in every hierarchy that counts something.
fn path(pid: u32, version: CgroupVersion) -> Option<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let counts = |controllers: &str| match version {
        CgroupVersion::V1 => controllers.split(',').any(|controller| controller == "memory"),
        CgroupVersion::V2 => controllers.is_empty(),
    };
    groups.lines().find_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        counts(controllers).then(|| path.to_owned())
    })
}

/// How long all threads of this process have computed so far.
#[must_use]
pub fn computed() -> Duration {
    // The clock is there since Linux 2.6.12; without it nothing is known of this process.
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
