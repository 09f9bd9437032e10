//! What one function knows of its tiers, and where its next request goes.
//!
//! ```text
//! arrival ── plan ─▶ place, reason, sandboxes to prepare      (policy `adaptive`)
//! end     ── ended ─▶ estimates, accounts, decisions          (every policy)
//! pool    ── started ─▶ estimates of activation and creation
//! ```
//! [`Chooser::plan`] asks [`super::adaptive`] where the request is finished earliest, and
//! [`super::account`] whether a sandbox pays. Activating a parked sandbox for a request is making
//! one, so it has to pay as well.
//!
//! **Exploration.** Whether a sandbox pays is not known before one was measured, so a revision's first request in Wasm has
//! one made behind it, which no account pays for. And an estimate that nothing renews goes stale. For every second of service a
//! hundredth is saved up; a request goes to the tier that seems slower only when that tier was not
//! measured for `STALE` requests and the difference was saved up, and a sandbox is made to look
//! again only when its making was. So exploring costs at most a hundredth of the mean, and it
//! touches less than one request in 250. What the equivalence guard runs in a shadow is measured too.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use baton_otel::TraceId;

use super::account::{Account, Price};
use super::adaptive::{Measured, Outlook, Place, earliest};
use super::concurrency::Concurrency;
use super::estimate::Estimate;
use super::{Reason, Tier};

/// Decisions that are kept for `explain`.
pub const DECISIONS: usize = 64;

/// Requests after which a tier that was not measured may be tried again.
const STALE: u32 = 256;

/// Measurements of the native build before it is believed to be slower than Wasm. The first are of a
/// sandbox whose memory nobody has touched yet, on a machine that makes the next one to park: after
/// five, a short function that is a third faster natively left its sandbox in two of three replays of a
/// spike, and did not look again for [`STALE`] requests.
const BELIEVED: u64 = 32;

/// The quantile of starts that the next is expected to take. It is the same work each time, and what makes some of them
/// longer is that the cores are taken: a request's place is found by what it takes with a core of its own.
const START: f64 = 0.25;

/// The share of the service time that exploring may cost.
const EXPLORING: f64 = 0.01;

/// The weight of the last request in the share of time that requests compute.
const COMPUTES_WEIGHT: f64 = 1.0 / 16.0;

/// Seconds that may be saved up for exploring.
const SAVED_MAX: f64 = 10.0;

/// What the manifest says of a function's sandboxes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Requests at once in one sandbox.
    pub concurrency: usize,
    /// Sandboxes at most.
    pub max: usize,
    /// How long an idle sandbox is kept. It says what holding costs: as much as making it.
    pub idle_timeout: Duration,
    /// Cores of the machine.
    pub cores: u32,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The place.
    pub place: Place,
    /// Why.
    pub reason: Reason,
    /// When it is expected to be finished.
    pub expected: Option<Duration>,
    /// Requests at once for which sandboxes are to be prepared behind.
    pub prepare: Option<usize>,
    /// How long to wait for the sandbox; then Wasm is the better place after all.
    pub patience: Option<Duration>,
    /// How long an idle sandbox is worth keeping.
    pub keep: Duration,
}

/// How long a tier worked on a request, without what it waited for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    /// Beside whatever else the machine did.
    pub elapsed: Duration,
    /// What would be left of that with a core of its own.
    pub alone: Duration,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub struct Decision {
    /// When it ended.
    pub at: SystemTime,
    /// Where it was answered.
    pub tier: Tier,
    /// Why there.
    pub reason: Reason,
    /// Requests in flight when it was let in, itself included.
    pub in_flight: usize,
    /// What was expected of it.
    pub expected: Option<Duration>,
    /// The tier's work on it; `None` when it was not a measurement of its tier (a fallback, a cold
    /// start, a failure, a client that left).
    pub took: Option<Took>,
    /// How long it computed, where its tier tells.
    pub computed: Option<Duration>,
    /// Its time in the queue.
    pub queued: Duration,
    /// From the choice until it was written to a warm sandbox.
    pub forward: Option<Duration>,
    /// Its trace.
    pub trace_id: TraceId,
}

