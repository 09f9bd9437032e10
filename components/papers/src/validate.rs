//! Values of a request that must keep to bounds.

use std::fmt::Display;
use std::ops::RangeInclusive;

use baton_function::Problem;

/// That `value` is in `range`.
///
/// # Errors
/// A problem of status 400 that names the field, the value and the range.
pub fn within<T: PartialOrd + Display>(
    field: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), Problem> {
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    Err(Problem::bad_request(format!("{field} is {value}, expected {least} to {most}")))
}

/// The bytes of a `text` that must have exactly `N`. The text itself is not repeated: it is a key.
///
/// # Errors
/// A problem of status 400 that names the field and both lengths.
pub fn exactly<const N: usize>(field: &str, text: &[u8]) -> Result<[u8; N], Problem> {
    text.try_into().map_err(|_| {
        Problem::bad_request(format!("{field} has {} bytes, expected {N}", text.len()))
    })
}
