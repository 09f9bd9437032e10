//! The cores that Baton may use.

use std::sync::LazyLock;
use std::thread::available_parallelism;

static CORES: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));

/// How many they are, by affinity and CPU quota. Found out once, since it takes several files to be read.
#[must_use]
pub fn count() -> usize {
    *CORES
}
