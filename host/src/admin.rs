//! The administration listener: health, functions, sandboxes and the last traces.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use baton_otel::TraceId;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::function::Function;
use crate::host::Host;
use crate::metrics;
use crate::native;
use crate::server::Listener;
use crate::tier::Tier;
use crate::verify::Guard;

/// The administration server while it runs.
pub struct Admin {
    stop: oneshot::Sender<()>,
    server: JoinHandle<io::Result<()>>,
}

/// Serves administration on `listener`.
///
/// # Errors
/// When the descriptor is not a listening socket.
pub fn start(host: Arc<Host>, listener: OwnedFd) -> io::Result<Admin> {
    let router = router(Arc::clone(&host));
    let (stop, stopped) = oneshot::channel::<()>();
    let until = async move {
        let _ = stopped.await;
    };
    let server = match Listener::from_fd(listener)? {
        Listener::Tcp(tcp) => {
            host.spawn(async move { axum::serve(tcp, router).with_graceful_shutdown(until).await })
        }
        Listener::Unix(unix) => {
            host.spawn(async move { axum::serve(unix, router).with_graceful_shutdown(until).await })
        }
    };
    Ok(Admin { stop, server })
}

impl Admin {
    /// Ends the server at once; nobody waits for administration.
    pub fn stop(self) {
        drop(self.stop);
        self.server.abort();
    }
}

fn router(host: Arc<Host>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/functions", get(functions))
        .route("/v1/functions/{name}", get(function))
        .route("/v1/functions/{name}/explain", get(explain))
        .route("/v1/functions/{name}/promote", post(promote))
        .route("/v1/sandboxes", get(sandboxes))
        .route("/v1/traces", get(traces))
        .route("/v1/traces/{id}", get(trace))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "no such resource") })
        .layer(middleware::from_fn(refuse_foreign_writes))
        .with_state(host)
}

/// A page in a browser must not be able to change anything here: a write must name an address or
/// `localhost` as its Host, and may only come from the same origin.
async fn refuse_foreign_writes(request: Request, next: Next) -> Response {
    if request.method().is_safe() || is_local(request.headers()) {
        return next.run(request).await;
    }
    problem(StatusCode::FORBIDDEN, "a write needs a local Host and no foreign Origin")
}

fn is_local(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text(header::HOST) else { return false };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let literal = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    let same = text(header::ORIGIN).is_none_or(|origin| origin == format!("http://{host}"));
    (literal || name == "localhost") && same
}

async fn readyz(State(host): State<Arc<Host>>) -> Response {
    if host.draining.is_cancelled() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "draining");
    }
    let functions = host.functions.load();
    let loading = functions
        .list()
        .iter()
        .filter(|function| function.component.as_ref().is_some_and(|c| c.get().is_none()))
        .count();
    match loading {
        0 => "ready\n".into_response(),
        _ => problem(StatusCode::SERVICE_UNAVAILABLE, "components are being loaded"),
    }
}

async fn metrics(State(host): State<Arc<Host>>) -> Response {
    let kind = [(header::CONTENT_TYPE, baton_otel::prometheus::CONTENT_TYPE)];
    (kind, baton_otel::prometheus::render(&metrics::read(&host))).into_response()
}

async fn functions(State(host): State<Arc<Host>>) -> Json<Value> {
    let functions = host.functions.load();
    Json(json!({
        "functions": functions.list().iter().map(|f| describe(f)).collect::<Vec<_>>(),
    }))
}

async fn explain(State(host): State<Arc<Host>>, Path(name): Path<String>) -> Response {
    match find(&host, &name) {
        Some(function) => Json(crate::explain::document(&function)).into_response(),
        None => problem(StatusCode::NOT_FOUND, "no such function"),
    }
}

async fn promote(State(host): State<Arc<Host>>, Path(name): Path<String>) -> Response {
    let Some(function) = find(&host, &name) else {
        return problem(StatusCode::NOT_FOUND, "no such function");
    };
    if function.guard.as_ref().is_some_and(Guard::promote) {
        tracing::info!(function = function.name(), "the native build is believed again");
    }
    Json(describe(&function)).into_response()
}

fn find(host: &Host, name: &str) -> Option<Arc<Function>> {
    host.functions.load().list().iter().find(|function| function.name() == name).cloned()
}

async fn function(State(host): State<Arc<Host>>, Path(name): Path<String>) -> Response {
    match find(&host, &name) {
        Some(function) => {
            let mut described = describe(&function);
            let used = function.native.as_ref().map(|native| native.consumption());
            described["usage"] = used.as_ref().map(native::describe_consumption).into();
            Json(described).into_response()
        }
        None => problem(StatusCode::NOT_FOUND, "no such function"),
    }
}

fn describe(function: &Function) -> Value {
    let counts = &function.counts;
    let requests = json!({
        "wasm": counts.answered(Tier::Wasm),
        "native": counts.answered(Tier::Native),
        "refused": counts.refused(),
        "failed": counts.failed(),
    });
    let component = function.component.as_ref().map(|component| match component.get() {
        None => json!({"state": "loading"}),
        Some(Ok(loaded)) => json!({"state": "loaded", "source": loaded.source.name()}),
        Some(Err(error)) => json!({"state": "failed", "error": error.to_string()}),
    });
    json!({
        "name": function.name(),
        "route": &*function.labels.route,
        "policy": function.spec.policy,
        "digest": &*function.labels.digest,
        "component": component,
        "requests": requests,
        "service_times": crate::explain::service_times(function),
        "demoted": function.guard.as_ref().is_some_and(Guard::is_demoted),
        "verify": function.guard.as_ref().map(Guard::document),
        "in_flight": function.gate.in_flight(),
        "waiting": function.gate.waiting(),
        "sandboxes": function.native.as_ref().map(|native| native.statistics()),
        "quarantine": function.native.as_ref().and_then(|native| native.quarantine()),
    })
}

async fn sandboxes(State(host): State<Arc<Host>>) -> Json<Value> {
    Json(json!({
        "sandboxes": native::sandboxes(&host),
        "quarantine": native::quarantined(&host),
    }))
}

async fn traces(State(host): State<Arc<Host>>) -> Json<Value> {
    let traces = host.observer.recent.list();
    Json(json!({
        "traces": traces.iter().map(|trace| trace.summary_json()).collect::<Vec<_>>(),
    }))
}

/// Every trace with this id, and those linked to it, as JSON or (`Accept: text/plain`) as a tree.
async fn trace(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Ok(id) = TraceId::from_hex(&id) else {
        return problem(StatusCode::BAD_REQUEST, "a trace id has 32 hexadecimal digits");
    };
    let mut found = host.observer.recent.get(id);
    let linked = |trace: &baton_otel::Trace| trace.root.links.iter().any(|(other, _)| *other == id);
    found.extend(host.observer.recent.list().into_iter().filter(|trace| linked(trace)));
    let found = baton_otel::join(found);
    if found.is_empty() {
        return problem(StatusCode::NOT_FOUND, "no such trace among the last ones");
    }
    let plain = headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.as_bytes().starts_with(b"text/plain"));
    if plain {
        found.iter().map(baton_otel::Trace::render).collect::<Vec<_>>().join("\n").into_response()
    } else {
        let traces: Vec<_> = found.iter().map(baton_otel::Trace::to_json).collect();
        Json(json!({ "traces": traces })).into_response()
    }
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let document = json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": detail,
    });
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, kind, document.to_string()).into_response()
}