/// A kind of measured duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A request in Wasm.
    Wasm,
    /// A request in a warm sandbox.
    Native,
    /// From parked to accepting.
    Activation,
    /// From nothing to parked.
    Creation,
    /// In the function's queue.
    Queue,
    /// From the choice until a warm sandbox got the request.
    Forward,
}

impl Kind {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 6] =
        [Self::Wasm, Self::Native, Self::Activation, Self::Creation, Self::Queue, Self::Forward];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::Native => "native",
            Self::Activation => "activation",
            Self::Creation => "creation",
            Self::Queue => "queue",
            Self::Forward => "forward",
        }
    }
}

/// A duration's distribution as it has been lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Observations ever.
    pub samples: u64,
    /// What is expected of the next.
    pub expected: Duration,
    /// The median.
    pub p50: Duration,
    /// The 90th percentile.
    pub p90: Duration,
    /// The 99th percentile.
    pub p99: Duration,
}

/// Everything that explains the next choice.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What was measured.
    pub summaries: Vec<(Kind, Summary)>,
    /// What the choice takes for granted.
    pub measured: Measured,
    /// What a sandbox costs to make.
    pub making: Duration,
    /// How far the first sandbox is from paying, 1 to 0.
    pub debt: f64,
    /// Where the next request would go under `adaptive`.
    pub next: Plan,
    /// Requests that a burst wants sandboxes for, in one.
    pub burst: Option<f64>,
    /// Requests by tier and reason.
    pub counts: BTreeMap<(&'static str, &'static str), u64>,
    /// The last decisions, the newest last.
    pub decisions: Vec<Decision>,
}

/// One function's knowledge of its tiers.
#[derive(Debug)]
pub struct Chooser {
    state: Mutex<State>,
}

#[derive(Clone, Debug)]
struct State {
    bounds: Bounds,
    estimates: [Estimate; Kind::ALL.len()],
    /// A request in each tier, with a core of its own.
    alone: [Estimate; 2],
    /// The share of its time that a request computes, in Wasm, which tells.
    computes: Option<f64>,
    accounts: Vec<Account>,
    concurrency: Concurrency,
    /// Sandboxes that there were when last looked.
    sandboxes: usize,
    /// Whether one was parked when last looked.
    parked: bool,
    /// Requests since each tier was measured.
    unmeasured: [u32; 2],
    /// Whether a sandbox was made, if only to see what the native build takes.
    tried: bool,
    /// Seconds that exploring may cost now.
    saved: f64,
    counts: BTreeMap<(&'static str, &'static str), u64>,
    decisions: VecDeque<Decision>,
}

impl Chooser {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(bounds: Bounds, now: Instant) -> Self {
        let state = State {
            bounds,
            estimates: Default::default(),
            alone: Default::default(),
            computes: None,
            accounts: vec![Account::new(now); bounds.max],
            concurrency: Concurrency::new(now),
            sandboxes: 0,
            parked: true,
            unmeasured: [0; 2],
            tried: false,
            saved: 0.0,
            counts: BTreeMap::new(),
            decisions: VecDeque::with_capacity(DECISIONS),
        };
        Self { state: Mutex::new(state) }
    }

    /// Where the request goes that makes `in_flight`, when `outlook` is there.
    pub fn plan(&self, now: Instant, in_flight: usize, outlook: Outlook) -> Plan {
        let mut state = self.lock();
        state.look(now, in_flight, outlook);
        let plan = state.plan(now, in_flight, outlook);
        state.spend(now, plan);
        plan
    }

    /// A request has ended.
    pub fn ended(&self, now: Instant, decision: Decision) {
        self.lock().ended(now, decision);
    }

    /// A tier took so long for a request that no client waited for.
    pub fn shadowed(&self, tier: Tier, took: Duration) {
        self.lock().measured(tier, Took { elapsed: took, alone: took });
    }

    /// A sandbox was started, or created, which took so long.
    pub fn started(&self, kind: Kind, took: Duration) {
        self.lock().estimate(kind).record(took);
    }

    /// The share of its time that a request computes with a core of its own; all of it where that is not known.
    #[must_use]
    pub fn computes(&self) -> f64 {
        self.lock().computes.unwrap_or(1.0)
    }

