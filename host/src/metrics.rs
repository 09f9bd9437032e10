//! What is counted: atomic numbers that requests, the pool and the loader add to, and nothing else.
//!
//! This is the only store. `/metrics` and the export over OTLP are read from it when they are due
//! (`reading.rs`), so both always say the same. Attributes come from the manifest and from lists in
//! the code. Where a function chooses a value itself (its statuses), a table has room for so many
//! and counts the rest together as overflow; so there are at most `SERIES` series of requests a
//! function, whatever clients and functions send.

mod process;
mod reading;
mod table;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use baton_otel::metrics::{self, DURATIONS, SIZES, Shot};

use crate::lines::Bucket;
use crate::phases::Phase;
use crate::problem::Kind;
use crate::record::{Outcome, Record, known_method, protocol_version};
use crate::tier::{Reason, Tier};
use crate::wasm::{Engine, Source};
pub use reading::read;
use table::Table;

/// Series of requests that a function may have; what is past them is counted together.
const SERIES: usize = 48;

/// Reasons of decisions, in both tiers together.
const DECISIONS: usize = 32;

/// A histogram of durations, in the buckets that all durations have.
#[derive(Debug)]
pub struct Histogram(metrics::Histogram);

impl Default for Histogram {
    fn default() -> Self {
        Self(metrics::Histogram::new(&DURATIONS))
    }
}

impl Histogram {
    /// Counts one.
    pub fn record(&self, duration: Duration) {
        self.0.record(duration);
    }

    /// As it is now.
    #[must_use]
    pub fn shot(&self) -> Shot {
        self.0.shot()
    }
}

/// A histogram of bytes.
#[derive(Debug)]
struct Sizes(metrics::Histogram);

impl Default for Sizes {
    fn default() -> Self {
        Self(metrics::Histogram::new(&SIZES))
    }
}

/// What distinguishes requests of one function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Series {
    method: &'static str,
    status: u16,
    version: &'static str,
    secure: bool,
    tier: Option<Tier>,
    error: Option<&'static str>,
}

/// What a function has answered; or what was answered without one.
#[derive(Default)]
pub struct Counts {
    requests: Table<Series, Histogram, SERIES>,
    decisions: Table<(Tier, Reason), AtomicU64, DECISIONS>,
    tiers: [OfTier; 2],
    refused: AtomicU64,
    failed: AtomicU64,
    cold: AtomicU64,
    timeouts: AtomicU64,
    queue_wait: Histogram,
    lease_wait: Histogram,
    forwarded: Table<Option<&'static str>, Histogram, 4>,
    starts_failed: AtomicU64,
    /// Lines of output.
    pub lines: Lines,
}

/// What a tier of a function has answered.
#[derive(Default)]
struct OfTier {
    answered: AtomicU64,
    invocations: AtomicU64,
    invoke: Histogram,
    init: Histogram,
    cpu: Histogram,
    memory: Sizes,
    received: Sizes,
    sent: Sizes,
}

/// Lines of a function's output.
#[derive(Debug, Default)]
pub struct Lines {
    /// How many more it may write.
    pub bucket: Bucket,
    logged: AtomicU64,
    dropped: AtomicU64,
    spans: AtomicU64,
}

impl Lines {
    /// Counts one that was written to the log.
    pub fn count_logged(&self) {
        increment(&self.logged);
    }

    /// Counts one too many.
    pub fn count_dropped(&self) {
        increment(&self.dropped);
    }

    /// Counts one that told of a span.
    pub fn count_span(&self) {
        increment(&self.spans);
    }
}

impl Counts {
    /// Counts a request that has ended at `end`.
    pub fn ended(&self, record: &Record, end: Instant, outcome: Outcome) {
        let error = record.error_kind(outcome);
        let failed = outcome != Outcome::ClientGone && record.error_type(outcome).is_some();
        let tier = record.tier.map(|(tier, _)| tier);
        let series = Series {
            method: known_method(&record.method),
            status: record.status.as_u16(),
            version: protocol_version(record.version),
            secure: record.peer.secure,
            tier,
            error,
        };
        self.requests.of(series).record(end.saturating_duration_since(record.phases.began()));
        if failed {
            increment(&self.failed);
        }
        if record.cold {
            increment(&self.cold);
        }
        if record.problem == Some(Kind::Timeout) || record.out_of_time {
            increment(&self.timeouts);
        }
        let Some((tier, reason)) = record.tier else { return increment(&self.refused) };
        increment(self.decisions.of((tier, reason)));
        self.count_phases(record, end, tier);
        let of_tier = self.of(tier);
        increment(&of_tier.answered);
        if !failed {
            increment(&of_tier.invocations);
        }
        if tier == Tier::Wasm {
            of_tier.cpu.record(record.guest.computed);
        }
        of_tier.received.0.add(record.received);
        of_tier.sent.0.add(record.sent);
    }

