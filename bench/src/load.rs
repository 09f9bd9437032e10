//! Load: a closed loop of N connections, or an open one of given arrivals.
//!
//! It runs on a thread of its own, on cores of its own. Times are of the monotonic clock. In the
//! open loop a latency counts from the arrival that was intended, so a stalled server cannot hide
//! its stall by holding back the load (coordinated omission). When the target is lost, what was
//! measured until then is kept and marked.
//!
//! A load that sleeps until the next answer makes whoever answers pay for waking its core, which is
//! much on a virtual machine, and the more often the slower the server is. Where servers of different
//! speed are compared, the load stays awake.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, LocalSet};

use crate::client::{Connection, ExchangeError, Request, Target, Tier};
use crate::cores::{Cores, Split};
use crate::stats;

/// When a closed loop ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so long.
    Elapsed(Duration),
    /// After so many requests, of all connections together.
    Requests(usize),
}

/// One request of an open loop.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When it is to be sent, from the beginning.
    pub at: Duration,
    /// Which of the requests it is.
    pub request: usize,
}

/// One exchange.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Sample {
    /// When it was to begin, in nanoseconds from the beginning of the load.
    pub at_ns: u64,
    /// From then to the end of the answer, in nanoseconds.
    pub latency_ns: u64,
    /// Which of the requests it was.
    pub request: u32,
    /// The status; 0 when there was no answer.
    pub status: u16,
    /// Which tier answered.
    pub tier: Tier,
}

impl Sample {
    /// Whether there was an answer, and it was no error.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        (200..400).contains(&self.status)
    }

    /// The latency in milliseconds.
    #[must_use]
    pub fn ms(&self) -> f64 {
        stats::wide(self.latency_ns) / 1e6
    }
}

/// What came of a load.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Outcome {
    /// Every exchange, in the order in which they ended.
    pub samples: Vec<Sample>,
    /// How long it took.
    pub elapsed: Duration,
    /// Exchanges without an answer, by what went wrong.
    pub failures: BTreeMap<String, u64>,
    /// When and how the target was lost, if it was; the samples are those from before.
    pub lost: Option<String>,
}

impl Outcome {
    /// Successful answers a second; 0 when there were none.
    #[must_use]
    pub fn rate(&self) -> f64 {
        match self.samples.len() - self.failed() {
            0 => 0.0,
            succeeded => stats::float(succeeded) / self.elapsed.as_secs_f64(),
        }
    }

    /// How many exchanges were no success.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.samples.iter().filter(|sample| !sample.succeeded()).count()
    }

    /// The latencies of successful exchanges, in nanoseconds.
    #[must_use]
    pub fn histogram(&self) -> Histogram<u64> {
        let succeeded = self.samples.iter().filter(|sample| sample.succeeded());
        stats::histogram(succeeded.map(|sample| sample.latency_ns))
    }

    /// The latencies of successful exchanges, in milliseconds.
    #[must_use]
    pub fn latencies_ms(&self) -> Vec<f64> {
        self.samples.iter().filter(|sample| sample.succeeded()).map(Sample::ms).collect()
    }

    /// The share of successful answers that came from a tier.
    #[must_use]
    pub fn share(&self, tier: Tier) -> f64 {
        let succeeded = || self.samples.iter().filter(|sample| sample.succeeded());
        stats::float(succeeded().filter(|sample| sample.tier == tier).count())
            / stats::float(succeeded().count())
    }

    /// Fails unless every exchange succeeded.
    ///
    /// # Errors
    /// What went wrong, with a count.
    pub fn check(self) -> anyhow::Result<Self> {
        if let Some(lost) = &self.lost {
            anyhow::bail!("the target was lost: {lost}");
        }
        let failed = self.failed();
        let statuses: BTreeMap<u16, usize> = self
            .samples
            .iter()
            .filter(|sample| !sample.succeeded())
            .fold(BTreeMap::new(), |mut counts, sample| {
                *counts.entry(sample.status).or_default() += 1;
                counts
            });
        anyhow::ensure!(
            failed == 0 && !self.samples.is_empty(),
            "{failed} of {} requests failed: by status {statuses:?}, {:?}",
            self.samples.len(),
            self.failures
        );
        Ok(self)
    }
}

