//! Both builds of every function answer alike: status, headers that a client acts on, and every bit
//! of the body. The native build runs by itself on an inherited socket, the component under
//! `baton run`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use baton_tests::baton::{Baton, Setup};
use baton_tests::functions::{Address, Served, built_twice, exchange, functions_dir, whole};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A request, and the status that both builds must answer it with.
struct Case {
    method: Method,
    path: Cow<'static, str>,
    body: Bytes,
    status: u16,
}

fn get(path: &'static str, status: u16) -> Case {
    Case { method: Method::GET, path: Cow::Borrowed(path), body: Bytes::new(), status }
}

fn post(body: impl Into<Bytes>, status: u16) -> Case {
    Case { method: Method::POST, path: Cow::Borrowed("/"), body: body.into(), status }
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
        "traced" => vec![get("/", 200), get("/broken", 200), get("/nowhere", 404)],
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
        "audio-sine-wave" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"size_kib": 512, "frequency": 261.63, "measure": false}"#, 200),
            post(r#"{"seconds": 0, "rate": 8000, "measure": false}"#, 200),
            post(r#"{"size_kib": 0}"#, 400),
            post(r#"{"seconds": 1e9}"#, 400),
            post(r#"{"rate": 0}"#, 400),
            post(r#"{"storage": "ftp://store.test/wave"}"#, 400),
            post(r#"{"storage": "wave"}"#, 400),
        ],
        "fuzzysearch" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"search": "jurney libary", "size_kib": 256, "measure": false}"#, 200),
            post(r#"{"search": "ähre", "text": "Ähren\nÄhre\nOhr", "measure": false}"#, 200),
            post(r#"{"search": "x", "text": "", "measure": false}"#, 200),
            post(r#"{"search": ""}"#, 400),
            post(r#"{"limit": 0}"#, 400),
            post(r#"{"size_kib": 8193}"#, 400),
        ],
        "n-body" => vec![
            post("", 200),
            post(r#"{"steps": 1, "dt": 0.1}"#, 200),
            post(r#"{"steps": 100000}"#, 200),
            post(r#"{"steps": 0}"#, 400),
            post(r#"{"dt": 0}"#, 400),
        ],
        "prime-numbers" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"limit": 10000, "measure": false}"#, 200),
            post(r#"{"n": 1, "measure": false}"#, 200),
            post(r#"{"limit": 1000000, "measure": false}"#, 200),
            post(r#"{"n": 0}"#, 400),
            post(r#"{"n": 1, "limit": 1}"#, 400),
        ],
        "language-detection" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"text": "Füchse springen über faule Hunde", "measure": false}"#, 200),
            post(r#"{"text": "a", "measure": false}"#, 200),
            post(r#"{"text": "1", "measure": false}"#, 200),
            post(r#"{"text": "吃葡萄不吐葡萄皮", "measure": false}"#, 200),
            post(r#"{"size_kib": 512, "measure": false}"#, 200),
            post(r#"{"size_kib": 0}"#, 400),
            post(r#"{"text": 1}"#, 400),
        ],
        "zip-compression" => vec![
            post("", 200),
            post(r#"{"files": 1, "size_kib": 1, "seed": 7}"#, 200),
            post(r#"{"files": 0}"#, 400),
            post(r#"{"files": 1000, "size_kib": 4096}"#, 400),
        ],
        "aes-encryption" => vec![
            post("", 200),
            post(r#"{"message": "", "iterations": 1}"#, 200),
            post(r#"{"message": "grüße", "key": "0123456789abcdef"}"#, 200),
            post(r#"{"key": "short"}"#, 400),
            post(r#"{"length": 1048576, "iterations": 100000}"#, 400),
        ],
        "checksum" => vec![
            post("", 200),
            post(r#"{"size_kib": 1, "seed": 2}"#, 200),
            post(r#"{"size_kib": 0}"#, 400),
            post(r#"{"size_kib": 32769}"#, 400),
        ],
        // What needs `/tmp` is asked under a manifest that grants it.
        "diskio" => vec![
            post(r#"{"lines": 0}"#, 400),
            post(r#"{"width": 1}"#, 400),
            post(r#"{"lines": 1000000, "width": 4096}"#, 400),
        ],
        "imageprocessing" => vec![
            post("", 200),
            post(r#"{"width": 333, "height": 777, "size": 100, "angle": -17.3}"#, 200),
            post(r#"{"width": 1, "height": 1, "size": 1, "seed": 3}"#, 200),
            post(r#"{"size": 2049}"#, 400),
            post(r#"{"angle": 361}"#, 400),
        ],
        "linear-equations" => vec![
            post("", 200),
            post(r#"{"size": 1}"#, 200),
            post(r#"{"size": 64, "seed": 18446744073709551615}"#, 200),
            post(r#"{"size": 1025}"#, 400),
        ],
        "encrypt-message" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"message": "grüße", "nonce": "abcdefghijkl", "measure": false}"#, 200),
            post(r#"{"key": "short"}"#, 400),
            post(r#"{"nonce": "thirteen byte"}"#, 400),
        ],
        "decrypt-message" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"key": "another 32-character key, a wrong"}"#, 400),
            post(r#"{"key": "another key of 32 characters yes"}"#, 400),
            post(r#"{"message": "not base64!"}"#, 400),
            post(r#"{"message": ""}"#, 400),
        ],
        "fibonacci" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"number": 0, "measure": false}"#, 200),
            post(r#"{"number": 93, "measure": false}"#, 200),
            post(r#"{"number": 187, "measure": false}"#, 200),
            post(r#"{"number": 100000, "measure": false}"#, 200),
            post(r#"{"number": 1000001}"#, 400),
            post(r#"{"number": -1}"#, 400),
        ],
        "mandelbrot-bitmap" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"size": 8, "measure": false}"#, 200),
            post(r#"{"size": 9}"#, 400),
            post(r#"{"size": 4104}"#, 400),
        ],
        "sleep" => vec![
            post(r#"{"seconds": 0.01}"#, 200),
            post(r#"{"seconds": 0}"#, 200),
            post(r#"{"seconds": -1}"#, 400),
            post(r#"{"seconds": 601}"#, 400),
        ],
        // What these two ask is asked of a real server, below.
        "network-benchmark" => vec![
            post("", 400),
            post(r#"{"server": "http://a.test", "storage": "b"}"#, 400),
            post(r#"{"server": "http://a.test", "storage": "http://b.test", "requests": 0}"#, 400),
        ],
        "server-reply" => vec![post("", 400), post(r#"{"server": "a"}"#, 400)],
        other => panic!("{other} is built twice and has no row in this table"),
    }
}

/// What must be equal; the rest (`date`, `server-timing`) is of the server, not of the function.
const HEADERS: [header::HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::ALLOW, header::LOCATION];

/// What a refusal is (RFC 9457).
const PROBLEM: &str = "application/problem+json";

/// More than functions read, and no more than Baton lets through.
const OVERSIZED: usize = 10 << 20;

/// Tries at a request whose body is refused.
const ATTEMPTS: usize = 50;

/// A server that refuses a large body answers and closes while the rest is still being written.
/// Whether the client reads the answer before its own write fails is a race of the connection and
/// says nothing about the function: such a request, and no other, is asked again.
async fn ask(address: &Address, case: &Case) -> Response<Bytes> {
    for _ in 0..ATTEMPTS {
        match exchange(address, request(case), whole).await {
            Ok(response) => return response,
            Err(error) if case.status != 413 => panic!("{} {}: {error}", case.method, case.path),
            Err(_) => {}
        }
    }
    panic!("{} {}: no answer in {ATTEMPTS} attempts", case.method, case.path);
}

fn request(case: &Case) -> Request<Full<Bytes>> {
    let mut request = Request::builder();
    if case.method == Method::POST {
        // Said even when it is 0: a component sees the headers only, and not that nothing followed.
        request = request.header(header::CONTENT_LENGTH, case.body.len());
    }
    request
        .method(&case.method)
        .uri(case.path.as_ref())
        .header(header::HOST, "function.test")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(case.body.clone()))
        .unwrap()
}

fn native(function: &str) -> Served {
    Served::native(&functions_dir().join(function)).unwrap()
}

fn component(function: &str) -> Served {
    Served::component(&functions_dir().join(function).with_extension("wasm")).unwrap()
}

/// All but `hello`, which is plain axum and echoes what comes, and `traced`, which reads no body.
fn reads_json(function: &str) -> bool {
    !matches!(function, "hello" | "traced")
}

async fn assert_equal(function: &str) {
    let (native, component) = (native(function), component(function));
    let oversized = reads_json(function).then(|| post(vec![b' '; OVERSIZED], 413));
    // This one reads more than Baton lets through unless it is told; see below.
    let oversized = oversized.filter(|_| function != "decrypt-message");
    for case in cases(function).into_iter().chain(oversized) {
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
        if matches!(case.status, 400 | 413) && reads_json(function) {
            assert_eq!(from_native.headers()[header::CONTENT_TYPE], PROBLEM, "{about}");
            let problem: serde_json::Value = serde_json::from_slice(from_native.body()).unwrap();
            assert_eq!(problem["status"], case.status, "{about}: {problem}");
        }
    }
}

#[tokio::test]
async fn traced_answers_alike_in_both_builds() {
    assert_equal("traced").await;
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

#[tokio::test]
async fn audio_sine_wave_answers_alike_in_both_builds() {
    assert_equal("audio-sine-wave").await;
}

#[tokio::test]
async fn fuzzysearch_answers_alike_in_both_builds() {
    assert_equal("fuzzysearch").await;
}

#[tokio::test]
async fn n_body_answers_alike_in_both_builds() {
    assert_equal("n-body").await;
}

#[tokio::test]
async fn prime_numbers_answers_alike_in_both_builds() {
    assert_equal("prime-numbers").await;
}

#[tokio::test]
async fn language_detection_answers_alike_in_both_builds() {
    assert_equal("language-detection").await;
}

#[tokio::test]
async fn zip_compression_answers_alike_in_both_builds() {
    assert_equal("zip-compression").await;
}

#[tokio::test]
async fn aes_encryption_answers_alike_in_both_builds() {
    assert_equal("aes-encryption").await;
}

#[tokio::test]
async fn checksum_answers_alike_in_both_builds() {
    assert_equal("checksum").await;
}

#[tokio::test]
async fn diskio_answers_alike_in_both_builds() {
    assert_equal("diskio").await;
}

#[tokio::test]
async fn imageprocessing_answers_alike_in_both_builds() {
    assert_equal("imageprocessing").await;
}

#[tokio::test]
async fn linear_equations_answers_alike_in_both_builds() {
    assert_equal("linear-equations").await;
}

#[tokio::test]
async fn encrypt_message_answers_alike_in_both_builds() {
    assert_equal("encrypt-message").await;
}

#[tokio::test]
async fn decrypt_message_answers_alike_in_both_builds() {
    assert_equal("decrypt-message").await;
}

#[tokio::test]
async fn fibonacci_answers_alike_in_both_builds() {
    assert_equal("fibonacci").await;
}

#[tokio::test]
async fn mandelbrot_bitmap_answers_alike_in_both_builds() {
    assert_equal("mandelbrot-bitmap").await;
}

#[tokio::test]
async fn sleep_answers_alike_in_both_builds() {
    assert_equal("sleep").await;
}

#[tokio::test]
async fn network_benchmark_answers_alike_in_both_builds() {
    assert_equal("network-benchmark").await;
}

#[tokio::test]
async fn server_reply_answers_alike_in_both_builds() {
    assert_equal("server-reply").await;
}

#[tokio::test]
async fn decrypt_message_refuses_more_than_it_reads() {
    let too_large = post(vec![b' '; 13 << 20], 413);
    let native = native("decrypt-message");
    assert_eq!(ask(&native.address, &too_large).await.headers()[header::CONTENT_TYPE], PROBLEM);
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

/// A store as the functions see it: what is put can be got, what is posted comes back.
struct Store {
    address: SocketAddr,
    objects: Objects,
    _server: JoinSet<()>,
}

type Objects = Arc<Mutex<BTreeMap<String, Bytes>>>;

impl Store {
    async fn start() -> Self {
        let objects = Objects::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handler = axum::routing::get(Self::got).put(Self::put).post(async |body: Bytes| body);
        let router = axum::Router::new().route("/{name}", handler).with_state(objects.clone());
        let mut server = JoinSet::new();
        server.spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { address, objects, _server: server }
    }

    async fn got(
        State(objects): State<Objects>,
        Path(name): Path<String>,
    ) -> Response<Full<Bytes>> {
        let object = objects.lock().unwrap().get(&name).cloned();
        let status = if object.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        Response::builder().status(status).body(Full::new(object.unwrap_or_default())).unwrap()
    }

    async fn put(State(objects): State<Objects>, Path(name): Path<String>, body: Bytes) {
        objects.lock().unwrap().insert(name, body);
    }

    fn object(&self, name: &str) -> Bytes {
        self.objects.lock().unwrap().get(name).cloned().unwrap_or_else(|| panic!("no {name}"))
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }
}

/// The harness blocks while Baton starts.
async fn start(setup: Setup) -> Baton {
    tokio::task::spawn_blocking(move || setup.start()).await.unwrap()
}

/// The answers of both tiers of a function that may reach the store; `body` makes the request of
/// the build of that name.
async fn ask_both(
    function: &str,
    store: &Store,
    body: impl Fn(&str) -> String,
) -> [Response<Bytes>; 2] {
    let asked = async |setup: Setup, build: &str| {
        let setup = setup
            .with(&format!("egress.allow = [\"{}\"]", store.address))
            .with(r#"limits.memory = "256MiB""#);
        let baton = start(setup).await;
        let case = Case { path: Cow::Owned(format!("/{function}")), ..post(body(build), 200) };
        ask(&Address::Tcp(baton.address), &case).await
    };
    [
        asked(Setup::new().native(function), "native").await,
        asked(Setup::new().wasm(function), "component").await,
    ]
}

fn assert_answered_alike([native, component]: [Response<Bytes>; 2], status: u16) {
    let text = String::from_utf8_lossy(native.body()).into_owned();
    assert_eq!(native.status(), status, "{text}");
    assert_eq!(component.status(), status);
    assert_eq!(component.body(), native.body(), "{text}");
}

#[tokio::test]
async fn both_builds_put_the_same_object_into_a_store() {
    let store = Store::start().await;
    for function in ["audio-sine-wave", "mandelbrot-bitmap"] {
        let answers = ask_both(function, &store, |build| {
            format!(r#"{{"measure": false, "storage": "{}"}}"#, store.url(build))
        });
        assert_answered_alike(answers.await, 200);
        assert!(store.object("native") == store.object("component"), "{function}");
    }
}

#[tokio::test]
async fn both_builds_read_a_text_from_a_store() {
    let store = Store::start().await;
    let text = "The quick brown fox jumps over the lazy dog\n".repeat(48_000);
    store.objects.lock().unwrap().insert(String::from("text"), text.into());
    let body = format!(r#"{{"measure": false, "storage": "{}"}}"#, store.url("text"));
    for function in ["fuzzysearch", "language-detection"] {
        assert_answered_alike(ask_both(function, &store, |_| body.clone()).await, 200);
    }
}

#[tokio::test]
async fn object_that_is_not_there_is_answered_502() {
    let store = Store::start().await;
    let body = format!(r#"{{"storage": "{}"}}"#, store.url("nothing"));
    assert_answered_alike(ask_both("language-detection", &store, |_| body.clone()).await, 502);
}

#[tokio::test]
async fn both_builds_pass_on_what_a_server_replies() {
    let store = Store::start().await;
    let body =
        format!(r#"{{"measure": false, "server": "{}", "message": "grüße"}}"#, store.url("server"));
    let answers = ask_both("server-reply", &store, |_| body.clone()).await;
    assert!(answers[0].body().ends_with(r#""reply":"grüße"}}"#.as_bytes()));
    assert_answered_alike(answers, 200);
}

#[tokio::test]
async fn both_builds_upload_the_times_of_their_requests() {
    let store = Store::start().await;
    let answers = ask_both("network-benchmark", &store, |build| {
        let (server, storage) = (store.url("server"), store.url(build));
        format!(r#"{{"measure": false, "server": "{server}", "storage": "{storage}"}}"#)
    });
    assert_answered_alike(answers.await, 200);
    for build in ["native", "component"] {
        let table = String::from_utf8(store.object(build).to_vec()).unwrap();
        assert_eq!(table.lines().count(), 16, "{table}");
    }
}

#[tokio::test]
async fn measured_answer_has_its_runtime_and_times() {
    let store = Store::start().await;
    let [native, component] = ask_both("prime-numbers", &store, |_| String::new()).await;
    for (answer, runtime) in [(native, "native"), (component, "wasm")] {
        let answer: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(answer["runtime"], runtime);
        for time in ["data_retrieval_ms", "serialization_ms", "compute_ms"] {
            assert!(answer["data"][time].as_f64().unwrap() >= 0.0, "{answer}");
        }
    }
}

#[tokio::test]
async fn lines_are_written_to_the_scratch_of_either_tier_and_read_back() {
    let asked = async |setup: Setup, body: &'static str| {
        let baton = start(setup.with(r#"limits.scratch = "4MiB""#)).await;
        let case = Case { path: Cow::Borrowed("/diskio"), ..post(body, 200) };
        ask(&Address::Tcp(baton.address), &case).await
    };
    let asked = async |body| {
        [
            asked(Setup::new().native("diskio"), body).await,
            asked(Setup::new().wasm("diskio"), body).await,
        ]
    };
    let answers = asked("").await;
    assert!(answers[0].body().starts_with(br#"{"lines":100000,"bytes":1600000,"#));
    assert_answered_alike(answers, 200);
    let full = asked(r#"{"lines": 1000000, "width": 8}"#).await;
    assert_eq!(full.map(|answer| answer.status()), [StatusCode::INSUFFICIENT_STORAGE; 2]);
}

#[tokio::test]
async fn without_scratch_a_component_says_what_is_missing() {
    let answer = ask(&component("diskio").address, &post("", 501)).await;
    assert_eq!(answer.status(), 501);
}
