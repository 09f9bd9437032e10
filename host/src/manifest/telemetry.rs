//! `[telemetry]` and `[function.telemetry]`: what is told to whom.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[telemetry]`: traces, metrics and logs by OTLP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TelemetrySection {
    /// The collector; nothing is exported without it, unless an `OTEL_*` variable names one.
    pub endpoint: Option<String>,
    /// The share of traces begun here that are recorded, 0 to 1.
    pub sample: f64,
    /// Which of the others are recorded all the same.
    #[serde(flatten)]
    pub keep: Keep,
    /// Whether that holds also where the caller said that the trace is not recorded.
    pub keep_unsampled: bool,
}

/// Requests whose traces are recorded although they were not sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// Those that failed on the server's side.
    pub keep_errors: bool,
    /// Those that took at least so long.
    pub keep_slow: Duration,
}

impl Default for TelemetrySection {
    fn default() -> Self {
        let keep = Keep { keep_errors: true, keep_slow: Duration::from_secs(1) };
        Self { endpoint: None, sample: 1.0, keep, keep_unsampled: false }
    }
}

/// `[function.telemetry]`: what differs for one function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionTelemetry {
    /// As `telemetry.sample`.
    pub sample: Option<f64>,
    /// As `telemetry.keep_errors`.
    pub keep_errors: Option<bool>,
    /// As `telemetry.keep_slow`.
    pub keep_slow: Option<Duration>,
}

impl FunctionTelemetry {
    /// What holds for the function.
    #[must_use]
    pub fn keep(&self, all: Keep) -> Keep {
        Keep {
            keep_errors: self.keep_errors.unwrap_or(all.keep_errors),
            keep_slow: self.keep_slow.unwrap_or(all.keep_slow),
        }
    }
}