/// Arrivals that are due and not yet sent.
const PACED_MAX: usize = 4096;
/// A request without an answer after so long is a failure.
const PATIENCE: Duration = Duration::from_secs(180);
/// The target is lost after so many connections in a row that nobody accepted.
const REFUSALS_MAX: u32 = 20;
/// Pause after one of them.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

/// N connections, each sending the next request as soon as it has the answer to the last.
///
/// Connections take the requests in turn.
///
/// # Errors
/// When the load cannot be made; what the target does wrong is in the outcome.
///
/// # Panics
/// When there is no request.
pub fn closed(
    target: &Target,
    requests: &[Request],
    connections: usize,
    until: Until,
    cores: &Cores,
) -> io::Result<Outcome> {
    let load = async || repeat(target, requests, connections, until, Waiting::Asleep).await;
    on_own_thread(cores, load)
}

/// As [`closed`], and the thread looks for answers without ever sleeping, where it has cores of its
/// own.
///
/// # Errors
/// When the load cannot be made; what the target does wrong is in the outcome.
///
/// # Panics
/// When there is no request.
pub fn closed_awake(
    target: &Target,
    requests: &[Request],
    connections: usize,
    until: Until,
    cores: &Split,
) -> io::Result<Outcome> {
    let waiting = if cores.are_apart() { Waiting::Awake } else { Waiting::Asleep };
    let load = async || repeat(target, requests, connections, until, waiting).await;
    on_own_thread(&cores.load, load)
}

/// What [`closed_awake`] did, for the notes of whoever used it.
#[must_use]
pub fn waiting_note(cores: &Split) -> String {
    if cores.are_apart() {
        "the load never sleeps, it asks the kernel for answers over and over on a core of its own: \
         no server pays for waking it; CPU time is the servers' alone"
    } else {
        "the load sleeps between answers, since it has no core of its own: waking it is part of the \
         CPU time of slow servers"
    }
    .to_owned()
}

/// What the load does while no answer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Asleep,
    Awake,
}

async fn repeat(
    target: &Target,
    requests: &[Request],
    connections: usize,
    until: Until,
    waiting: Waiting,
) -> io::Result<Outcome> {
    assert!(!requests.is_empty(), "a load has a request");
    let shared = Rc::new(Shared::new(target, requests));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let shared = Rc::clone(&shared);
        tasks.spawn_local(async move { shared.repeat(until).await });
    }
    while !tasks.is_empty() {
        tokio::select! {
            Some(ended) = tasks.join_next() => ended.map_err(io::Error::other)?,
            // While somebody has only yielded, tokio asks for events and does not wait for them.
            () = tokio::task::yield_now(), if waiting == Waiting::Awake => {}
        }
    }
    Ok(shared.outcome())
}

