//! A program under measurement: started on its cores, found by its `listening on` line, stopped by
//! SIGTERM; and what it costs.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::Target;
use crate::cores::Cores;

/// A server may take so long to listen: the first start of a Baton compiles its components.
const START_MAX: Duration = Duration::from_secs(120);
/// And so long to end after SIGTERM, before it is killed.
const STOP_MAX: Duration = Duration::from_secs(60);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It cannot be executed.
    #[error("cannot start {program}")]
    Spawn {
        /// What was to be started.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It ended instead.
    #[error("{program} ended before it listened ({status}): {log}")]
    Ended {
        /// What was started.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// It does not listen.
    #[error("{program} does not listen after {} s: {log}", START_MAX.as_secs())]
    Silent {
        /// What was started.
        program: String,
        /// The end of its log.
        log: String,
    },
}

/// How it is known that a server listens.
#[derive(Clone, Debug)]
pub enum Announced {
    /// By a line `WORD on http://ADDRESS` on standard output for each of these words.
    Lines(Vec<&'static str>),
    /// Only by accepting connections there.
    Port(SocketAddr),
    /// Nothing: it inherited a socket that was bound before, and connections wait there.
    Inherited(PathBuf),
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    process: Child,
    _output: Option<BufReader<ChildStdout>>,
    /// The addresses that it announced, in the order asked for.
    pub addresses: Vec<SocketAddr>,
    socket: Option<PathBuf>,
    /// From the start of the process to its last announcement.
    pub start: Duration,
}

impl Server {
    /// Starts `command` on `cores` and waits until it listens. Standard error goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started, ends, or does not listen.
    pub fn start(
        mut command: Command,
        announced: &Announced,
        cores: &Cores,
        log: &Path,
    ) -> Result<Self, StartError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let spawn_error = |source| StartError::Spawn { program: program.clone(), source };
        let errors = File::options().create(true).append(true).open(log).map_err(spawn_error)?;
        // The end of the log says why it ended; a backtrace would push that out.
        let output = errors.try_clone().map_err(spawn_error)?;
        command.stderr(errors).env("RUST_BACKTRACE", "0");
        match announced {
            Announced::Lines(_) => command.stdin(Stdio::null()).stdout(Stdio::piped()),
            Announced::Port(_) => command.stdin(Stdio::null()).stdout(Stdio::null()),
            // The listener is its standard input. Container runtimes give all three streams to the
            // container's user: `/dev/null` must not be one.
            Announced::Inherited(_) => command.stdout(output),
        };
        let begun = Instant::now();
        // Children have the cores of the thread that starts them.
        let mut process = cores.run(|| command.spawn()).map_err(spawn_error)?;
        let mut output = process.stdout.take().map(BufReader::new);
        let addresses = match (announced, &mut output) {
            (Announced::Lines(words), Some(output)) => read_addresses(output, words),
            (Announced::Port(address), _) => accepts(&mut process, *address, begun),
            (Announced::Inherited(_), _) => Some(Vec::new()),
            (Announced::Lines(_), None) => None,
        };
        let start = begun.elapsed();
        let socket = match announced {
            Announced::Inherited(socket) => Some(socket.clone()),
            Announced::Lines(_) | Announced::Port(_) => None,
        };
        let mut server = Self { process, _output: output, addresses: Vec::new(), socket, start };
        match addresses {
            Some(addresses) => server.addresses = addresses,
            None => {
                // End of its output comes a moment before its end.
                let grace = Instant::now() + Duration::from_secs(1);
                let status = server.ended_by(grace);
                let log = tail(log);
                return Err(match status {
                    Some(status) => StartError::Ended { program, status, log },
                    None => StartError::Silent { program, log },
                });
            }
        }
        Ok(server)
    }

    /// Where it listens.
    ///
    /// # Panics
    /// When it announced nothing, which no server that was started did.
    #[must_use]
    pub fn target(&self) -> Target {
        match &self.socket {
            Some(socket) => Target::Unix(socket.clone()),
            None => self.addresses[0].into(),
        }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// CPU time of its processes and all below them that live, in nanoseconds.
    #[must_use]
    pub fn cpu_ns(&self) -> u64 {
        tree(self.pid()).into_iter().map(cpu_ns).sum()
    }

    /// Stops it and waits for its end.
    ///
    /// # Errors
    /// When it did not end well, or had to be killed.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let status = self.terminate()?;
        let well = status.success() || status.signal() == Some(15);
        anyhow::ensure!(well, "a server ended with {status} when it was told to stop");
        Ok(())
    }

    fn terminate(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.process.try_wait()? {
            return Ok(status);
        }
        if let Ok(pid) = i32::try_from(self.process.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        match self.ended_by(Instant::now() + STOP_MAX) {
            Some(status) => Ok(status),
            None => {
                self.process.kill()?;
                self.process.wait()
            }
        }
    }

    fn ended_by(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                _ => return None,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.terminate();
    }
}

/// The addresses announced by each word; nothing when the output ends before.
fn read_addresses(output: &mut impl io::BufRead, words: &[&str]) -> Option<Vec<SocketAddr>> {
    let mut found = BTreeMap::new();
    for line in output.lines() {
        let line = line.ok()?;
        for (place, word) in words.iter().enumerate() {
            let address = line.strip_prefix(word).and_then(|rest| rest.split_once("://"));
            if let Some(address) = address.and_then(|(_, address)| address.parse().ok()) {
                found.entry(place).or_insert(address);
            }
        }
        if found.len() == words.len() {
            return Some(found.into_values().collect());
        }
    }
    None
}

fn accepts(process: &mut Child, address: SocketAddr, begun: Instant) -> Option<Vec<SocketAddr>> {
    while begun.elapsed() < START_MAX && matches!(process.try_wait(), Ok(None)) {
        if TcpStream::connect(address).is_ok() {
            return Some(vec![address]);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    None
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// A process and all below it, itself first.
#[must_use]
pub fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = VecDeque::from([root]);
    while let Some(pid) = next.pop_front() {
        found.push(pid);
        next.extend(children.remove(&pid).unwrap_or_default());
    }
    found
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before, in brackets, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// CPU time of the living threads of a process, in nanoseconds; 0 when it is gone.
#[must_use]
pub fn cpu_ns(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let times = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    times.sum()
}

/// Memory of a process in bytes: what is resident, and what that is when shared pages are divided
/// among those who share them (PSS); nothing when it is gone.
#[must_use]
pub fn memory(pid: u32) -> Option<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Memory {
        resident: kilobytes(&rollup, "Rss:")?,
        proportional: kilobytes(&rollup, "Pss:")?,
        peak: kilobytes(&status, "VmHWM:")?,
    })
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// Its share of what is resident now.
    pub proportional: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_server_is_found_by_its_lines_in_any_order() {
        let output =
            "hello\nadministration on http://127.0.0.1:2\nlistening on http://127.0.0.1:1\n";
        let found = read_addresses(&mut output.as_bytes(), &["listening", "administration"]);
        let found: Vec<u16> = found.expect("both").iter().map(SocketAddr::port).collect();
        assert_eq!(found, [1, 2]);
    }

    #[test]
    fn a_server_that_ends_instead_says_what_it_logged() {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let announced = Announced::Lines(vec!["listening"]);
        let command = shell("echo port taken >&2; exit 3");
        let error = Server::start(command, &announced, &Cores::available(), log.path());
        let error = error.expect_err("it does not listen").to_string();
        assert!(error.contains("exit status: 3") && error.contains("port taken"), "{error}");
    }

    #[test]
    fn time_of_children_counts_while_they_live() {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let announced = Announced::Lines(vec!["listening"]);
        let busy = "sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; \
                    echo listening on http://127.0.0.1:1; exec sleep 60 >/dev/null' & wait";
        let server = Server::start(shell(busy), &announced, &Cores::available(), log.path());
        let server = server.expect("a server");
        assert_eq!(tree(server.pid()).len(), 2);
        assert!(server.cpu_ns() > cpu_ns(server.pid()));
        for pid in tree(server.pid()).into_iter().skip(1) {
            let pid = i32::try_from(pid).expect("a pid");
            kill(Pid::from_raw(pid), Signal::SIGTERM).expect("a living child");
        }
    }
}
