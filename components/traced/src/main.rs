//! `traced`: tells of its own work.
//!
//! `GET /` answers `2`: the addition is a span, `add`, within another, `work`, and tells of itself in a
//! line of log. `GET /broken` does the same, and the line is an error.

use axum::Router;
use axum::routing::get;
use baton_function::{ServeError, traced};

fn main() -> Result<(), ServeError> {
    let router = Router::new()
        .route("/", get(async || work(false)))
        .route("/broken", get(async || work(true)));
    baton_function::serve(traced(router))
}

#[tracing::instrument]
fn work(broken: bool) -> String {
    format!("{}\n", add(1, 1, broken))
}

#[tracing::instrument(skip(broken))]
fn add(a: u32, b: u32, broken: bool) -> u32 {
    if broken {
        tracing::error!("it broke");
    } else {
        tracing::info!("adding");
    }
    a + b
}
