//! Bars: what a figure has to reach, and whether it does.
//!
//! A figure falls short only when its 95 % interval lies wholly past the bar; without an interval
//! the value alone decides.

use std::fmt::{self, Display};

use serde::{Serialize, Serializer};

use crate::stats::Estimate;

/// On which side of the number a figure has to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub enum Op {
    /// At most the number.
    #[serde(rename = "<=")]
    AtMost,
    /// At least the number.
    #[serde(rename = ">=")]
    AtLeast,
}

impl Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtMost => "<=",
            Self::AtLeast => ">=",
        })
    }
}

/// One bar, printed as one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// What was measured, in words that are the same in every run.
    pub figure: String,
    /// What it is to be compared by.
    pub op: Op,
    /// The number of the bar.
    pub wanted: f64,
    /// What it is, or why that is not known.
    pub measured: Result<Estimate, String>,
}

/// What became of a bar.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Reached, as far as can be told.
    Holds,
    /// Missed, with its whole interval.
    FallsShort,
    /// Nobody knows.
    NotMeasured,
}

impl Bar {
    /// A figure that is to be `wanted` or less.
    pub fn at_most(figure: impl Into<String>, measured: impl Into<Estimate>, wanted: f64) -> Self {
        Self { figure: figure.into(), op: Op::AtMost, wanted, measured: Ok(measured.into()) }
    }

    /// A figure that is to be `wanted` or more.
    pub fn at_least(figure: impl Into<String>, measured: impl Into<Estimate>, wanted: f64) -> Self {
        Self { figure: figure.into(), op: Op::AtLeast, wanted, measured: Ok(measured.into()) }
    }

    /// A figure that could not be measured here.
    pub fn not_measured(
        figure: impl Into<String>,
        op: Op,
        wanted: f64,
        why: impl Into<String>,
    ) -> Self {
        Self { figure: figure.into(), op, wanted, measured: Err(why.into()) }
    }

    /// Whether it is reached.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let Ok(Estimate { low, high, .. }) = self.measured else {
            return Verdict::NotMeasured;
        };
        let holds = match self.op {
            Op::AtMost => low <= self.wanted,
            Op::AtLeast => high >= self.wanted,
        };
        if holds { Verdict::Holds } else { Verdict::FallsShort }
    }
}

impl Serialize for Bar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            figure: &'a str,
            op: Op,
            wanted: f64,
            #[serde(flatten)]
            estimate: Option<&'a Estimate>,
            verdict: Verdict,
            why: Option<&'a str>,
        }
        let (estimate, why) = (self.measured.as_ref().ok(), self.measured.as_ref().err());
        let Self { figure, op, wanted, .. } = self;
        let (op, wanted, why) = (*op, *wanted, why.map(String::as_str));
        Flat { figure, op, wanted, estimate, verdict: self.verdict(), why }.serialize(serializer)
    }
}

impl Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { figure, op, wanted, measured } = self;
        write!(f, "bar: {figure} = ")?;
        match measured {
            Ok(Estimate { value, .. }) => write!(f, "{}", short(*value))?,
            Err(_) => f.write_str("-")?,
        }
        write!(f, " (wanted {op} {wanted}): ")?;
        match (self.verdict(), measured) {
            (_, Err(why)) => write!(f, "not measured, {why}"),
            (Verdict::FallsShort, _) => f.write_str("falls short"),
            _ => f.write_str("holds"),
        }
    }
}

/// A number with four significant digits, without an exponent.
#[must_use]
pub fn short(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    // An empty sum is -0.
    let value = value + 0.0;
    let mut digits = 3_usize;
    let mut size = value.abs();
    while size >= 10.0 && digits > 0 {
        size /= 10.0;
        digits -= 1;
    }
    while size != 0.0 && size < 1.0 && digits < 9 {
        size *= 10.0;
        digits += 1;
    }
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_the_line_of_the_contract() {
        let held = Bar::at_most("parked p50 / spawn p50", 0.94, 1.1);
        assert_eq!(held.to_string(), "bar: parked p50 / spawn p50 = 0.94 (wanted <= 1.1): holds");
        let short = Bar::at_least("rate", 100.26, 110.0);
        assert_eq!(short.to_string(), "bar: rate = 100.3 (wanted >= 110): falls short");
        let unknown = Bar::not_measured("crun", Op::AtMost, 1.0, "crun is not installed");
        assert_eq!(
            unknown.to_string(),
            "bar: crun = - (wanted <= 1): not measured, crun is not installed"
        );
    }

    #[test]
    fn a_figure_falls_short_only_with_its_whole_interval() {
        let estimate = |low, high| Estimate { value: 1.2, low, high };
        assert_eq!(Bar::at_most("x", estimate(1.05, 1.3), 1.1).verdict(), Verdict::Holds);
        assert_eq!(Bar::at_most("x", estimate(1.15, 1.3), 1.1).verdict(), Verdict::FallsShort);
        assert_eq!(Bar::at_least("x", estimate(1.15, 1.3), 1.25).verdict(), Verdict::Holds);
        assert_eq!(Bar::at_least("x", estimate(1.15, 1.2), 1.25).verdict(), Verdict::FallsShort);
    }

    #[test]
    fn numbers_are_short_and_without_exponents() {
        let shown: Vec<_> =
            [0.0, 0.000_123_456, 0.5, 1.0, 12.345_6, 123_456.7].into_iter().map(short).collect();
        assert_eq!(shown, ["0", "0.0001235", "0.5", "1", "12.35", "123457"]);
    }
}
