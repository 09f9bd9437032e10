//! `server-reply`: one message to a server, and its answer.
//!
//! `POST /` with `{"server", "message": "hello", "measure": true}`; `server` is a URL and required. The
//! message is sent by POST. The answer is a report whose data are `{"reply"}`, the text that came
//! back; waiting for it counts as retrieval.

use axum::Router;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Object, Report, Stopwatch};
use serde::{Deserialize, Serialize};

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    server: String,
    #[serde(default = "hello")]
    message: String,
    #[serde(default = "yes")]
    measure: bool,
}

fn hello() -> String {
    String::from("hello")
}

fn yes() -> bool {
    true
}

#[derive(Serialize)]
struct Output {
    reply: String,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Report<Output>>, Problem> {
    let mut stopwatch = Stopwatch::start();
    let server = Object::at("server", &input.server)?;
    let reply = server.ask(input.message.into()).await?;
    stopwatch.retrieved();
    let reply = String::from_utf8_lossy(&reply).into_owned();
    stopwatch.serialized();
    Ok(stopwatch.report(input.measure, Output { reply }))
}
