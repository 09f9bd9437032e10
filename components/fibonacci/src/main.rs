//! `fibonacci`: a Fibonacci number with all its digits.
//!
//! `POST /` with `{"number": 10000, "measure": true}`, both optional; Lumos asks for 10,000, 100,000
//! and 1,000,000. The answer is a report whose data are `{"number", "digits", "value"}`, the value as
//! decimal text. The published function overflows, differently in each build; this one is exact.

use axum::Router;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::{Report, Stopwatch, length, within};
use serde::{Deserialize, Serialize};

/// A value of 208,988 digits and some seconds of work.
const NUMBER_MAX: u32 = 1_000_000;

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    number: u32,
    measure: bool,
}

impl Default for Input {
    fn default() -> Self {
        Self { number: 10_000, measure: true }
    }
}

#[derive(Serialize)]
struct Output {
    number: u32,
    digits: u64,
    value: String,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Report<Output>>, Problem> {
    let mut stopwatch = Stopwatch::start();
    let Input { number, measure } = input;
    within("number", number, 0..=NUMBER_MAX)?;
    let value = fibonacci(number);
    stopwatch.computed();
    let value = value.to_decimal();
    stopwatch.serialized();
    let digits = length(value.as_bytes());
    Ok(stopwatch.report(measure, Output { number, digits, value }))
}

/// By doubling: F(2k) = F(k)·(2·F(k+1) − F(k)) and F(2k+1) = F(k)² + F(k+1)².
fn fibonacci(number: u32) -> Natural {
    let (mut this, mut next) = (Natural(vec![]), Natural(vec![1]));
    for bit in (0..u32::BITS - number.leading_zeros()).rev() {
        let double = this.times(&next.plus(&next).minus(&this));
        let after = this.times(&this).plus(&next.times(&next));
        (this, next) = if number >> bit & 1 == 0 {
            (double, after)
        } else {
            let sum = double.plus(&after);
            (after, sum)
        };
    }
    this
}

/// A natural number in base 10⁹, the lowest place first, no leading zeros.
struct Natural(Vec<u32>);

const BASE: u64 = 1_000_000_000;

fn place(value: u64) -> u32 {
    u32::try_from(value).expect("a place is less than the base")
}

impl Natural {
    fn at(&self, nth: usize) -> u64 {
        self.0.get(nth).copied().unwrap_or(0).into()
    }

    fn trimmed(mut places: Vec<u32>) -> Self {
        while places.last() == Some(&0) {
            places.pop();
        }
        Self(places)
    }

    fn plus(&self, other: &Self) -> Self {
        let mut carry = 0;
        let places = (0..=self.0.len().max(other.0.len())).map(|nth| {
            let sum = self.at(nth) + other.at(nth) + carry;
            carry = sum / BASE;
            place(sum % BASE)
        });
        Self::trimmed(places.collect())
    }

    /// `other` must not be larger.
    fn minus(&self, other: &Self) -> Self {
        let mut borrow = 0;
        let places = (0..self.0.len()).map(|nth| {
            let difference = self.at(nth) + BASE - other.at(nth) - borrow;
            borrow = u64::from(difference < BASE);
            place(difference % BASE)
        });
        Self::trimmed(places.collect())
    }

    fn times(&self, other: &Self) -> Self {
        let mut product = vec![0_u32; self.0.len() + other.0.len()];
        for (nth, factor) in self.0.iter().enumerate() {
            let mut carry = 0;
            let places = &mut product[nth..];
            for (sum, other) in places.iter_mut().zip(other.0.iter().chain([&0])) {
                let value = u64::from(*sum) + u64::from(*factor) * u64::from(*other) + carry;
                carry = value / BASE;
                *sum = place(value % BASE);
            }
        }
        Self::trimmed(product)
    }

    fn to_decimal(&self) -> String {
        let mut places = self.0.iter().rev();
        let first = places.next().copied().unwrap_or(0).to_string();
        places.fold(first, |text, place| text + &format!("{place:09}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_are_the_sums_of_the_two_before() {
        let (mut this, mut next) = (0_u128, 1_u128);
        for number in 0..=180 {
            assert_eq!(fibonacci(number).to_decimal(), this.to_string(), "F({number})");
            (this, next) = (next, this + next);
        }
    }

    #[test]
    fn large_number_has_its_published_length_and_ends() {
        let value = fibonacci(100_000).to_decimal();
        assert_eq!(value.len(), 20_899);
        assert!(value.starts_with("25974069347221724166"));
        assert!(value.ends_with("49895374653428746875"));
    }
}
