//! Many sandboxes: how many a second, how many at once, what each holds.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use baton_pool::activation::{Parked, Program, Start};
use baton_pool::protocol::{self, FromDaemon, SandboxId, ToDaemon};

use super::house::{Daemon, LIMITS, get_once};
use super::place::Place;
use crate::bars::{Bar, short};
use crate::bench::Session;
use crate::results::Results;
use crate::stats;
use crate::table::Table;

/// Sandboxes being made or parked while creations are counted.
const AT_ONCE: u64 = 16;
/// And being removed, when all are.
const AT_ONCE_REMOVED: usize = 16;

/// A daemon whose socket is asked directly, without a pool.
struct Direct {
    daemon: Daemon,
    socket: OwnedFd,
    next: u64,
}

struct Sandbox {
    id: SandboxId,
    pid: u32,
    parked: Parked,
}

impl Direct {
    fn start(place: &Place, name: &str) -> anyhow::Result<Self> {
        let (daemon, socket) = Daemon::start(place, name)?;
        let mut direct = Self { daemon, socket, next: 0 };
        direct.tell(&ToDaemon::Hello { in_use: Vec::new() })?;
        match direct.hear()? {
            (FromDaemon::Ready { .. }, _) => Ok(direct),
            (other, _) => anyhow::bail!("the daemon said {other:?}"),
        }
    }

    fn tell(&self, message: &ToDaemon) -> io::Result<()> {
        protocol::send(&self.socket, message, &[])
    }

