//! `checksum`: MD5, SHA-256 and SHA-512 of the same bytes.
//!
//! `POST /` with `{"size_kib": 16384, "seed": 1}`, both optional; 16 MiB is ours, the korvoj suite
//! reads a file. The bytes are made from the seed. The answer is `{"bytes", "md5", "sha256",
//! "sha512"}`, in hexadecimal.

use axum::Router;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Numbers, index, length, within};
use md5::Md5;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha512};

/// The bytes are held in memory; this leaves room in a function's default 64 MiB.
const SIZE_MAX: u32 = 32 << 10;

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    size_kib: u32,
    seed: u64,
}

impl Default for Input {
    fn default() -> Self {
        Self { size_kib: 16 << 10, seed: 1 }
    }
}

#[derive(Serialize)]
struct Output {
    bytes: u64,
    md5: String,
    sha256: String,
    sha512: String,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Output>, Problem> {
    let Input { size_kib, seed } = input;
    within("size_kib", size_kib, 1..=SIZE_MAX)?;
    Ok(Json(digests(&Numbers::from_seed(seed).bytes(index(size_kib * 1024)))))
}

fn digests(bytes: &[u8]) -> Output {
    Output {
        bytes: length(bytes),
        md5: format!("{:x}", Md5::digest(bytes)),
        sha256: format!("{:x}", Sha256::digest(bytes)),
        sha512: format!("{:x}", Sha512::digest(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_the_published_ones() {
        let Output { md5, sha256, sha512, .. } = digests(b"abc");
        assert_eq!(md5, "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(sha512.starts_with("ddaf35a193617abacc417349ae204131"));
    }
}
