//! `matmul`: the product of two square matrices of pseudo-random numbers.
//!
//! `POST /` with `{"size": 500, "seed": 1}`, both optional; 500 × 500 is FunctionBench's and the
//! korvoj suite's size. The elements are in [0, 1), made from the seed by SplitMix64: the left
//! matrix first, then the right one, row by row. The answer is `{"size", "seed", "trace", "sum",
//! "checksum"}`: of the product the sum of its diagonal, the sum of all its elements, and the
//! 64-bit FNV-1a hash of their bits in hexadecimal.
//!
//! Products are added in a fixed order without fused operations, so the answers of both builds are
//! equal bit for bit.

use axum::Router;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use serde::{Deserialize, Serialize};

/// Three matrices of this size take 24 MiB, well inside a function's default memory of 64 MiB.
const SIZE_MAX: u32 = 1024;

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
    seed: u64,
}

impl Default for Input {
    fn default() -> Self {
        Self { size: 500, seed: 1 }
    }
}

#[derive(Debug, PartialEq, Serialize)]
struct Output {
    size: u32,
    seed: u64,
    trace: f64,
    sum: f64,
    checksum: String,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Output>, Problem> {
    let Input { size, seed } = input;
    if !(1..=SIZE_MAX).contains(&size) {
        return Err(Problem::bad_request(format!("size is {size}, expected 1 to {SIZE_MAX}")));
    }
    Ok(Json(matmul(size, seed)))
}

fn matmul(size: u32, seed: u64) -> Output {
    let rows = usize::try_from(size).expect("both builds address at least 32 bits");
    let mut numbers = SplitMix64(seed);
    let left: Vec<f64> = (0..rows * rows).map(|_| numbers.unit()).collect();
    let right: Vec<f64> = (0..rows * rows).map(|_| numbers.unit()).collect();
    let product = multiply(rows, &left, &right);
    Output {
        size,
        seed,
        trace: product.iter().step_by(rows + 1).sum(),
        sum: product.iter().sum(),
        checksum: format!("{:016x}", fnv1a(&product)),
    }
}

/// Row by row, so that the inner loop runs along rows of `right` and of the product.
fn multiply(size: usize, left: &[f64], right: &[f64]) -> Vec<f64> {
    let mut product = vec![0.0; size * size];
    for (sums, factors) in product.chunks_exact_mut(size).zip(left.chunks_exact(size)) {
        for (factor, row) in factors.iter().zip(right.chunks_exact(size)) {
            for (sum, element) in sums.iter_mut().zip(row) {
                *sum += factor * element;
            }
        }
    }
    product
}

fn fnv1a(numbers: &[f64]) -> u64 {
    let bytes = numbers.iter().flat_map(|number| number.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The generator of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in [0, 1) of 32 random bits, which a double holds exactly.
    fn unit(&mut self) -> f64 {
        let high = u32::try_from(self.next() >> 32).expect("32 bits are left");
        f64::from(high) / 4_294_967_296.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_is_the_textbook_one() {
        let product = multiply(2, &[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]);
        assert_eq!(product, [19.0, 22.0, 43.0, 50.0]);
    }

    #[test]
    fn generator_gives_the_published_sequence() {
        let mut numbers = SplitMix64(1_234_567);
        assert_eq!(numbers.next(), 6_457_827_717_110_365_317);
        assert_eq!(numbers.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn another_seed_gives_another_product() {
        assert_ne!(matmul(8, 1).checksum, matmul(8, 2).checksum);
    }
}
