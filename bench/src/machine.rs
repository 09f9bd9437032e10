//! Where and with what something was measured.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::baton::program;

/// The machine, its load and the versions.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Cores that this program may use.
    pub cores: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Name and release of the kernel.
    pub kernel: String,
    /// Load averages of 1, 5 and 15 minutes when the measurement began.
    pub load_before: String,
    /// And when it ended.
    pub load_after: String,
    /// Seconds since 1970 when it began, by the wall clock; nothing is computed from it.
    pub began: u64,
    /// Programs and their versions.
    pub versions: Vec<(String, String)>,
}

impl Machine {
    /// This one, now.
    #[must_use]
    pub fn here() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let baton = program();
        let baton = baton.to_string_lossy();
        let programs: [(&str, &[&str]); 4] = [
            ("baton", &[&baton, "--version"]),
            ("commit", &["git", "rev-parse", "--short=12", "HEAD"]),
            ("rustc", &["rustc", "--version"]),
            ("just", &["just", "--version"]),
        ];
        let mut versions = vec![("baton-bench".into(), env!("CARGO_PKG_VERSION").into())];
        for (name, command) in programs {
            let version = first_line(command);
            // Most programs begin with their own name.
            let version = version.map(|line| match line.strip_prefix(name) {
                Some(version) => version.trim().to_owned(),
                None => line,
            });
            let named = std::env::var("BATON").ok().filter(|_| name == "baton");
            let version = version.map(|version| match named {
                Some(named) => format!("{version} ({named})"),
                None => version,
            });
            versions.extend(version.map(|version| (name.to_owned(), version)));
        }
        Self {
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: crate::cores::Cores::available().count(),
            memory: memory().unwrap_or(0),
            kernel: read("/proc/sys/kernel/ostype") + " " + &read("/proc/sys/kernel/osrelease"),
            load_before: load(),
            load_after: String::new(),
            began: since.as_secs(),
            versions,
        }
    }

    /// Notes the load at the end.
    pub fn ended(&mut self) {
        self.load_after = load();
    }

    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let versions: Vec<String> =
            self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        format!(
            "{} × {}, {} MiB, {}; load {} before, {} after; {}",
            self.cores,
            self.processor,
            self.memory >> 20,
            self.kernel,
            self.load_before,
            self.load_after,
            versions.join(", ")
        )
    }
}

/// The first line that a program writes, if it can be run and succeeds.
#[must_use]
pub fn first_line(command: &[&str]) -> Option<String> {
    let (program, arguments) = command.split_first()?;
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(text.lines().next()?.trim().to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn load() -> String {
    read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory() -> Option<u64> {
    let total = field("/proc/meminfo", "MemTotal")?;
    Some(total.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_this_description_asks_the_wall_clock() {
        let mut folders = vec![concat!(env!("CARGO_MANIFEST_DIR"), "/src").into()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir::<std::path::PathBuf>(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else if !path.ends_with("machine.rs") {
                    let text = fs::read_to_string(&path).expect("text");
                    assert!(!text.contains("SystemTime"), "{}", path.display());
                }
            }
        }
    }
}
