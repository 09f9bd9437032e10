//! What the comparisons of a function's two builds have shown.
//!
//! ```text
//! trusted ── `threshold` differences among the last 1,000 comparisons ─▶ demoted: Wasm answers
//!    ▲                                                                     │
//!    └────────────────── POST …/promote, by hand ──────────────────────────┘
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::manifest::{Verifiable, Verify};

/// Comparisons of one function at once.
const SHADOWS_MAX: usize = 2;

/// Differing pairs that are kept.
pub(super) const PAIRS_MAX: usize = 16;

/// Comparisons among which the differences are counted.
const WINDOW: u64 = 1_000;

/// The guard of one function.
#[derive(Debug)]
pub struct Guard {
    /// What the manifest asks for.
    pub config: Verify,
    shadows: Arc<Semaphore>,
    demoted: AtomicBool,
    agreed: AtomicU64,
    differed: AtomicU64,
    skipped: AtomicU64,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    compared: u64,
    /// The numbers of the last comparisons that differed, at most `threshold` of them.
    differed: VecDeque<u64>,
    pairs: VecDeque<Value>,
}

impl Guard {
    /// A guard that has seen nothing.
    #[must_use]
    pub fn new(config: Verify) -> Self {
        Self {
            config,
            shadows: Arc::new(Semaphore::new(SHADOWS_MAX)),
            demoted: AtomicBool::new(false),
            agreed: AtomicU64::new(0),
            differed: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            found: Mutex::default(),
        }
    }

    /// Whether a request is to be compared; `dice` is uniform in 0 to 1.
    #[must_use]
    pub fn samples(&self, method: &Method, dice: f64) -> bool {
        let may = match self.config.requests {
            Verifiable::Safe => method.is_safe(),
            Verifiable::All => true,
        };
        may && dice < self.config.sample && !self.is_demoted()
    }

    /// Room for a comparison, or it is skipped.
    #[must_use]
    pub fn enter(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.shadows).try_acquire_owned().ok();
        if place.is_none() {
            self.skip();
        }
        place
    }

    /// A request that was chosen could not be compared.
    pub fn skip(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }

    /// The tiers agreed.
    pub fn agree(&self) {
        self.agreed.fetch_add(1, Ordering::Relaxed);
        self.lock().compared += 1;
    }

    /// They did not; whether that demoted the function just now.
    pub fn differ(&self, pair: Value) -> bool {
        self.differed.fetch_add(1, Ordering::Relaxed);
        let mut found = self.lock();
        found.compared += 1;
        let number = found.compared;
        found.differed.push_back(number);
        if found.pairs.len() == PAIRS_MAX {
            found.pairs.pop_front();
        }
        found.pairs.push_back(pair);
        let threshold = usize::try_from(self.config.threshold).unwrap_or(usize::MAX);
        if found.differed.len() < threshold {
            return false;
        }
        let first = found.differed.pop_front().unwrap_or(number);
        number - first < WINDOW && !self.demoted.swap(true, Ordering::Relaxed)
    }

    /// Whether only Wasm answers.
    #[must_use]
    pub fn is_demoted(&self) -> bool {
        self.demoted.load(Ordering::Relaxed)
    }

    /// Believes the native build again; whether it was demoted.
    pub fn promote(&self) -> bool {
        self.lock().differed.clear();
        self.demoted.swap(false, Ordering::Relaxed)
    }

    /// Comparisons by how they came out.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        [("agreed", &self.agreed), ("differed", &self.differed), ("skipped", &self.skipped)]
            .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
    }

    /// Everything, for administration.
    #[must_use]
    pub fn document(&self) -> Value {
        let [agreed, differed, skipped] = self.counts().map(|(_, count)| count);
        json!({
            "sample": self.config.sample,
            "requests": self.config.requests,
            "threshold": self.config.threshold,
            "agreed": agreed,
            "differed": differed,
            "skipped": skipped,
            "demoted": self.is_demoted(),
            "differences": self.lock().pairs,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(threshold: u64) -> Guard {
        Guard::new(Verify { sample: 0.5, threshold, ..Verify::default() })
    }

    #[test]
    fn only_the_share_and_the_methods_that_may_be_doubled_are_sampled() {
        let guard = guard(1);
        assert!(guard.samples(&Method::GET, 0.49));
        assert!(!guard.samples(&Method::GET, 0.5));
        assert!(!guard.samples(&Method::POST, 0.0));
    }

    #[test]
    fn a_function_is_demoted_at_the_threshold_and_promoted_by_hand() {
        let guard = guard(3);
        assert!(!guard.differ(json!(1)));
        assert!(!guard.differ(json!(2)));
        assert!(guard.differ(json!(3)));
        assert!(guard.is_demoted() && !guard.samples(&Method::GET, 0.0));
        // A comparison that was under way says nothing new.
        assert!(!guard.differ(json!(4)));
        assert!(guard.promote());
        assert!(!guard.is_demoted());
        assert!(!guard.differ(json!(5)));
    }

    #[test]
    fn differences_that_lie_far_apart_do_not_demote() {
        let guard = guard(2);
        assert!(!guard.differ(json!(1)));
        (0..WINDOW).for_each(|_| guard.agree());
        assert!(!guard.differ(json!(2)));
        assert!(guard.differ(json!(3)));
    }

    #[test]
    fn only_the_last_pairs_are_kept() {
        let guard = guard(1_000);
        for number in 0..2 * PAIRS_MAX {
            guard.differ(json!(number));
        }
        let document = guard.document();
        assert_eq!(document["differences"].as_array().unwrap().len(), PAIRS_MAX);
        assert_eq!(document["differences"][0], PAIRS_MAX);
    }

    #[test]
    fn no_more_run_at_once_than_may() {
        let guard = guard(1);
        let _places: Vec<_> = (0..SHADOWS_MAX).map(|_| guard.enter().unwrap()).collect();
        assert!(guard.enter().is_none());
        assert_eq!(guard.counts()[2], ("skipped", 1));
    }
}
