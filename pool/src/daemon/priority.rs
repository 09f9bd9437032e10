//! The daemon's place in the queue for a core: behind the requests that are being answered.
//!
//! Making and removing sandboxes is work for later requests, done beside those that somebody waits for. Where the control
//! group around all runs can be idle, that is what matters ([`Cores`](crate::cores::Cores)); elsewhere this does: while 20
//! sandboxes a second are made, requests answered by Wasm take 1.2 to 1.8 times as long at the 99th percentile as while
//! none is, by the machine's speed; 2.0 times when both have the same priority, measured where it was 1.2 to 1.4
//! (`just bench tiers --only warming`). A sandbox has the priority that Baton was started with, and the weight of its
//! control group.
//!
//! Baton and a function take turns on a core that they share. A function that takes the core as soon as one request is
//! there (`SCHED_OTHER`) has it change hands for nearly each of 16 requests in flight, as `SCHED_BATCH` for each sixth,
//! with a seventh of the kernel's cycles less for each of them.

use rustix::process::{Pid, getppid, getpriority_process, setpriority_process};

/// How much further back than Baton, as a nice value: a tenth of a core that both want all the time.
const BEHIND: i32 = 10;

/// Has a daemon that this process has just started stand behind from its first instruction on: Baton's first answer does
/// not wait for what the kernel does to begin it.
pub fn stand_behind(daemon: i32) {
    let daemon = Pid::from_raw(daemon);
    let usual = getpriority_process(None).unwrap_or(0);
    let _ = daemon.map(|daemon| setpriority_process(Some(daemon), usual + BEHIND));
}

/// The priority that Baton was started with, as a nice value. All that is done with it is a courtesy, without which
/// everything works: where the kernel does not allow it, nothing is said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Priority(i32);

impl Priority {
    /// Has this process stand behind from here on. Its parent, which may have seen to that already, has the priority that
    /// Baton was started with.
    pub(super) fn lower() -> Self {
        let usual = getpriority_process(getppid()).unwrap_or(0);
        let _ = setpriority_process(None, usual + BEHIND);
        Self(usual)
    }

    /// For a worker within its sandbox's control group, which has its share of the cores all the same: whoever wakes up
    /// has the core at once, where the kernel compares tasks and not their groups.
    pub(super) fn give_way() {
        schedule(None, libc::SCHED_IDLE);
    }

    /// The same for a worker that leaves the group.
    pub(super) fn give_way_no_more() {
        schedule(None, libc::SCHED_OTHER);
    }

    /// Gives a sandbox's init, which has both from its worker, the priority that Baton was started with, and with it all
    /// that will run there. Its policy is that of batches, which have the same share of the cores: only, on a core where
    /// Baton runs, a function does not begin with a request in the middle of what Baton hands over next.
    pub(super) fn give(self, init: Pid) {
        schedule(Some(init), libc::SCHED_BATCH);
        let _ = setpriority_process(Some(init), self.0);
    }
}

#[expect(unsafe_code, reason = "neither rustix nor nix has this system call")]
fn schedule(process: Option<Pid>, policy: libc::c_int) {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel only reads the parameter.
    let _ = unsafe { libc::sched_setscheduler(Pid::as_raw(process), policy, &raw const parameter) };
}
