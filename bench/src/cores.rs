//! Which cores what is measured may use, and which the load.

use std::fmt::{self, Display};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;

/// Some cores of the machine, by number; never none.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Cores(Vec<usize>);

/// Cores that are kept apart.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Split {
    /// For what is measured.
    pub server: Cores,
    /// For the load. The same ones when the machine has one core only.
    pub load: Cores,
}

/// The set that the kernel calls by that.
const ITSELF: Pid = Pid::from_raw(0);

impl Split {
    /// Whether the load has cores of its own.
    #[must_use]
    pub fn are_apart(&self) -> bool {
        self.server != self.load
    }
}

impl Cores {
    /// Those that the calling thread may use.
    #[must_use]
    pub fn available() -> Self {
        let set = sched_getaffinity(ITSELF).unwrap_or_default();
        let cores: Vec<usize> =
            (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect();
        if cores.is_empty() { Self(vec![0]) } else { Self(cores) }
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The first `count` of them, at least one.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        Self(self.0.iter().copied().take(count.max(1)).collect())
    }

    /// Half of them, rounded up, for the server, the others for the load.
    #[must_use]
    pub fn split(&self) -> Split {
        let (server, load) = self.0.split_at(self.0.len().div_ceil(2));
        let load = if load.is_empty() { server } else { load };
        Split { server: Self(server.to_vec()), load: Self(load.to_vec()) }
    }

    /// Runs something on these cores. What it starts, threads and processes, stays on them.
    ///
    /// # Panics
    /// When the kernel takes away the cores it gave.
    pub fn run<T>(&self, action: impl FnOnce() -> T) -> T {
        let before = sched_getaffinity(ITSELF).expect("a thread may ask for its own cores");
        let mut set = CpuSet::new();
        for core in &self.0 {
            set.set(*core).expect("a core that the kernel named");
        }
        sched_setaffinity(ITSELF, &set).expect("cores that this thread has");
        let result = action();
        sched_setaffinity(ITSELF, &before).expect("cores that this thread had");
        result
    }
}

impl Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_has_cores_of_its_own_where_there_are_two() {
        let split = Cores(vec![0, 2, 5]).split();
        assert_eq!(split, Split { server: Cores(vec![0, 2]), load: Cores(vec![5]) });
        assert!(split.are_apart());
        let alone = Cores(vec![3]).split();
        assert_eq!(alone.server, alone.load);
        assert!(!alone.are_apart());
    }

    #[test]
    fn a_thread_has_its_cores_back_afterwards() {
        let all = Cores::available();
        let one = all.first(1);
        assert_eq!(one.run(Cores::available), one);
        assert_eq!(Cores::available(), all);
    }
}
