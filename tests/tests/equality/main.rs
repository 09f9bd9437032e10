//! Both builds of every function answer alike: status, headers that a client acts on, and every bit
//! of the body. The native build runs by itself on an inherited socket, the component under
//! `baton run`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod audit;
mod cases;
mod tiers;

use baton_tests::functions::{Address, Served, exchange, functions_dir, whole};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};

use cases::{Case, cases, get, post};

/// What must be equal; the rest (`date`, `server-timing`) is of the server, not of the function.
const HEADERS: [header::HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::ALLOW, header::LOCATION];

/// What a refusal is (RFC 9457).
const PROBLEM: &str = "application/problem+json";

/// More than functions read, and no more than Baton lets through.
const OVERSIZED: usize = 10 << 20;

async fn ask(address: &Address, case: &Case) -> Response<Bytes> {
    let answer = exchange(address, request(case), whole).await;
    answer.unwrap_or_else(|error| panic!("{} {}: {error}", case.method, case.path))
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

/// This one reads more than Baton lets through unless it is told, see `tiers`.
const LONG: &str = "decrypt-message";

async fn assert_equal(function: &str) {
    let (native, component) = (native(function), component(function));
    let oversized = reads_json(function).then(|| post(vec![b' '; OVERSIZED], 413));
    let oversized = oversized.filter(|_| function != LONG);
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
