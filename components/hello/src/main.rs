//! `hello`: the smallest useful function.
//!
//! - `GET /` answers `hello, world` as text; `GET /NAME` greets that name. The environment
//!   variable `GREETING` replaces `hello`.
//! - `GET /bytes/COUNT` answers so many bytes.
//! - `POST /` answers the request's body, streamed as it comes, with its `Content-Type`.

use std::env;

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use baton_function::ServeError;

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new()
        .route("/", get(greet_world).post(echo))
        .route("/{name}", get(greet))
        .route("/bytes/{count}", get(bytes))
}

async fn greet_world() -> String {
    greet(Path(String::from("world"))).await
}

async fn greet(Path(name): Path<String>) -> String {
    match env::var("GREETING") {
        Ok(greeting) => format!("{greeting}, {name}\n"),
        Err(_) => format!("hello, {name}\n"),
    }
}

/// So many bytes, a million at most: an answer that costs next to nothing to make.
async fn bytes(Path(count): Path<usize>) -> Vec<u8> {
    vec![b'x'; count.min(1_000_000)]
}

async fn echo(request: Request) -> impl IntoResponse {
    let octets = HeaderValue::from_static("application/octet-stream");
    let kind = request.headers().get(header::CONTENT_TYPE).cloned().unwrap_or(octets);
    ([(header::CONTENT_TYPE, kind)], request.into_body())
}