    /// What is measured of one kind.
    #[must_use]
    pub fn summary(&self, kind: Kind) -> Option<Summary> {
        self.lock().summary(kind)
    }

    /// Everything at once; asks nothing of anybody and changes nothing.
    #[must_use]
    pub fn explain(&self, now: Instant, in_flight: usize, outlook: Outlook) -> Explanation {
        let mut state = self.lock().clone();
        state.look(now, in_flight, outlook);
        let (price, measured) = (state.price(), state.expectations());
        let summaries = Kind::ALL.map(|kind| Some((kind, state.summary(kind)?)));
        Explanation {
            summaries: summaries.into_iter().flatten().collect(),
            measured,
            making: measured.making(state.parked),
            debt: state.accounts.first().map_or(1.0, |account| account.debt(now, &price)),
            next: state.plan(now, in_flight, outlook),
            burst: state.concurrency.burst(),
            counts: state.counts,
            decisions: state.decisions.into(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn estimate(&mut self, kind: Kind) -> &mut Estimate {
        let [wasm, native, activation, creation, queue, forward] = &mut self.estimates;
        match kind {
            Kind::Wasm => wasm,
            Kind::Native => native,
            Kind::Activation => activation,
            Kind::Creation => creation,
            Kind::Queue => queue,
            Kind::Forward => forward,
        }
    }

    fn expected(&mut self, kind: Kind) -> Option<Duration> {
        let estimate = self.estimate(kind);
        match kind {
            Kind::Activation | Kind::Creation => estimate.quantile(START),
            Kind::Wasm | Kind::Native | Kind::Queue | Kind::Forward => estimate.expected(),
        }
    }

    fn summary(&mut self, kind: Kind) -> Option<Summary> {
        let expected = self.expected(kind)?;
        let estimate = self.estimate(kind);
        Some(Summary {
            samples: estimate.samples(),
            expected,
            p50: estimate.quantile(0.5)?,
            p90: estimate.quantile(0.9)?,
            p99: estimate.quantile(0.99)?,
        })
    }

    fn expectations(&mut self) -> Measured {
        let [wasm, native] = &mut self.alone;
        Measured {
            wasm: wasm.expected(),
            native: believed(native, wasm),
            activation: self.expected(Kind::Activation),
            creation: self.expected(Kind::Creation),
        }
    }

    fn price(&mut self) -> Price {
        let making = self.expectations().making(self.parked).as_secs_f64();
        Price { making, held: Some(self.bounds.idle_timeout) }
    }

    /// The account that the request making `in_flight` belongs to, if it may have a sandbox.
    fn place(&self, in_flight: usize) -> Option<usize> {
        let place = in_flight.max(1).div_ceil(self.bounds.concurrency.max(1)) - 1;
        (place < self.bounds.max).then_some(place)
    }

    /// Takes note of what is there: a sandbox that is missing was taken away.
    fn look(&mut self, now: Instant, in_flight: usize, outlook: Outlook) {
        let there = outlook.sandboxes as usize;
        if !outlook.warm {
            let gone = there.min(self.accounts.len())..self.sandboxes.clamp(there, self.bounds.max);
            self.accounts[gone].iter_mut().for_each(|account| account.evicted(now));
            self.sandboxes = there;
            self.parked = outlook.parked;
        }
        let room = self.sandboxes * self.bounds.concurrency;
        self.concurrency.observe(now, in_flight, room);
    }

    fn plan(&mut self, now: Instant, in_flight: usize, outlook: Outlook) -> Plan {
        let (price, measured) = (self.price(), self.expectations());
        let outlook = self.shared(in_flight, outlook);
        let excess = measured.wasm().map_or(Duration::ZERO, |wasm| measured.excess_of_wasm(wasm));
        let pays = |place: usize| self.accounts[place].pays(now, &price, excess.as_secs_f64());
        let own = self.place(in_flight).filter(|place| pays(*place));
        let (mut place, mut expected) = earliest(outlook, &measured, own.is_some());
        let worth = self.worth(own, pays);
        let mut prepare = (!outlook.warm && worth > self.sandboxes)
            .then(|| worth * self.bounds.concurrency.max(1));
        let tries = place == Place::Wasm && self.tries(outlook);
        if tries {
            prepare = prepare.or(Some(1));
        }
        let mut reason = match place {
            Place::Warm => Reason::Warm,
            Place::Parked => Reason::Parked,
            Place::Busy => Reason::Busy,
            Place::Wasm if outlook.warm => Reason::WasmFaster,
            Place::Wasm if prepare.is_some() || outlook.starting > 0 => Reason::NoWarmSandbox,
            Place::Wasm if excess.is_zero() && measured.native.is_some() => Reason::WasmFaster,
            Place::Wasm if outlook.busy > 0 => Reason::Saturated,
            Place::Wasm => Reason::NotWorth,
        };
        match self.explore(place, outlook, &measured) {
            Some(Exploration::Place(other)) => {
                (place, reason) = (other, Reason::Probe);
                expected = if other == Place::Wasm { measured.wasm() } else { measured.native() };
            }
            Some(Exploration::Sandbox) => prepare = Some(1),
            None => {}
        }
        let patience = match place {
            Place::Parked | Place::Busy if outlook.wasm => {
                let wasm = measured.wasm().unwrap_or_default().mul_f64(outlook.crowd());
                Some(wasm.saturating_sub(measured.native().unwrap_or_default()))
            }
            _ => None,
        };
        let keep = match tries {
            true => self.bounds.idle_timeout,
            false => self.keep(now, &price, self.place(in_flight), excess),
        };
        Plan { place, reason, expected, prepare, patience, keep }
    }

    /// Who shares the cores: those in flight that do not wait for a sandbox, without this request.
    fn shared(&self, in_flight: usize, outlook: Outlook) -> Outlook {
        let others = u32::try_from(in_flight.saturating_sub(1)).unwrap_or(u32::MAX);
        let running = others.saturating_sub(outlook.waiting);
        Outlook { running, cores: self.bounds.cores, computes: self.computes, ..outlook }
    }

    /// A request of `took`, as if alone, computed for so long.
    fn computed(&mut self, took: Duration, computed: Duration) {
        let share = (computed.as_secs_f64() / took.as_secs_f64().max(1e-9)).min(1.0);
        let before = self.computes.unwrap_or(share);
        self.computes = Some(before + (share - before) * COMPUTES_WEIGHT);
    }

    /// How many sandboxes are worth having: those up to this request's own, and in a burst those
    /// of the other requests in flight too, whose expected loss is the same.
    fn worth(&self, own: Option<usize>, pays: impl Fn(usize) -> bool) -> usize {
        let Some(own) = own else { return 0 };
        let Some(burst) = self.concurrency.burst() else { return own + 1 };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "requests in flight"
        )]
        let last = (burst / self.bounds.concurrency.max(1) as f64).ceil() as usize;
        let more = (own + 1..last.min(self.bounds.max)).take_while(|place| pays(*place)).count();
        own + 1 + more
    }

    /// How long an idle sandbox is kept once this request has ended with the excess that is expected
    /// of it. The accounts of several sandboxes differ; the one that is owed most decides for all,
    /// since the pool gives requests to the sandbox used last, so that the others end first anyway.
    fn keep(&self, now: Instant, price: &Price, own: Option<usize>, excess: Duration) -> Duration {
        let kept = |(place, account): (usize, &Account)| {
            let mut account = *account;
            if own == Some(place) {
                account.charge(now, price, excess.as_secs_f64());
            }
            account.keep(now, price)
        };
        let keeps = self.accounts.iter().enumerate().filter_map(kept);
        keeps.max().unwrap_or(self.bounds.idle_timeout)
    }

    /// Whether it is time for the first sandbox, which shows what the native build takes.
    fn tries(&self, outlook: Outlook) -> bool {
        let [_, native] = &self.alone;
        !self.tried && native.samples() == 0 && outlook.sandboxes == 0 && !outlook.warm
    }

    fn explore(&self, place: Place, outlook: Outlook, measured: &Measured) -> Option<Exploration> {
        let [since_wasm, since_native] = self.unmeasured;
        let (wasm, native) = (measured.wasm()?, measured.native()?);
        let difference = wasm.abs_diff(native).as_secs_f64();
        match place {
            Place::Warm if since_wasm >= STALE && outlook.wasm && self.saved >= difference => {
                Some(Exploration::Place(Place::Wasm))
            }
            Place::Wasm if since_native >= STALE && outlook.warm && self.saved >= difference => {
                Some(Exploration::Place(Place::Warm))
            }
            Place::Wasm
                if since_native >= STALE
                    && outlook.parked
                    && native >= wasm
                    && self.sandboxes == 0
                    && self.saved >= difference + measured.making(false).as_secs_f64() =>
            {
                Some(Exploration::Sandbox)
            }
            _ => None,
        }
    }

    /// Takes what exploring costs from what was saved; the first sandbox is free.
    fn spend(&mut self, now: Instant, plan: Plan) {
        if plan.prepare.is_some() && !self.tried {
            self.tried = true;
            self.accounts.iter_mut().take(1).for_each(|account| account.given(now));
        }
        let measured = self.expectations();
        let (Some(wasm), Some(native)) = (measured.wasm(), measured.native()) else { return };
        if plan.reason == Reason::Probe {
            self.saved -= wasm.abs_diff(native).as_secs_f64();
            // The next probe waits for this one's result.
            self.unmeasured = [0; 2];
        } else if plan.prepare.is_some() && native >= wasm {
            self.saved -= measured.making(false).as_secs_f64();
        }
    }

    fn ended(&mut self, now: Instant, decision: Decision) {
        self.estimate(Kind::Queue).record(decision.queued);
        if let Some(forward) = decision.forward {
            self.estimate(Kind::Forward).record(forward);
        }
        if let Some(took) = decision.took {
            self.measured(decision.tier, took);
            if let Some(computed) = decision.computed {
                self.computed(took.alone, computed);
            }
            let elapsed = took.elapsed;
            self.saved = (self.saved + elapsed.as_secs_f64() * EXPLORING).min(SAVED_MAX);
            let (price, measured) = (self.price(), self.expectations());
            let excess = match decision.tier {
                Tier::Wasm => measured.excess_of_wasm(elapsed),
                Tier::Native => measured.excess_of_native(elapsed),
            };
            if let Some(place) = self.place(decision.in_flight) {
                self.accounts[place].charge(now, &price, excess.as_secs_f64());
            }
        }
        *self.counts.entry((decision.tier.name(), decision.reason.name())).or_default() += 1;
        if self.decisions.len() == DECISIONS {
            self.decisions.pop_front();
        }
        self.decisions.push_back(decision);
    }

    fn measured(&mut self, tier: Tier, took: Took) {
        let [wasm, native] = &mut self.alone;
        match tier {
            Tier::Wasm => wasm.record(took.alone),
            Tier::Native => native.record(took.alone),
        }
        let [since_wasm, since_native] = &mut self.unmeasured;
        let (this, other, kind) = match tier {
            Tier::Wasm => (since_wasm, since_native, Kind::Wasm),
            Tier::Native => (since_native, since_wasm, Kind::Native),
        };
        *this = 0;
        *other = other.saturating_add(1);
        self.estimate(kind).record(took.elapsed);
    }
}

/// What is believed of the native build. That it is slower than Wasm is not before it was measured often, and not
/// either when most of its requests are quicker: what makes few of them very slow is rather the machine, which
/// neither tier escapes. Then their medians compare the two.
fn believed(native: &mut Estimate, wasm: &mut Estimate) -> Option<Duration> {
    let native_mean = native.expected()?;
    let Some(wasm_mean) = wasm.expected().filter(|wasm| native_mean >= *wasm) else {
        return Some(native_mean);
    };
    if native.samples() < BELIEVED {
        return None;
    }
    let [native, wasm] =
        [native, wasm].map(|it| it.quantile(0.5).unwrap_or_default().as_secs_f64());
    Some(if native <= wasm { wasm_mean.mul_f64(native / wasm.max(1e-9)) } else { native_mean })
}

enum Exploration {
    /// The request itself goes there.
    Place(Place),
    /// A sandbox is made behind.
    Sandbox,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds =
        Bounds { concurrency: 1, max: 4, idle_timeout: Duration::from_secs(60), cores: 4 };
    const COLD: Outlook = Outlook {
        warm: false,
        parked: true,
        busy: 0,
        starting: 0,
        waiting: 0,
        sandboxes: 0,
        wasm: true,
        running: 0,
        cores: 0,
        computes: None,
    };
    const WARM: Outlook = Outlook { warm: true, sandboxes: 1, ..COLD };

