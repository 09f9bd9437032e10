//! Counters of the processor and the kernel, where they can be read.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Energy that the processor used since some time, in microjoules, by RAPL; nothing where it is not
/// readable. It wraps around after minutes to hours: a difference may be missing.
#[must_use]
pub fn energy_uj() -> Option<u64> {
    let packages = fs::read_dir("/sys/class/powercap").ok()?.flatten();
    let packages = packages.filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().matches(':').count() == 1
    });
    let read = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let energies: Vec<u64> =
        packages.filter_map(|entry| read(&entry.path().join("energy_uj"))).collect();
    (!energies.is_empty()).then(|| energies.iter().sum())
}

/// A running `perf stat` on processes.
#[derive(Debug)]
pub struct Counting(Child);

const EVENTS: &str = "instructions,cache-misses,raw_syscalls:sys_enter";

impl Counting {
    /// Begins to count what these processes do; nothing where there is no `perf` or it may not.
    #[must_use]
    pub fn begin(pids: &[u32]) -> Option<Self> {
        let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
        let mut command = Command::new("perf");
        command.args(["stat", "-x", ";", "-e", EVENTS, "-p", &pids.join(",")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().ok().map(Self)
    }

    /// Ends, and returns the events that could be counted.
    #[must_use]
    pub fn end(self) -> Vec<(String, f64)> {
        let Self(child) = self;
        if let Ok(pid) = i32::try_from(child.id()) {
            // By it, perf writes its counts.
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        let output = child.wait_with_output().map(|output| output.stderr).unwrap_or_default();
        parse(&String::from_utf8_lossy(&output))
    }
}

/// Lines of `VALUE;UNIT;EVENT;…`, where VALUE says when an event is not supported.
fn parse(output: &str) -> Vec<(String, f64)> {
    let line = |line: &str| {
        let mut fields = line.split(';');
        let value = fields.next()?.trim().parse().ok()?;
        Some((fields.nth(1)?.to_owned(), value))
    };
    output.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_are_not_supported_are_left_out() {
        let output =
            "<not supported>;;instructions;0;100.00;;\n1234;;raw_syscalls:sys_enter;9;100.00;;\n";
        assert_eq!(parse(output), [("raw_syscalls:sys_enter".to_owned(), 1234.0)]);
        assert_eq!(parse("Error: no permission\n"), []);
    }
}
