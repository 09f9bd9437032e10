//! The one table of every metric that Baton counts, and the values that metrics are kept and told in.
//!
//! An [`Instrument`] says name, kind, unit and attributes; [`INSTRUMENTS`] holds all, so that the
//! page, the tests, `/metrics` and OTLP say the same. A [`Histogram`] and plain atomic numbers are
//! the only store there is: whoever counts adds to them, and [`Metric`]s are read from them when
//! somebody asks. Attributes come from the manifest or from lists in the code, never from clients.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use opentelemetry::KeyValue;

/// What a metric is.
#[derive(Debug, PartialEq)]
pub struct Instrument {
    /// By the semantic conventions where one exists, otherwise `baton.` and more.
    pub name: &'static str,
    /// What it means, in a sentence.
    pub doc: &'static str,
    /// UCUM, as the conventions ask: `s`, `By`, `{request}`.
    pub unit: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// The keys that its points can have.
    pub attributes: &'static [&'static str],
}

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// A number of things that come and go; those of all points add up.
    UpDownCounter,
    /// A value that means nothing when added up.
    Gauge,
    /// A distribution.
    Histogram(&'static Buckets),
}

/// The buckets of a histogram.
#[derive(Debug, PartialEq)]
pub struct Buckets {
    /// Upper bounds, inclusive, in the integers that are recorded.
    raw: &'static [u64],
    /// How many of those make one of the unit.
    scale: f64,
}

impl Buckets {
    /// Upper bounds in the metric's unit.
    pub fn bounds(&self) -> impl ExactSizeIterator<Item = f64> {
        self.raw.iter().map(|raw| to_unit(*raw, self.scale))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a sum of 2^53 ns is off by one nanosecond")]
fn to_unit(raw: u64, scale: f64) -> f64 {
    raw as f64 / scale
}

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const S: u64 = 1_000 * MS;

/// Durations, from 10 µs to 600 s; recorded in nanoseconds.
pub static DURATIONS: Buckets = Buckets {
    raw: &[
        10 * US,
        25 * US,
        50 * US,
        100 * US,
        250 * US,
        500 * US,
        MS,
        2_500 * US,
        5 * MS,
        10 * MS,
        25 * MS,
        50 * MS,
        100 * MS,
        250 * MS,
        500 * MS,
        S,
        2_500 * MS,
        5 * S,
        10 * S,
        30 * S,
        60 * S,
        120 * S,
        300 * S,
        600 * S,
    ],
    scale: 1e9,
};

/// Sizes, from 64 B to 1 GiB in steps of four.
pub static SIZES: Buckets = Buckets {
    raw: &[
        1 << 6,
        1 << 8,
        1 << 10,
        1 << 12,
        1 << 14,
        1 << 16,
        1 << 18,
        1 << 20,
        1 << 22,
        1 << 24,
        1 << 26,
        1 << 28,
        1 << 30,
    ],
    scale: 1.0,
};

/// A distribution that many threads add to.
#[derive(Debug)]
pub struct Histogram {
    buckets: &'static Buckets,
    /// One more than there are bounds: the last is for what is past them.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// An empty one.
    #[must_use]
    pub fn new(buckets: &'static Buckets) -> Self {
        let counts = (0..=buckets.raw.len()).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, counts, sum: AtomicU64::new(0) }
    }

    /// Counts a duration; for [`DURATIONS`].
    pub fn record(&self, duration: Duration) {
        self.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts one value, in the integers of the buckets.
    pub fn add(&self, raw: u64) {
        let at = self.buckets.raw.partition_point(|bound| *bound < raw);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(raw, Relaxed);
    }

    /// The distribution as it is now.
    #[must_use]
    pub fn shot(&self) -> Shot {
        Shot {
            buckets: self.buckets,
            counts: self.counts.iter().map(|count| count.load(Relaxed)).collect(),
            sum: to_unit(self.sum.load(Relaxed), self.buckets.scale),
        }
    }
}

/// A distribution at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Shot {
    /// Its buckets.
    pub buckets: &'static Buckets,
    /// How many fell into each, then how many past the last.
    pub counts: Vec<u64>,
    /// The sum of all, in the unit.
    pub sum: f64,
}

impl Shot {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds another distribution of the same buckets.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.sum += other.sum;
    }

