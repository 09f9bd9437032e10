//! Many requests at once over all functions: every answer right, none lost.

use std::collections::BTreeMap;
use std::thread;

use baton_tests::baton::Setup;
use baton_tests::client::{Connection, request, tier_of};
use baton_tests::footprint::Footprint;
use baton_tests::wait_until;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::Value;

const CONNECTIONS: usize = 16;
const EACH: usize = 625;

fn asked(number: usize) -> Request<Full<Bytes>> {
    match number % 3 {
        0 => request(Method::GET, &format!("/hello/{}", number % 100), ""),
        1 => request(Method::POST, "/float-operation", r#"{"n": 1000, "value": 0.5}"#),
        _ => request(Method::POST, "/matmul", r#"{"size": 16, "seed": 1}"#),
    }
}

/// Requests answered, by tier.
type Tiers = BTreeMap<String, usize>;

#[test]
fn ten_thousand_requests_over_three_functions_are_all_answered_right() {
    let mut baton = Setup::new().hybrid("hello").hybrid("float-operation").hybrid("matmul").start();
    let right: Vec<Bytes> = (1..3).map(|number| baton.ask(asked(number)).into_body()).collect();
    // On a busy machine the load may be over before a sandbox is warm.
    assert_eq!(tier_of(&baton.until_native("/hello/0")), "native");
    let tiers: Tiers = thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|client| {
                let (right, address) = (&right, baton.address);
                scope.spawn(move || ask_all(client, address, right))
            })
            .collect();
        clients.into_iter().fold(Tiers::new(), |mut sum, client| {
            for (tier, count) in client.join().unwrap() {
                *sum.entry(tier).or_default() += count;
            }
            sum
        })
    });
    assert_eq!(tiers.values().sum::<usize>(), CONNECTIONS * EACH);
    assert!(tiers.contains_key("native") && tiers.contains_key("wasm"), "{tiers:?}");
    let functions =
        || baton.administration("/v1/functions")["functions"].as_array().unwrap().clone();
    // A client may have its answer before the host has closed its books on it.
    let none = |function: &Value| function["in_flight"] == 0;
    wait_until("nothing is in flight", || functions().iter().all(none));
    let failed = |function: &Value| function["requests"]["failed"] != 0;
    assert!(!functions().iter().any(failed), "{:?}", functions());
    let footprint = Footprint::of(&baton);
    assert!(baton.stop().success());
    assert_eq!(footprint.left(), <[String; 0]>::default());
}

fn ask_all(client: usize, address: std::net::SocketAddr, right: &[Bytes]) -> Tiers {
    let mut connection = Connection::open(address).unwrap();
    let mut tiers = Tiers::new();
    for number in (0..EACH).map(|number| client * EACH + number) {
        let answer = connection.send(asked(number)).unwrap();
        assert_eq!(answer.status(), 200, "{number}: {:?}", answer.body());
        match number % 3 {
            0 => assert_eq!(answer.body(), format!("hello, {}\n", number % 100).as_bytes()),
            function => assert_eq!(answer.body(), &right[function - 1]),
        }
        *tiers.entry(tier_of(&answer)).or_default() += 1;
    }
    tiers
}