    struct Trial {
        chooser: Chooser,
        now: Instant,
    }

    impl Trial {
        fn new() -> Self {
            let now = Instant::now();
            let trial = Self { chooser: Chooser::new(BOUNDS, now), now };
            // The first sandbox is there, and gone when a test looks; it was not measured.
            trial.chooser.plan(now, 1, COLD);
            trial.chooser.plan(now, 1, Outlook { starting: 1, sandboxes: 1, ..COLD });
            trial
        }

        fn end(&mut self, tier: Tier, reason: Reason, took: Duration) {
            self.now += took;
            let decision = Decision {
                at: SystemTime::UNIX_EPOCH,
                tier,
                reason,
                in_flight: 1,
                expected: None,
                took: Some(Took { elapsed: took, alone: took }),
                computed: None,
                queued: Duration::ZERO,
                forward: None,
                trace_id: TraceId::INVALID,
            };
            self.chooser.ended(self.now, decision);
        }

        /// Asks until the answer comes from elsewhere, and says how many were answered by Wasm.
        fn until_a_sandbox_pays(&mut self, wasm: Duration) -> usize {
            for count in 0..1_000_000 {
                let plan = self.chooser.plan(self.now, 1, COLD);
                if plan.place != Place::Wasm || plan.prepare.is_some() {
                    return count;
                }
                self.end(Tier::Wasm, plan.reason, wasm);
            }
            panic!("none ever pays");
        }
    }

