//! Requests of a function that are ready at once take every stage of their way together.
//!
//! A request's way is longer than the caches near a core are large: some 200 000 instructions in
//! 300 KB of the host's and the kernel's code, where a core's second-level cache has 512 KB for code
//! and data. Requests that run through all of it one after the other fetch all of it anew, each of
//! them. So nobody does while others are ready: everyone takes one stage, which then is in the cache,
//! and gives way. This is cohort scheduling (Larus and Parkes, "Using Cohort-Scheduling to Enhance
//! Server Performance", USENIX Annual Technical Conference 2002).
//!
//! ```text
//! head read ─▶ join ─▶ stage ─ give_way ─▶ stage ─ give_way ─▶ … ─▶ answer written
//!               │                └─ waits for something else: its seat is free, it goes on without
//!               └─ waits while SEATS for each thread compute, before it has a place in the function
//! ```
//! One that is alone gives way to nobody. Whether it is, is only found out by a look at the sockets, which costs time; so a
//! function whose requests have been alone looks seldom. And nobody gives way while a guest computes for long: its turn is
//! longer than what the others could save.

use std::future::poll_fn;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::yield_now;

use crate::cores;
use crate::wasm::{WAITING, Waiting};

/// Requests that one thread takes through their stages together. More share the code no better and
/// need more cache for their own data.
const SEATS: usize = 16;

/// After so many requests in a row that were alone, the next ones are taken to be.
const ALONE: usize = 64;

/// How often one of those looks all the same: seldom enough for its wait not to be seen at the 99th percentile.
const LOOK: usize = 256;

/// The requests of a function that compute.
pub struct Cohort {
    /// Guests that compute for long, of any function.
    guests: &'static Waiting,
    seats: Semaphore,
    present: AtomicUsize,
    /// Requests in a row that have met nobody.
    alone: AtomicUsize,
}

impl Cohort {
    /// One for a function that serves `concurrency` requests at once: nobody is to be turned away
    /// because others wait for their turn.
    #[must_use]
    pub fn new(concurrency: usize) -> Self {
        Self::beside(concurrency, &WAITING)
    }

    fn beside(concurrency: usize, guests: &'static Waiting) -> Self {
        let seats = concurrency.clamp(1, SEATS * cores::count());
        let none = AtomicUsize::default;
        Self { guests, seats: Semaphore::new(seats), present: none(), alone: none() }
    }

    /// Ends the first stage, as soon as there is a seat.
    pub async fn join(&self) -> Member<'_> {
        self.present.fetch_add(1, Relaxed);
        let member = Member { cohort: self, seat: Mutex::new(None), between: false.into() };
        // The semaphore is never closed.
        let seat = self.seats.acquire().await.ok();
        *member.seat.lock().unwrap_or_else(PoisonError::into_inner) = seat;
        if self.looks() {
            yield_now().await;
        }
        let met = self.present.load(Relaxed) > 1;
        self.alone.store(if met { 0 } else { self.alone.load(Relaxed).wrapping_add(1) }, Relaxed);
        member
    }

    /// Whether a request that joins sees who else is there.
    fn looks(&self) -> bool {
        let alone = self.alone.load(Relaxed);
        !self.guests.any()
            && (self.present.load(Relaxed) > 1 || alone < ALONE || alone.is_multiple_of(LOOK))
    }
}

/// A request among those of its function.
pub struct Member<'a> {
    cohort: &'a Cohort,
    /// `None` once it has waited for something.
    seat: Mutex<Option<SemaphorePermit<'a>>>,
    /// Whether it is between two stages: not ready, but waiting for nothing.
    between: AtomicBool,
}

