//! `decrypt-message`: a message of encrypt-message, decrypted by AES-256-GCM.
//!
//! `POST /` with `{"key": "an example of a 32-character key", "message", "measure": true}`, all
//! optional; the default message is what encrypt-message answers to its own defaults. The answer is a
//! report whose data are `{"message"}`, or a problem of status 400 when the message was not encrypted
//! with that key.

use aes_gcm::aead::Aead;
use aes_gcm::{Aes256Gcm, KeyInit};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Report, Stopwatch, exactly};
use serde::{Deserialize, Serialize};

const BODY_MAX: usize = 12 << 20;
const NONCE: usize = 12;

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
    measure: bool,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            key: String::from("an example of a 32-character key"),
            message: String::from("MTIgYnl0ZSBvbmNlxBl/2Vr0+LKW+Vhfv7DbyHpRan18mPf5mpAzqw=="),
            measure: true,
        }
    }
}

#[derive(Debug, PartialEq, Serialize)]
struct Output {
    message: String,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Report<Output>>, Problem> {
    let mut stopwatch = Stopwatch::start();
    let key = exactly("key", input.key.as_bytes())?;
    let bytes = STANDARD.decode(&input.message);
    let bytes =
        bytes.map_err(|error| Problem::bad_request(format!("message is no base64: {error}")))?;
    stopwatch.serialized();
    let message = decrypt(&key, &bytes)?;
    stopwatch.computed();
    Ok(stopwatch.report(input.measure, Output { message }))
}

fn decrypt(key: &[u8; 32], bytes: &[u8]) -> Result<String, Problem> {
    let bad = |what| Problem::bad_request(format!("message {what}"));
    let (nonce, encrypted) =
        bytes.split_first_chunk::<NONCE>().ok_or_else(|| bad("is shorter than its nonce"))?;
    let message = Aes256Gcm::new(key.into()).decrypt(nonce.into(), encrypted);
    let message = message.map_err(|_| bad("was not encrypted with this key, or was changed"))?;
    String::from_utf8(message).map_err(|_| bad("is no UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decrypt_default(change: impl FnOnce(&mut Vec<u8>)) -> Result<String, Problem> {
        let Input { key, message, .. } = Input::default();
        let mut bytes = STANDARD.decode(message).unwrap();
        change(&mut bytes);
        decrypt(&exactly("key", key.as_bytes()).unwrap(), &bytes)
    }

    #[test]
    fn default_message_is_the_one_of_encrypt_message() {
        assert_eq!(decrypt_default(|_| {}).unwrap(), "hello, world");
    }

    #[test]
    fn changed_or_cut_message_is_refused() {
        decrypt_default(|bytes| bytes[20] ^= 1).unwrap_err();
        decrypt_default(|bytes| bytes.truncate(5)).unwrap_err();
    }
}
