//! What functions reach outside of Baton, in both tiers, and what they do not.

use std::path::Path;
use std::process::Command;

use baton_tests::baton::{Baton, Setup};
use baton_tests::origin::Origin;
use baton_tests::wait_until;
use http::{Method, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where a native function finds its proxy.
const PROXY: &str = "/misbehaving/tcp/127.0.0.1:3128";

/// Each tier alone, with one of the papers' functions.
fn tiers(function: &str) -> [Setup; 2] {
    [Setup::new().wasm(function), Setup::new().native(function)]
}

fn allow(setup: Setup, rules: &[&str]) -> Setup {
    setup.with(&format!("egress.allow = {rules:?}"))
}

/// Has `server-reply` ask a URL.
#[track_caller]
fn reply(baton: &Baton, url: &str) -> Response<bytes::Bytes> {
    let asked = json!({ "server": url, "message": "hi", "measure": false });
    baton.post("/server-reply", asked.to_string())
}

/// A native function that does what it is told, and may reach `rules`.
fn hostile(rules: &[&str]) -> Baton {
    allow(Setup::new().native("misbehaving"), rules).start()
}

/// What the hostile function hears when it says this to its proxy.
#[track_caller]
fn through(baton: &Baton, said: impl Into<bytes::Bytes>) -> String {
    let answer = baton.post(PROXY, said);
    assert_eq!(answer.status(), 200, "{answer:?}");
    String::from_utf8_lossy(answer.body()).into_owned()
}

#[track_caller]
fn assert_refused(answer: &str, status: &str, kind: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    let document: Value = serde_json::from_str(body).unwrap();
    assert_eq!(document["type"], format!("urn:baton:problem:{kind}"), "{document}");
    assert_eq!(document["function"], "misbehaving");
}

#[test]
fn either_build_reaches_what_is_allowed_and_nothing_else() {
    let (allowed, other) = (Origin::saying("hello"), Origin::saying("no"));
    let rule = format!("http://{}", allowed.address);
    for setup in tiers("server-reply") {
        let baton = allow(setup, &[&rule]).start();
        let answer = reply(&baton, &allowed.url("/"));
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert!(answer.body().ends_with(br#""reply":"hello"}}"#), "{answer:?}");
        assert_eq!(reply(&baton, &other.url("/")).status(), 502);
        assert_eq!(reply(&baton, "https://127.0.0.1:1/").status(), 502);
    }
    assert_eq!(other.connections(), 0);
}

#[test]
fn without_a_rule_either_build_reaches_nothing() {
    let origin = Origin::saying("no");
    for setup in tiers("server-reply") {
        assert_eq!(reply(&setup.start(), &origin.url("/")).status(), 502);
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_name_that_leads_inwards_is_reached_by_neither_build() {
    let origin = Origin::saying("no");
    let url = format!("http://inside.test:{}", origin.address.port());
    for setup in tiers("server-reply") {
        let setup = allow(setup.hosts("127.0.0.1 inside.test"), &[&url]);
        assert_eq!(reply(&setup.start(), &url).status(), 502);
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_name_is_reached_where_a_network_rule_covers_its_address() {
    let origin = Origin::saying("hello");
    let url = format!("http://inside.test:{}", origin.address.port());
    for setup in tiers("server-reply") {
        let setup = allow(setup.hosts("127.0.0.1 inside.test"), &[&url, "127.0.0.0/8"]);
        assert_eq!(reply(&setup.start(), &url).status(), 200);
    }
}

#[test]
fn requests_to_one_origin_share_a_connection() {
    for setup in tiers("network-benchmark") {
        let origin = Origin::saying("hello");
        let baton = allow(setup, &["127.0.0.0/8"]).start();
        let (server, storage) = (origin.url("/server"), origin.url("/storage"));
        let asked = json!({ "server": server, "storage": storage, "measure": false });
        let answer = baton.post("/network-benchmark", asked.to_string());
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert_eq!((origin.heads().len(), origin.connections()), (17, 1));
    }
}

#[test]
fn the_trace_goes_to_the_origins_that_may_have_it_and_to_no_other() {
    let (told, untold) = (Origin::saying("hello"), Origin::saying("hello"));
    let baton = allow(Setup::new().wasm("server-reply"), &["127.0.0.0/8"])
        .with(&format!("egress.trace = [\"http://{}\"]", told.address))
        .start();
    let trace_id = "0123456789abcdef0123456789abcdef";
    for origin in [&told, &untold] {
        let asked = json!({ "server": origin.url("/"), "measure": false }).to_string();
        let mut request = baton_tests::client::request(Method::POST, "/server-reply", asked);
        let parent = format!("00-{trace_id}-00000000000000ab-01");
        request.headers_mut().insert("traceparent", parent.parse().unwrap());
        assert_eq!(baton.ask(request).status(), 200);
    }
    let parent = format!("traceparent: 00-{trace_id}-");
    assert!(told.heads()[0].contains(&parent), "{:?}", told.heads());
    assert!(!untold.heads()[0].contains("traceparent"), "{:?}", untold.heads());
}

#[test]
fn what_a_native_function_says_of_its_trace_stays_inside() {
    let origin = Origin::saying("hello");
    let baton = hostile(&["127.0.0.0/8"]);
    let asked = format!(
        "GET {} HTTP/1.1\r\nTraceparent: 00-{:032x}-{:016x}-01\r\nConnection: close\r\n\r\n",
        origin.url("/"),
        1,
        1
    );
    assert!(through(&baton, asked).ends_with("hello"));
    assert!(!origin.heads()[0].contains("traceparent"), "{:?}", origin.heads());
}

#[test]
fn an_outgoing_request_is_a_client_span_of_the_request_that_caused_it() {
    let origin = Origin::saying("hello");
    let baton = allow(Setup::new().wasm("server-reply"), &["127.0.0.0/8"]).start();
    assert_eq!(reply(&baton, &origin.url("/a?signature=secret")).status(), 200);
    let list = baton.administration("/v1/traces");
    let id = list["traces"][0]["trace_id"].as_str().unwrap().to_owned();
    let trace = baton.administration(&format!("/v1/traces/{id}")).to_string();
    assert!(trace.contains(&format!(r#""url.full":"http://{}/a""#, origin.address)), "{trace}");
    assert!(trace.contains(&format!(r#""server.port":{}"#, origin.address.port())), "{trace}");
    assert!(!trace.contains("secret"), "{trace}");
}

/// A certificate for `localhost` in `place`, as the manifest takes it.
fn certificate(place: &Path) -> String {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(place)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let file = |name| place.join(name).display().to_string();
    format!("tls = {{ certificate = {:?}, key = {:?} }}", file("cert.pem"), file("key.pem"))
}

#[test]
fn an_https_origin_is_spoken_to_in_http_2_when_its_certificate_is_trusted() {
    let place = TempDir::new().unwrap();
    let tls = certificate(place.path());
    let origin = Setup::new().wasm("misbehaving").host(&tls).start();
    let url = format!("https://localhost:{}/misbehaving/headers", origin.address.port());
    let asking = allow(Setup::new().wasm("server-reply"), &["localhost"]);
    assert_eq!(reply(&asking.start(), &url).status(), 502, "nobody vouches for it");
    let trusted = place.path().join("cert.pem").display().to_string();
    let baton = asking.variable("SSL_CERT_FILE", &trusted).start();
    let answer = reply(&baton, &url);
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert!(String::from_utf8_lossy(answer.body()).contains("x-forwarded-proto: https"));
    let list = baton.administration("/v1/traces");
    let id = list["traces"][0]["trace_id"].as_str().unwrap().to_owned();
    let trace = baton.administration(&format!("/v1/traces/{id}")).to_string();
    assert!(trace.contains(r#""network.protocol.version":"2""#), "{trace}");
}

#[test]
fn an_answer_with_too_long_a_head_is_refused() {
    for setup in tiers("server-reply") {
        let origin = Origin::answering(|_| {
            let long = "x".repeat(100 << 10);
            format!("HTTP/1.1 200 OK\r\nx: {long}\r\ncontent-length: 0\r\n\r\n").into_bytes()
        });
        let baton = allow(setup, &["127.0.0.0/8"]).start();
        assert_eq!(reply(&baton, &origin.url("/")).status(), 502);
    }
}

#[test]
fn a_sandbox_reaches_its_proxy_and_nothing_around_it() {
    let origin = Origin::saying("no");
    let baton = hostile(&["127.0.0.0/8"]);
    let tcp = |address: &str| {
        let answer = baton.post(&format!("/misbehaving/tcp/{address}"), "GET / HTTP/1.0\r\n\r\n");
        String::from_utf8_lossy(answer.body()).into_owned()
    };
    for address in [origin.address, baton.address, baton.admin] {
        assert!(tcp(&address.to_string()).contains("Connection refused"), "{address}");
    }
    for address in ["1.1.1.1:443", "169.254.169.254:80", "10.0.0.1:80", "[2606:4700::1111]:443"] {
        let answer = tcp(address);
        assert!(answer.contains("unreachable") || answer.contains("cannot assign"), "{answer}");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn without_a_rule_a_sandbox_has_no_proxy() {
    let baton = Setup::new().native("misbehaving").start();
    let answer = baton.post(PROXY, "GET http://127.0.0.1/ HTTP/1.1\r\n\r\n");
    assert!(answer.body().starts_with(b"error: "), "{answer:?}");
}

#[test]
fn a_tunnel_leads_to_an_allowed_origin_alone() {
    // An answer that ends with its connection, so that the tunnel does.
    let allowed = Origin::answering(|_| b"HTTP/1.0 200 OK\r\n\r\nhello".to_vec());
    let other = Origin::saying("no");
    let rule = format!("https://{}", allowed.address);
    let baton = allow(
        Setup::new().native("misbehaving").hosts("127.0.0.1 inside.test"),
        &[&rule, &format!("https://inside.test:{}", other.address.port())],
    );
    let baton = baton.start();
    let inside = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let tunnel =
        |to: &str| format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    let asked = |to: &str| through(&baton, format!("{}{inside}", tunnel(to)));
    assert_refused(&asked(&other.address.to_string()), "403", "egress-denied");
    assert_refused(&asked("169.254.169.254:80"), "403", "egress-denied");
    let named = format!("inside.test:{}", other.address.port());
    assert_refused(&asked(&named), "403", "egress-denied");
    assert_refused(&asked("127.0.0.1"), "400", "bad-request");
    assert_eq!(other.connections(), 0);
    let answer = asked(&allowed.address.to_string());
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("hello"), "{answer}");
}

#[test]
fn a_proxy_takes_what_a_proxy_is_asked_and_nothing_else() {
    let origin = Origin::saying("no");
    let baton = hostile(&["127.0.0.0/8"]);
    let https = format!("https://{}/", origin.address);
    for target in ["/", "*", &https, "ftp://127.0.0.1/", "http://user@127.0.0.1/"] {
        let method = if target == "*" { "OPTIONS" } else { "GET" };
        let asked =
            format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        assert_refused(&through(&baton, asked), "400", "bad-request");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn no_second_request_is_smuggled_through_the_proxy() {
    let origin = Origin::saying("hello");
    let baton = hostile(&[&format!("http://{}", origin.address)]);
    let url = origin.url("/");
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: evil.test\r\n\r\n";
    let chunked = format!(
        "POST {url} HTTP/1.1\r\nHost: evil.test\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\
         Connection: close\r\n\r\n0\r\n\r\n{smuggled}",
        smuggled.len() + 5
    );
    let lengths = format!(
        "POST {url} HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: {}\r\nConnection: close\r\n\r\n\
         {smuggled}",
        smuggled.len()
    );
    let named = format!(
        "POST {url} HTTP/1.1\r\nContent-Length: {}\r\nConnection: close, content-length, host\r\n\r\n\
         {smuggled}",
        smuggled.len()
    );
    let spaced =
        format!("POST {url} HTTP/1.1\r\nContent-Length : 0\r\nConnection: close\r\n\r\n{smuggled}");
    for said in [chunked, lengths, named, spaced] {
        through(&baton, said);
    }
    for head in origin.heads() {
        assert!(head.starts_with("post / http/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("host: {}\r\n", origin.address)), "{head}");
        assert!(!head.contains("evil.test"), "{head}");
        let framed =
            head.matches("content-length").count() + head.matches("transfer-encoding").count();
        assert!(framed <= 1, "{head}");
    }
}

#[test]
fn a_tunnel_ends_with_its_sandbox() {
    let silent = Origin::answering(|_| Vec::new());
    let rules = [silent.address.to_string()];
    let baton = allow(Setup::new().native("misbehaving"), &[&rules[0]])
        .with(r#"limits.timeout = "1s""#)
        .start();
    let to = silent.address;
    let said = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    assert_eq!(baton.post(PROXY, said).status(), 504);
    assert_eq!(silent.heads().len(), 1, "it was asked through the tunnel");
    wait_until("the tunnel is closed", || silent.open() == 0);
}
