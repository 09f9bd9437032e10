//! Baton's processes: any of them may die, and nothing is left when they end.

use std::sync::Arc;

use baton_tests::baton::{Baton, Place, Setup, is_running};
use baton_tests::client::{Connection, Raw, request, tier_of};
use baton_tests::footprint::Footprint;
use baton_tests::{wait_for, wait_until};
use http::Method;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const HOLD: &str = "POST /misbehaving/hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
                    Connection: close\r\n\r\n3\r\nabc\r\n";

#[test]
fn nothing_remains_after_a_stop() {
    let mut baton = Setup::new().hybrid("hello").hybrid("matmul").start();
    baton.until_native("/hello");
    baton.until_native("/matmul");
    let footprint = Footprint::of(&baton);
    assert!(footprint.sandboxes() >= 2, "{footprint:?}");
    assert!(!footprint.left().is_empty(), "a running Baton is seen");
    assert!(baton.stop().success(), "{}", baton.log());
    assert_eq!(footprint.left(), <[String; 0]>::default());
}

/// First processes of the sandboxes that are made; one that is being made has none yet.
fn made(baton: &Baton) -> Vec<Pid> {
    let pids = baton.sandboxes().into_iter().map(|sandbox| Pid::from_raw(sandbox.pid));
    pids.filter(|pid| pid.as_raw() > 0).collect()
}

/// How many descriptors a process may have: now, and at most.
fn descriptors(process: Pid) -> [u64; 2] {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    [(); 2].map(|()| numbers.next().unwrap())
}

#[test]
fn the_host_has_as_many_descriptors_as_it_may_and_a_function_its_own() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // Only this test's process, which Baton inherits it from.
    setrlimit(Resource::RLIMIT_NOFILE, 512, most).unwrap();
    let baton = Setup::new().native("hello").start();
    assert_eq!(baton.get("/hello").body(), "hello, world\n");
    assert_eq!(descriptors(baton.host_pid()), [most, most]);
    let function = &baton.sandboxes_of("hello")[0];
    assert_eq!(descriptors(Pid::from_raw(function.pid)), [1024, 1024]);
}

#[test]
fn a_host_that_was_killed_is_started_again_and_serves() {
    let baton = Setup::new().hybrid("hello").start();
    baton.until_native("/hello");
    let host = baton.host_pid();
    kill(host, Signal::SIGKILL).unwrap();
    wait_until("another host runs", || baton.host_pid() != host);
    // The listener was never closed: the next host takes whoever has connected meanwhile.
    assert_eq!(baton.get("/hello").body(), "hello, world\n");
    baton.until_native("/hello");
}

#[test]
fn a_host_that_was_killed_leaves_no_sandbox_behind() {
    let mut baton = Setup::new().hybrid("hello").start();
    baton.until_native("/hello");
    let before = made(&baton);
    kill(baton.host_pid(), Signal::SIGKILL).unwrap();
    wait_until("its sandboxes are gone", || !before.iter().any(|&pid| is_running(pid)));
    baton.until_native("/hello");
    let footprint = Footprint::of(&baton);
    assert!(baton.stop().success(), "{}", baton.log());
    assert_eq!(footprint.left(), <[String; 0]>::default());
}

#[test]
fn wasm_serves_on_while_the_pool_daemon_is_dead_and_sandboxes_come_back() {
    let baton = Setup::new().hybrid("hello").start();
    baton.until_native("/hello");
    let old: Vec<String> = baton.sandboxes_of("hello").into_iter().map(|other| other.id).collect();
    let pool = baton.pool_pid();
    kill(pool, Signal::SIGKILL).unwrap();
    for _ in 0..20 {
        assert_eq!(baton.get("/hello").body(), "hello, world\n");
    }
    wait_until("another daemon runs", || baton.pool_pid() != pool);
    wait_until("a new sandbox answers", || {
        let native = tier_of(&baton.get("/hello")) == "native";
        native && baton.sandboxes_of("hello").iter().any(|sandbox| !old.contains(&sandbox.id))
    });
}

#[test]
fn a_restarted_pool_daemon_removes_what_its_predecessor_left() {
    let mut baton = Setup::new().hybrid("hello").start();
    baton.until_native("/hello");
    let old = made(&baton);
    kill(baton.pool_pid(), Signal::SIGKILL).unwrap();
    wait_until("the old sandboxes are gone", || !old.iter().any(|&pid| is_running(pid)));
    baton.until_native("/hello");
    let footprint = Footprint::of(&baton);
    assert!(baton.stop().success(), "{}", baton.log());
    assert_eq!(footprint.left(), <[String; 0]>::default());
}

#[test]
fn everything_goes_with_a_supervisor_that_was_killed_and_the_next_start_sweeps() {
    let setup = Setup::new().hybrid("hello");
    let baton = setup.start();
    baton.until_native("/hello");
    let footprint = Footprint::of(&baton);
    let place = baton.killed();
    wait_until("no process is left", || {
        !footprint.left().iter().any(|thing| thing.contains("process"))
    });
    let mut next = setup.start_in(place);
    next.until_native("/hello");
    assert!(next.stop().success(), "{}", next.log());
    assert_eq!(footprint.left(), <[String; 0]>::default());
}

#[test]
fn two_batons_side_by_side_leave_each_other_alone() {
    let setup = Setup::new().hybrid("hello");
    let place = Arc::new(Place::new());
    let first = setup.start_in(Arc::clone(&place));
    first.until_native("/hello");
    let warm = first.sandboxes_of("hello")[0].pid;
    let mut second = setup.start_in(place);
    second.until_native("/hello");
    assert!(second.stop().success(), "{}", second.log());
    assert_eq!(tier_of(&first.get("/hello")), "native");
    assert_eq!(first.sandboxes_of("hello")[0].pid, warm);
}

