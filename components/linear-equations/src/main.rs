//! `linear-equations`: the solution of a system of linear equations.
//!
//! `POST /` with `{"size": 500, "seed": 1}`, both optional; the default is the korvoj suite's.
//! Coefficients and right sides are in [0, 1), made from the seed row by row, the right sides last. The
//! answer is `{"size", "seed", "sum", "residual", "checksum"}`: the sum of the unknowns, the largest
//! difference between the two sides of an equation, and the checksum of the unknowns' bits.
//!
//! Gaussian elimination with partial pivoting, in a fixed order without fused operations, so the
//! answers of both builds are equal bit for bit.

use axum::Router;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Checksum, Numbers, index, within};
use serde::{Deserialize, Serialize};

/// Two copies of the coefficients take 16 MiB.
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

#[derive(Serialize)]
struct Output {
    size: u32,
    seed: u64,
    sum: f64,
    residual: f64,
    checksum: Checksum,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Output>, Problem> {
    let Input { size, seed } = input;
    within("size", size, 1..=SIZE_MAX)?;
    let mut numbers = Numbers::from_seed(seed);
    let coefficients = numbers.units(index(size) * index(size));
    let sides = numbers.units(index(size));
    let unknowns = solve(&coefficients, &sides).ok_or_else(|| {
        Problem::bad_request(format!("seed {seed} makes a system without a single solution"))
    })?;
    Ok(Json(Output {
        size,
        seed,
        sum: unknowns.iter().sum(),
        residual: residual(&coefficients, &sides, &unknowns),
        checksum: Checksum::of_numbers(&unknowns),
    }))
}

/// The unknowns, unless the equations depend on each other.
fn solve(coefficients: &[f64], sides: &[f64]) -> Option<Vec<f64>> {
    let size = sides.len();
    let mut rows: Vec<Vec<f64>> = coefficients
        .chunks_exact(size)
        .zip(sides)
        .map(|(row, side)| row.iter().chain([side]).copied().collect())
        .collect();
    for column in 0..size {
        let pivot = (column..size)
            .max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()))?;
        rows.swap(column, pivot);
        let (above, below) = rows.split_at_mut(column + 1);
        let pivot = &above[column];
        if pivot[column] == 0.0 {
            return None;
        }
        for row in below {
            let factor = row[column] / pivot[column];
            for (element, above) in row[column..].iter_mut().zip(&pivot[column..]) {
                *element -= factor * above;
            }
        }
    }
    let mut unknowns = vec![0.0; size];
    for (nth, row) in rows.iter().enumerate().rev() {
        let known: f64 =
            row[nth + 1..size].iter().zip(&unknowns[nth + 1..]).map(|(a, x)| a * x).sum();
        unknowns[nth] = (row[size] - known) / row[nth];
    }
    Some(unknowns)
}

fn residual(coefficients: &[f64], sides: &[f64], unknowns: &[f64]) -> f64 {
    let differences = coefficients.chunks_exact(sides.len()).zip(sides).map(|(row, side)| {
        let left: f64 = row.iter().zip(unknowns).map(|(a, x)| a * x).sum();
        (left - side).abs()
    });
    differences.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solution_is_the_textbook_one() {
        let unknowns = solve(&[0.0, 2.0, 1.0, 1.0], &[4.0, 5.0]).unwrap();
        assert_eq!(unknowns, [3.0, 2.0]);
    }

    #[test]
    fn dependent_equations_have_no_single_solution() {
        assert_eq!(solve(&[1.0, 2.0, 2.0, 4.0], &[1.0, 1.0]), None);
    }

    #[test]
    fn solution_of_the_papers_size_satisfies_its_equations() {
        let mut numbers = Numbers::from_seed(1);
        let (coefficients, sides) = (numbers.units(250_000), numbers.units(500));
        let unknowns = solve(&coefficients, &sides).unwrap();
        assert!(residual(&coefficients, &sides, &unknowns) < 1e-9);
    }
}
