//! Everything that is counted, read at one moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use baton_otel::KeyValue;
use baton_otel::metrics::{Data, Instrument, Metric, Reading, instrument as i};
use baton_otel::names::attribute as key;

use super::{Counts, Metrics, Series, process};
use crate::function::Function;
use crate::host::Host;
use crate::tier::{Tier, chooser};

const TIERS: [Tier; 2] = [Tier::Wasm, Tier::Native];

/// All metrics as they are now.
#[must_use]
pub fn read(host: &Host) -> Vec<Metric> {
    let mut reading = Reading::default();
    let functions = host.functions.load();
    for function in functions.list() {
        of_function(&mut reading, function);
    }
    let metrics = &host.observer.metrics;
    requests(&mut reading, &metrics.unrouted, None);
    of_pool(&mut reading, host);
    of_wasm(&mut reading, metrics);
    of_telemetry(&mut reading, host);
    process::read(&mut reading);
    reading.push(&i::PROCESS_UPTIME, vec![], metrics.began.elapsed().as_secs_f64());
    process::read_runtime(&mut reading, &host.runtime);
    reading.finish()
}

fn of_function(reading: &mut Reading, function: &Function) {
    let name = || KeyValue::new(key::FAAS_NAME, function.name().to_owned());
    let counts = &function.counts;
    requests(reading, counts, Some(function));
    let mut say = |instrument: &'static Instrument, data: Data| {
        reading.push(instrument, vec![name()], data);
    };
    let count = |counter: &AtomicU64| Data::from(counter.load(Relaxed));
    say(&i::HTTP_SERVER_ACTIVE_REQUESTS, function.gate.in_flight().into());
    say(&i::BATON_QUEUE_LENGTH, function.gate.waiting().into());
    say(&i::FAAS_COLDSTARTS, count(&counts.cold));
    say(&i::FAAS_ERRORS, count(&counts.failed));
    say(&i::FAAS_TIMEOUTS, count(&counts.timeouts));
    say(&i::BATON_REQUESTS_REFUSED, count(&counts.refused));
    say(&i::BATON_QUEUE_WAIT, counts.queue_wait.shot().into());
    if function.native.is_some() {
        let waits = counts.lease_wait.shot();
        say(&i::BATON_POOL_LEASES, waits.count().into());
        say(&i::BATON_POOL_LEASE_WAIT, waits.into());
    }
    let with = |more: KeyValue| vec![name(), more];
    for tier in TIERS.into_iter().filter(|tier| function.has(*tier)) {
        let of_tier = counts.of(tier);
        let mut say = |instrument: &'static Instrument, data: Data| {
            reading.push(instrument, with(KeyValue::new(key::BATON_TIER, tier.name())), data);
        };
        say(&i::FAAS_INVOCATIONS, count(&of_tier.invocations));
        say(&i::FAAS_INVOKE_DURATION, of_tier.invoke.shot().into());
        say(&i::FAAS_INIT_DURATION, of_tier.init.shot().into());
        say(&i::FAAS_CPU_USAGE, of_tier.cpu.shot().into());
        if tier == Tier::Native {
            say(&i::FAAS_MEM_USAGE, of_tier.memory.0.shot().into());
        }
        say(&i::HTTP_SERVER_REQUEST_BODY_SIZE, of_tier.received.0.shot().into());
        say(&i::HTTP_SERVER_RESPONSE_BODY_SIZE, of_tier.sent.0.shot().into());
    }
    for (decision, made) in counts.decisions.iter() {
        let attributes = match decision {
            Some((tier, reason)) => vec![
                name(),
                KeyValue::new(key::BATON_TIER, tier.name()),
                KeyValue::new(key::BATON_TIER_REASON, reason.name()),
            ],
            None => with(overflow()),
        };
        reading.push(&i::BATON_TIER_DECISIONS, attributes, made.load(Relaxed));
    }
    for kind in chooser::Kind::ALL {
        if let Some(summary) = function.chooser.summary(kind) {
            let of = with(KeyValue::new(key::BATON_TIER_ESTIMATE_OF, kind.name()));
            reading.push(&i::BATON_TIER_ESTIMATE, of, summary.expected.as_secs_f64());
        }
    }
    for (lost, durations) in counts.forwarded.iter() {
        let mut attributes = with(KeyValue::new(key::BATON_CLIENT, "forward"));
        attributes.extend(lost.flatten().map(|error| KeyValue::new(key::ERROR_TYPE, error)));
        reading.push(&i::HTTP_CLIENT_REQUEST_DURATION, attributes, durations.shot());
    }
    let outgoing = function.egress.durations.shot();
    if outgoing.count() > 0 {
        let attributes = with(KeyValue::new(key::BATON_CLIENT, "egress"));
        reading.push(&i::HTTP_CLIENT_REQUEST_DURATION, attributes, outgoing);
    }
    let outcome = |outcome| with(KeyValue::new(key::BATON_OUTCOME, outcome));
    if let Some(guard) = &function.guard {
        for (came_out, count) in guard.counts() {
            reading.push(&i::BATON_VERIFY_COMPARISONS, outcome(came_out), count);
        }
        reading.push(&i::BATON_VERIFY_DEMOTED, vec![name()], u64::from(guard.is_demoted()));
    }
    if function.native.is_some() {
        let started = counts.of(Tier::Native).init.shot().count();
        reading.push(&i::BATON_POOL_STARTS, outcome("ready"), started);
        reading.push(&i::BATON_POOL_STARTS, outcome("failed"), count(&counts.starts_failed));
    }
    for (what, lines) in [
        ("logged", &counts.lines.logged),
        ("dropped", &counts.lines.dropped),
        ("span", &counts.lines.spans),
    ] {
        reading.push(&i::BATON_FUNCTION_LINES, outcome(what), count(lines));
    }
}

