//! Sizes and durations with their units.
//!
//! Contract: a size is a number and one of `B KB MB GB KiB MiB GiB`, a duration a number and one of
//! `ns us ms s m h`; the number may have a decimal fraction as long as the value is a whole number
//! of bytes or nanoseconds; zero needs no unit. What [`fmt::Display`] of [`ByteSize`] and
//! [`duration_text`] write is read back as the same value.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fault::Misfit;

/// A number of bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `count` times 1024 bytes.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// `count` times 1024² bytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// `count` times 1024³ bytes.
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// A unit's name and how many bytes or nanoseconds it is.
type Unit = (&'static str, u64);

const SIZES: &[Unit] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

const DURATIONS: &[Unit] = &[
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// What a size looks like.
pub const A_SIZE: &str = "a size with its unit (B, KB, MB, GB, KiB, MiB, GiB), such as \"64MiB\"";

/// What a duration looks like.
pub const A_DURATION: &str = "a duration with its unit (ns, us, ms, s, m, h), such as \"30s\"";

impl FromStr for ByteSize {
    type Err = Misfit;

    fn from_str(text: &str) -> Result<Self, Misfit> {
        quantity(text, SIZES, A_SIZE).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_quantity(f, self.0, SIZES)
    }
}

/// Reads a duration such as `30s` or `1.5ms`.
pub fn duration(text: &str) -> Result<Duration, Misfit> {
    quantity(text, DURATIONS, A_DURATION).map(Duration::from_nanos)
}

/// A duration as [`duration`] reads it, in the largest unit that it is a whole number of.
///
/// Durations past 584 years do not come from a manifest and are shown as that.
pub fn duration_text(duration: Duration) -> impl fmt::Display {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    fmt::from_fn(move |f| write_quantity(f, nanos, DURATIONS))
}

fn write_quantity(f: &mut fmt::Formatter<'_>, value: u64, units: &[Unit]) -> fmt::Result {
    let whole = |unit: &&Unit| value.is_multiple_of(unit.1);
    match units.iter().find(whole) {
        Some((name, factor)) if value > 0 => write!(f, "{}{name}", value / factor),
        _ => f.write_str("0"),
    }
}

fn quantity(text: &str, units: &[Unit], expected: &'static str) -> Result<u64, Misfit> {
    let misfit = |problem: String| Misfit::new(problem, expected);
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim_start());
    let Some((digits, scale)) = decimal(number) else {
        return Err(misfit(format!("\"{text}\" does not begin with a number")));
    };
    if digits == 0 && unit.is_empty() {
        return Ok(0);
    }
    if unit.is_empty() {
        return Err(misfit(format!("\"{text}\" has no unit")));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let meant = meant_unit(unit, units).map(|meant| format!("\"{number}{meant}\""));
        return Err(misfit(format!("\"{text}\" has the unknown unit \"{unit}\"")).suggest(meant));
    };
    let scaled = u128::from(digits) * u128::from(*factor);
    if !scaled.is_multiple_of(u128::from(scale)) {
        let least = units.last().map_or("", |(name, _)| name);
        return Err(misfit(format!("\"{text}\" is not a whole number of {least}")));
    }
    u64::try_from(scaled / u128::from(scale))
        .map_err(|_| misfit(format!("\"{text}\" is too large")))
}

/// The digits of a decimal number without the point, and the power of ten to divide them by.
fn decimal(number: &str) -> Option<(u64, u64)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (fraction.is_empty() && number.contains('.')) {
        return None;
    }
    let scale = 10u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let digits = whole.parse::<u64>().ok()?.checked_mul(scale)?.checked_add(fraction)?;
    Some((digits, scale))
}

/// `64M`, `64mib` and `5sec` are near misses.
fn meant_unit(unit: &str, units: &[Unit]) -> Option<&'static str> {
    let unit = unit.to_ascii_lowercase();
    let like = |(name, _): &&Unit| name.to_ascii_lowercase().starts_with(&unit);
    let start = |(name, _): &&Unit| unit.starts_with(&name.to_ascii_lowercase());
    units.iter().find(like).or_else(|| units.iter().find(start)).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_size_is_read_back_as_it_was_written(bytes: u64) {
            let size = ByteSize(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn a_duration_is_read_back_as_it_was_written(nanos: u64) {
            let written = Duration::from_nanos(nanos);
            prop_assert_eq!(duration(&duration_text(written).to_string()), Ok(written));
        }

        #[test]
        fn a_number_with_any_unit_is_that_many_units(number in 0u64..1 << 30, unit in 0..SIZES.len()) {
            let (name, factor) = SIZES[unit];
            prop_assert_eq!(format!("{number}{name}").parse(), Ok(ByteSize(number * factor)));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[0-9.]{0,30}[ a-zA-Zµ]{0,4}") {
            let _answers = (text.parse::<ByteSize>(), duration(&text));
        }
    }

    #[test]
    fn powers_of_1000_and_of_1024_are_told_apart() {
        assert_eq!("64MB".parse(), Ok(ByteSize(64_000_000)));
        assert_eq!("64MiB".parse(), Ok(ByteSize(67_108_864)));
    }

    #[test]
    fn fractions_of_a_unit_are_read_exactly() {
        assert_eq!("1.5 GiB".parse(), Ok(ByteSize::mib(1536)));
        assert_eq!(duration("0.25ms"), Ok(Duration::from_micros(250)));
        assert!("0.3B".parse::<ByteSize>().is_err());
    }

    #[test]
    fn zero_needs_no_unit() {
        assert_eq!("0".parse(), Ok(ByteSize(0)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn near_misses_of_a_unit_are_guessed() {
        let meant = |text: &str| text.parse::<ByteSize>().unwrap_err().suggestion;
        assert_eq!(meant("64M").as_deref(), Some("\"64MiB\""));
        assert_eq!(meant("64mb").as_deref(), Some("\"64MB\""));
        assert_eq!(meant("64 bytes").as_deref(), Some("\"64B\""));
        assert_eq!(meant("64 apples"), None);
        let meant = |text: &str| duration(text).unwrap_err().suggestion;
        assert_eq!(meant("5min").as_deref(), Some("\"5m\""));
        assert_eq!(meant("5 seconds").as_deref(), Some("\"5s\""));
    }
}
