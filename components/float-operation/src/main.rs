//! `float-operation`: sine, cosine and square root of `n` consecutive numbers, added up.
//!
//! `POST /` with `{"n": 1, "value": 10000000}`, both optional. The numbers are `value`,
//! `value + 1` … `value + n - 1`, so that one function does what two suites measure: FunctionBench
//! loops over 0 … n-1 (`{"n": N, "value": 0}`), the korvoj suite computes one of 10,000,000 (the
//! defaults). The answer is `{"n", "value", "sin", "cos", "sqrt"}`, the last three being the sums.
//!
//! Both builds compute with the same software library and add in the same order, so their answers
//! are equal bit for bit.

use axum::Router;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::within;
use serde::{Deserialize, Serialize};

/// Some seconds of work; more is a mistake or an attack.
const N_MAX: u32 = 100_000_000;
/// Integers below this are exact in a double, with room for `N_MAX` more.
const VALUE_MAX: f64 = 1e15;

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    n: u32,
    value: f64,
}

impl Default for Input {
    fn default() -> Self {
        Self { n: 1, value: 10_000_000.0 }
    }
}

#[derive(Debug, PartialEq, Serialize)]
struct Output {
    n: u32,
    value: f64,
    sin: f64,
    cos: f64,
    sqrt: f64,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Output>, Problem> {
    let Input { n, value } = input;
    within("n", n, 1..=N_MAX)?;
    within("value", value, 0.0..=VALUE_MAX)?;
    Ok(Json(float_operation(n, value)))
}

fn float_operation(n: u32, value: f64) -> Output {
    let mut sums = Output { n, value, sin: 0.0, cos: 0.0, sqrt: 0.0 };
    for step in 0..n {
        let number = value + f64::from(step);
        sums.sin += libm::sin(number);
        sums.cos += libm::cos(number);
        sums.sqrt += libm::sqrt(number);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_one_operation_of_ten_million() {
        let Input { n, value } = Input::default();
        let output = float_operation(n, value);
        assert!((output.sin - 1e7_f64.sin()).abs() < 1e-12);
        assert!((output.cos - 1e7_f64.cos()).abs() < 1e-12);
        assert_eq!(output.sqrt, 1e7_f64.sqrt());
    }

    #[test]
    fn several_steps_are_the_sum_over_consecutive_numbers() {
        let output = float_operation(3, 4.0);
        assert_eq!(output.sqrt, 4_f64.sqrt() + 5_f64.sqrt() + 6_f64.sqrt());
    }
}
