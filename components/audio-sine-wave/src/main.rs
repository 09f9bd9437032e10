//! `audio-sine-wave`: a sine wave as a WAV file, mono, 16 bits a sample.
//!
//! `POST /` with `{"frequency": 440, "seconds": 1, "rate": 44100, "size_kib", "storage", "measure":
//! true}`, all optional; the defaults are the korvoj suite's. For Lumos's audio-generation `size_kib`
//! is the length of the file in place of `seconds`, and `storage` the URL where the file is put. The
//! answer is a report whose data are `{"samples", "bytes", "checksum"}` of the file.
//!
//! Both builds compute with the same software library, so their files are equal.

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Checksum, Object, Report, Stopwatch, length, within};
use hound::{SampleFormat, WavSpec, WavWriter};
use serde::{Deserialize, Serialize};

/// What a WAV file has before its samples.
const HEADER: u32 = 44;
/// The file is held in memory; 16 MiB leave room in a function's default 64 MiB.
const SIZE_MAX: u32 = 16 << 10;

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    frequency: f64,
    seconds: f64,
    rate: u32,
    size_kib: Option<u32>,
    storage: Option<String>,
    measure: bool,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            frequency: 440.0,
            seconds: 1.0,
            rate: 44_100,
            size_kib: None,
            storage: None,
            measure: true,
        }
    }
}

#[derive(Serialize)]
struct Output {
    samples: u32,
    bytes: u64,
    checksum: Checksum,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Report<Output>>, Problem> {
    let mut stopwatch = Stopwatch::start();
    within("frequency", input.frequency, 0.0..=100_000.0)?;
    within("rate", input.rate, 1_000..=384_000)?;
    let samples = samples(&input)?;
    let storage = input.storage.as_deref().map(|url| Object::at("storage", url)).transpose()?;
    let wave: Vec<i16> =
        wave(input.frequency, input.rate).take(baton_papers::index(samples)).collect();
    stopwatch.computed();
    let file = Bytes::from(wav(input.rate, &wave));
    let output = Output { samples, bytes: length(&file), checksum: Checksum::of(&file) };
    stopwatch.serialized();
    if let Some(object) = storage {
        object.write(file).await?;
        stopwatch.retrieved();
    }
    Ok(stopwatch.report(input.measure, output))
}

fn samples(input: &Input) -> Result<u32, Problem> {
    if let Some(size) = input.size_kib {
        within("size_kib", size, 1..=SIZE_MAX)?;
        return Ok((size * 1024 - HEADER) / 2);
    }
    let most = f64::from(SIZE_MAX * 512) / f64::from(input.rate);
    within("seconds", input.seconds, 0.0..=most.floor())?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in range")]
    let samples = (input.seconds * f64::from(input.rate)) as u32;
    Ok(samples)
}

fn wave(frequency: f64, rate: u32) -> impl Iterator<Item = i16> {
    (0..u32::MAX).map(move |sample| {
        let time = f64::from(sample) / f64::from(rate);
        let amplitude = libm::sin(time * frequency * 2.0 * std::f64::consts::PI);
        #[expect(clippy::cast_possible_truncation, reason = "a sine is at most 1")]
        let sample = (amplitude * f64::from(i16::MAX)) as i16;
        sample
    })
}

fn wav(rate: u32, samples: &[i16]) -> Vec<u8> {
    let spec = WavSpec {
        channels: 1,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: SampleFormat::Int,
    };
    let mut file = std::io::Cursor::new(Vec::new());
    let mut writer = WavWriter::new(&mut file, spec).expect("memory can be written to");
    for sample in samples {
        writer.write_sample(*sample).expect("memory can be written to");
    }
    writer.finalize().expect("memory can be written to");
    file.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_make_the_papers_file() {
        let input = Input::default();
        assert_eq!(samples(&input).unwrap(), 44_100);
        let wave: Vec<i16> = wave(input.frequency, input.rate).take(44_100).collect();
        assert_eq!(wav(input.rate, &wave).len(), 88_244);
    }

    #[test]
    fn size_in_kib_is_the_length_of_the_file() {
        let input = Input { size_kib: Some(512), ..Input::default() };
        let samples = baton_papers::index(samples(&input).unwrap());
        assert_eq!(wav(input.rate, &vec![0; samples]).len(), 512 << 10);
    }
}
