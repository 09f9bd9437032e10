//! `encrypt-message`: a message encrypted by AES-256-GCM.
//!
//! `POST /` with `{"key": "an example of a 32-character key", "message": "hello, world", "nonce":
//! "12 byte once", "measure": true}`, all optional. The key has 32 bytes and the nonce 12, so that the
//! answer is the same whoever computes it; who encrypts more than a benchmark's message gives a new
//! nonce each time. The answer is a report whose data are `{"message"}`: base64 of the nonce, the
//! ciphertext and its tag.

use aes_gcm::aead::Aead;
use aes_gcm::{Aes256Gcm, KeyInit};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Report, Stopwatch, exactly};
use serde::{Deserialize, Serialize};

const BODY_MAX: usize = 9 << 20;

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer)).layer(DefaultBodyLimit::max(BODY_MAX))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    key: String,
    message: String,
    nonce: String,
    measure: bool,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            key: String::from("an example of a 32-character key"),
            message: String::from("hello, world"),
            nonce: String::from("12 byte once"),
            measure: true,
        }
    }
}

#[derive(Serialize)]
struct Output {
    message: String,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Report<Output>>, Problem> {
    let mut stopwatch = Stopwatch::start();
    let key = exactly::<32>("key", input.key.as_bytes())?;
    let nonce = exactly::<12>("nonce", input.nonce.as_bytes())?;
    let encrypted = Aes256Gcm::new(&key.into()).encrypt(&nonce.into(), input.message.as_bytes());
    let encrypted = encrypted.map_err(|_| {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "message is longer than the cipher allows")
    })?;
    stopwatch.computed();
    let message = STANDARD.encode([nonce.as_slice(), &encrypted].concat());
    stopwatch.serialized();
    Ok(stopwatch.report(input.measure, Output { message }))
}
