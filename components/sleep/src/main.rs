//! `sleep`: waits, then answers.
//!
//! `POST /` with `{"seconds": 3}`, optional; 3 is the FunLess paper's. The answer is `{"slept"}`, the
//! seconds asked for.

use std::time::Duration;

use axum::Router;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError, sleep};
use baton_papers::within;
use serde::{Deserialize, Serialize};

const SECONDS_MAX: f64 = 600.0;

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    seconds: f64,
}

impl Default for Input {
    fn default() -> Self {
        Self { seconds: 3.0 }
    }
}

#[derive(Serialize)]
struct Output {
    slept: f64,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Output>, Problem> {
    within("seconds", input.seconds, 0.0..=SECONDS_MAX)?;
    sleep(Duration::from_secs_f64(input.seconds)).await;
    Ok(Json(Output { slept: input.seconds }))
}
