//! The pool with a real daemon, real sandboxes and real functions, as root.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[expect(dead_code, reason = "this binary needs only some of what the tests share")]
#[path = "../daemon/support.rs"]
mod support;

use baton_pool::activation::{Limits, Program};
use baton_pool::client::{Pool, PoolConfig, PoolEvent};
use baton_pool::lease::Lease;
use baton_pool::output::Stream;
use baton_pool::protocol::{self, Exit, SandboxId};
use baton_pool::reason::{LeaseError, Reason};
use baton_pool::schedule::{Cause, FunctionId, KeepAlive};
use baton_pool::spec::{FunctionSpec, Listen};
use nix::time::{ClockId, clock_gettime};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{LIMITS, Leftovers, Run, server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

const CAUSE: Cause = Cause { trace_id: 1, span_id: 2, sampled: true, at: None };

/// A pool with its daemon, and what it told.
struct House {
    run: Run,
    pool: Pool<UnixStream>,
    daemon: Child,
    tasks: JoinSet<()>,
    told: Arc<Told>,
    _leftovers: Leftovers,
}

#[derive(Default)]
struct Told {
    events: Mutex<Vec<PoolEvent>>,
    changed: Notify,
}

impl House {
    fn start(parked: usize) -> House {
        let run = Run::new();
        let sockets = sockets(&run);
        fs::create_dir(&sockets).unwrap();
        let told = Arc::new(Told::default());
        let config =
            PoolConfig { parked, memory: 1 << 30, creating_max: 2, waiters_max: 16, sockets };
        let (pool, driver) = Pool::start(config, {
            let told = Arc::clone(&told);
            Arc::new(move |event| {
                told.events.lock().unwrap().push(event);
                told.changed.notify_waiters();
            })
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(driver);
        let (daemon, host) = start_daemon(&run);
        pool.connect(host);
        let _leftovers = Leftovers::of(&run, &daemon);
        House { run, pool, daemon, tasks, told, _leftovers }
    }

    /// The first event, past or to come, in which `wanted` finds something.
    async fn event<T>(&self, mut wanted: impl FnMut(&PoolEvent) -> Option<T>) -> T {
        loop {
            let changed = self.told.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let found = self.told.events.lock().unwrap().iter().find_map(&mut wanted);
            match found {
                Some(found) => return found,
                None => changed.await,
            }
        }
    }

    /// How the start in the latest prepared sandbox of a function ended, once `count` have.
    async fn prepared(&self, function: FunctionId, count: usize) -> Result<SandboxId, Reason> {
        let mut seen = Vec::new();
        self.event(|event| match event {
            PoolEvent::Prepared { function: of, sandbox, outcome, .. } if *of == function => {
                if !seen.contains(sandbox) {
                    seen.push(*sandbox);
                }
                let outcome = outcome.clone().map(|()| *sandbox);
                (seen.len() == count).then_some(outcome)
            }
            _ => None,
        })
        .await
    }

    async fn gone(&self, id: SandboxId) -> Reason {
        self.event(|event| match event {
            PoolEvent::Gone { sandbox, reason, .. } if *sandbox == id => Some(reason.clone()),
            _ => None,
        })
        .await
    }

    async fn warm(&self, spec: FunctionSpec) -> FunctionId {
        let function = self.pool.add(spec);
        self.ready().await;
        self.pool.prepare(function, 1, CAUSE);
        self.prepared(function, 1).await.unwrap();
        function
    }

    /// Waits until the daemon takes orders.
    async fn ready(&self) {
        self.pool.until(|statistics| statistics.ready).await;
    }

    /// Ends the pool and its daemon and checks that nothing is left of either.
    async fn end(mut self) {
        self.pool.shutdown().await;
        assert_eq!(self.pool.sandboxes(), []);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        assert_eq!(fs::read_dir(sockets(&self.run)).unwrap().count(), 0, "a socket is left");
        assert!(self.daemon.wait().unwrap().success());
        self.run.clean();
    }
}

fn sockets(run: &Run) -> PathBuf {
    run.state_root.join("sockets")
}

fn start_daemon(run: &Run) -> (Child, OwnedFd) {
    let (daemon, host) = protocol::channel().unwrap();
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("examples/pool-daemon");
    let process = Command::new(program)
        .arg(run.state_root.join("run"))
        .args([&run.cgroup(), "2", "2000000", "2004096"])
        .env_clear()
        .stdin(Stdio::from(daemon))
        .spawn()
        .unwrap();
    (process, host)
}

/// A well-behaved function.
fn hello() -> FunctionSpec {
    spec(server(), &[c"server"])
}

fn faulty(arguments: &[&std::ffi::CStr]) -> FunctionSpec {
    let arguments: Vec<_> = [c"faulty"].iter().chain(arguments).copied().collect();
    spec(&support::program("faulty"), &arguments)
}

fn spec(executable: &Path, argv: &[&std::ffi::CStr]) -> FunctionSpec {
    FunctionSpec {
        name: "function".into(),
        program: Program::Executable(File::open(executable).unwrap().into()),
        root: None,
        listen: Listen::Inherited,
        argv: argv.iter().map(|argument| CString::from(*argument)).collect(),
        env: Vec::new(),
        limits: Limits { ..LIMITS },
        scratch: 0,
        egress: None,
        min: 0,
        max: 2,
        concurrency: 1,
        idle_timeout: Duration::from_secs(600),
        keep_alive: KeepAlive::Fixed,
        freeze_after: Duration::from_secs(600),
        start_timeout: Duration::from_secs(60),
        grace: Duration::from_millis(10),
    }
}

/// The body of the answer to one request over the lease's socket.
async fn get(lease: &Lease<UnixStream>, path: &str) -> io::Result<String> {
    let mut stream = lease.connect().await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[tokio::test]
async fn a_function_is_cold_once_and_answers_from_its_prepared_sandbox_after() {
    let house = House::start(1);
    let function = house.pool.add(hello());
    house.ready().await;
    assert!(house.pool.try_lease(function).is_none());
    house.pool.prepare(function, 1, CAUSE);
    let (cause, phases) = house
        .event(|event| match event {
            PoolEvent::Prepared { outcome: Ok(()), cause, phases, .. } => {
                Some((*cause, phases.clone()))
            }
            _ => None,
        })
        .await;
    assert_eq!(cause, CAUSE);
    for name in ["create", "activate", "ready"] {
        let phase = phases.iter().find(|phase| phase.name == name);
        assert!(phase.is_some_and(|phase| phase.start <= phase.end), "{name} of {phases:?}");
    }
    for _ in 0..3 {
        let lease = house.pool.try_lease(function).unwrap();
        assert_eq!(get(&lease, "/").await.unwrap(), "hello");
        lease.release();
    }
    house.end().await;
}

#[tokio::test]
async fn a_start_tells_how_long_this_process_has_computed_beside_it() {
    let house = House::start(1);
    let function = house.pool.add(hello());
    house.ready().await;
    let before = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
    house.pool.prepare(function, 1, CAUSE);
    let beside = house
        .event(|event| match event {
            PoolEvent::Prepared { outcome: Ok(()), beside, .. } => Some(*beside),
            _ => None,
        })
        .await;
    let computed = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap() - before;
    assert!(beside > Duration::ZERO && beside < computed.into(), "{beside:?} of {computed:?}");
    house.end().await;
}

#[tokio::test]
async fn whoever_waits_gets_a_sandbox_even_when_none_is_parked() {
    let house = House::start(0);
    let function = house.pool.add(hello());
    let lease = house.pool.lease(function, CAUSE).await.unwrap();
    assert!(lease.was_cold());
    assert_eq!(get(&lease, "/").await.unwrap(), "hello");
    lease.release();
    house.end().await;
}

#[tokio::test]
async fn an_idle_sandbox_is_removed_after_its_timeout() {
    let house = House::start(1);
    let idle_timeout = Duration::from_millis(20);
    let function = house.warm(FunctionSpec { idle_timeout, ..hello() }).await;
    let id = house.prepared(function, 1).await.unwrap();
    assert_eq!(house.gone(id).await, Reason::Idle);
    assert!(house.pool.try_lease(function).is_none());
    house.end().await;
}

/// A warm function whose only sandbox is frozen.
async fn frozen(house: &House, spec: FunctionSpec) -> (FunctionId, SandboxId) {
    let function = house.warm(FunctionSpec { freeze_after: Duration::ZERO, ..spec }).await;
    let id = house.prepared(function, 1).await.unwrap();
    house.event(|event| matches!(event, PoolEvent::Frozen { .. }).then_some(())).await;
    (function, id)
}

#[tokio::test]
async fn a_frozen_sandbox_answers_as_soon_as_it_is_leased() {
    let house = House::start(1);
    let (function, id) = frozen(&house, hello()).await;
    assert_eq!(
        house.pool.sandboxes().iter().find(|it| it.id == id).unwrap().state.name(),
        "frozen"
    );
    let lease = house.pool.try_lease(function).unwrap();
    assert!(lease.thawed().is_some_and(|phase| phase.start <= phase.end));
    assert_eq!(get(&lease, "/").await.unwrap(), "hello");
    lease.release();
    house.end().await;
}

#[tokio::test]
async fn what_is_frozen_does_not_run() {
    let house = House::start(1);
    let (_, id) = frozen(&house, hello()).await;
    let pid = house.pool.sandboxes().iter().find(|it| it.id == id).unwrap().pid.unwrap();
    let run = house.run.cgroup();
    let state = |name: &str| {
        let hierarchy = if name == "cgroup.events" { "" } else { "freezer" };
        let path = Path::new("/sys/fs/cgroup").join(hierarchy).join(&run).join(id.to_string());
        fs::read_to_string(path.join(name))
    };
    // On v1 the last process may take a moment.
    while !state("freezer.state").is_ok_and(|state| state.trim() == "FROZEN")
        && !state("cgroup.events").is_ok_and(|state| state.contains("frozen 1"))
    {
        tokio::task::yield_now().await;
    }
    assert!(fs::exists(format!("/proc/{pid}")).unwrap());
    house.end().await;
}

#[tokio::test]
async fn a_frozen_sandbox_is_removed_like_any_other() {
    let house = House::start(1);
    let idle_timeout = Duration::from_millis(50);
    let (_, id) = frozen(&house, FunctionSpec { idle_timeout, ..hello() }).await;
    assert_eq!(house.gone(id).await, Reason::Idle);
    let thawed = |event: &PoolEvent| match event {
        PoolEvent::Thawed { sandbox, reason, .. } => Some((*sandbox, reason.clone())),
        _ => None,
    };
    assert_eq!(house.event(thawed).await, (id, Reason::Idle));
    house.end().await;
}

#[tokio::test]
async fn the_end_of_the_daemon_takes_frozen_sandboxes_with_it() {
    let mut house = House::start(1);
    let (function, old) = frozen(&house, hello()).await;
    house.daemon.kill().unwrap();
    house.daemon.wait().unwrap();
    house.pool.until(|statistics| !statistics.ready).await;
    let (daemon, host) = start_daemon(&house.run);
    house.daemon = daemon;
    house.pool.connect(host);
    assert_eq!(house.gone(old).await, Reason::DaemonLost);
    house.pool.retire(function);
    house.end().await;
}

#[tokio::test]
async fn a_killed_sandbox_is_noticed_and_never_leased() {
    let house = House::start(1);
    let function = house.warm(hello()).await;
    let lease = house.pool.try_lease(function).unwrap();
    let (id, pid) = (lease.id(), lease.pid());
    lease.release();
    kill(pid);
    assert_eq!(house.gone(id).await, Reason::Exit(Exit::Signal(9)));
    assert!(house.pool.try_lease(function).is_none());
    house.end().await;
}

#[tokio::test]
async fn a_sandbox_past_its_memory_says_so_and_its_request_fails() {
    let house = House::start(1);
    let function = house.warm(hello()).await;
    let lease = house.pool.try_lease(function).unwrap();
    let id = lease.id();
    assert!(get(&lease, "/burn/100000000").await.is_err());
    drop(lease);
    assert_eq!(house.gone(id).await, Reason::OutOfMemory);
    house.end().await;
}

#[tokio::test]
async fn a_function_that_exits_at_once_is_refused_with_its_status() {
    let house = House::start(2);
    let function = house.pool.add(faulty(&[c"exit", c"3"]));
    house.ready().await;
    let expected = Reason::Exit(Exit::Code(3));
    for count in 1..=2 {
        house.pool.prepare(function, 1, CAUSE);
        assert_eq!(house.prepared(function, count).await, Err(expected.clone()));
    }
    let refused = house.pool.lease(function, CAUSE).await.unwrap_err();
    assert_eq!(refused, LeaseError::StartFailed { reason: expected });
    house.end().await;
}

#[tokio::test]
async fn a_function_that_never_accepts_is_found_out() {
    let house = House::start(1);
    let start_timeout = Duration::from_millis(100);
    let function = house.pool.add(FunctionSpec { start_timeout, ..faulty(&[c"deaf"]) });
    house.ready().await;
    house.pool.prepare(function, 1, CAUSE);
    assert_eq!(house.prepared(function, 1).await, Err(Reason::NeverAccepted));
    house.end().await;
}

#[tokio::test]
async fn what_cannot_be_executed_is_named_with_the_kernels_answer() {
    let house = House::start(1);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let function = house.pool.add(spec(&source, &[c"text"]));
    house.ready().await;
    house.pool.prepare(function, 1, CAUSE);
    let reason = house.prepared(function, 1).await.unwrap_err();
    insta::assert_snapshot!(reason, @"cannot execute: execveat failed: Permission denied (os error 13)");
    house.end().await;
}

#[tokio::test]
async fn whoever_asked_what_cannot_be_executed_hears_the_kernels_answer() {
    let house = House::start(1);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let function = house.pool.add(spec(&source, &[c"text"]));
    house.ready().await;
    let lease = house.pool.lease(function, CAUSE).await.unwrap();
    get(&lease, "/").await.unwrap_err();
    let reason = lease.ended().await.unwrap();
    insta::assert_snapshot!(reason, @"cannot execute: execveat failed: Permission denied (os error 13)");
    drop(lease);
    house.end().await;
}

#[tokio::test]
async fn what_a_sandbox_has_used_is_its_own_when_it_has_ended_too() {
    let house = House::start(1);
    let function = house.warm(hello()).await;
    let lease = house.pool.try_lease(function).unwrap();
    let used = lease.meter().cpu().unwrap();
    // While the daemon collects nobody, the sandbox's init stays a process that has ended.
    let daemon = Pid::from_child(&house.daemon);
    kill_process(daemon, Signal::STOP).unwrap();
    kill(lease.pid());
    while !has_ended(lease.pid()) {
        tokio::task::yield_now().await;
    }
    let after = lease.meter().cpu();
    kill_process(daemon, Signal::CONT).unwrap();
    let more = after.map(|after| after.saturating_sub(used));
    assert!(more.is_some_and(|more| more < Duration::from_secs(1)), "{more:?}");
    drop(lease);
    house.end().await;
}

/// Whether a process has ended and was not collected yet.
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('Z')
}

#[tokio::test]
async fn a_functions_output_is_told_line_by_line() {
    let house = House::start(1);
    house.warm(hello()).await;
    let line = house
        .event(|event| match event {
            PoolEvent::Output { stream: Stream::Stdout, line, .. } => Some(line.clone()),
            _ => None,
        })
        .await;
    assert_eq!(line, b"serving server");
    house.end().await;
}

#[tokio::test]
async fn a_retired_function_finishes_its_requests_and_takes_no_more() {
    let house = House::start(1);
    let function = house.warm(hello()).await;
    let lease = house.pool.try_lease(function).unwrap();
    let id = lease.id();
    house.pool.retire(function);
    assert!(house.pool.try_lease(function).is_none());
    assert_eq!(house.pool.lease(function, CAUSE).await.unwrap_err(), LeaseError::Draining);
    assert_eq!(get(&lease, "/").await.unwrap(), "hello");
    lease.release();
    assert_eq!(house.gone(id).await, Reason::Retired);
    house.end().await;
}

#[tokio::test]
async fn requests_outlive_a_killed_daemon_and_the_next_one_serves_on() {
    let mut house = House::start(1);
    let function = house.warm(hello()).await;
    let lease = house.pool.try_lease(function).unwrap();
    let old = lease.id();

    house.daemon.kill().unwrap();
    house.daemon.wait().unwrap();
    house.pool.until(|statistics| !statistics.ready).await;
    assert_eq!(get(&lease, "/").await.unwrap(), "hello");

    let (daemon, host) = start_daemon(&house.run);
    house.daemon = daemon;
    house.pool.connect(host);
    let next = house.pool.lease(function, CAUSE).await.unwrap();
    assert_ne!(next.id(), old);
    assert_eq!(get(&next, "/").await.unwrap(), "hello");
    next.release();

    assert_eq!(get(&lease, "/").await.unwrap(), "hello");
    lease.release();
    assert_eq!(house.gone(old).await, Reason::DaemonLost);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_are_all_answered_within_the_bounds() {
    let house = House::start(2);
    let function = house.pool.add(FunctionSpec { max: 3, ..hello() });
    let mut requests = JoinSet::new();
    for client in 0..12_u32 {
        let pool = house.pool.clone();
        requests.spawn(async move {
            for request in 0..40 {
                let lease = match pool.try_lease(function) {
                    Some(lease) => lease,
                    None => pool.lease(function, CAUSE).await.unwrap(),
                };
                assert_eq!(get(&lease, "/").await.unwrap(), "hello");
                // Now and then a request goes wrong, and its sandbox with it.
                if !(client + request).is_multiple_of(16) {
                    lease.release();
                }
            }
        });
    }
    while let Some(ended) = requests.join_next().await {
        ended.unwrap();
    }
    house.end().await;
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}
