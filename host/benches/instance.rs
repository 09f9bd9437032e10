//! What an instance costs inside the host, without HTTP: instantiate, call, take the whole body, drop.
//!
//! One thread, one call at a time, with the limits and the engine that Baton itself serves with. The
//! components are `raw` (wasi:http 0.2) and `third` (0.3), as `just functions` builds them. Entering
//! the runtime, some 50 ns, is part of each figure.

use std::convert::Infallible;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use baton::egress::{Caller, Calls, Egress, system_resolver};
use baton::manifest::{self, Instances};
use baton::wasm::{Engine, Generation, Invocation, Program, Settings, Slots};
use baton_otel::{SpanId, TraceId, TraceParent};
use bytes::Bytes;
use divan::Bencher;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;
use wasmtime::component::Component;

const COMPONENTS: [(&str, Generation); 2] =
    [("raw", Generation::Second), ("third", Generation::Third)];
const MEMORY: usize = 64 << 20;
const MINUTE: Duration = Duration::from_secs(60);

fn main() {
    divan::main();
}

/// An instance for each call.
#[divan::bench(args = ["raw", "third"])]
fn fresh(bencher: Bencher<'_, '_>, name: &str) {
    measure(bencher, name, Instances::Fresh);
}

/// One instance for all calls.
#[divan::bench(args = ["raw", "third"])]
fn reused(bencher: Bencher<'_, '_>, name: &str) {
    let requests = u64::MAX;
    measure(bencher, name, Instances::Reuse { requests, concurrent: 1, idle: MINUTE });
}

fn measure(bencher: Bencher<'_, '_>, name: &str, instances: Instances) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let program = runtime.block_on(async { program(name, instances) });
    let length = call(&runtime, &program);
    assert!(length > 0, "{name} answers something");
    bencher.bench_local(|| call(&runtime, &program));
}

fn program(name: &str, instances: Instances) -> Program {
    let (_, generation) = COMPONENTS.into_iter().find(|(found, _)| *found == name).expect("it");
    // Beside the directory that cargo gives to benches.
    let functions = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("functions");
    let file = functions.join(name).with_extension("wasm");
    let slots = Slots { instances: 64, memory: MEMORY, queue: 64, queue_timeout: MINUTE };
    let engine = Arc::new(Engine::new(generation, slots).expect("room for the pool"));
    let component = Component::from_file(engine.wasmtime(), &file)
        .unwrap_or_else(|error| panic!("{}: {error:#}; run `just functions`", file.display()));
    let headers = 64 << 10;
    let egress = manifest::Egress::default();
    let settings = Settings {
        memory: MEMORY,
        cpu_time: MINUTE,
        timeout: MINUTE,
        instances,
        headers,
        env: Arc::default(),
        config: Arc::default(),
        scratch: None,
        egress: Egress::new(egress, headers, system_resolver(), &TaskTracker::new()).into(),
        sink: Arc::new(|_| {}),
    };
    Program::new(engine, generation, &component, settings).expect("a component of ours")
}

/// Answers one request, and returns how long the answer's body is.
fn call(runtime: &Runtime, program: &Program) -> usize {
    runtime.block_on(async {
        let never = |never: Infallible| -> wasmtime_wasi_http::Error { match never {} };
        let body = Empty::<Bytes>::new().map_err(never);
        let request = Request::get("http://localhost/").body(body).expect("a request");
        let parent =
            TraceParent { trace_id: TraceId::INVALID, span_id: SpanId::INVALID, sampled: false };
        let caller = Caller { parent, tracestate: None, calls: Calls::default() };
        let invocation = Invocation { id: SpanId::INVALID, caller };
        let mut call = program.start(black_box(request), false, invocation);
        let (_, body) = call.head().await.expect("an answer").into_parts();
        let body = call.into_body(body).collect().await.expect("a whole answer");
        black_box(body.to_bytes()).len()
    })
}
