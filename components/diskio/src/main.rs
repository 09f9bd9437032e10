//! `diskio`: lines written to a file and read back.
//!
//! `POST /` with `{"lines": 100000, "width": 16, "seed": 1}`, all optional; the defaults are the korvoj
//! suite's. A line is `width` bytes with its end. The file is in `/tmp`, which the manifest's
//! `limits.scratch` grants, and is removed at the end. The answer is `{"lines", "bytes", "checksum"}`
//! of what was read; without `/tmp` it is a problem of status 501, on a full one of status 507.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Seek, Write};
use std::path::PathBuf;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Checksum, Numbers, index, length, within};
use serde::{Deserialize, Serialize};

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    lines: u32,
    width: u32,
    seed: u64,
}

impl Default for Input {
    fn default() -> Self {
        Self { lines: 100_000, width: 16, seed: 1 }
    }
}

#[derive(Debug, PartialEq, Serialize)]
struct Output {
    lines: u32,
    bytes: u64,
    checksum: Checksum,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Output>, Problem> {
    within("lines", input.lines, 1..=1_000_000)?;
    within("width", input.width, 2..=4096)?;
    within("lines × width", u64::from(input.lines) * u64::from(input.width), 1..=16 << 20)?;
    let scratch = Scratch::create().map_err(|error| {
        let detail = format!("no file can be made in /tmp, grant limits.scratch: {error}");
        Problem::new(StatusCode::NOT_IMPLEMENTED, detail)
    })?;
    write_and_read(&scratch.file, &input).map(Json).map_err(|error| {
        // WASI's `nospc`, or the `io` that its C library makes of a refused write.
        let unnamed = cfg!(target_family = "wasm") && matches!(error.raw_os_error(), Some(29 | 51));
        let status = match error.kind() {
            ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            _ if unnamed => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, format!("the file in /tmp cannot be used: {error}"))
    })
}

fn write_and_read(mut file: &File, input: &Input) -> io::Result<Output> {
    let mut numbers = Numbers::from_seed(input.seed);
    let mut writer = BufWriter::new(file);
    for _ in 0..input.lines {
        let mut line = numbers.letters(index(input.width));
        line.pop();
        writeln!(writer, "{line}")?;
    }
    writer.flush()?;
    drop(writer);
    file.rewind()?;
    let mut text = Vec::new();
    let mut lines = 0;
    for line in BufReader::new(file).lines() {
        text.extend(line?.bytes());
        text.push(b'\n');
        lines += 1;
    }
    Ok(Output { lines, bytes: length(&text), checksum: Checksum::of(&text) })
}

/// A file of this request alone; dropping it removes it.
struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    fn create() -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        for nth in 0_u32.. {
            let path = PathBuf::from(format!("/tmp/diskio-{nth}"));
            match options.open(&path) {
                Ok(file) => return Ok(Self { path, file }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed goes with the sandbox.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_read_back_what_was_written_and_leave_nothing() {
        let scratch = Scratch::create().unwrap();
        let path = scratch.path.clone();
        let output = write_and_read(&scratch.file, &Input::default()).unwrap();
        assert_eq!((output.lines, output.bytes), (100_000, 1_600_000));
        drop(scratch);
        assert!(!path.exists());
    }
}