impl Member<'_> {
    /// Ends a stage: the others that are ready end theirs first. Answers how long that took.
    pub async fn give_way(&self) -> Duration {
        if self.cohort.present.load(Relaxed) <= 1 || self.cohort.guests.any() {
            return Duration::ZERO;
        }
        let since = Instant::now();
        self.between.store(true, Relaxed);
        // To the end of the queue, and not, as `yield_now` does, past a look at the sockets: requests that come now are
        // another cohort's.
        let mut yielded = false;
        poll_fn(|cx| {
            if mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        self.between.store(false, Relaxed);
        since.elapsed()
    }

    /// Whether a request that is not ready waits for something, rather than for its turn; then it
    /// leaves its seat to another.
    pub fn waits(&self) -> bool {
        let waits = !self.between.load(Relaxed);
        if waits {
            self.leave();
        }
        waits
    }

    /// Leaves its seat to another, for it is about to wait.
    pub fn leave(&self) {
        drop(self.seat.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.cohort.present.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;

    use tokio::task::JoinSet;
    use tokio::task::coop::unconstrained;

    use super::*;

    /// What requests did, in order: which one, which of its stages.
    type Trail = Arc<Mutex<Vec<(usize, usize)>>>;

    fn trail() -> Trail {
        Arc::default()
    }

    fn taken(trail: &Trail) -> Vec<(usize, usize)> {
        mem::take(&mut *trail.lock().unwrap())
    }

    async fn request(cohort: Arc<Cohort>, trail: Trail, number: usize) {
        let member = cohort.join().await;
        for stage in 0..3 {
            trail.lock().unwrap().push((number, stage));
            member.give_way().await;
        }
    }

    async fn all(cohort: &Arc<Cohort>, trail: &Trail, requests: usize) {
        let mut tasks = JoinSet::new();
        for number in 0..requests {
            tasks.spawn(request(Arc::clone(cohort), Arc::clone(trail), number));
        }
        tasks.join_all().await;
    }

    #[tokio::test]
    async fn requests_that_are_ready_take_each_stage_together() {
        let (cohort, trail) = (Arc::new(Cohort::new(4)), trail());
        all(&cohort, &trail, 4).await;
        let stages: Vec<_> = taken(&trail).into_iter().map(|(_, stage)| stage).collect();
        assert_eq!(stages, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    }

    #[tokio::test]
    async fn no_more_compute_at_once_than_there_are_seats() {
        let (cohort, trail) = (Arc::new(Cohort::new(2)), trail());
        all(&cohort, &trail, 6).await;
        let mut begun: usize = 0;
        let mut ended: usize = 0;
        for (_, stage) in taken(&trail) {
            begun += usize::from(stage == 0);
            assert!(begun - ended <= 2, "{begun} have begun when {ended} have ended");
            ended += usize::from(stage == 2);
        }
        assert_eq!((begun, ended), (6, 6));
    }

    #[tokio::test]
    async fn one_that_is_alone_gives_way_to_nobody() {
        let cohort = Cohort::new(4);
        let member = cohort.join().await;
        let mut gives_way = pin!(member.give_way());
        assert_eq!(futures_util::poll!(gives_way.as_mut()), Poll::Ready(Duration::ZERO));
    }

    #[tokio::test]
    async fn after_many_that_were_alone_one_looks_around_seldom() {
        let cohort = Cohort::new(4);
        let mut looked = 0;
        for _ in 0..10 * LOOK {
            // Without the budget that tokio gives a task between two of its own looks.
            let mut joins = pin!(unconstrained(cohort.join()));
            if futures_util::poll!(joins.as_mut()).is_pending() {
                looked += 1;
                joins.await;
            }
        }
        assert!((ALONE..=ALONE + 10).contains(&looked), "{looked} times");
    }

    #[tokio::test]
    async fn those_that_meet_others_look_around_again() {
        let (cohort, trail) = (Arc::new(Cohort::new(4)), trail());
        for _ in 0..2 * ALONE {
            cohort.join().await;
        }
        all(&cohort, &trail, 2 * LOOK).await;
        taken(&trail);
        all(&cohort, &trail, 4).await;
        let stages: Vec<_> = taken(&trail).into_iter().map(|(_, stage)| stage).collect();
        assert_eq!(stages, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    }

    #[tokio::test]
    async fn one_that_waits_for_something_leaves_its_seat() {
        let cohort = Cohort::new(1);
        let first = cohort.join().await;
        let mut second = pin!(cohort.join());
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        assert!(first.waits());
        second.await;
    }

    #[tokio::test]
    async fn one_between_two_stages_keeps_its_seat() {
        let cohort = Cohort::new(2);
        let (first, _second) = (cohort.join().await, cohort.join().await);
        let mut gives_way = pin!(first.give_way());
        assert!(futures_util::poll!(gives_way.as_mut()).is_pending());
        assert!(!first.waits());
        gives_way.await;
        assert!(first.waits());
    }

    #[tokio::test]
    async fn nobody_gives_way_while_a_guest_computes_for_long() {
        let guests: &Waiting = Box::leak(Box::default());
        let (cohort, trail) = (Arc::new(Cohort::beside(4, guests)), trail());
        let one = guests.one();
        all(&cohort, &trail, 3).await;
        let alone = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)];
        assert_eq!(taken(&trail), alone);
        drop(one);
        all(&cohort, &trail, 3).await;
        assert_ne!(taken(&trail), alone);
    }

    #[tokio::test]
    async fn a_client_that_leaves_while_its_request_waits_leaves_nothing_behind() {
        let cohort = Cohort::new(1);
        let first = cohort.join().await;
        {
            let mut second = pin!(cohort.join());
            assert!(futures_util::poll!(second.as_mut()).is_pending());
        }
        drop(first);
        let third = cohort.join().await;
        assert_eq!(third.give_way().await, Duration::ZERO);
    }
}
