//! `imageprocessing`: a JPEG inverted, resized, rotated, and written as a PNG.
//!
//! `POST /` with `{"width": 1280, "height": 960, "seed": 1, "size": 800, "angle": 45}`, all optional.
//! The picture is made from the seed, of `width` × `height`, as a JPEG; then, as in the korvoj suite,
//! it is decoded, inverted, resized to `size` × `size` (linear) and rotated by `angle` degrees about
//! its centre. The answer is `{"jpeg_bytes", "width", "height", "png_bytes", "checksum"}`, the last of
//! the PNG.
//!
//! Decoders may use vector instructions where they are exact; sines come from the same software
//! library in both builds. So the answers are equal.

use std::io::Cursor;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Checksum, Numbers, index, length, within};
use image::imageops::{self, FilterType};
use image::{ImageFormat, ImageReader, ImageResult, Rgb, RgbImage};
use serde::{Deserialize, Serialize};

const SIDE_MAX: u32 = 2048;
/// The smooth patches of a picture.
const LIGHTS: usize = 12;

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    width: u32,
    height: u32,
    seed: u64,
    size: u32,
    angle: f64,
}

impl Default for Input {
    fn default() -> Self {
        Self { width: 1280, height: 960, seed: 1, size: 800, angle: 45.0 }
    }
}

#[derive(Serialize)]
struct Output {
    jpeg_bytes: u64,
    width: u32,
    height: u32,
    png_bytes: u64,
    checksum: Checksum,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Output>, Problem> {
    within("width", input.width, 1..=SIDE_MAX)?;
    within("height", input.height, 1..=SIDE_MAX)?;
    within("size", input.size, 1..=SIDE_MAX)?;
    within("angle", input.angle, -360.0..=360.0)?;
    process(&input).map(Json).map_err(|error| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the picture cannot be made: {error}"),
        )
    })
}

fn process(input: &Input) -> ImageResult<Output> {
    let mut jpeg = Cursor::new(Vec::new());
    picture(input).write_to(&mut jpeg, ImageFormat::Jpeg)?;
    jpeg.set_position(0);
    let mut image = ImageReader::with_format(&mut jpeg, ImageFormat::Jpeg).decode()?.into_rgb8();
    imageops::invert(&mut image);
    let resized = imageops::resize(&image, input.size, input.size, FilterType::Triangle);
    let rotated = rotate(&resized, input.angle);
    let mut png = Cursor::new(Vec::new());
    rotated.write_to(&mut png, ImageFormat::Png)?;
    let png = png.into_inner();
    Ok(Output {
        jpeg_bytes: length(jpeg.get_ref()),
        width: rotated.width(),
        height: rotated.height(),
        png_bytes: length(&png),
        checksum: Checksum::of(&png),
    })
}

/// Coloured lights in the dark, each fading with the square of the distance, and some noise.
fn picture(input: &Input) -> RgbImage {
    let mut numbers = Numbers::from_seed(input.seed);
    let lights: Vec<[f64; 5]> =
        (0..LIGHTS).map(|_| std::array::from_fn(|_| numbers.unit())).collect();
    let noise = numbers.bytes(index(input.width * input.height));
    RgbImage::from_fn(input.width, input.height, |column, row| {
        let x = f64::from(column) / f64::from(input.width);
        let y = f64::from(row) / f64::from(input.height);
        let mut colour = [f64::from(noise[index(row * input.width + column)] >> 4); 3];
        for [left, top, light @ ..] in &lights {
            let distance = (x - left) * (x - left) + (y - top) * (y - top);
            for (part, light) in colour.iter_mut().zip(light) {
                *part += 120.0 * light / (1.0 + 40.0 * distance);
            }
        }
        Rgb(colour.map(byte))
    })
}

/// About the centre, interpolated between the four nearest pixels; black where there was nothing.
fn rotate(image: &RgbImage, degrees: f64) -> RgbImage {
    let (width, height) = image.dimensions();
    let (sin, cos) = libm::sincos(degrees.to_radians());
    let (middle_x, middle_y) = (f64::from(width - 1) / 2.0, f64::from(height - 1) / 2.0);
    RgbImage::from_fn(width, height, |column, row| {
        let (x, y) = (f64::from(column) - middle_x, f64::from(row) - middle_y);
        let (x, y) = (cos * x + sin * y + middle_x, cos * y - sin * x + middle_y);
        let (left, top) = (x.floor(), y.floor());
        let mut colour = [0.0; 3];
        for (column, across) in [(left, 1.0 - (x - left)), (left + 1.0, x - left)] {
            for (row, down) in [(top, 1.0 - (y - top)), (top + 1.0, y - top)] {
                for (part, pixel) in colour.iter_mut().zip(pixel(image, column, row)) {
                    *part += across * down * f64::from(pixel);
                }
            }
        }
        Rgb(colour.map(byte))
    })
}

fn pixel(image: &RgbImage, column: f64, row: f64) -> [u8; 3] {
    let inside = |place: f64, side: u32| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is in range"
        )]
        (0.0..f64::from(side)).contains(&place).then_some(place as u32)
    };
    match (inside(column, image.width()), inside(row, image.height())) {
        (Some(column), Some(row)) => image.get_pixel(column, row).0,
        _ => [0; 3],
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
fn byte(value: f64) -> u8 {
    (value + 0.5).clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_turn_changes_nothing_and_half_a_turn_swaps_the_corners() {
        let image = picture(&Input { width: 16, height: 16, ..Input::default() });
        assert_eq!(rotate(&image, 0.0), image);
        assert_eq!(rotate(&image, 180.0).get_pixel(0, 0), image.get_pixel(15, 15));
    }

    #[test]
    fn answer_has_the_size_asked_for() {
        let input = Input { width: 64, height: 32, size: 50, ..Input::default() };
        let output = process(&input).unwrap();
        assert_eq!((output.width, output.height), (50, 50));
    }
}
