//! The equivalence guard: both builds answer alike, or the native one is not believed any more.

use std::process::{Command, Output};

use baton_tests::baton::{Baton, Setup, program};
use baton_tests::client::{Connection, request, tier_of};
use baton_tests::functions::functions_dir;
use baton_tests::wait_until;
use http::{Method, header};
use serde_json::Value;

/// A function whose builds can differ, of which every request is compared.
fn verified(line: &str) -> Baton {
    let baton = Setup::new().hybrid("misbehaving").with(line).start();
    baton.until_parked();
    baton
}

fn guard(baton: &Baton) -> Value {
    baton.administration("/v1/functions/misbehaving")["verify"].clone()
}

fn counted(baton: &Baton, outcome: &str) -> u64 {
    guard(baton)[outcome].as_u64().unwrap()
}

fn promote(baton: &Baton) -> u16 {
    let mut write = request(Method::POST, "/v1/functions/misbehaving/promote", "");
    write.headers_mut().insert(header::HOST, baton.admin.to_string().parse().unwrap());
    Connection::open(baton.admin).unwrap().send(write).unwrap().status().as_u16()
}

#[test]
fn answers_of_both_builds_are_compared_and_agree() {
    let baton = verified("verify = { sample = 1.0 }");
    wait_until("some were compared from either side", || {
        assert_eq!(baton.get("/misbehaving").status(), 200);
        counted(&baton, "agreed") >= 4
    });
    assert_eq!(counted(&baton, "differed"), 0);
    assert_eq!(baton.administration("/v1/functions/misbehaving")["demoted"], false);
}

#[test]
fn a_divergent_function_is_demoted_says_so_and_is_promoted_by_hand() {
    let baton = verified("verify = { sample = 1.0, threshold = 2 }");
    let divergent = "/misbehaving/divergent";
    baton.until_native("/misbehaving");
    wait_until("it is demoted", || {
        assert_eq!(baton.get(divergent).status(), 200);
        guard(&baton)["demoted"] == true
    });
    let answer = baton.get(divergent);
    assert_eq!((tier_of(&answer).as_str(), answer.body().as_ref()), ("wasm", b"wasm\n".as_ref()));
    let document = guard(&baton);
    let pair = &document["differences"][0];
    assert_eq!(pair["differs"], serde_json::json!(["body"]), "{document:#}");
    assert_eq!((&pair["wasm"]["status"], &pair["path"]), (&200.into(), &"/divergent".into()));
    assert!(pair["wasm"].get("body").is_none(), "bodies are not kept unasked: {pair:#}");
    let next = baton.administration("/v1/functions/misbehaving/explain")["next"].clone();
    assert_eq!(next["reason"], "diverged");
    assert!(baton.log().contains("is not believed any more"), "{}", baton.log());
    let metrics = baton.ask_admin("/metrics").unwrap();
    let metrics = String::from_utf8(metrics.body().to_vec()).unwrap();
    assert!(metrics.contains("baton_verify_demoted{faas_name=\"misbehaving\"} 1"), "{metrics}");
    assert_eq!(promote(&baton), 200);
    assert_eq!(guard(&baton)["demoted"], false);
    baton.until_native("/misbehaving");
}

#[test]
fn the_trace_of_a_difference_is_linked_to_its_request() {
    let baton = verified("verify = { sample = 1.0, threshold = 1 }");
    let trace_id = format!("{:032x}", 9);
    let mut asked = request(Method::GET, "/misbehaving/divergent", "");
    let parent = format!("00-{trace_id}-00000000000000ab-01").parse().unwrap();
    asked.headers_mut().insert("traceparent", parent);
    assert_eq!(baton.ask(asked).status(), 200);
    wait_until("the difference is told in the request's trace", || {
        let document = baton.administration(&format!("/v1/traces/{trace_id}")).to_string();
        document.contains("baton.verify.differed") && document.contains("baton.demoted")
    });
}

#[test]
fn a_method_that_is_not_safe_is_compared_only_where_all_may_be() {
    let safe = verified("verify = { sample = 1.0 }");
    assert_eq!(safe.post("/misbehaving", "x").status(), 200);
    let all = verified("verify = { sample = 1.0, requests = \"all\" }");
    wait_until("it is compared", || {
        assert_eq!(all.post("/misbehaving", "x").status(), 200);
        counted(&all, "agreed") > 0
    });
    assert_eq!((counted(&safe, "agreed"), counted(&safe, "skipped")), (0, 0));
}

#[test]
fn a_build_that_fails_where_the_other_answers_differs() {
    let baton = verified("verify = { sample = 1.0, threshold = 1 }");
    // Only the native build knows this path, and what it says is not HTTP.
    assert_eq!(baton.get("/misbehaving/garbage").status(), 200);
    wait_until("it is demoted", || guard(&baton)["demoted"] == true);
    assert_eq!(guard(&baton)["differences"][0]["native"]["status"], Value::Null);
}

fn verify(function: &str, native: &str, requests: &str) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), requests).unwrap();
    let mut command = Command::new(program());
    command.arg("verify").arg(functions_dir().join(function).with_extension("wasm"));
    command.arg("--native").arg(functions_dir().join(native));
    command.arg("--requests").arg(file.path());
    command.output().unwrap()
}

#[test]
fn verify_compares_both_builds_over_a_file_of_requests() {
    let requests = "{\"path\": \"/\"}\n{\"method\": \"POST\", \"path\": \"/\", \"body\": \"x\"}\n";
    let alike = verify("hello", "hello", requests);
    let said = String::from_utf8_lossy(&alike.stdout);
    assert!(alike.status.success(), "{alike:?}");
    assert_eq!(said, "2 requests: 2 agreed, 0 differed\n");
}

#[test]
fn verify_ends_with_1_and_shows_the_pair_when_builds_differ() {
    let requests = "{\"path\": \"/\"}\n{\"path\": \"/divergent\"}\n";
    let differing = verify("misbehaving", "misbehaving", requests);
    let said = String::from_utf8_lossy(&differing.stdout);
    assert_eq!(differing.status.code(), Some(1), "{differing:?}");
    assert!(said.contains(":2: GET /divergent: body differ"), "{said}");
    assert!(said.ends_with("2 requests: 1 agreed, 1 differed\n"), "{said}");
}