    #[test]
    fn the_first_request_has_a_sandbox_made_and_no_later_one_that_does_not_pay() {
        let now = Instant::now();
        let chooser = Chooser::new(BOUNDS, now);
        let first = chooser.plan(now, 1, COLD);
        assert_eq!(
            (first.place, first.reason, first.prepare, first.keep),
            (Place::Wasm, Reason::NoWarmSandbox, Some(1), BOUNDS.idle_timeout)
        );
        chooser.plan(now, 1, Outlook { starting: 1, sandboxes: 1, ..COLD });
        assert_eq!(chooser.plan(now, 1, COLD).prepare, None);
    }

    #[test]
    fn a_long_function_gets_the_parked_sandbox_with_its_second_request() {
        let mut trial = Trial::new();
        assert_eq!(trial.until_a_sandbox_pays(Duration::from_millis(100)), 1);
        assert_eq!(trial.chooser.plan(trial.now, 1, COLD).reason, Reason::Parked);
    }

    #[test]
    fn a_short_function_gets_one_only_when_its_losses_have_paid_for_it() {
        let mut trial = Trial::new();
        // 100 µs in Wasm lose 47 µs by the prior; activating a sandbox costs 2 ms.
        let needed = trial.until_a_sandbox_pays(Duration::from_micros(100));
        assert!((38..48).contains(&needed), "{needed}");
    }

