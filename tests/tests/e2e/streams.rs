//! Bodies on their way, trailers behind them, and connections that stop being HTTP.

use std::thread;

use baton_tests::baton::{Baton, Setup};
use baton_tests::client::{Raw, tier_of};
use baton_tests::wait_until;

const UPGRADE: &str = "GET /misbehaving/upgrade HTTP/1.1\r\nHost: a\r\n\
                       Connection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n";

/// A connection that speaks the function's own protocol.
#[track_caller]
fn upgraded(baton: &Baton) -> Raw {
    let mut raw = baton.raw();
    raw.write(UPGRADE).unwrap();
    let head = raw.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.to_lowercase().contains("upgrade: echo\r\n"), "{head}");
    raw
}

#[test]
fn a_connection_changes_its_protocol_with_a_native_function() {
    for setup in [Setup::new().native("misbehaving"), Setup::new().hybrid("misbehaving")] {
        let baton = setup.start();
        baton.until_parked();
        let mut raw = upgraded(&baton);
        for word in ["one\n", "two\n", "\0 not text \r\n"] {
            raw.write(word).unwrap();
            assert_eq!(raw.until("\n"), word);
        }
        assert_eq!(baton.in_flight("misbehaving"), 1);
        raw.finish();
        assert_eq!(raw.rest(), "");
        wait_until("the request has ended", || baton.in_flight("misbehaving") == 0);
        assert_eq!(tier_of(&baton.until_native("/misbehaving")), "native");
    }
}

#[test]
fn bytes_sent_right_behind_an_upgrade_are_not_lost() {
    let baton = Setup::new().native("misbehaving").start();
    let mut raw = baton.raw();
    raw.write(format!("{UPGRADE}early\n")).unwrap();
    raw.until("\r\n\r\n");
    assert_eq!(raw.until("\n"), "early\n");
}

#[test]
fn a_component_answers_a_request_for_an_upgrade_in_http() {
    let baton = Setup::new().wasm("misbehaving").start();
    let mut raw = baton.raw();
    raw.write(UPGRADE).unwrap();
    assert!(raw.until("fine\n").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_client_that_leaves_an_upgraded_connection_frees_the_sandbox() {
    let baton = Setup::new().native("misbehaving").with("sandboxes.max = 1").start();
    upgraded(&baton).leave();
    wait_until("the request has ended", || baton.in_flight("misbehaving") == 0);
    assert_eq!(baton.get("/misbehaving").status(), 200);
}

#[test]
fn a_change_of_protocol_that_nobody_asked_for_is_answered_502() {
    let baton = Setup::new().native("misbehaving").start();
    assert_eq!(baton.get("/misbehaving/upgrade").status(), 502);
}

#[test]
fn an_upgraded_connection_goes_on_through_a_drain_until_the_grace_time_is_over() {
    let mut baton = Setup::new().native("misbehaving").host(r#"grace = "1s""#).start();
    let mut raw = upgraded(&baton);
    baton.terminate();
    baton.until_logged("draining");
    raw.write("still\n").unwrap();
    assert_eq!(raw.until("\n"), "still\n");
    assert!(baton.wait().success(), "{}", baton.log());
    assert_eq!(raw.rest(), "");
}

#[test]
fn an_upgraded_connection_counts_among_the_connections() {
    let baton = Setup::new().native("misbehaving").host("max_connections = 1").start();
    let held = upgraded(&baton);
    let mut next = baton.raw();
    next.write("GET /misbehaving HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    // It waits in the backlog until the one before it is gone.
    assert_eq!(baton.in_flight("misbehaving"), 1);
    held.leave();
    assert!(next.rest().contains("fine\n"));
}

#[test]
fn connections_past_the_bound_wait_for_their_turn() {
    let baton = Setup::new().wasm("misbehaving").host("max_connections = 2").start();
    let mut held: Vec<Raw> = (0..2).map(|_| baton.raw()).collect();
    for raw in &mut held {
        raw.write("GET /misbehaving HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        raw.until("fine\n");
    }
    let mut next = baton.raw();
    next.write("GET /misbehaving HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    // The ones before it are served meanwhile.
    for raw in &mut held {
        raw.write("GET /misbehaving HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        raw.until("fine\n");
    }
    held.pop();
    assert!(next.rest().contains("fine\n"));
}

#[test]
fn trailers_are_passed_on_in_both_directions() {
    for baton in
        [Setup::new().wasm("misbehaving").start(), Setup::new().native("misbehaving").start()]
    {
        let mut raw = baton.raw();
        raw.write(
            "POST /misbehaving/trailers HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\
             Connection: te, close\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\nx-sum: 294\r\n\r\n",
        )
        .unwrap();
        let answer = raw.rest();
        assert!(answer.contains("x-sum: 294\n"), "{answer}");
        assert!(answer.ends_with("0\r\nx-last: word\r\n\r\n"), "{answer}");
        wait_until("the request has ended", || baton.in_flight("misbehaving") == 0);
        let counts = &baton.administration("/v1/functions/misbehaving")["requests"];
        assert_eq!(counts["failed"], 0, "{counts}");
    }
}

#[test]
fn a_client_that_takes_no_trailers_gets_none() {
    for baton in
        [Setup::new().wasm("misbehaving").start(), Setup::new().native("misbehaving").start()]
    {
        let mut raw = baton.raw();
        raw.write(
            "POST /misbehaving/trailers HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
             Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        )
        .unwrap();
        let answer = raw.rest();
        assert!(answer.ends_with("0\r\n\r\n"), "{answer}");
    }
}

#[test]
fn events_reach_the_client_one_by_one() {
    for baton in
        [Setup::new().wasm("misbehaving").start(), Setup::new().native("misbehaving").start()]
    {
        let mut raw = baton.raw();
        raw.write("GET /misbehaving/drip HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        // The body never ends: whatever came was not kept back for more.
        for _ in 0..3 {
            raw.until("drop\n");
        }
    }
}

/// Bytes of the echo, far more than sockets and pipes on the way hold.
const FLOOD: usize = 64 << 20;

#[test]
fn a_client_that_reads_nothing_is_read_from_no_longer() {
    for setup in [Setup::new().wasm("hello"), Setup::new().native("hello")] {
        let baton = setup.with(r#"limits.request_body = "1GiB""#).start();
        let mut reader = baton.raw();
        let mut writer = reader.try_clone();
        reader
            .write(format!(
                "POST /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                 Content-Length: {FLOOD}\r\n\r\n"
            ))
            .unwrap();
        let written = writer.write_until_blocked(FLOOD);
        assert!(written < FLOOD / 2, "{written} bytes were taken though nobody read");
        let rest = thread::spawn(move || writer.write("x".repeat(FLOOD - written)).unwrap());
        let answer = reader.rest();
        rest.join().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(body.len() >= FLOOD, "{} bytes came back", body.len());
    }
}
