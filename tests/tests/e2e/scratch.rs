//! The private `/tmp` of functions, and what else a component expects of its host.

use baton_tests::baton::Setup;
use baton_tests::client::assert_problem;

/// What `/misbehaving/files` answers where nothing was there before.
const FRESH: &str = "Ok([]) Ok(\"left\")\n";

#[test]
fn a_fresh_instance_never_sees_the_files_of_another() {
    let baton = Setup::new().wasm("misbehaving").with(r#"limits.scratch = "1MiB""#).start();
    for _ in 0..100 {
        assert_eq!(baton.get("/misbehaving/files").body(), FRESH);
    }
}

#[test]
fn an_instance_that_is_reused_keeps_its_files() {
    let baton = Setup::new()
        .wasm("misbehaving")
        .with(r#"limits.scratch = "1MiB""#)
        .with(r#"instances = { reuse = { requests = 10, concurrent = 1, idle = "10s" } }"#)
        .start();
    assert_eq!(baton.get("/misbehaving/files").body(), FRESH);
    assert_eq!(baton.get("/misbehaving/files").body(), "Ok([\"directory\"]) Ok(\"left\")\n");
}

#[test]
fn neither_tier_writes_more_than_it_may() {
    for setup in [Setup::new().wasm("misbehaving"), Setup::new().native("misbehaving")] {
        let baton = setup.with(r#"limits.scratch = "1MiB""#).start();
        assert!(baton.get("/misbehaving/fill").body().starts_with(b"1048576 Err("));
    }
}

#[test]
fn what_a_trapped_instance_leaves_is_gone_for_the_next() {
    let baton = Setup::new()
        .wasm("misbehaving")
        .with(r#"limits.scratch = "1MiB""#)
        .with("limits.concurrency = 1")
        .start();
    for _ in 0..3 {
        assert!(baton.get("/misbehaving/fill").body().starts_with(b"1048576 Err("));
        assert_problem(&baton.get("/misbehaving/crash"), "trapped", 500);
    }
    assert_eq!(baton.get("/misbehaving/files").body(), FRESH);
}

#[test]
fn a_host_that_is_started_again_has_its_scratch_again() {
    let baton = Setup::new().wasm("misbehaving").with(r#"limits.scratch = "1MiB""#).start();
    let mut held = baton.raw();
    held.write("GET /misbehaving/files HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(held.until("\n").starts_with("HTTP/1.1 200"));
    let host = baton.host_pid();
    nix::sys::signal::kill(host, nix::sys::signal::Signal::SIGKILL).unwrap();
    baton_tests::wait_until("the next host serves", || {
        baton.try_host_pid().is_some_and(|pid| pid != host)
            && baton.ask_admin("/readyz").is_some_and(|answer| answer.status() == 200)
    });
    assert_eq!(baton.get("/misbehaving/files").body(), FRESH);
}

#[test]
fn without_scratch_a_component_has_no_directory() {
    let baton = Setup::new().wasm("misbehaving").start();
    let answer = baton.get("/misbehaving/files");
    assert!(answer.body().starts_with(b"Err("), "{answer:?}");
}

#[test]
fn without_root_a_component_with_scratch_is_a_misuse() {
    let output =
        Setup::new().unprivileged().wasm("misbehaving").with(r#"limits.scratch = "1MiB""#).output();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("misbehaving") && said.contains("limits.scratch"), "{said}");
}

#[test]
fn a_component_reads_its_environment_by_wasi_config_too() {
    let baton = Setup::new().wasm("misbehaving").with(r#"env.GREETING = "hello""#).start();
    assert_eq!(baton.get("/misbehaving/config").body(), "GREETING=hello\n");
}

#[test]
fn what_a_guest_prints_names_its_function_trace_and_invocation() {
    let mut baton = Setup::new().wasm("misbehaving").start();
    let trace_id = "0123456789abcdef0123456789abcdef";
    let mut request = baton_tests::client::request(http::Method::GET, "/misbehaving/crash", "");
    let parent = format!("00-{trace_id}-00000000000000ab-01");
    request.headers_mut().insert("traceparent", parent.parse().unwrap());
    assert_problem(&baton.ask(request), "trapped", 500);
    let trace = baton.administration(&format!("/v1/traces/{trace_id}"));
    let invocation = &trace["traces"][0]["root"]["attributes"]["faas.invocation_id"];
    let invocation = invocation.as_str().unwrap_or_else(|| panic!("{trace}")).to_owned();
    assert!(baton.stop().success());
    let log = baton.log();
    let line = log.lines().find(|line| line.contains("told to")).unwrap_or_else(|| panic!("{log}"));
    for part in ["misbehaving", "stderr", trace_id, &invocation] {
        assert!(line.contains(part), "{part} in {line}");
    }
}
