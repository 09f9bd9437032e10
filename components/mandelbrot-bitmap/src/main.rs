//! `mandelbrot-bitmap`: the Mandelbrot set as a portable bitmap (PBM, P4).
//!
//! `POST /` with `{"size": 1024, "storage", "measure": true}`, all optional: the side of the picture in
//! pixels, a multiple of 8, and the URL where the file is put. The picture shows −1.5…0.5 by −1…1,
//! black where 50 steps stay within 2. The answer is a report whose data are `{"size", "bytes",
//! "checksum"}` of the file.

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Checksum, Object, Report, Stopwatch, length, within};
use serde::{Deserialize, Serialize};

/// Some seconds of work.
const SIZE_MAX: u32 = 4096;
const STEPS: u32 = 50;

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    size: u32,
    storage: Option<String>,
    measure: bool,
}

impl Default for Input {
    fn default() -> Self {
        Self { size: 1024, storage: None, measure: true }
    }
}

#[derive(Serialize)]
struct Output {
    size: u32,
    bytes: u64,
    checksum: Checksum,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Report<Output>>, Problem> {
    let mut stopwatch = Stopwatch::start();
    let Input { size, storage, measure } = input;
    within("size", size, 8..=SIZE_MAX)?;
    if !size.is_multiple_of(8) {
        return Err(Problem::bad_request(format!("size is {size}, expected a multiple of 8")));
    }
    let storage = storage.map(|url| Object::at("storage", &url)).transpose()?;
    let pixels: Vec<u8> = (0..size).flat_map(|row| row_of(row, size)).collect();
    stopwatch.computed();
    let file = Bytes::from([format!("P4\n{size} {size}\n").as_bytes(), &pixels].concat());
    let output = Output { size, bytes: length(&file), checksum: Checksum::of(&file) };
    stopwatch.serialized();
    if let Some(object) = storage {
        object.write(file).await?;
        stopwatch.retrieved();
    }
    Ok(stopwatch.report(measure, output))
}

/// Eight pixels a byte, the first in the highest bit.
fn row_of(row: u32, size: u32) -> impl Iterator<Item = u8> {
    let scale = 2.0 / f64::from(size);
    let y = f64::from(row) * scale - 1.0;
    (0..size / 8).map(move |byte| {
        (0..8).fold(0, |bits, bit| {
            let x = f64::from(byte * 8 + bit) * scale - 1.5;
            bits << 1 | u8::from(stays(x, y))
        })
    })
}

fn stays(x: f64, y: f64) -> bool {
    let (mut real, mut imaginary) = (0.0, 0.0);
    for _ in 0..STEPS {
        (real, imaginary) = (real * real - imaginary * imaginary + x, 2.0 * real * imaginary + y);
        if real * real + imaginary * imaginary > 4.0 {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_stays_and_the_corner_does_not() {
        assert!(stays(0.0, 0.0));
        assert!(!stays(0.5, 1.0));
    }

    #[test]
    fn picture_is_the_known_one() {
        let rows: Vec<u8> = (0..8).flat_map(|row| row_of(row, 8)).collect();
        assert_eq!(rows, [0x02, 0x00, 0x0f, 0x2f, 0xff, 0x2f, 0x0f, 0x00]);
    }
}