fn overflow() -> KeyValue {
    KeyValue::new(key::OTEL_METRIC_OVERFLOW, true)
}

/// Requests of a function, or of none.
fn requests(reading: &mut Reading, counts: &Counts, function: Option<&Function>) {
    for (series, durations) in counts.requests.iter() {
        let mut attributes = series.map_or_else(|| vec![overflow()], |series| series.attributes());
        if let Some(function) = function {
            attributes.push(KeyValue::new(key::HTTP_ROUTE, Arc::clone(&function.labels.route)));
            attributes.push(KeyValue::new(key::FAAS_NAME, function.name().to_owned()));
        }
        reading.push(&i::HTTP_SERVER_REQUEST_DURATION, attributes, durations.shot());
    }
}

impl Series {
    fn attributes(&self) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new(key::HTTP_REQUEST_METHOD, self.method),
            KeyValue::new(key::HTTP_RESPONSE_STATUS_CODE, i64::from(self.status)),
            KeyValue::new(key::URL_SCHEME, if self.secure { "https" } else { "http" }),
            KeyValue::new(key::NETWORK_PROTOCOL_VERSION, self.version),
        ];
        attributes.extend(self.tier.map(|tier| KeyValue::new(key::BATON_TIER, tier.name())));
        match self.error {
            Some(error) => attributes.push(KeyValue::new(key::ERROR_TYPE, error)),
            None if self.status >= 500 => {
                attributes.push(KeyValue::new(key::ERROR_TYPE, self.status.to_string()));
            }
            None => {}
        }
        attributes
    }
}

fn of_pool(reading: &mut Reading, host: &Host) {
    let Some(sandboxing) = &host.sandboxing else { return };
    let metrics = &host.observer.metrics;
    let gauges = sandboxing.gauges();
    for (state, count) in gauges.states {
        let state = vec![KeyValue::new(key::BATON_SANDBOX_STATE, state)];
        reading.push(&i::BATON_SANDBOXES, state, count);
    }
    reading.push(&i::BATON_POOL_MEMORY, vec![], gauges.memory);
    reading.push(&i::BATON_POOL_MEMORY_LIMIT, vec![], gauges.memory_limit);
    reading.push(&i::BATON_POOL_QUEUE_LENGTH, vec![], gauges.queued);
    for (instrument, counter) in [
        (&i::BATON_POOL_CREATIONS, &metrics.creations),
        (&i::BATON_POOL_PARKED_MISSES, &metrics.parked_misses),
        (&i::BATON_POOL_OOM_KILLS, &metrics.oom_kills),
    ] {
        reading.push(instrument, vec![], counter.load(Relaxed));
    }
    let removals = metrics.removals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (reason, count) in removals.iter() {
        let reason = vec![KeyValue::new(key::BATON_SANDBOX_REASON, *reason)];
        reading.push(&i::BATON_POOL_REMOVALS, reason, *count);
    }
}

fn of_wasm(reading: &mut Reading, metrics: &Metrics) {
    let engines = metrics.engines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let engines: Vec<_> = engines.iter().filter_map(std::sync::Weak::upgrade).collect();
    let alive: usize = engines.iter().map(|engine| engine.instances()).sum();
    let room: usize = engines.iter().map(|engine| engine.room()).sum();
    reading.push(&i::BATON_WASM_INSTANCES, vec![], alive);
    reading.push(&i::BATON_WASM_INSTANCES_LIMIT, vec![], room);
    for (source, loads) in ["memory", "cache", "compile"].into_iter().zip(&metrics.loads) {
        let source = || vec![KeyValue::new(key::BATON_COMPONENT_SOURCE, source)];
        let loads = loads.shot();
        reading.push(&i::BATON_COMPONENT_LOADS, source(), loads.count());
        reading.push(&i::BATON_COMPONENT_LOAD_DURATION, source(), loads);
    }
}

fn of_telemetry(reading: &mut Reading, host: &Host) {
    let observer = &host.observer;
    for (instrument, counts) in [
        (&i::BATON_TELEMETRY_SPANS, observer.telemetry.counts()),
        (&i::BATON_TELEMETRY_LOGS, observer.telemetry.log_counts()),
    ] {
        for (outcome, count) in
            [("exported", counts.exported), ("dropped", counts.dropped), ("failed", counts.failed)]
        {
            reading.push(instrument, vec![KeyValue::new(key::BATON_OUTCOME, outcome)], count);
        }
    }
    let own = crate::log::dropped();
    for (log, dropped) in [("access", observer.access.lost()), ("host", own)] {
        reading.push(&i::BATON_LOG_DROPPED, vec![KeyValue::new(key::BATON_LOG, log)], dropped);
    }
}
