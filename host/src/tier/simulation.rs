//! The policies on a machine that is simulated: cores that are shared evenly, sandboxes that start in a
//! fixed time, requests of one function. The chooser is the real one.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use baton_otel::TraceId;

use super::adaptive::{Outlook, Place};
use super::chooser::{Bounds, Chooser, Decision, Took};
use super::{Reason, Tier};

/// Milliseconds that a request takes.
#[derive(Clone, Copy)]
struct Function {
    /// Of a core, in Wasm.
    wasm: f64,
    /// Of a core, natively.
    native: f64,
    /// Waiting for somebody else, in either.
    waits: f64,
}

impl Function {
    /// A request with a core of its own.
    fn alone(&self, tier: Tier) -> Duration {
        let computes = if tier == Tier::Wasm { self.wasm } else { self.native };
        Duration::from_secs_f64((computes + self.waits) / 1e3)
    }
}

/// A matrix of 300 by 300.
const COMPUTING: Function = Function { wasm: 62.0, native: 28.0, waits: 0.0 };
/// One that asks another service.
const ASKING: Function = Function { wasm: 2.0, native: 1.0, waits: 100.0 };
/// Milliseconds from a parked sandbox to one that accepts.
const ACTIVATION: f64 = 2.0;
const SANDBOXES: usize = 2;
/// The simulation's step, in milliseconds.
const STEP: f64 = 0.5;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Policy {
    Wasm,
    Native,
    Hybrid,
    Adaptive,
}

struct Job {
    arrived: f64,
    began: f64,
    tier: Tier,
    reason: Reason,
    /// Milliseconds of a core that are left.
    left: f64,
    /// Milliseconds of waiting that are left, which comes after.
    waits: f64,
    cold: bool,
    in_flight: usize,
}

struct Waiting {
    job: Job,
    /// When it goes to Wasm after all.
    until: f64,
}

struct Machine {
    policy: Policy,
    function: Function,
    cores: f64,
    chooser: Chooser,
    start: Instant,
    now: f64,
    running: Vec<Job>,
    waiting: VecDeque<Waiting>,
    /// When each sandbox accepts.
    sandboxes: Vec<f64>,
    latencies: Vec<f64>,
}

impl Machine {
    fn new(policy: Policy, cores: u32, function: Function) -> Self {
        let start = Instant::now();
        let idle_timeout = Duration::from_secs(60);
        let bounds = Bounds { concurrency: 1, max: SANDBOXES, idle_timeout, cores };
        let mut machine = Self {
            policy,
            function,
            cores: f64::from(cores),
            chooser: Chooser::new(bounds, start),
            start,
            now: 0.0,
            running: Vec::new(),
            waiting: VecDeque::new(),
            sandboxes: Vec::new(),
            latencies: Vec::new(),
        };
        // It was asked a few times before.
        for at in [0.0, 500.0, 1000.0] {
            machine.until(at);
            machine.arrive();
        }
        machine.until(2000.0);
        machine.latencies.clear();
        machine
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.now / 1e3)
    }

    fn native(&self) -> usize {
        self.running.iter().filter(|job| job.tier == Tier::Native).count()
    }

    fn accepting(&self) -> usize {
        self.sandboxes.iter().filter(|accepts| **accepts <= self.now).count()
    }

    fn prepare(&mut self, wanted: usize) {
        while self.sandboxes.len() < wanted.min(SANDBOXES) {
            self.sandboxes.push(self.now + ACTIVATION);
        }
    }

    fn arrive(&mut self) {
        let in_flight = self.running.len() + self.waiting.len() + 1;
        let (busy, accepting) = (self.native(), self.accepting());
        let warm = busy + self.waiting.len() < accepting;
        let count = |count: usize| u32::try_from(count).unwrap();
        let job = |tier, reason| Job {
            arrived: self.now,
            began: self.now,
            tier,
            reason,
            left: if tier == Tier::Wasm { self.function.wasm } else { self.function.native },
            waits: self.function.waits,
            cold: false,
            in_flight,
        };
        let wasm = job(Tier::Wasm, Reason::Policy);
        let native = Waiting { job: job(Tier::Native, Reason::Policy), until: f64::INFINITY };
        match self.policy {
            Policy::Wasm => self.running.push(wasm),
            Policy::Native => {
                self.waiting.push_back(native);
                self.prepare(in_flight);
            }
            Policy::Hybrid if warm => self.waiting.push_back(native),
            Policy::Hybrid => {
                self.running.push(wasm);
                self.prepare(in_flight);
            }
            Policy::Adaptive => {
                let outlook = Outlook {
                    warm,
                    parked: self.sandboxes.len() < SANDBOXES,
                    busy: count(busy),
                    starting: count(self.sandboxes.len() - accepting),
                    waiting: count(self.waiting.len()),
                    sandboxes: count(self.sandboxes.len()),
                    wasm: true,
                    ..Outlook::default()
                };
                let plan = self.chooser.plan(self.instant(), in_flight, outlook);
                let until = plan.patience.map_or(f64::INFINITY, |it| self.now + ms(it));
                let tier = if plan.place == Place::Wasm { Tier::Wasm } else { Tier::Native };
                let job = job(tier, plan.reason);
                self.prepare(plan.prepare.unwrap_or(0));
                match plan.place {
                    Place::Wasm => self.running.push(job),
                    Place::Parked => {
                        self.prepare(self.sandboxes.len() + 1);
                        self.waiting.push_back(Waiting { job: Job { cold: true, ..job }, until });
                    }
                    Place::Warm | Place::Busy => self.waiting.push_back(Waiting { job, until }),
                }
            }
        }
        self.lend();
    }

    fn lend(&mut self) {
        while self.native() < self.accepting() {
            let Some(Waiting { job, .. }) = self.waiting.pop_front() else { return };
            self.running.push(Job { began: self.now, ..job });
        }
        let now = self.now;
        let late = self.waiting.iter().position(|waiting| waiting.until <= now);
        if let Some(Waiting { job, .. }) = late.and_then(|late| self.waiting.remove(late)) {
            let left = self.function.wasm;
            let wasm = Job { tier: Tier::Wasm, reason: Reason::Late, left, ..job };
            self.running.push(Job { began: now, ..wasm });
        }
    }

    fn until(&mut self, end: f64) {
        while self.now < end {
            let computing = self.running.iter().filter(|job| job.left > 0.0).count();
            let share = (self.cores / computing.max(1) as f64).min(1.0);
            self.now += STEP;
            for job in &mut self.running {
                if job.left > 0.0 {
                    job.left -= STEP * share;
                } else {
                    job.waits -= STEP;
                }
            }
            let is_done = |job: &Job| job.left <= 0.0 && job.waits <= 0.0;
            let (done, running) = std::mem::take(&mut self.running).into_iter().partition(is_done);
            self.running = running;
            let done: Vec<Job> = done;
            for job in done {
                self.latencies.push(self.now - job.arrived);
                let elapsed = Duration::from_secs_f64((self.now - job.began) / 1e3);
                let alone = self.function.alone(job.tier);
                let decision = Decision {
                    at: SystemTime::UNIX_EPOCH,
                    tier: job.tier,
                    reason: job.reason,
                    in_flight: job.in_flight,
                    expected: None,
                    took: (!job.cold).then_some(Took { elapsed, alone }),
                    computed: (job.tier == Tier::Wasm)
                        .then(|| Duration::from_secs_f64(self.function.wasm / 1e3)),
                    queued: Duration::ZERO,
                    forward: None,
                    trace_id: TraceId::INVALID,
                };
                self.chooser.ended(self.instant(), decision);
            }
            self.lend();
        }
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Milliseconds at which requests come: so many a second for so many seconds, one after the other.
fn arrivals(rates: &[(f64, f64)], seed: u64) -> Vec<f64> {
    let mut dice = seed;
    let mut uniform = || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((dice >> 11) as f64 + 1.0) / (1_u64 << 53) as f64
    };
    let (mut at, mut end, mut all) = (2000.0, 2000.0, Vec::new());
    for (rate, seconds) in rates {
        end += seconds * 1e3;
        loop {
            let next = at - uniform().ln() * 1e3 / rate;
            if next > end {
                at = end;
                break;
            }
            at = next;
            all.push(at);
        }
    }
    all
}

