//! `aes-encryption`: a message encrypted and decrypted again by AES-128 in counter mode, many times.
//!
//! `POST /` with `{"message", "length": 1000, "iterations": 100, "key": "16 byte long key", "seed":
//! 1}`, all optional; the defaults are the korvoj suite's. Without a `message` it is `length` characters
//! of English words made from the seed. The counter begins at 1 in every iteration. The answer is
//! `{"length", "iterations", "ciphertext"}`, the last in base64, after every iteration gave the
//! message back.

use axum::Router;
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Numbers, exactly, index, length, within};
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use serde::{Deserialize, Serialize};

const LENGTH_MAX: u32 = 1 << 20;
const ITERATIONS_MAX: u32 = 100_000;
/// Some seconds of work.
const TOTAL_MAX: u64 = 1 << 28;

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    message: Option<String>,
    length: u32,
    iterations: u32,
    key: String,
    seed: u64,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            message: None,
            length: 1000,
            iterations: 100,
            key: String::from("16 byte long key"),
            seed: 1,
        }
    }
}

#[derive(Serialize)]
struct Output {
    length: u64,
    iterations: u32,
    ciphertext: String,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Output>, Problem> {
    within("length", input.length, 1..=LENGTH_MAX)?;
    within("iterations", input.iterations, 1..=ITERATIONS_MAX)?;
    let key = exactly("key", input.key.as_bytes())?;
    let message =
        input.message.unwrap_or_else(|| Numbers::from_seed(input.seed).text(index(input.length)));
    let length = length(message.as_bytes());
    within("length × iterations", length * u64::from(input.iterations), 0..=TOTAL_MAX)?;
    let mut ciphertext = String::new();
    for _ in 0..input.iterations {
        ciphertext = encrypt(&key, message.as_bytes());
        assert_eq!(decrypt(&key, &ciphertext), message.as_bytes(), "AES is its own inverse here");
    }
    Ok(Json(Output { length, iterations: input.iterations, ciphertext }))
}

fn cipher(key: &[u8; 16]) -> Ctr128BE<aes::Aes128> {
    Ctr128BE::new(key.into(), &1_u128.to_be_bytes().into())
}

fn encrypt(key: &[u8; 16], message: &[u8]) -> String {
    let mut bytes = message.to_vec();
    cipher(key).apply_keystream(&mut bytes);
    STANDARD.encode(bytes)
}

fn decrypt(key: &[u8; 16], ciphertext: &str) -> Vec<u8> {
    let mut bytes = STANDARD.decode(ciphertext).expect("it was just encoded");
    cipher(key).apply_keystream(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_block_is_the_encrypted_counter() {
        // openssl enc -aes-128-ctr -K 00000000000000000000000000000000 -iv 00000000000000000000000000000001
        let ciphertext = STANDARD.decode(encrypt(&[0; 16], &[0; 16])).unwrap();
        assert_eq!(ciphertext[..4], [0x58, 0xe2, 0xfc, 0xce]);
    }

    #[test]
    fn decryption_gives_the_message_back() {
        let key = *b"16 byte long key";
        assert_eq!(decrypt(&key, &encrypt(&key, b"attack at dawn")), b"attack at dawn");
    }
}
