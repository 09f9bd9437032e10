//! The harness of the end-to-end tests.

pub mod baton;
pub mod client;
pub mod collector;
pub mod footprint;
pub mod functions;
pub mod golden;
pub mod origin;
pub mod programs;

use std::time::{Duration, Instant};

/// How long a condition may take to come true; far longer than any should.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer, and returns it.
///
/// # Panics
/// When there is none within half a minute; says what was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks until it is so.
///
/// # Panics
/// When it is not within half a minute; says what was waited for.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}