/// The mean latency in milliseconds of a pattern under a policy, over some seeds.
fn mean(policy: Policy, cores: u32, function: Function, rates: &[(f64, f64)]) -> f64 {
    let mut all = Vec::new();
    for seed in 0..8 {
        let mut machine = Machine::new(policy, cores, function);
        for at in arrivals(rates, seed) {
            machine.until(at);
            machine.arrive();
        }
        machine.until(machine.now + 20_000.0);
        assert!(machine.running.is_empty() && machine.waiting.is_empty(), "it does not end");
        all.append(&mut machine.latencies);
    }
    all.iter().sum::<f64>() / all.len() as f64
}

#[track_caller]
fn assert_as_good_as_the_best(cores: u32, function: Function, rates: &[(f64, f64)]) {
    let of = |policy| mean(policy, cores, function, rates);
    let (adaptive, others) =
        (of(Policy::Adaptive), [Policy::Wasm, Policy::Native, Policy::Hybrid].map(of));
    let best = others.into_iter().fold(f64::INFINITY, f64::min);
    assert!(adaptive <= 1.05 * best, "{adaptive:.1} ms on {cores} cores, the others {others:.1?}");
}

#[test]
fn adaptive_is_as_good_as_the_best_policy_in_a_steady_stream() {
    for cores in [1, 2, 4] {
        assert_as_good_as_the_best(cores, COMPUTING, &[(12.0, 12.0)]);
    }
}

#[test]
fn adaptive_is_as_good_as_the_best_policy_in_a_spike() {
    let spike = [(6.0, 5.0), (32.0, 1.0), (6.0, 6.0)];
    for cores in [1, 2, 4] {
        assert_as_good_as_the_best(cores, COMPUTING, &spike);
    }
}

#[test]
fn adaptive_is_as_good_as_the_best_policy_in_a_spike_past_what_a_core_can_do() {
    let spike = [(4.0, 5.0), (60.0, 1.0), (4.0, 6.0)];
    for cores in [1, 2, 4] {
        assert_as_good_as_the_best(cores, COMPUTING, &spike);
    }
}

#[test]
fn adaptive_is_as_good_as_the_best_policy_after_a_jump() {
    for cores in [1, 2, 4] {
        assert_as_good_as_the_best(cores, COMPUTING, &[(3.0, 6.0), (24.0, 6.0)]);
    }
}

#[test]
fn adaptive_makes_nobody_wait_for_a_sandbox_of_a_function_that_mostly_waits() {
    for cores in [1, 2, 4] {
        assert_as_good_as_the_best(cores, ASKING, &[(3.0, 5.0), (150.0, 2.0), (20.0, 5.0)]);
    }
}
