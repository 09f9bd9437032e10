//! One measurement of one function in one place, in the form in which files keep it and the report
//! draws it.

use serde::{Deserialize, Serialize};

use crate::bars::short;
use crate::client::Tier;
use crate::load::Outcome;
use crate::stats::{self, float, wide};
use crate::table::Table;

/// Points of a measurement that a file keeps at most; more are thinned evenly.
const POINTS_MAX: usize = 3000;

/// Parts of the names of events in [`Measured::counters`].
pub const INSTRUCTIONS: &str = "instructions";
/// As above.
pub const CACHE_MISSES: &str = "cache-misses";
/// As above.
pub const SYSTEM_CALLS: &str = "sys_enter";

/// What was measured.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Measured {
    /// The function.
    pub function: String,
    /// What its request said, such as `512 KiB`.
    pub parameters: String,
    /// Where it ran, such as `baton hybrid` or `runc debian`.
    pub runtime: String,
    /// How it was asked: `cold`, `warm`, a pattern's name.
    pub scenario: String,
    /// Requests at once; 0 in an open loop.
    pub connections: usize,
    /// How many requests there were.
    pub requests: usize,
    /// How many of them failed.
    pub failed: usize,
    /// Successful answers a second.
    pub rate: f64,
    /// The latency of those.
    pub latency: Latency,
    /// Share of the answers that came from the Wasm tier.
    pub wasm: f64,
    /// Share of the answers that came from the native tier.
    pub native: f64,
    /// CPU time of a request, in milliseconds.
    pub cpu_ms: Option<f64>,
    /// The most memory that was in use, in bytes.
    pub memory: Option<u64>,
    /// Energy of a request, in joules.
    pub joules: Option<f64>,
    /// Of the time inside the function, in milliseconds: I/O, serialization, computation.
    pub split: Option<Split>,
    /// Hardware and kernel counters of a request, by name.
    pub counters: Vec<(String, f64)>,
    /// When and how the target was lost, if it was: the figures are from before.
    pub lost: Option<String>,
    /// Single requests, thinned.
    pub points: Vec<Point>,
}

/// A distribution of latencies, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Latency {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// 90 % took at most so long.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// All.
    pub max: f64,
}

/// What a function says about its own time (Lumos's report), in milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Split {
    /// Reading from the store, and writing to it.
    pub retrieval: f64,
    /// From and to JSON.
    pub serialization: f64,
    /// The work itself.
    pub compute: f64,
}

/// One request.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Point {
    /// When it was to begin, in seconds from the beginning.
    pub at: f64,
    /// Its latency in milliseconds.
    pub ms: f64,
    /// Which tier answered.
    pub tier: Tier,
}

impl Measured {
    /// From the outcome of a load; what is known besides is set afterwards.
    #[must_use]
    pub fn of(function: &str, runtime: &str, scenario: &str, outcome: &Outcome) -> Self {
        let histogram = outcome.histogram();
        let ms = |quantile| wide(histogram.value_at_quantile(quantile)) / 1e6;
        let share = |tier| if histogram.is_empty() { 0.0 } else { outcome.share(tier) };
        let succeeded: Vec<_> = outcome.samples.iter().filter(|s| s.succeeded()).collect();
        let step = succeeded.len().div_ceil(POINTS_MAX).max(1);
        let point = |sample: &&crate::load::Sample| Point {
            at: wide(sample.at_ns) / 1e9,
            ms: sample.ms(),
            tier: sample.tier,
        };
        Self {
            function: function.to_owned(),
            runtime: runtime.to_owned(),
            scenario: scenario.to_owned(),
            requests: outcome.samples.len(),
            failed: outcome.failed(),
            rate: outcome.rate(),
            latency: Latency {
                mean: histogram.mean() / 1e6,
                p50: ms(0.5),
                p90: ms(0.9),
                p99: ms(0.99),
                p999: ms(0.999),
                max: ms(1.0),
            },
            wasm: share(Tier::Wasm),
            native: share(Tier::Native),
            lost: outcome.lost.clone(),
            points: succeeded.iter().step_by(step).map(point).collect(),
            ..Self::default()
        }
    }

    /// From latencies in milliseconds of requests one after the other.
    #[must_use]
    pub fn of_latencies(function: &str, runtime: &str, scenario: &str, ms: &[f64]) -> Self {
        let quantile = |q| stats::quantile(ms, q);
        let sum: f64 = ms.iter().sum();
        let mut at = 0.0;
        let points = ms.iter().map(|ms| {
            at += ms / 1e3;
            Point { at: at - ms / 1e3, ms: *ms, tier: Tier::Unknown }
        });
        Self {
            function: function.to_owned(),
            runtime: runtime.to_owned(),
            scenario: scenario.to_owned(),
            connections: 1,
            requests: ms.len(),
            rate: float(ms.len()) / (sum / 1e3),
            latency: Latency {
                mean: stats::mean(ms),
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p999: quantile(0.999),
                max: quantile(1.0),
            },
            points: points.collect(),
            ..Self::default()
        }
    }

    /// What a request did of an event, if that could be counted.
    #[must_use]
    pub fn counter(&self, event: &str) -> Option<f64> {
        self.counters.iter().find(|(name, _)| name.contains(event)).map(|(_, count)| *count)
    }

    /// The latencies that are kept, in milliseconds.
    #[must_use]
    pub fn ms(&self) -> Vec<f64> {
        self.points.iter().map(|point| point.ms).collect()
    }
}