/// A client whose request is in the function, without an end of its body.
fn held(baton: &Baton) -> Raw {
    let mut raw = baton.raw();
    raw.write(HOLD).unwrap();
    wait_until("the request is in the function", || baton.in_flight("misbehaving") == 1);
    raw
}

#[test]
fn a_request_in_flight_is_answered_before_a_stop() {
    for setup in [Setup::new().wasm("misbehaving"), Setup::new().native("misbehaving")] {
        let mut baton = setup.start();
        let mut client = held(&baton);
        baton.terminate();
        wait_until("it does not listen any more", || Connection::open(baton.address).is_err());
        client.write("0\r\n\r\n").unwrap();
        assert!(client.rest().contains("held\n"));
        assert!(baton.wait().success(), "{}", baton.log());
    }
}

#[test]
fn readiness_fails_before_the_listeners_close() {
    let mut baton = Setup::new().wasm("misbehaving").host(r#"drain_delay = "1s""#).start();
    baton.terminate();
    wait_until("it is not ready", || {
        let answer = Connection::open(baton.admin)
            .and_then(|mut admin| admin.send(request(Method::GET, "/readyz", "")));
        answer.is_ok_and(|answer| answer.status() == 503)
    });
    assert_eq!(baton.get("/misbehaving").status(), 200);
    assert!(baton.wait().success());
}

#[test]
fn a_request_that_does_not_end_is_dropped_after_the_grace_time() {
    let mut baton = Setup::new().wasm("misbehaving").host(r#"grace = "200ms""#).start();
    let mut client = held(&baton);
    assert!(baton.stop().success(), "{}", baton.log());
    assert!(!client.rest().contains("held"));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut baton = Setup::new().hybrid("misbehaving").host(r#"grace = "1h""#).start();
    baton.until_native("/misbehaving");
    let footprint = Footprint::of(&baton);
    let _client = held(&baton);
    baton.terminate();
    wait_until("it drains", || Connection::open(baton.address).is_err());
    kill(baton.pid(), Signal::SIGINT).unwrap();
    baton.wait();
    assert_eq!(footprint.left(), <[String; 0]>::default());
}

#[test]
fn an_idle_connection_does_not_hold_up_a_stop() {
    let mut baton = Setup::new().wasm("hello").host(r#"grace = "1h""#).start();
    let mut idle = Connection::open(baton.address).unwrap();
    assert_eq!(idle.send(request(Method::GET, "/hello", "")).unwrap().status(), 200);
    let mut silent = baton.raw();
    assert!(baton.stop().success(), "{}", baton.log());
    assert_eq!(silent.rest(), "");
}

#[test]
fn a_host_that_cannot_live_ends_baton_with_an_error() {
    let mut baton = Setup::new().wasm("hello").start();
    for _ in 0..10 {
        let Some(host) = wait_for("a host runs or Baton has ended", || match baton.ended() {
            Some(_) => Some(None),
            None => baton.try_host_pid().map(Some),
        }) else {
            break;
        };
        kill(host, Signal::SIGKILL).unwrap();
        wait_until("that host is gone", || !is_running(host) || baton.ended().is_some());
    }
    assert_eq!(baton.wait().code(), Some(1), "{}", baton.log());
}

#[test]
fn without_root_wasm_serves_and_one_line_says_so() {
    let baton = Setup::new().hybrid("hello").unprivileged().start();
    for _ in 0..20 {
        assert_eq!(tier_of(&baton.get("/hello")), "wasm");
    }
    let log = baton.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(" WARN ")).collect();
    let [line] = lines[..] else { panic!("{log}") };
    assert!(line.contains("no sandboxes can be made"), "{line}");
}

#[test]
fn without_root_the_policy_native_is_a_misuse() {
    let output = Setup::new().native("hello").unprivileged().output();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("hello") && said.contains("root"), "{said}");
}

/// Asks until nobody listens any more: on a connection kept alive, or on one for each request.
/// Returns how many were answered, every one of them whole. A request that meets the end of its
/// connection before it is read is asked again elsewhere, as every client does.
fn ask_until_refused(address: std::net::SocketAddr, keep: bool) -> usize {
    let mut answered = 0;
    loop {
        // The only failure that there may be: nobody listens.
        let Ok(mut connection) = Connection::open(address) else { return answered };
        loop {
            let Ok(answer) = connection.send(request(Method::POST, "/hello", "body")) else {
                break;
            };
            assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"body"[..]));
            answered += 1;
            let last = answer.headers().get("connection").is_some_and(|value| value == "close");
            if last || !keep {
                break;
            }
        }
    }
}

#[test]
fn a_stop_under_load_fails_no_request() {
    let mut baton = Setup::new().hybrid("hello").start();
    baton.until_native("/hello");
    let (address, before) = (baton.address, baton.in_flight("hello"));
    assert_eq!(before, 0);
    let answered: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..32)
            .map(|client| scope.spawn(move || ask_until_refused(address, client % 2 == 0)))
            .collect();
        wait_until("requests flow", || {
            let functions = baton.administration("/v1/functions/hello");
            functions["requests"]["native"].as_u64() > Some(200)
        });
        baton.terminate();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(answered > 200, "{answered}");
    assert!(baton.wait().success(), "{}", baton.log());
    let read = baton.log().lines().filter(|line| line.contains("POST /hello")).count();
    assert!(read <= answered, "{read} requests were read, and {answered} answered");
}