    fn count_phases(&self, record: &Record, end: Instant, tier: Tier) {
        let (mut forwarded, mut handled) = (None, Duration::ZERO);
        for interval in record.phases.intervals(end) {
            let took = interval.duration();
            match interval.phase {
                Phase::Admit => self.queue_wait.record(took),
                Phase::Lease => self.lease_wait.record(took),
                Phase::Connect | Phase::Forward => *forwarded.get_or_insert_default() += took,
                Phase::Handle => handled += took,
                Phase::Load | Phase::Instantiate => {}
            }
        }
        if let Some(took) = forwarded {
            let lost = record.fell_back.is_some().then_some("sandbox-gone");
            self.forwarded.of(lost).record(took);
        }
        let worked = if tier == Tier::Wasm { Some(handled) } else { forwarded };
        self.of(tier).invoke.record(worked.unwrap_or_default());
    }

    /// Counts a start of a function in a tier: how long it took, or that it failed.
    pub fn started(&self, tier: Tier, took: Result<Duration, ()>) {
        match took {
            Ok(took) => self.of(tier).init.record(took),
            Err(()) => increment(&self.starts_failed),
        }
    }

    /// Counts what a sandbox used over its life.
    pub fn used(&self, cpu: Duration, memory: u64) {
        self.of(Tier::Native).cpu.record(cpu);
        self.of(Tier::Native).memory.0.add(memory);
    }

    /// How long the requests took that a tier answered.
    #[must_use]
    pub fn durations(&self, tier: Tier) -> Shot {
        let mut all = Histogram::default().shot();
        for (series, durations) in self.requests.iter() {
            if series.is_some_and(|series| series.tier == Some(tier)) {
                all.merge(&durations.shot());
            }
        }
        all
    }

    /// Requests that a tier answered.
    pub fn answered(&self, tier: Tier) -> u64 {
        self.of(tier).answered.load(Relaxed)
    }

    /// Requests that no tier answered.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Requests that failed on the server's side.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    fn of(&self, tier: Tier) -> &OfTier {
        let [wasm, native] = &self.tiers;
        match tier {
            Tier::Wasm => wasm,
            Tier::Native => native,
        }
    }
}

/// What is counted of the host as a whole.
pub struct Metrics {
    began: Instant,
    /// Requests that no function's route matched.
    pub unrouted: Counts,
    /// By name, so that a function's counters outlive its revisions.
    functions: Mutex<BTreeMap<Arc<str>, Arc<Counts>>>,
    loads: [Histogram; 3],
    creations: AtomicU64,
    parked_misses: AtomicU64,
    oom_kills: AtomicU64,
    /// By words from the code.
    removals: Mutex<BTreeMap<&'static str, u64>>,
    /// Engines, for their instances.
    engines: Mutex<Vec<Weak<Engine>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            unrouted: Counts::default(),
            functions: Mutex::default(),
            loads: Default::default(),
            creations: AtomicU64::new(0),
            parked_misses: AtomicU64::new(0),
            oom_kills: AtomicU64::new(0),
            removals: Mutex::default(),
            engines: Mutex::default(),
        }
    }
}

impl Metrics {
    /// The counters of the function of this name, whatever its revision.
    #[must_use]
    pub fn of(&self, function: &str) -> Arc<Counts> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = functions.get(function) {
            return Arc::clone(counts);
        }
        let counts = Arc::new(Counts::default());
        functions.insert(function.into(), Arc::clone(&counts));
        counts
    }

    /// Counts the instances of an engine for as long as it lives.
    pub fn watch(&self, engine: &Arc<Engine>) {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.retain(|engine| engine.strong_count() > 0);
        engines.push(Arc::downgrade(engine));
    }

    /// Counts a component that was loaded.
    pub fn loaded(&self, source: Source, took: Duration) {
        let [memory, cache, compile] = &self.loads;
        match source {
            Source::Memory => memory,
            Source::Cache => cache,
            Source::Compile => compile,
        }
        .record(took);
    }

    /// Counts a start for which a sandbox had to be created.
    pub fn parked_miss(&self) {
        increment(&self.parked_misses);
    }

    /// Counts a sandbox that was created.
    pub fn created(&self) {
        increment(&self.creations);
    }

    /// Counts a sandbox that has ended.
    pub fn removed(&self, reason: &'static str, oom_kills: u64) {
        *self.removals.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() +=
            1;
        if oom_kills > 0 {
            increment(&self.oom_kills);
        }
    }
}

fn increment(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

#[cfg(test)]
mod tests;
