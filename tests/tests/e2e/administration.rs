//! What the administration listener tells, and to whom.

use baton_tests::baton::Setup;
use baton_tests::client::{Connection, request};
use http::{Method, header};

#[test]
fn health_is_told() {
    let baton = Setup::new().wasm("hello").start();
    for path in ["/livez", "/readyz"] {
        assert_eq!(baton.ask_admin(path).unwrap().status(), 200, "{path}");
    }
    assert_eq!(baton.ask_admin("/nothing").unwrap().status(), 404);
}

#[test]
fn functions_are_told_with_the_requests_that_each_tier_answered() {
    let baton = Setup::new().wasm("hello").native("matmul").start();
    for _ in 0..3 {
        assert_eq!(baton.get("/hello").status(), 200);
    }
    assert_eq!(baton.post("/matmul", r#"{"size": 1}"#).status(), 200);
    let document = baton.administration("/v1/functions");
    let rows = document["functions"].as_array().unwrap();
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row["name"].as_str().unwrap(), &row["requests"]))
        .map(|(name, requests)| (name, requests["wasm"].as_u64(), requests["native"].as_u64()))
        .collect();
    assert_eq!(told, [("hello", Some(3), Some(0)), ("matmul", Some(0), Some(1))]);
    assert_eq!(baton.ask_admin("/v1/functions/nobody").unwrap().status(), 404);
}

#[test]
fn metrics_count_requests_by_function() {
    let baton = Setup::new().wasm("hello").start();
    for _ in 0..3 {
        assert_eq!(baton.get("/hello").status(), 200);
    }
    let metrics = baton.ask_admin("/metrics").unwrap();
    let text = String::from_utf8(metrics.body().to_vec()).unwrap();
    assert!(text.lines().any(|line| line.contains("hello") && line.ends_with(" 3")), "{text}");
}

#[test]
fn a_trace_is_drawn_for_those_without_a_backend() {
    let baton = Setup::new().wasm("hello").start();
    let trace_id = format!("{:032x}", 7);
    let mut asked = request(Method::GET, "/hello", "");
    let parent = format!("00-{trace_id}-00000000000000ab-01").parse().unwrap();
    asked.headers_mut().insert("traceparent", parent);
    assert_eq!(baton.ask(asked).status(), 200);
    let mut drawn = request(Method::GET, &format!("/v1/traces/{trace_id}"), "");
    drawn.headers_mut().insert(header::ACCEPT, "text/plain".parse().unwrap());
    let text = baton_tests::wait_for("the trace is there", || {
        let answer = Connection::open(baton.admin).unwrap().send(drawn.clone()).unwrap();
        (answer.status() == 200).then(|| String::from_utf8(answer.body().to_vec()).unwrap())
    });
    assert!(text.contains("GET /hello/*") && text.contains("baton.component.handle"), "{text}");
}

#[test]
fn a_page_of_another_origin_may_not_write() {
    let baton = Setup::new().wasm("hello").start();
    for (name, value) in [(header::ORIGIN, "http://evil.example"), (header::HOST, "evil.example")] {
        let mut write = request(Method::POST, "/v1/functions/hello/promote", "");
        write.headers_mut().insert(header::HOST, baton.admin.to_string().parse().unwrap());
        write.headers_mut().insert(name, value.parse().unwrap());
        let answer = Connection::open(baton.admin).unwrap().send(write).unwrap();
        assert_eq!(answer.status(), 403);
    }
}

#[test]
fn the_last_requests_trace_is_shown_in_the_terminal() {
    let baton = Setup::new().wasm("hello").start();
    assert_eq!(baton.get("/hello").status(), 200);
    let trace = |arguments: &[&str]| {
        let admin = baton.admin.to_string();
        let mut command = std::process::Command::new(baton_tests::baton::program());
        command.arg("trace").args(["--admin", &admin]).args(arguments).output().unwrap()
    };
    let text = baton_tests::wait_for("the trace is there", || {
        let output = trace(&[]);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    });
    assert!(text.contains("GET /hello/*") && text.contains("baton.component.handle"), "{text}");
    let id = text.split_whitespace().nth(1).unwrap();
    assert_eq!(trace(&[id]).stdout, text.as_bytes());
    let unknown = trace(&["ffffffffffffffffffffffffffffffff"]);
    assert_eq!(unknown.status.code(), Some(1));
}

#[test]
fn a_command_that_finds_no_baton_says_what_to_do() {
    let mut command = std::process::Command::new(baton_tests::baton::program());
    let output = command.args(["trace", "--admin", "127.0.0.1:1"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no Baton answers at 127.0.0.1:1"), "{said}");
}
