//! Manifest, artifacts and certificate taken up while Baton runs.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use baton_tests::baton::{Baton, Setup};
use baton_tests::client::{Connection, request, tier_of};
use baton_tests::functions::functions_dir;
use baton_tests::wait_until;
use http::Method;
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;

use crate::listeners::{certificate, curl_tls};

/// `hello` in both builds, greeting with this word.
fn greeting(word: &str) -> Setup {
    Setup::new().hybrid("hello").with(&format!("env.GREETING = \"{word}\""))
}

#[track_caller]
fn until_greeted(baton: &Baton, word: &str) {
    let greeted = || baton.get("/hello").body() == &format!("{word}, world\n");
    wait_until("the new revision answers", greeted);
}

#[test]
fn what_changed_in_the_manifest_is_served_after_sighup() {
    let baton = greeting("one").start();
    until_greeted(&baton, "one");
    baton.reload(&greeting("two").wasm("misbehaving"));
    until_greeted(&baton, "two");
    assert_eq!(baton.get("/misbehaving").body(), "fine\n");
    baton.reload(&Setup::new().wasm("misbehaving"));
    wait_until("a removed function is gone", || baton.get("/hello").status() == 404);
}

#[test]
fn a_function_that_did_not_change_keeps_its_counters_and_its_sandbox() {
    let setup = greeting("one");
    let baton = setup.start();
    baton.until_native("/hello");
    let before = baton.sandboxes_of("hello")[0].id.clone();
    let answered = |baton: &Baton| {
        baton.administration("/v1/functions/hello")["requests"]["native"].as_u64().unwrap()
    };
    let count = answered(&baton);
    baton.reload(&setup.clone().wasm("misbehaving"));
    wait_until("the new function is there", || baton.get("/misbehaving").status() == 200);
    assert_eq!(tier_of(&baton.get("/hello")), "native");
    assert_eq!(answered(&baton), count + 1);
    assert_eq!(baton.sandboxes_of("hello")[0].id, before);
}

#[test]
fn no_request_is_lost_while_functions_are_swapped() {
    const CLIENTS: usize = 8;
    const SWAPS: usize = 5;
    let baton = greeting("0").start();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(baton.address).unwrap();
                    let (mut latest, mut tiers) = (0, Vec::new());
                    while !done.load(Ordering::Relaxed) {
                        let answer = connection.send(request(Method::GET, "/hello", "")).unwrap();
                        assert_eq!(answer.status(), 200, "{:?}", answer.body());
                        let text = String::from_utf8(answer.body().to_vec()).unwrap();
                        let revision = text.strip_suffix(", world\n").unwrap().parse().unwrap();
                        assert!(revision >= latest, "{revision} answered after {latest}");
                        latest = revision;
                        tiers.push(tier_of(&answer));
                    }
                    tiers
                })
            })
            .collect();
        for revision in 1..=SWAPS {
            baton.reload(&greeting(&revision.to_string()));
            until_greeted(&baton, &revision.to_string());
            baton.until_native("/hello");
        }
        done.store(true, Ordering::Relaxed);
        let tiers: Vec<String> =
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        assert!(tiers.iter().any(|tier| tier == "wasm"));
        assert!(tiers.iter().any(|tier| tier == "native"));
    });
}

#[test]
fn a_request_in_flight_ends_in_the_revision_that_it_found() {
    for policy in ["wasm", "native"] {
        let old = Setup::new().function("f", policy).component("misbehaving");
        let new = Setup::new().function("f", policy).component("hello");
        let baton = old.executable("misbehaving").start();
        let mut client = baton.raw();
        client
            .write(
                "POST /f/hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
                 Connection: close\r\n\r\n3\r\nabc\r\n",
            )
            .unwrap();
        wait_until("the request is in the function", || baton.in_flight("f") == 1);
        let before: Vec<String> = baton.sandboxes_of("f").into_iter().map(|it| it.id).collect();
        baton.reload(&new.executable("hello"));
        wait_until("the new revision answers", || baton.get("/f").body() == "hello, world\n");
        client.write("0\r\n\r\n").unwrap();
        assert!(client.rest().contains("held\n"), "{policy}");
        wait_until("the old revision's sandboxes are gone", || {
            !baton.sandboxes_of("f").iter().any(|sandbox| before.contains(&sandbox.id))
        });
        assert_eq!(baton.get("/f").body(), "hello, world\n");
    }
}

#[test]
fn a_sandbox_of_an_old_revision_is_never_chosen() {
    let baton = greeting("one").start();
    baton.until_native("/hello");
    baton.reload(&greeting("two"));
    until_greeted(&baton, "two");
    for _ in 0..50 {
        assert_eq!(baton.get("/hello").body(), "two, world\n");
    }
    assert_eq!(baton.until_native("/hello").body(), "two, world\n");
}