    /// What happened after `earlier`, an earlier shot of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = self.counts.iter().zip(&earlier.counts);
        let counts = counts.map(|(now, then)| now.saturating_sub(*then)).collect();
        Self { counts, sum: self.sum - earlier.sum, ..*self }
    }

    /// The value below which the share `q` of all lies, interpolated within its bucket as Prometheus
    /// does; nothing when there is none.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = q * to_unit(total, 1.0);
        let (mut below, mut lower) = (0, 0.0);
        for (count, upper) in self.counts.iter().zip(self.buckets.bounds()) {
            let within = rank - to_unit(below, 1.0);
            if *count > 0 && within <= to_unit(*count, 1.0) {
                return Some(lower + (upper - lower) * within / to_unit(*count, 1.0));
            }
            below += count;
            lower = upper;
        }
        Some(lower)
    }
}

/// A metric with its points.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// What it is.
    pub instrument: &'static Instrument,
    /// One for each set of attributes.
    pub points: Vec<Point>,
}

/// A value with its attributes.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// By the keys of the instrument.
    pub attributes: Vec<KeyValue>,
    /// The value.
    pub data: Data,
}

/// The value of a point.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// A whole number.
    Whole(u64),
    /// Any number.
    Real(f64),
    /// A distribution.
    Histogram(Shot),
}

impl From<u64> for Data {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<usize> for Data {
    fn from(number: usize) -> Self {
        Self::Whole(number as u64)
    }
}

impl From<f64> for Data {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl From<Shot> for Data {
    fn from(shot: Shot) -> Self {
        Self::Histogram(shot)
    }
}

/// Metrics in the order of the table, as they are read.
#[derive(Debug, Default)]
pub struct Reading(Vec<Metric>);

impl Reading {
    /// Adds a point.
    pub fn push(
        &mut self,
        instrument: &'static Instrument,
        attributes: Vec<KeyValue>,
        data: impl Into<Data>,
    ) {
        let point = Point { attributes, data: data.into() };
        match self.0.iter_mut().find(|metric| std::ptr::eq(metric.instrument, instrument)) {
            Some(metric) => metric.points.push(point),
            None => self.0.push(Metric { instrument, points: vec![point] }),
        }
    }

