//! The daemon's place in the queue for a core: behind the requests that are being answered.
//!
//! Making and removing sandboxes is work for later requests, done beside those that somebody waits for. Requests answered
//! by Wasm took, at the 99th percentile, twice as long while 20 sandboxes a second were made when both had the same
//! priority, and take 1.4 times as long with this one, no less with 15 (`just bench tiers --only warming`). A sandbox has
//! the priority that Baton was started with, and the weight of its control group.

use rustix::process::{getpriority_process, setpriority_process};

/// How much further back than Baton, as a nice value: a tenth of a core that both want all the time.
const BEHIND: i32 = 10;

/// The priority of this process, and the one that it was started with. All this is a courtesy, without which everything
/// works: where the kernel does not allow it, nothing changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Priority {
    usual: i32,
}

impl Priority {
    /// Has this process stand behind from here on.
    pub(super) fn lower() -> Self {
        let priority = Self { usual: getpriority_process(None).unwrap_or(0) };
        let _ = setpriority_process(None, priority.usual + BEHIND);
        priority
    }

    /// Has this process stand in front while it does something, for the sake of processes that it starts.
    pub(super) fn in_front<T>(self, start: impl FnOnce() -> T) -> T {
        let _ = setpriority_process(None, self.usual);
        let started = start();
        let _ = setpriority_process(None, self.usual + BEHIND);
        started
    }
}