    fn hear(&mut self) -> io::Result<(FromDaemon, Vec<OwnedFd>)> {
        protocol::receive(&self.socket)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn create(&mut self) -> io::Result<()> {
        let id = SandboxId(self.next);
        self.next += 1;
        self.tell(&ToDaemon::Create { id, scratch: 0, egress: None })
    }

    fn parked(&mut self) -> anyhow::Result<Sandbox> {
        match self.hear()? {
            (FromDaemon::Parked { id, pid, files, egress, .. }, descriptors) => {
                Ok(Sandbox { id, pid, parked: Parked::new(&files, egress, descriptors)? })
            }
            (other, _) => anyhow::bail!("the daemon said {other:?}"),
        }
    }

    /// Makes and removes so many; the rate a second.
    fn cycle(&mut self, count: u64) -> anyhow::Result<f64> {
        let (begun, mut made, mut gone) = (Instant::now(), 0, 0);
        while gone < count {
            while made < count && made - gone < AT_ONCE {
                self.create()?;
                made += 1;
            }
            match self.hear()?.0 {
                FromDaemon::Parked { id, .. } => self.tell(&ToDaemon::Remove { id })?,
                FromDaemon::Gone { .. } => gone += 1,
                other => anyhow::bail!("the daemon said {other:?}"),
            }
        }
        Ok(stats::wide(count) / begun.elapsed().as_secs_f64())
    }

    fn end(self) -> anyhow::Result<()> {
        drop(self.socket);
        self.daemon.end()
    }
}

pub(super) fn creations(
    session: &Session,
    results: &mut Results,
    place: &Place,
) -> anyhow::Result<()> {
    let mut direct = Direct::start(place, "cycles")?;
    let rates: Vec<f64> = (0..session.either(10, 3))
        .map(|_| direct.cycle(session.either(100, 16)))
        .collect::<Result<_, _>>()?;
    direct.end()?;
    let rate = stats::median_estimate(&rates, session.seed);
    results.bars.push(Bar::at_least("creations and removals a second, two workers", rate, 110.0));
    results.data("cycles", &rates)?;
    Ok(())
}

pub(super) fn alive(session: &Session, results: &mut Results, place: &Place) -> anyhow::Result<()> {
    let (steps, each) = session.either((10, 100), (2, 10));
    let total = steps * each;
    let mut direct = Direct::start(place, "crowd")?;
    let (mut sandboxes, mut kernel) = (Vec::new(), Vec::new());
    for _ in 0..steps {
        let before = kernel_kb()?;
        for _ in 0..each {
            direct.create()?;
        }
        for _ in 0..each {
            sandboxes.push(direct.parked()?);
        }
        kernel.push((kernel_kb()? - before) / stats::float(each));
    }
    let pss: Vec<f64> = sandboxes.iter().map(|it| pss_kb(it.pid)).collect::<Result<_, _>>()?;
    let user = stats::mean(&pss);
    let kb = stats::bootstrap(&kernel, session.seed, |kernel| user + stats::mean(kernel));

    let ids: Vec<SandboxId> = sandboxes.iter().map(|sandbox| sandbox.id).collect();
    let (reached, activated) = reach(place, sandboxes)?;
    let removed = remove(&mut direct, &ids)?;
    direct.end()?;

    let mut table = Table::new(
        format!("{total} sandboxes alive at once"),
        ["PSS kB", "kernel kB", "reachable", "start ms, p50", "removed", "a removal, ms"],
    );
    table.row([
        short(user),
        short(stats::mean(&kernel)),
        reached.to_string(),
        short(stats::median(&activated)),
        removed.len().to_string(),
        short(removed.iter().sum::<f64>() / stats::float(total)),
    ]);
    results.tables.push(table);
    results.data("alive_kernel_kb", &kernel)?;
    let figure = format!("kB of a parked sandbox, user and kernel, at {total}");
    results.bars.push(Bar::at_most(figure, kb, 520.0));
    let wanted = stats::float(total);
    results.bars.push(Bar::at_least(
        format!("sandboxes reachable of {total} alive"),
        stats::float(reached),
        wanted,
    ));
    results.bars.push(Bar::at_least(
        format!("sandboxes removed of {total}"),
        stats::float(removed.len()),
        wanted,
    ));
    Ok(())
}

/// Starts the server in every one of them and asks it; how many answered, and how long each took.
fn reach(place: &Place, sandboxes: Vec<Sandbox>) -> anyhow::Result<(usize, Vec<f64>)> {
    let program = Program::Executable(File::open(Place::server())?.into());
    let mut running: Vec<(PathBuf, OwnedFd)> = Vec::new();
    let mut times = Vec::new();
    for sandbox in sandboxes {
        let begun = Instant::now();
        let socket = place.path().join(format!("{}.sock", sandbox.id));
        let pidfd = activate(sandbox.parked, &program, &socket)?;
        get_once(&socket)?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        running.push((socket, pidfd));
    }
    // All of them serve now; each is asked once more.
    let reached = running.iter().filter(|(socket, _)| get_once(socket).is_ok()).count();
    for (socket, _) in &running {
        fs::remove_file(socket)?;
    }
    Ok((reached, times))
}

fn activate(parked: Parked, program: &Program, socket: &Path) -> anyhow::Result<OwnedFd> {
    let listener = UnixListener::bind(socket)?;
    let null = File::options().write(true).open("/dev/null")?;
    let activating = parked.activate(&Start {
        program,
        listener: Some(listener.as_fd()),
        stdout: null.as_fd(),
        stderr: null.as_fd(),
        argv: &[c"hello".to_owned()],
        env: &[],
        limits: LIMITS,
    })?;
    // The backlog absorbs the start.
    Ok(activating.into_pidfd())
}

/// Removes them, a few at once; the time between the end of each and that of the one before, in ms.
fn remove(direct: &mut Direct, ids: &[SandboxId]) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::with_capacity(ids.len());
    let mut waiting = ids.iter();
    // Were all told at once, the daemon and we could wait for each other to read.
    for id in waiting.by_ref().take(AT_ONCE_REMOVED) {
        direct.tell(&ToDaemon::Remove { id: *id })?;
    }
    let mut last = Instant::now();
    while times.len() < ids.len() {
        match direct.hear()?.0 {
            FromDaemon::Gone { .. } => {
                let taken: Duration = last.elapsed();
                times.push(taken.as_secs_f64() * 1e3);
                last = Instant::now();
            }
            other => anyhow::bail!("the daemon said {other:?}"),
        }
        if let Some(id) = waiting.next() {
            direct.tell(&ToDaemon::Remove { id: *id })?;
        }
    }
    Ok(times)
}

/// Proportional set size of a process.
fn pss_kb(pid: u32) -> anyhow::Result<f64> {
    Ok(field(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?, "Pss:"))
}

/// What the kernel holds for processes, of the whole machine: slabs, stacks, page tables, per-CPU data.
fn kernel_kb() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let fields = ["Slab:", "KernelStack:", "PageTables:", "Percpu:"];
    Ok(fields.iter().map(|name| field(&text, name)).sum())
}

fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