    #[test]
    fn a_function_that_is_not_slower_in_wasm_stays_there() {
        let mut trial = Trial::new();
        for _ in 0..BELIEVED {
            trial.end(Tier::Native, Reason::Warm, Duration::from_micros(120));
            trial.end(Tier::Wasm, Reason::Policy, Duration::from_micros(60));
        }
        let plan = trial.chooser.plan(trial.now, 1, WARM);
        assert_eq!(
            (plan.place, plan.reason, plan.prepare),
            (Place::Wasm, Reason::WasmFaster, None)
        );
    }

    #[test]
    fn a_native_build_is_believed_to_be_slower_only_after_some_requests() {
        let mut trial = Trial::new();
        trial.end(Tier::Wasm, Reason::NotWorth, Duration::from_micros(800));
        for _ in 0..BELIEVED {
            let plan = trial.chooser.plan(trial.now, 1, WARM);
            assert_eq!((plan.place, plan.reason), (Place::Warm, Reason::Warm));
            trial.end(Tier::Native, plan.reason, Duration::from_millis(2));
        }
        assert_eq!(trial.chooser.plan(trial.now, 1, WARM).reason, Reason::WasmFaster);
    }

    #[test]
    fn a_native_build_that_is_very_slow_at_times_is_not_believed_to_be_slower() {
        let mut trial = Trial::new();
        for count in 0..4 * BELIEVED {
            trial.end(Tier::Wasm, Reason::NotWorth, Duration::from_micros(500));
            let slow = if count % 8 == 0 { 4_000 } else { 300 };
            trial.end(Tier::Native, Reason::Warm, Duration::from_micros(slow));
        }
        assert_eq!(trial.chooser.plan(trial.now, 1, WARM).reason, Reason::Warm);
    }

