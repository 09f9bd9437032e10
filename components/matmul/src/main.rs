//! `matmul`: the product of two square matrices of pseudo-random numbers.
//!
//! `POST /` with `{"size": 500, "seed": 1}`, both optional; 500 × 500 is FunctionBench's and the
//! korvoj suite's size, 100 the one of SeBS's matrix-mult. The elements are in [0, 1), made from the
//! seed: the left matrix first, then the right one, row by row. The answer is `{"size", "seed",
//! "trace", "sum", "checksum"}`: of the product the sum of its diagonal, the sum of all its elements,
//! and the checksum of their bits.
//!
//! Products are added in a fixed order without fused operations, so the answers of both builds are
//! equal bit for bit.

use axum::Router;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Checksum, Numbers, index, within};
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
    checksum: Checksum,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Output>, Problem> {
    let Input { size, seed } = input;
    within("size", size, 1..=SIZE_MAX)?;
    Ok(Json(matmul(size, seed)))
}

fn matmul(size: u32, seed: u64) -> Output {
    let rows = index(size);
    let mut numbers = Numbers::from_seed(seed);
    let left = numbers.units(rows * rows);
    let right = numbers.units(rows * rows);
    let product = multiply(rows, &left, &right);
    Output {
        size,
        seed,
        trace: product.iter().step_by(rows + 1).sum(),
        sum: product.iter().sum(),
        checksum: Checksum::of_numbers(&product),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_is_the_textbook_one() {
        let product = multiply(2, &[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]);
        assert_eq!(product, [19.0, 22.0, 43.0, 50.0]);
    }

    #[test]
    fn another_seed_gives_another_product() {
        assert_ne!(matmul(8, 1).checksum, matmul(8, 2).checksum);
    }
}