/// A table of measurements.
#[must_use]
pub fn table(title: &str, measured: &[Measured]) -> Table {
    let columns = [
        "function", "runtime", "scenario", "at once", "requests", "failed", "1/s", "mean ms",
        "p50 ms", "p99 ms", "wasm", "native", "CPU ms",
    ];
    let mut table = Table::new(title, columns);
    for row in measured {
        let none = || "–".to_owned();
        // Of answers; where there were none there is no figure.
        let answered = row.requests > row.failed;
        let figure = |value: f64| if answered { short(value) } else { none() };
        let percent =
            |share: f64| if answered { format!("{:.0} %", share * 100.0) } else { none() };
        let function = match row.parameters.is_empty() {
            true => row.function.clone(),
            false => format!("{} {}", row.function, row.parameters),
        };
        let scenario = match row.lost {
            Some(_) => format!("{} (partial)", row.scenario),
            None => row.scenario.clone(),
        };
        table.row([
            function,
            row.runtime.clone(),
            scenario,
            if row.connections == 0 { none() } else { row.connections.to_string() },
            row.requests.to_string(),
            row.failed.to_string(),
            figure(row.rate),
            figure(row.latency.mean),
            figure(row.latency.p50),
            figure(row.latency.p99),
            percent(row.wasm),
            percent(row.native),
            row.cpu_ms.map_or_else(none, short),
        ]);
    }
    table
}

/// A table of measurements as comma-separated values, one row each.
#[must_use]
pub fn csv(measured: &[Measured]) -> String {
    let mut text = String::from(
        "function,parameters,runtime,scenario,connections,requests,failed,rate,mean_ms,p50_ms,\
         p90_ms,p99_ms,p999_ms,max_ms,wasm,native,cpu_ms,memory_bytes,joules,retrieval_ms,\
         serialization_ms,compute_ms,instructions,cache_misses,system_calls,partial\n",
    );
    for row in measured {
        let Latency { mean, p50, p90, p99, p999, max } = row.latency;
        let known = |figure: Option<f64>| figure.map(|it| it.to_string()).unwrap_or_default();
        let counter = |name: &str| known(row.counter(name));
        let fields = [
            quoted(&row.function),
            quoted(&row.parameters),
            quoted(&row.runtime),
            quoted(&row.scenario),
            row.connections.to_string(),
            row.requests.to_string(),
            row.failed.to_string(),
            row.rate.to_string(),
            mean.to_string(),
            p50.to_string(),
            p90.to_string(),
            p99.to_string(),
            p999.to_string(),
            max.to_string(),
            row.wasm.to_string(),
            row.native.to_string(),
            known(row.cpu_ms),
            row.memory.map(|bytes| bytes.to_string()).unwrap_or_default(),
            known(row.joules),
            known(row.split.map(|split| split.retrieval)),
            known(row.split.map(|split| split.serialization)),
            known(row.split.map(|split| split.compute)),
            counter(INSTRUCTIONS),
            counter(CACHE_MISSES),
            counter(SYSTEM_CALLS),
            row.lost.is_some().to_string(),
        ];
        text += &fields.join(",");
        text.push('\n');
    }
    text
}

/// A field of comma-separated values.
pub(crate) fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Sample;
    use std::time::Duration;

    #[test]
    fn a_measurement_counts_failures_and_keeps_no_more_points_than_it_may() {
        let sample = |status| Sample {
            at_ns: 0,
            latency_ns: 2_000_000,
            request: 0,
            status,
            tier: Tier::Wasm,
        };
        let mut samples = vec![sample(200); 10 * POINTS_MAX];
        samples.push(sample(0));
        let outcome = Outcome { samples, elapsed: Duration::from_secs(10), ..Outcome::default() };
        let measured = Measured::of("f", "r", "warm", &outcome);
        assert_eq!((measured.failed, measured.points.len()), (1, POINTS_MAX));
        assert!((measured.latency.p50 - 2.0).abs() < 0.01 && measured.wasm == 1.0);
    }

    #[test]
    fn where_nothing_was_answered_there_are_no_figures_and_the_row_can_be_read_again() {
        let nothing = Measured::of("f", "r", "spike", &Outcome::default());
        let text = serde_json::to_string(&nothing).expect("JSON");
        assert_eq!(serde_json::from_str::<Measured>(&text).expect("a row").rate, 0.0);
        let table = table("t", &[nothing]).to_string();
        assert!(!table.contains("NaN") && table.matches('–').count() == 8, "{table}");
    }

    #[test]
    fn every_row_of_comma_separated_values_has_every_column() {
        let mut row = Measured { joules: Some(0.5), ..Measured::default() };
        row.counters = vec![("raw_syscalls:sys_enter".into(), 7.0)];
        row.split = Some(Split { retrieval: 1.0, serialization: 2.0, compute: 3.0 });
        let text = csv(&[row]);
        let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let (columns, row) = (lines.next().expect("columns"), lines.next().expect("a row"));
        assert_eq!(columns.len(), row.len());
        let at = |name| row[columns.iter().position(|column| *column == name).expect(name)];
        assert_eq!((at("joules"), at("system_calls"), at("compute_ms")), ("0.5", "7", "3"));
        assert_eq!((at("instructions"), at("partial")), ("", "false"));
    }

    #[test]
    fn fields_with_commas_are_quoted() {
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
