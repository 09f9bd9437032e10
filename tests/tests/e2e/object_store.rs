//! Lumos's data-intensive functions with a real object store: an S3 server on a directory.

use std::fs;
use std::net::SocketAddr;
use std::thread;

use baton_tests::baton::Setup;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// An S3 server with one bucket, `bucket`.
struct Store {
    directory: TempDir,
    address: SocketAddr,
    /// Ends it when dropped.
    _stop: oneshot::Sender<()>,
}

impl Store {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("bucket")).unwrap();
        let service = S3ServiceBuilder::new(FileSystem::new(directory.path()).unwrap()).build();
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        thread::spawn(move || {
            Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    () = serve(listener, service) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { directory, address: told.recv().unwrap(), _stop: stop }
    }

    fn url(&self, object: &str) -> String {
        format!("http://{}/bucket/{object}", self.address)
    }
}

async fn serve(listener: TcpListener, service: S3Service) {
    let mut clients = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        clients
            .spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone()));
    }
}

/// The data of a report, as each tier gives it.
#[track_caller]
fn ask_both(store: &Store, function: &str, body: impl Fn(&str) -> Value) -> [Value; 2] {
    ["native", "wasm"].map(|tier| {
        let setup = if tier == "wasm" { Setup::wasm } else { Setup::native };
        let baton = setup(Setup::new(), function)
            .with(&format!("egress.allow = [\"http://{}\"]", store.address))
            .with(r#"limits.memory = "256MiB""#)
            .start();
        let answer = baton.post(&format!("/{function}"), body(tier).to_string());
        assert_eq!(answer.status(), 200, "{function} {tier}: {answer:?}");
        let mut report: Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(report["runtime"], tier);
        for time in ["data_retrieval_ms", "serialization_ms", "compute_ms"] {
            let spent = report["data"].as_object_mut().unwrap().remove(time);
            assert!(spent.and_then(|spent| spent.as_f64()).unwrap() > 0.0, "{time}: {report}");
        }
        report["data"].take()
    })
}

#[test]
fn either_tier_reads_from_an_s3_server_and_says_how_long_each_part_took() {
    let store = Store::start();
    let text = "The quick brown fox jumps over the lazy dog\n".repeat(10_000);
    fs::write(store.directory.path().join("bucket/text"), text).unwrap();
    for function in ["language-detection", "fuzzysearch"] {
        let [native, wasm] =
            ask_both(&store, function, |_| json!({ "storage": store.url("text") }));
        assert_eq!(native, wasm, "{function}");
    }
}

#[test]
fn either_tier_writes_the_same_object_to_an_s3_server() {
    let store = Store::start();
    for function in ["audio-sine-wave", "mandelbrot-bitmap"] {
        let [native, wasm] =
            ask_both(&store, function, |tier| json!({ "storage": store.url(tier) }));
        assert_eq!(native, wasm, "{function}");
        let object =
            |tier: &str| fs::read(store.directory.path().join("bucket").join(tier)).unwrap();
        assert!(!object("native").is_empty());
        assert!(object("native") == object("wasm"), "{function}");
    }
}
