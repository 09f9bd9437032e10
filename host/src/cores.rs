//! The cores that Baton may use, and what a request gets of them.
//!
//! What a request would take with a core of its own is not to be seen on a machine that is busy. Of one in
//! a sandbox the host sees when it left and when its answer was there; meanwhile the kernel has shared the
//! cores out between that sandbox, the others and the host itself. How long the host has computed meanwhile
//! is known exactly; each of the sandboxes is taken to get as much of what was left as the others.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use baton_pool::meter::computed as host_computed;

static CORES: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));

/// What the requests in sandboxes compute at once, in thousandths of a core.
static FORWARDED: AtomicU64 = AtomicU64::new(0);

/// What the host computes for a request itself while it is away: it goes to sleep and is woken. For the smallest
/// function, asked 180 times a second on a core with nothing else to do, some 60 µs were found.
const OWN: Duration = Duration::from_micros(50);

/// The least of a core that a request is taken to get.
const LEAST: f64 = 0.05;

/// How many they are, by affinity and CPU quota. Found out once, since it takes several files to be read.
#[must_use]
pub fn count() -> usize {
    *CORES
}

/// A request that is sent to a sandbox, until the head of its answer is there.
pub struct Forwarding {
    /// The share of its time that it computes, with a core of its own.
    computes: f64,
    /// Whether anybody wants to know how much slower it was: the clock of all threads is a system call each time.
    watched: bool,
    /// When it left, and how long the host had computed by then.
    left: Option<(Instant, Duration)>,
    slowed: f64,
}

impl Forwarding {
    /// One that is about to be sent.
    #[must_use]
    pub fn new(computes: f64, watched: bool) -> Self {
        FORWARDED.fetch_add(thousandths(computes), Relaxed);
        Self { computes, watched, left: None, slowed: 1.0 }
    }

    /// The host has done what it can for now.
    pub fn leaves(&mut self) {
        if self.watched && self.left.is_none() {
            self.left = Some((Instant::now(), host_computed()));
        }
    }

    /// The host looks what there is of it.
    pub fn returns(&mut self) {
        let Some((left, before)) = self.left else { return };
        let (away, host) = (left.elapsed(), host_computed().saturating_sub(before + OWN));
        let host = host.as_secs_f64() / away.as_secs_f64().max(1e-9);
        self.slowed = slowed_in_sandbox(self.computes, cores(), host, forwarded());
    }

    /// How much slower it was than with a core of its own, as far as that was watched.
    #[must_use]
    pub fn slowed(&self) -> f64 {
        self.slowed
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        FORWARDED.fetch_sub(thousandths(self.computes), Relaxed);
    }
}

/// How much slower a start was than with a core of its own, which took so long and had the host compute for so long
/// beside it.
#[must_use]
pub fn start_slowed_by(took: Duration, beside: Duration) -> f64 {
    let host = beside.as_secs_f64() / took.as_secs_f64().max(1e-9);
    slowed_in_sandbox(1.0, cores(), host, forwarded())
}

/// How much slower a request in the host is now, by those in sandboxes, than with a core of its own; what share of its
/// time it computes is asked only if there are any.
#[must_use]
pub fn slowed_by_sandboxes(computes: impl FnOnce() -> f64) -> f64 {
    let forwarded = forwarded();
    if forwarded == 0.0 { 1.0 } else { slowed_in_host(computes(), cores(), forwarded) }
}

/// How much slower a request in a sandbox is while the host computes on `host` of the cores: those in sandboxes, which
/// ask for `forwarded` of them, itself included, share the rest.
fn slowed_in_sandbox(computes: f64, cores: f64, host: f64, forwarded: f64) -> f64 {
    slowed(computes, (cores - host) / forwarded.max(1.0))
}

/// How much slower a request in the host is while those in sandboxes ask for `forwarded` of the cores.
fn slowed_in_host(computes: f64, cores: f64, forwarded: f64) -> f64 {
    slowed(computes, cores / (1.0 + forwarded))
}

/// How much slower a request is that computes for a share of its time and gets so much of a core then.
fn slowed(computes: f64, gets: f64) -> f64 {
    1.0 + computes * (1.0 / gets.clamp(LEAST, 1.0) - 1.0)
}

fn cores() -> f64 {
    count() as f64
}

fn forwarded() -> f64 {
    FORWARDED.load(Relaxed) as f64 / 1e3
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share")]
fn thousandths(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * 1e3) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn on_one_core_a_sandbox_gets_what_the_host_leaves() {
        assert!((slowed_in_sandbox(1.0, 1.0, 0.75, 1.0) - 4.0).abs() < 1e-9);
    }

    #[test]
    fn a_start_beside_a_host_that_computes_was_slower_than_one_alone() {
        let took = Duration::from_millis(10);
        assert!(
            start_slowed_by(took, took.mul_f64(cores())) > start_slowed_by(took, Duration::ZERO)
        );
    }

    #[test]
    fn on_two_cores_one_that_the_host_computes_on_is_in_nobodys_way() {
        assert!((slowed_in_sandbox(1.0, 2.0, 1.0, 1.0) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn sandboxes_share_what_is_left_and_the_host_shares_with_them() {
        assert!((slowed_in_sandbox(1.0, 1.0, 0.5, 2.0) - 4.0).abs() < 1e-9);
        assert!((slowed_in_host(1.0, 1.0, 2.0) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn who_waits_for_others_is_not_slowed_by_those_who_compute() {
        assert!((slowed_in_sandbox(0.0, 1.0, 1.0, 8.0) - 1.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn a_busier_machine_never_makes_a_request_quicker(
            computes in 0.0..=1.0, cores in 1u32..8, host in 0.0..8.0, forwarded in 0.0..64.0,
            more in 0.0..8.0,
        ) {
            let cores = f64::from(cores);
            let slowed = slowed_in_sandbox(computes, cores, host, forwarded);
            prop_assert!((1.0..=1.0 / LEAST).contains(&slowed));
            prop_assert!(slowed_in_sandbox(computes, cores, host + more, forwarded) >= slowed);
            prop_assert!(slowed_in_sandbox(computes, cores, host, forwarded + more) >= slowed);
            let in_host = slowed_in_host(computes, cores, forwarded);
            prop_assert!(slowed_in_host(computes, cores, forwarded + more) >= in_host);
        }
    }

    #[test]
    fn a_request_that_is_over_asks_for_nothing() {
        let before = FORWARDED.load(Relaxed);
        let one = Forwarding::new(0.25, false);
        assert_eq!(FORWARDED.load(Relaxed), before + 250);
        drop(one);
        assert_eq!(FORWARDED.load(Relaxed), before);
    }

    #[test]
    fn the_hosts_clock_goes_on_while_a_thread_computes() {
        let before = host_computed();
        let sum = (0..10_000_000_u64).map(std::hint::black_box).fold(0, u64::wrapping_add);
        assert!(sum > 0 && host_computed() > before);
    }
}