    #[test]
    fn starts_that_were_held_up_do_not_make_sandboxes_dear() {
        let mut trial = Trial::new();
        let usual = Duration::from_millis(2);
        for took in [usual, 10 * usual, 20 * usual] {
            trial.chooser.started(Kind::Activation, took);
        }
        // 100 µs in Wasm lose 47 µs by the prior.
        let needed = trial.until_a_sandbox_pays(Duration::from_micros(100));
        assert!((38..48).contains(&needed), "{needed}");
    }

    #[test]
    fn a_sandbox_that_was_taken_away_begins_a_new_account() {
        let mut trial = Trial::new();
        let wasm = Duration::from_micros(100);
        let first = trial.until_a_sandbox_pays(wasm);
        trial.chooser.plan(trial.now, 1, Outlook { starting: 1, sandboxes: 1, ..COLD });
        let second = trial.until_a_sandbox_pays(wasm);
        assert!(second.abs_diff(first) <= 5, "{first} and {second}");
    }

    #[test]
    fn a_burst_prepares_for_all_that_are_in_flight() {
        let mut trial = Trial::new();
        trial.end(Tier::Wasm, Reason::NotWorth, Duration::from_millis(200));
        let plan = trial.chooser.plan(trial.now, 3, COLD);
        assert_eq!(plan.prepare, Some(3));
        let plan = trial.chooser.plan(trial.now, 4, Outlook { busy: 1, sandboxes: 1, ..COLD });
        assert_eq!(plan.prepare, Some(4));
    }

    #[test]
    fn exploring_touches_less_than_one_request_in_250_and_a_hundredth_of_the_time() {
        let mut trial = Trial::new();
        let (wasm, native) = (Duration::from_millis(4), Duration::from_millis(1));
        trial.end(Tier::Wasm, Reason::NotWorth, wasm);
        let (mut probes, mut extra, mut total) = (0, 0.0, 0.0);
        for _ in 0..10_000 {
            let plan = trial.chooser.plan(trial.now, 1, WARM);
            match plan.place {
                Place::Wasm => {
                    assert_eq!(plan.reason, Reason::Probe);
                    probes += 1;
                    extra += (wasm - native).as_secs_f64();
                    trial.end(Tier::Wasm, plan.reason, wasm);
                }
                _ => trial.end(Tier::Native, plan.reason, native),
            }
            total += native.as_secs_f64();
        }
        assert!((1..=40).contains(&probes), "{probes}");
        assert!(extra <= total * 0.011, "{extra} of {total}");
    }

    #[test]
    fn only_the_last_decisions_are_kept() {
        let mut trial = Trial::new();
        for _ in 0..2 * DECISIONS {
            trial.end(Tier::Wasm, Reason::NotWorth, Duration::from_micros(10));
        }
        let explained = trial.chooser.explain(trial.now, 1, COLD);
        assert_eq!(explained.decisions.len(), DECISIONS);
        assert_eq!(explained.counts[&("wasm", "not-worth")], 2 * DECISIONS as u64);
    }

    #[test]
    fn explaining_changes_nothing() {
        let mut trial = Trial::new();
        trial.end(Tier::Wasm, Reason::NotWorth, Duration::from_millis(100));
        let explained = trial.chooser.explain(trial.now, 1, COLD);
        let again = trial.chooser.explain(trial.now, 1, COLD);
        assert_eq!(explained.next, again.next);
        assert_eq!(trial.chooser.plan(trial.now, 1, COLD), explained.next);
    }
}
