//! `limits.cpu_time` in a sandbox: how much CPU time one request may use there.
//!
//! What a sandbox uses is counted by its control group, so a request is charged with all that was used
//! while it was there: exactly its own where a sandbox serves one request at a time. Where it serves
//! more, the bound is on all of them together, `cpu_time` for each that there may be.

use std::time::{Duration, Instant};

use baton_pool::meter::Meter;

use super::ticks::{TICK, Ticks};
use crate::manifest::Function;
use crate::problem::{Kind, Problem};

/// Requests shorter than this share of the bound are not looked at, which costs them nothing; what
/// the others use before is not counted.
const UNWATCHED: u32 = 100;

/// The shortest time between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// The watch over a request to `function` in the sandbox of this meter: it ends when the request has
/// used up its CPU time, and never if it does not.
pub(super) fn watch(
    function: &Function,
    meter: Meter,
    ticks: &Ticks,
) -> impl Future<Output = ()> + Send + use<> {
    let (cpu_time, cores) = (function.limits.cpu_time, function.limits.cpu);
    let at_once = u32::try_from(function.sandboxes.concurrency).unwrap_or(u32::MAX);
    let bound = cpu_time.saturating_mul(at_once);
    let unwatched = cpu_time / UNWATCHED;
    let ticks = (unwatched >= TICK).then(|| (ticks.subscribe(), Instant::now()));
    async move {
        match ticks {
            Some((mut ticks, since)) => {
                // An error would mean that the host has ended.
                while since.elapsed() < unwatched && ticks.changed().await.is_ok() {}
            }
            None => tokio::time::sleep(unwatched).await,
        }
        let Some(before) = meter.cpu() else { return std::future::pending().await };
        loop {
            // Where nothing can be read any more the sandbox is gone, and the request with it.
            let Some(now) = meter.cpu() else { return std::future::pending().await };
            let left = bound.saturating_sub(now.saturating_sub(before));
            if left.is_zero() {
                return;
            }
            // It cannot use more than its quota, so until then there is nothing to see.
            let soonest = Duration::try_from_secs_f64(left.as_secs_f64() / cores).unwrap_or(left);
            tokio::time::sleep(soonest.max(LOOK)).await;
        }
    }
}

/// What the client is told.
pub(super) fn problem(function: &Function) -> Problem {
    let bound = function.limits.cpu_time;
    let detail = format!("the function used more than {bound:?} of CPU time");
    Problem::new(Kind::Timeout, detail)
}
