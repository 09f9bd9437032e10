//! `zip-compression`: several files in one archive, compressed by Deflate.
//!
//! `POST /` with `{"files": 8, "size_kib": 128, "seed": 1}`, all optional; each file is `size_kib` of
//! English words made from the seed. (The korvoj suite's files are stored uncompressed; ours are
//! compressed.) The answer is `{"files", "bytes", "compressed", "checksum"}`: the length of all files,
//! that of the archive, and the archive's checksum.

use std::io::{Cursor, Write};

use axum::Router;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Checksum, Numbers, index, length, within};
use serde::{Deserialize, Serialize};
use zip::write::{SimpleFileOptions, ZipWriter};
use zip::{CompressionMethod, DateTime};

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    files: u32,
    size_kib: u32,
    seed: u64,
}

impl Default for Input {
    fn default() -> Self {
        Self { files: 8, size_kib: 128, seed: 1 }
    }
}

#[derive(Serialize)]
struct Output {
    files: u32,
    bytes: u64,
    compressed: u64,
    checksum: Checksum,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Output>, Problem> {
    let Input { files, size_kib, seed } = input;
    within("files", files, 1..=1000)?;
    within("size_kib", size_kib, 1..=4096)?;
    within("files × size_kib", files * size_kib, 1..=16 << 10)?;
    let mut numbers = Numbers::from_seed(seed);
    let texts: Vec<String> = (0..files).map(|_| numbers.text(index(size_kib * 1024))).collect();
    let archive = archive(&texts);
    Ok(Json(Output {
        files,
        bytes: texts.iter().map(|text| length(text.as_bytes())).sum(),
        compressed: length(&archive),
        checksum: Checksum::of(&archive),
    }))
}

fn archive(texts: &[String]) -> Vec<u8> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default())
        .unix_permissions(0o644);
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (nth, text) in texts.iter().enumerate() {
        archive.start_file(format!("{nth:04}.txt"), options).expect("memory can be written to");
        archive.write_all(text.as_bytes()).expect("memory can be written to");
    }
    archive.finish().expect("memory can be written to").into_inner()
}

#[cfg(test)]
mod tests {
    use std::io::read_to_string;

    use zip::ZipArchive;

    use super::*;

    #[test]
    fn archive_is_smaller_and_gives_its_files_back() {
        let texts = [1, 2].map(|seed| Numbers::from_seed(seed).text(10_000));
        let archive = archive(&texts);
        assert!(archive.len() < 10_000);
        let mut archive = ZipArchive::new(Cursor::new(archive)).unwrap();
        for (nth, text) in texts.iter().enumerate() {
            assert_eq!(&read_to_string(archive.by_index(nth).unwrap()).unwrap(), text);
        }
    }
}