/// Requests at given times, whatever became of those before. Connections are reused when idle and
/// opened when not; past `connections_max` a request waits, and that is part of its latency.
///
/// # Errors
/// When the load cannot be made; what the target does wrong is in the outcome.
pub fn open(
    target: &Target,
    requests: &[Request],
    arrivals: &[Arrival],
    connections_max: usize,
    cores: &Cores,
) -> io::Result<Outcome> {
    on_own_thread(cores, async || {
        let shared = Rc::new(Shared::new(target, requests));
        let places = Rc::new(Semaphore::new(connections_max.max(1)));
        let mut due = pace(shared.begun, arrivals.to_vec())?;
        let mut tasks = JoinSet::new();
        while let Some(arrival) = due.recv().await {
            if shared.is_lost() {
                break;
            }
            while let Some(ended) = tasks.try_join_next() {
                let _: () = ended.map_err(io::Error::other)?;
            }
            let (shared, places) = (Rc::clone(&shared), Rc::clone(&places));
            tasks.spawn_local(async move {
                let _place = places.acquire().await;
                shared.once(arrival).await;
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(io::Error::other)?;
        }
        Ok(shared.outcome())
    })
}

/// Each arrival at its time, from a thread that sleeps until then: tokio's timer counts in
/// milliseconds. The thread ends when nobody wants the next one.
fn pace(begun: Instant, arrivals: Vec<Arrival>) -> io::Result<mpsc::Receiver<Arrival>> {
    let (sender, receiver) = mpsc::channel(PACED_MAX);
    std::thread::Builder::new().name("pace".into()).spawn(move || {
        for arrival in arrivals {
            std::thread::sleep((begun + arrival.at).saturating_duration_since(Instant::now()));
            if sender.blocking_send(arrival).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Runs a future on a thread of its own, on those cores.
fn on_own_thread<T: Send>(
    cores: &Cores,
    load: impl AsyncFnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            cores.run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                LocalSet::new().block_on(&runtime, load())
            })
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the load panicked")))
    })
}

/// What the tasks of one load share; all run on one thread.
struct Shared {
    target: Target,
    requests: Vec<Request>,
    begun: Instant,
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    outcome: Outcome,
    sent: usize,
    refused_in_a_row: u32,
    idle: Vec<Connection>,
}

impl Shared {
    fn new(target: &Target, requests: &[Request]) -> Self {
        Self {
            target: target.clone(),
            requests: requests.to_vec(),
            begun: Instant::now(),
            inner: RefCell::default(),
        }
    }

    fn outcome(&self) -> Outcome {
        let mut outcome = std::mem::take(&mut self.inner.borrow_mut().outcome);
        outcome.elapsed = self.begun.elapsed();
        outcome
    }

    fn is_lost(&self) -> bool {
        self.inner.borrow().outcome.lost.is_some()
    }

    /// The next request of a closed loop, unless that has ended.
    fn next(&self, until: Until) -> Option<usize> {
        let mut inner = self.inner.borrow_mut();
        let goes_on = match until {
            Until::Elapsed(time) => self.begun.elapsed() < time,
            Until::Requests(count) => inner.sent < count,
        };
        (goes_on && inner.outcome.lost.is_none()).then(|| {
            inner.sent += 1;
            (inner.sent - 1) % self.requests.len()
        })
    }

    async fn repeat(&self, until: Until) {
        let mut connection = None;
        while let Some(request) = self.next(until) {
            let at = self.begun.elapsed();
            connection = self.exchange(connection, Arrival { at, request }).await;
        }
    }

    async fn once(&self, arrival: Arrival) {
        let idle = self.inner.borrow_mut().idle.pop();
        if let Some(connection) = self.exchange(idle, arrival).await {
            self.inner.borrow_mut().idle.push(connection);
        }
    }

    /// One exchange, recorded; returns the connection if it may be used again.
    async fn exchange(&self, idle: Option<Connection>, arrival: Arrival) -> Option<Connection> {
        let request = &self.requests[arrival.request];
        let exchange = async {
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let answer = connection.send(request, false).await?;
            Ok((connection, answer))
        };
        let exchanged = tokio::time::timeout(PATIENCE, exchange).await;
        let latency = self.begun.elapsed().saturating_sub(arrival.at);
        let mut sample = Sample {
            at_ns: nanoseconds(arrival.at),
            latency_ns: nanoseconds(latency),
            request: u32::try_from(arrival.request).unwrap_or(u32::MAX),
            status: 0,
            tier: Tier::Unknown,
        };
        let (connection, failure) = match exchanged {
            Ok(Ok((connection, answer))) => {
                (sample.status, sample.tier) = (answer.status, answer.tier);
                (connection.is_reusable(&answer).then_some(connection), None)
            }
            Ok(Err(failure)) => (None, Some(failure_of(&failure))),
            Err(_) => (None, Some(format!("no answer within {} s", PATIENCE.as_secs()))),
        };
        let outcome = &mut self.inner.borrow_mut().outcome;
        outcome.samples.push(sample);
        if let Some(failure) = failure {
            *outcome.failures.entry(failure).or_default() += 1;
        }
        connection
    }

    /// A new connection; notes when nobody accepts them any more.
    async fn connect(&self) -> Result<Connection, ExchangeError> {
        let opened = Connection::open(&self.target).await;
        let Err(error) = opened else {
            self.inner.borrow_mut().refused_in_a_row = 0;
            return Ok(opened?);
        };
        {
            let inner = &mut *self.inner.borrow_mut();
            inner.refused_in_a_row += 1;
            if inner.refused_in_a_row == REFUSALS_MAX {
                let seconds = self.begun.elapsed().as_secs_f64();
                let lost = format!("{error}, {REFUSALS_MAX} times in a row until {seconds:.3} s");
                inner.outcome.lost.get_or_insert(lost);
            }
        }
        tokio::time::sleep(REFUSED_PAUSE).await;
        Err(error.into())
    }
}

fn failure_of(failure: &ExchangeError) -> String {
    match failure {
        ExchangeError::Broken(error) => error.to_string(),
        other => other.to_string(),
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    /// A server that answers so many requests, one after the other, then closes its port.
    fn dying_after(requests: usize, stall: Duration) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("a bound listener");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            for _ in 0..requests {
                let _ = stream.read(&mut [0; 1024]);
                std::thread::sleep(stall);
                stream.write_all(OK).expect("a client that reads");
            }
        });
        address.into()
    }

    #[test]
    fn what_was_measured_before_the_target_died_is_kept_and_marked() {
        let cores = Cores::available();
        let target = dying_after(3, Duration::ZERO);
        let until = Until::Elapsed(Duration::from_secs(60));
        let outcome = closed(&target, &[Request::get("/")], 1, until, &cores).expect("a load");
        assert_eq!(outcome.samples.iter().filter(|sample| sample.succeeded()).count(), 3);
        assert!(outcome.lost.as_ref().is_some_and(|lost| lost.contains("refused")), "{outcome:?}");
        assert!(outcome.check().is_err());
    }

    #[test]
    fn a_closed_loop_sends_as_many_requests_as_were_asked_for() {
        let target = dying_after(5, Duration::ZERO);
        let cores = Cores::available();
        let outcome = closed(&target, &[Request::get("/")], 1, Until::Requests(5), &cores);
        assert_eq!(outcome.expect("a load").check().expect("no failure").samples.len(), 5);
    }

    #[test]
    fn an_awake_load_does_not_give_its_core_away_while_it_waits() {
        let given_away = |waiting| {
            let target = dying_after(10, Duration::from_millis(5));
            on_own_thread(&Cores::available(), async || {
                let (until, before) = (Until::Requests(10), switches());
                let outcome = repeat(&target, &[Request::get("/")], 1, until, waiting).await?;
                assert_eq!(outcome.failed(), 0, "{outcome:?}");
                Ok(switches() - before)
            })
        };
        let asleep = given_away(Waiting::Asleep).expect("a load");
        let awake = given_away(Waiting::Awake).expect("a load");
        assert!(awake < asleep, "{awake} times awake, {asleep} times asleep");
    }

    /// How often this thread waited for something.
    fn switches() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("a status");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.expect("a count").trim().parse().expect("a number")
    }

    #[test]
    fn latency_in_an_open_loop_counts_from_the_intended_arrival() {
        // Three arrivals at once on one connection at a time: each waits for those before.
        let stall = Duration::from_millis(20);
        let target = dying_after(3, stall);
        let arrivals = [Arrival { at: Duration::ZERO, request: 0 }; 3];
        let cores = Cores::available();
        let outcome = open(&target, &[Request::get("/")], &arrivals, 1, &cores).expect("a load");
        let mut latencies: Vec<u64> = outcome.samples.iter().map(|s| s.latency_ns).collect();
        latencies.sort_unstable();
        for (index, latency) in (1..).zip(latencies) {
            assert!(latency >= index * nanoseconds(stall), "{outcome:?}");
        }
    }
}