    /// All of it.
    #[must_use]
    pub fn finish(self) -> Vec<Metric> {
        self.0
    }
}

macro_rules! instruments {
    ($($(#[doc = $doc:literal])+
     $constant:ident = $name:literal, $unit:literal, $kind:expr, [$($attribute:expr),*];)+) => {
        /// The instruments themselves.
        pub mod instrument {
            use super::{DURATIONS, Instrument, Kind::{Counter, Gauge, Histogram, UpDownCounter}, SIZES};
            use crate::names::attribute::*;
            $($(#[doc = $doc])+ pub static $constant: Instrument = Instrument {
                name: $name,
                doc: concat!($($doc),+).trim_ascii(),
                unit: $unit,
                kind: $kind,
                attributes: &[$($attribute),*],
            };)+
        }

        /// Every metric that Baton counts.
        pub static INSTRUMENTS: &[&Instrument] = &[$(&instrument::$constant),+];
    };
}

instruments! {
    /// Duration of requests, from the head until the last byte of the answer.
    HTTP_SERVER_REQUEST_DURATION = "http.server.request.duration", "s", Histogram(&DURATIONS),
        [HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, HTTP_ROUTE, ERROR_TYPE, URL_SCHEME, NETWORK_PROTOCOL_VERSION, FAAS_NAME, BATON_TIER];
    /// Requests in flight.
    HTTP_SERVER_ACTIVE_REQUESTS = "http.server.active_requests", "{request}", UpDownCounter,
        [FAAS_NAME];
    /// Bytes of request bodies, as far as they were read.
    HTTP_SERVER_REQUEST_BODY_SIZE = "http.server.request.body.size", "By", Histogram(&SIZES),
        [FAAS_NAME, BATON_TIER];
    /// Bytes of response bodies.
    HTTP_SERVER_RESPONSE_BODY_SIZE = "http.server.response.body.size", "By", Histogram(&SIZES),
        [FAAS_NAME, BATON_TIER];
    /// Duration of requests that Baton sends: to a function in its sandbox (`forward`), or for a function to elsewhere (`egress`).
    HTTP_CLIENT_REQUEST_DURATION = "http.client.request.duration", "s", Histogram(&DURATIONS),
        [FAAS_NAME, BATON_CLIENT, ERROR_TYPE];
    /// Time that the function's own code had the request.
    FAAS_INVOKE_DURATION = "faas.invoke_duration", "s", Histogram(&DURATIONS),
        [FAAS_NAME, BATON_TIER];
    /// Duration of a function's start: its component loaded, or its sandbox prepared.
    FAAS_INIT_DURATION = "faas.init_duration", "s", Histogram(&DURATIONS),
        [FAAS_NAME, BATON_TIER];
    /// Requests that waited for a component load, an activation or a creation.
    FAAS_COLDSTARTS = "faas.coldstarts", "{coldstart}", Counter, [FAAS_NAME];
    /// Requests that failed on the server's side; clients that left are none of them.
    FAAS_ERRORS = "faas.errors", "{error}", Counter, [FAAS_NAME];
    /// Requests that a tier answered and that did not fail on the server's side.
    FAAS_INVOCATIONS = "faas.invocations", "{invocation}", Counter, [FAAS_NAME, BATON_TIER];
    /// Requests whose time was up.
    FAAS_TIMEOUTS = "faas.timeouts", "{timeout}", Counter, [FAAS_NAME];
    /// Most memory at once, of a sandbox over its life.
    FAAS_MEM_USAGE = "faas.mem_usage", "By", Histogram(&SIZES), [FAAS_NAME, BATON_TIER];
    /// CPU time: of a component for one request, of a sandbox over its life.
    FAAS_CPU_USAGE = "faas.cpu_usage", "s", Histogram(&DURATIONS), [FAAS_NAME, BATON_TIER];
    /// Requests that no tier answered.
    BATON_REQUESTS_REFUSED = "baton.requests.refused", "{request}", Counter, [FAAS_NAME];
    /// Requests that wait for a place in their function.
    BATON_QUEUE_LENGTH = "baton.queue.length", "{request}", UpDownCounter, [FAAS_NAME];
    /// Time that a request waited for its place in the function.
    BATON_QUEUE_WAIT = "baton.queue.wait", "s", Histogram(&DURATIONS), [FAAS_NAME];
    /// Choices of a tier for a request, by reason.
    BATON_TIER_DECISIONS = "baton.tier.decisions", "{request}", Counter,
        [FAAS_NAME, BATON_TIER, BATON_TIER_REASON];
    /// What is expected of the next request or sandbox of a function, as `baton explain` shows it.
    BATON_TIER_ESTIMATE = "baton.tier.estimate", "s", Gauge,
        [FAAS_NAME, BATON_TIER_ESTIMATE_OF];
    /// Requests that both builds were to answer: `agreed`, `differed` or `skipped`.
    BATON_VERIFY_COMPARISONS = "baton.verify.comparisons", "{comparison}", Counter,
        [FAAS_NAME, BATON_OUTCOME];
    /// 1 while Wasm alone answers because the builds differed.
    BATON_VERIFY_DEMOTED = "baton.verify.demoted", "{function}", UpDownCounter, [FAAS_NAME];
    /// Sandboxes by state.
    BATON_SANDBOXES = "baton.sandboxes", "{sandbox}", UpDownCounter, [BATON_SANDBOX_STATE];
    /// Bytes of `pool.memory` in use.
    BATON_POOL_MEMORY = "baton.pool.memory", "By", UpDownCounter, [];
    /// Bytes that `pool.memory` allows.
    BATON_POOL_MEMORY_LIMIT = "baton.pool.memory.limit", "By", UpDownCounter, [];
    /// Starts that wait for a parked sandbox or for memory.
    BATON_POOL_QUEUE_LENGTH = "baton.pool.queue.length", "{start}", UpDownCounter, [];
    /// Sandboxes that were leased to a request.
    BATON_POOL_LEASES = "baton.pool.leases", "{lease}", Counter, [FAAS_NAME];
    /// Time that requests waited for a sandbox.
    BATON_POOL_LEASE_WAIT = "baton.pool.lease.wait", "s", Histogram(&DURATIONS), [FAAS_NAME];
    /// Functions started in a sandbox, by outcome.
    BATON_POOL_STARTS = "baton.pool.starts", "{start}", Counter, [FAAS_NAME, BATON_OUTCOME];
    /// Starts for which no sandbox was parked, so that one had to be created.
    BATON_POOL_PARKED_MISSES = "baton.pool.parked_misses", "{start}", Counter, [];
    /// Sandboxes created, counted when they are first seen parked or in use.
    BATON_POOL_CREATIONS = "baton.pool.creations", "{sandbox}", Counter, [];
    /// Sandboxes that ended, by reason: `evicted` made room, `idle` was not needed, `oom` went past its memory.
    BATON_POOL_REMOVALS = "baton.pool.removals", "{sandbox}", Counter, [BATON_SANDBOX_REASON];
    /// Sandboxes in which the kernel killed a process for want of memory.
    BATON_POOL_OOM_KILLS = "baton.pool.oom_kills", "{sandbox}", Counter, [];
    /// Instances of components that are alive.
    BATON_WASM_INSTANCES = "baton.wasm.instances", "{instance}", UpDownCounter, [];
    /// Instances that the engine's pool has room for.
    BATON_WASM_INSTANCES_LIMIT = "baton.wasm.instances.limit", "{instance}", UpDownCounter, [];
    /// Components loaded, by where their machine code came from.
    BATON_COMPONENT_LOADS = "baton.component.loads", "{component}", Counter,
        [BATON_COMPONENT_SOURCE];
    /// Time that it took to load a component, by where its machine code came from.
    BATON_COMPONENT_LOAD_DURATION = "baton.component.load.duration", "s", Histogram(&DURATIONS),
        [BATON_COMPONENT_SOURCE];
    /// Lines of output that functions wrote, by what became of them.
    BATON_FUNCTION_LINES = "baton.function.lines", "{line}", Counter, [FAAS_NAME, BATON_OUTCOME];
    /// Lines of Baton's own logs that were dropped because nobody read them.
    BATON_LOG_DROPPED = "baton.log.dropped", "{line}", Counter, [BATON_LOG];
    /// Spans by what became of them.
    BATON_TELEMETRY_SPANS = "baton.telemetry.spans", "{span}", Counter, [BATON_OUTCOME];
    /// Log records by what became of them.
    BATON_TELEMETRY_LOGS = "baton.telemetry.logs", "{record}", Counter, [BATON_OUTCOME];
    /// CPU time of the host process, by mode.
    PROCESS_CPU_TIME = "process.cpu.time", "s", Counter, [CPU_MODE];
    /// Resident memory of the host process.
    PROCESS_MEMORY_USAGE = "process.memory.usage", "By", UpDownCounter, [];
    /// Threads of the host process.
    PROCESS_THREAD_COUNT = "process.thread.count", "{thread}", UpDownCounter, [];
    /// Open descriptors of the host process.
    PROCESS_UNIX_FILE_DESCRIPTOR_COUNT = "process.unix.file_descriptor.count",
        "{file_descriptor}", UpDownCounter, [];
    /// Time since the host process began to serve.
    PROCESS_UPTIME = "process.uptime", "s", Gauge, [];
    /// Threads of the runtime that serve requests.
    BATON_RUNTIME_WORKERS = "baton.runtime.workers", "{thread}", UpDownCounter, [];
    /// Tasks of the runtime that are alive.
    BATON_RUNTIME_TASKS = "baton.runtime.tasks", "{task}", UpDownCounter, [];
    /// Tasks that wait in the runtime's common queue.
    BATON_RUNTIME_QUEUE_LENGTH = "baton.runtime.queue.length", "{task}", UpDownCounter, [];
    /// Time that the runtime's threads were at work, all together.
    BATON_RUNTIME_BUSY_TIME = "baton.runtime.busy_time", "s", Counter, [];
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_value_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::new(&DURATIONS);
        for us in [0, 10, 11, 25] {
            histogram.record(Duration::from_micros(us));
        }
        histogram.record(Duration::from_secs(601));
        let shot = histogram.shot();
        assert_eq!(&shot.counts[..2], [2, 2]);
        assert_eq!(shot.counts.last(), Some(&1));
        assert_eq!(shot.count(), 5);
        assert!((shot.sum - 601.000_046).abs() < 1e-9);
    }

    #[test]
    fn names_are_unique_and_every_attribute_is_in_the_table() {
        let mut names: Vec<_> = INSTRUMENTS.iter().map(|instrument| instrument.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), INSTRUMENTS.len());
        let known = |key: &&str| crate::names::ATTRIBUTES.iter().any(|name| name.name.eq(*key));
        assert!(INSTRUMENTS.iter().flat_map(|instrument| instrument.attributes).all(known));
    }

    proptest! {
        #[test]
        fn a_quantile_lies_within_the_bucket_of_the_value(us in 1_u64..600_000_000, q in 0.01..1.0) {
            let histogram = Histogram::new(&DURATIONS);
            (0..100).for_each(|_| histogram.record(Duration::from_micros(us)));
            let value = histogram.shot().quantile(q).unwrap();
            let real = Duration::from_micros(us).as_secs_f64();
            let upper = DURATIONS.bounds().find(|bound| *bound >= real).unwrap();
            let lower = DURATIONS.bounds().take_while(|bound| *bound < real).last().unwrap_or(0.0);
            prop_assert!((lower..=upper).contains(&value), "{lower} {value} {upper}");
        }
    }
}
