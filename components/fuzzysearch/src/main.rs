//! `fuzzysearch`: the numbers of those lines of a text that resemble a phrase.
//!
//! `POST /` with `{"search": "quick brown fox", "text", "storage", "size_kib": 64, "seed": 1, "limit":
//! 100, "measure": true}`, all optional. The text is `text`, or the object at the URL `storage`, or
//! else `size_kib` of English words made from the seed. Every line is indexed, from 0. The answer is a
//! report whose data are `{"lines", "bytes", "found"}`; `found` are the best `limit` lines, ascending.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Report, Stopwatch, Text, length, within};
use serde::{Deserialize, Serialize};
use simsearch::{Index, Options};

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer)).layer(DefaultBodyLimit::max(Text::LONGEST_REQUEST))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    search: String,
    text: Option<String>,
    storage: Option<String>,
    size_kib: u32,
    seed: u64,
    limit: u32,
    measure: bool,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            search: String::from("quick brown fox"),
            text: None,
            storage: None,
            size_kib: 64,
            seed: 1,
            limit: 100,
            measure: true,
        }
    }
}

#[derive(Serialize)]
struct Output {
    lines: u32,
    bytes: u64,
    found: Vec<u32>,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Report<Output>>, Problem> {
    let mut stopwatch = Stopwatch::start();
    within("the length of search", length(input.search.as_bytes()), 1..=1000)?;
    within("limit", input.limit, 1..=100_000)?;
    let given = Text {
        text: input.text,
        storage: input.storage,
        size_kib: input.size_kib,
        seed: input.seed,
    };
    let text = given.read(&mut stopwatch).await?;
    let mut index = Index::with_options(Options::new().limit(baton_papers::index(input.limit)));
    let mut lines = 0;
    for line in text.lines() {
        index.insert(lines, line);
        lines += 1;
    }
    let mut found: Vec<u32> = index.search(&input.search).iter().map(|hit| hit.id).collect();
    found.sort_unstable();
    stopwatch.computed();
    let output = Output { lines, bytes: length(text.as_bytes()), found };
    Ok(stopwatch.report(input.measure, output))
}
