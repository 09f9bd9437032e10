//! Both builds of every function answer alike: status, headers that a client acts on, and every bit
//! of the body. The native build runs by itself on an inherited socket, the component under
//! `baton run`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use baton_tests::functions::{Address, Served, built_twice, exchange, functions_dir, whole};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};

/// A request, and the status that both builds must answer it with.
struct Case {
    method: Method,
    path: &'static str,
    body: Bytes,
    status: u16,
}

fn get(path: &'static str, status: u16) -> Case {
    Case { method: Method::GET, path, body: Bytes::new(), status }
}

fn post(body: impl Into<Bytes>, status: u16) -> Case {
    Case { method: Method::POST, path: "/", body: body.into(), status }
}

fn cases(function: &str) -> Vec<Case> {
    match function {
        "hello" => vec![
            get("/", 200),
            get("/Ada", 200),
            get("/J%C3%BCrgen", 200),
            get("/%ff", 400),
            get("/Ada/Lovelace", 404),
            Case { method: Method::HEAD, ..get("/", 200) },
            Case { method: Method::HEAD, ..get("/Ada/Lovelace", 404) },
            Case { method: Method::DELETE, ..get("/", 405) },
            post("", 200),
            post("echo", 200),
            post((0..=255).collect::<Vec<u8>>(), 200),
            post(vec![b'x'; 1 << 20], 200),
        ],
        "float-operation" => vec![
            post("", 200),
            post("{}", 200),
            post(r#"{"n": 100000, "value": 0}"#, 200),
            post(r#"{"n": 7, "value": 0.1}"#, 200),
            post(r#"{"n": 1000, "value": 1e15}"#, 200),
            post(r#"{"n": 0}"#, 400),
            post(r#"{"n": 100000001}"#, 400),
            post(r#"{"n": 4294967296}"#, 400),
            post(r#"{"n": -1}"#, 400),
            post(r#"{"value": -0.5}"#, 400),
            post(r#"{"value": 1e300}"#, 400),
            post(r#"{"value": 1e999}"#, 400),
            post(r#"{"m": 1}"#, 400),
            post("no JSON", 400),
            post([0xff, 0xfe].as_slice(), 400),
            get("/", 405),
            get("/other", 404),
        ],
        "matmul" => vec![
            post("", 200),
            post(r#"{"size": 1}"#, 200),
            post(r#"{"size": 17, "seed": 18446744073709551615}"#, 200),
            post(r#"{"size": 64, "seed": 0}"#, 200),
            post(r#"{"size": 0}"#, 400),
            post(r#"{"size": 1025}"#, 400),
            post(r#"{"size": 5000000000}"#, 400),
            post(r#"{"size": 2.5}"#, 400),
            post(r#"{"seed": 18446744073709551616}"#, 400),
            post("[", 400),
        ],
        other => panic!("{other} is built twice and has no row in this table"),
    }
}

/// What must be equal; the rest (`date`, `server-timing`) is of the server, not of the function.
const HEADERS: [header::HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::ALLOW, header::LOCATION];

async fn ask(address: &Address, case: &Case) -> Response<Bytes> {
    let mut request = Request::builder();
    if case.method == Method::POST {
        // Said even when it is 0: a component sees the headers only, and not that nothing followed.
        request = request.header(header::CONTENT_LENGTH, case.body.len());
    }
    let request = request
        .method(&case.method)
        .uri(case.path)
        .header(header::HOST, "function.test")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(case.body.clone()))
        .unwrap();
    exchange(address, request, whole).await.unwrap()
}

fn native(function: &str) -> Served {
    Served::native(&functions_dir().join(function)).unwrap()
}

fn component(function: &str) -> Served {
    Served::component(&functions_dir().join(function).with_extension("wasm")).unwrap()
}

async fn assert_equal(function: &str) {
    let (native, component) = (native(function), component(function));
    for case in cases(function) {
        let about = format!(
            "{function}: {} {} {:?}",
            case.method,
            case.path,
            case.body.slice(..case.body.len().min(80))
        );
        let from_native = ask(&native.address, &case).await;
        let from_component = ask(&component.address, &case).await;
        assert_eq!(from_native.status().as_u16(), case.status, "{about}");
        assert_eq!(from_component.status(), from_native.status(), "{about}");
        for name in &HEADERS {
            let values = |response: &Response<Bytes>| {
                response.headers().get_all(name).iter().cloned().collect::<Vec<_>>()
            };
            assert_eq!(values(&from_component), values(&from_native), "{about}: {name}");
        }
        assert!(from_component.body() == from_native.body(), "{about}: the bodies differ");
    }
}

#[tokio::test]
async fn hello_answers_alike_in_both_builds() {
    assert_equal("hello").await;
}

#[tokio::test]
async fn float_operation_answers_alike_in_both_builds() {
    assert_equal("float-operation").await;
}

#[tokio::test]
async fn matmul_answers_alike_in_both_builds() {
    assert_equal("matmul").await;
}

#[test]
fn every_function_with_two_builds_has_its_requests() {
    for function in built_twice() {
        assert!(!cases(&function).is_empty(), "{function}");
    }
}

/// Sends the second half of a body only after the first half has come back.
async fn assert_streams(address: &Address) {
    let (mut upload, body) = Channel::<Bytes>::new(1);
    let request = Request::post("/").header(header::HOST, "function.test").body(body).unwrap();
    let sent = async move {
        upload.send_data(Bytes::from_static(b"first")).await.unwrap();
        upload
    };
    let answer = exchange(address, request, async |response| {
        assert_eq!(response.status(), StatusCode::OK);
        let mut upload = sent.await;
        let mut echoed = response.into_body();
        let first = echoed.frame().await.unwrap()?.into_data().unwrap();
        upload.send_data(Bytes::from_static(b"second")).await?;
        drop(upload);
        Ok((first, echoed.collect().await?.to_bytes()))
    });
    let (first, rest) = answer.await.unwrap();
    assert_eq!((first.as_ref(), rest.as_ref()), (b"first".as_slice(), b"second".as_slice()));
}

#[tokio::test]
async fn native_build_streams_in_both_directions() {
    assert_streams(&native("hello").address).await;
}

#[tokio::test]
async fn component_streams_in_both_directions() {
    assert_streams(&component("hello").address).await;
}

#[tokio::test]
async fn native_build_leaves_cleanly_on_sigterm() {
    let mut served = native("hello");
    ask(&served.address, &get("/", 200)).await;
    assert_eq!(served.terminate().unwrap().code(), Some(0));
}

#[tokio::test]
async fn component_without_the_sdk_is_served() {
    let raw = component("raw");
    let answer = ask(&raw.address, &post("12345", 200)).await;
    assert_eq!(answer.body(), "POST / with 5 bytes\n");
}
