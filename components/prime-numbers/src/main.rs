//! `prime-numbers`: the primes up to a number, by trial division.
//!
//! `POST /` with `{"n": 100, "measure": true}`, both optional; 100 is the korvoj suite's, and Lumos's
//! request, `{"limit": 10000}` and up to a million, means the same. The answer is a report whose data
//! are `{"n", "count", "largest", "sum", "checksum"}`: how many primes there are, the last of them
//! (or null), their sum, and the checksum of all as 32-bit little-endian numbers.

use axum::Router;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Checksum, Report, Stopwatch, within};
use serde::{Deserialize, Serialize};

/// A second of work.
const N_MAX: u32 = 10_000_000;

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    #[serde(alias = "limit")]
    n: u32,
    measure: bool,
}

impl Default for Input {
    fn default() -> Self {
        Self { n: 100, measure: true }
    }
}

#[derive(Serialize)]
struct Output {
    n: u32,
    count: u32,
    largest: Option<u32>,
    sum: u64,
    checksum: Checksum,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Report<Output>>, Problem> {
    let mut stopwatch = Stopwatch::start();
    let Input { n, measure } = input;
    within("n", n, 1..=N_MAX)?;
    let primes: Vec<u32> = (1..=n).filter(|&number| is_prime(number)).collect();
    stopwatch.computed();
    let bytes: Vec<u8> = primes.iter().flat_map(|prime| prime.to_le_bytes()).collect();
    let output = Output {
        n,
        count: u32::try_from(primes.len()).expect("there are fewer primes than numbers"),
        largest: primes.last().copied(),
        sum: primes.iter().copied().map(u64::from).sum(),
        checksum: Checksum::of(&bytes),
    };
    stopwatch.serialized();
    Ok(stopwatch.report(measure, output))
}

fn is_prime(number: u32) -> bool {
    match number {
        0 | 1 => false,
        2 => true,
        _ if number.is_multiple_of(2) => false,
        _ => {
            let odd = (3..).step_by(2).take_while(|divisor| divisor * divisor <= number);
            odd.into_iter().all(|divisor| !number.is_multiple_of(divisor))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_25_primes_up_to_100() {
        let primes: Vec<u32> = (0..=100).filter(|&number| is_prime(number)).collect();
        assert_eq!(primes.len(), 25);
        assert_eq!(primes[..5], [2, 3, 5, 7, 11]);
        assert_eq!(primes.last(), Some(&97));
    }
}
