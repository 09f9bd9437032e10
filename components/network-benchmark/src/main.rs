//! `network-benchmark`: requests to a server, one after the other, and an upload of their times.
//!
//! `POST /` with `{"server", "storage", "requests": 16, "id": 0, "measure": true}`; `server` and
//! `storage` are URLs and required, 16 is SeBS's. Each request is a POST of `{"id", "request",
//! "timestamp_us"}`, the time since 1970; at the end a line `request,sent_us,received_us` for each is
//! put to `storage`. The answer is a report whose data are `{"requests", "round_trips_ms"}`, the latter
//! when measured; the requests count as retrieval and the upload too.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Object, Report, Stopwatch, within};
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
    storage: String,
    #[serde(default = "sixteen")]
    requests: u32,
    #[serde(default)]
    id: u64,
    #[serde(default = "yes")]
    measure: bool,
}

fn sixteen() -> u32 {
    16
}

fn yes() -> bool {
    true
}

#[derive(Serialize)]
struct Output {
    requests: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trips_ms: Option<Vec<f64>>,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Report<Output>>, Problem> {
    let mut stopwatch = Stopwatch::start();
    let Input { requests, id, measure, .. } = input;
    within("requests", requests, 1..=1000)?;
    let server = Object::at("server", &input.server)?;
    let storage = Object::at("storage", &input.storage)?;
    let mut times = Vec::new();
    for request in 0..requests {
        let sent = now_us();
        let message = format!(r#"{{"id":{id},"request":{request},"timestamp_us":{sent}}}"#);
        server.ask(message.into()).await?;
        times.push((sent, now_us()));
    }
    stopwatch.retrieved();
    let table = table(&times);
    stopwatch.serialized();
    storage.write(table).await?;
    stopwatch.retrieved();
    let round_trips_ms = measure.then(|| times.iter().map(|times| round_trip_ms(*times)).collect());
    Ok(stopwatch.report(measure, Output { requests, round_trips_ms }))
}

/// What SeBS's server and its analysis compare: the clock of the day, which may be set back.
fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn round_trip_ms((sent, received): (u64, u64)) -> f64 {
    std::time::Duration::from_micros(received.saturating_sub(sent)).as_secs_f64() * 1000.0
}

fn table(times: &[(u64, u64)]) -> Bytes {
    let lines = times.iter().enumerate();
    let lines = lines.map(|(request, (sent, received))| format!("{request},{sent},{received}\n"));
    lines.collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_a_line_for_each_request() {
        assert_eq!(table(&[(1, 2), (3, 7)]), "0,1,2\n1,3,7\n");
    }

    #[test]
    fn clock_set_back_makes_no_negative_time() {
        assert_eq!(round_trip_ms((2_000, 1_000)), 0.0);
        assert_eq!(round_trip_ms((1_000, 2_500)), 1.5);
    }
}