#[test]
fn an_invalid_manifest_changes_nothing_and_says_why() {
    let baton = greeting("one").start();
    baton.reload(&greeting("two").with("polcy = \"wasm\""));
    baton.until_logged("nothing was changed");
    let log = baton.log();
    let line = log.lines().find(|line| line.contains("polcy")).unwrap();
    assert!(line.contains("ERROR") && line.contains("baton.toml:"), "{line}");
    assert_eq!(baton.get("/hello").body(), "one, world\n");
    baton.reload(&greeting("two"));
    until_greeted(&baton, "two");
}

#[test]
fn an_artifact_that_is_not_there_changes_nothing_and_says_so() {
    let baton = greeting("one").start();
    let missing = Setup::new().function("hello", "wasm").with("component = \"nowhere.wasm\"");
    baton.reload(&missing);
    baton.until_logged("nothing was changed");
    assert!(baton.log().contains("nowhere.wasm"), "{}", baton.log());
    assert_eq!(baton.get("/hello").body(), "one, world\n");
}

#[test]
fn a_setting_of_the_host_that_needs_a_restart_says_so() {
    let baton = greeting("one").start();
    baton.reload(&greeting("two").host("grace = \"7s\""));
    baton.until_logged("host.grace cannot change without a restart");
    until_greeted(&baton, "two");
}

#[test]
fn a_pool_daemon_is_started_when_the_first_native_build_appears() {
    let baton = Setup::new().wasm("hello").start();
    assert!(baton.sandboxes().is_empty());
    baton.reload(&Setup::new().hybrid("hello"));
    baton.until_native("/hello");
}

#[test]
fn a_host_that_is_started_again_serves_what_was_taken_up() {
    let baton = greeting("one").start();
    baton.reload(&greeting("two"));
    until_greeted(&baton, "two");
    let host = baton.host_pid();
    kill(host, Signal::SIGKILL).unwrap();
    wait_until("another host runs", || baton.host_pid() != host);
    assert_eq!(baton.get("/hello").body(), "two, world\n");
}

#[test]
fn a_function_whose_bounds_grow_past_the_engines_is_served() {
    let baton = Setup::new().wasm("hello").with("limits.memory = \"16MiB\"").start();
    baton.reload(&Setup::new().wasm("hello").with("limits.memory = \"256MiB\""));
    baton.until_logged("functions swapped");
    assert_eq!(baton.get("/hello").body(), "hello, world\n");
}

#[test]
fn a_watched_manifest_is_taken_up_when_it_changes() {
    let baton = greeting("one").argument("--watch").start();
    baton.rewrite(&greeting("two"));
    until_greeted(&baton, "two");
}

#[test]
fn a_watched_component_is_taken_up_when_it_changes() {
    let place = TempDir::new().unwrap();
    let component = place.path().join("f.wasm");
    fs::copy(functions_dir().join("hello.wasm"), &component).unwrap();
    let component_line = format!("component = \"{}\"", component.display());
    let setup = Setup::new().function("f", "wasm").with(&component_line);
    let baton = setup.argument("--watch").start();
    assert_eq!(baton.get("/f").body(), "hello, world\n");
    fs::copy(functions_dir().join("misbehaving.wasm"), &component).unwrap();
    wait_until("the new component answers", || baton.get("/f").body() == "fine\n");
}

#[test]
fn a_renewed_certificate_is_shown_to_new_connections() {
    let place = TempDir::new().unwrap();
    let baton = Setup::new().wasm("misbehaving").host(&certificate(place.path())).start();
    assert_eq!(curl_tls(&baton, place.path(), "--http1.1").0, "1.1");
    certificate(place.path());
    baton.until_logged("the certificate was renewed");
    // This client trusts the new certificate only.
    assert_eq!(curl_tls(&baton, place.path(), "--http1.1").0, "1.1");
}

#[test]
fn a_certificate_that_does_not_fit_its_key_leaves_the_old_one_in_use() {
    let place = TempDir::new().unwrap();
    let baton = Setup::new().wasm("misbehaving").host(&certificate(place.path())).start();
    let right = fs::read(place.path().join("key.pem")).unwrap();
    let other = TempDir::new().unwrap();
    certificate(other.path());
    fs::copy(other.path().join("key.pem"), place.path().join("key.pem")).unwrap();
    baton.until_logged("the certificate in use stays as it was");
    assert_eq!(curl_tls(&baton, place.path(), "--http1.1").0, "1.1");
    fs::write(place.path().join("key.pem"), right).unwrap();
    baton.until_logged("the certificate was renewed");
}
