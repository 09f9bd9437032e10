//! The same in both tiers of a Baton, for what a function needs from a manifest: a store that it may
//! reach, a `/tmp`, a long body.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use baton_tests::baton::{Baton, Setup};
use baton_tests::functions::Address;
use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::cases::{Case, post};
use crate::{PROBLEM, ask, component};

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

#[tokio::test]
async fn a_message_longer_than_is_read_is_answered_413_by_either_tier() {
    for setup in [Setup::new().native("decrypt-message"), Setup::new().wasm("decrypt-message")] {
        let setup = setup.with("limits.request_body = \"16MiB\"\nlimits.memory = \"256MiB\"");
        let baton = start(setup).await;
        let path = Cow::Borrowed("/decrypt-message");
        let case = Case { path, ..post(vec![b' '; 13 << 20], 413) };
        let answer = ask(&Address::Tcp(baton.address), &case).await;
        assert_eq!(answer.status(), 413);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], PROBLEM);
    }
}
