//! What administration says, and what it means between two moments.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

/// What was counted up to one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reading {
    /// By function and tier: requests up to each bound of duration, cumulative.
    durations: BTreeMap<(String, String), BTreeMap<Bound, f64>>,
    errors: BTreeMap<String, f64>,
    /// Name, requests in flight, requests waiting, sandboxes by state.
    functions: Vec<(String, u64, u64, BTreeMap<String, u64>)>,
    sandboxes: BTreeMap<String, f64>,
    memory: f64,
    memory_limit: f64,
}

/// An upper bound in nanoseconds, which orders as numbers do; the last one is infinite.
type Bound = u64;

impl Reading {
    /// Reads the page of metrics and the list of functions; what is not understood is left out.
    pub(super) fn parse(metrics: &str, functions: &str) -> Self {
        let mut reading = Self::default();
        for line in metrics.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, labels, value)) = sample(line) {
                reading.take(name, labels, value);
            }
        }
        let list: Value = serde_json::from_str(functions).unwrap_or_default();
        let list = list["functions"].as_array().cloned().unwrap_or_default();
        reading.functions = list
            .iter()
            .filter_map(|function| {
                let states = function["sandboxes"].as_object().into_iter().flatten();
                let states = states
                    .filter_map(|(state, count)| Some((state.clone(), count.as_u64()?)))
                    .collect();
                Some((
                    function["name"].as_str()?.to_owned(),
                    function["in_flight"].as_u64().unwrap_or(0),
                    function["waiting"].as_u64().unwrap_or(0),
                    states,
                ))
            })
            .collect();
        reading
    }

    fn take(&mut self, name: &str, mut labels: BTreeMap<String, String>, value: f64) {
        let mut label = |key: &str| labels.remove(key);
        match name {
            "http_server_request_duration_seconds_bucket" => {
                let (Some(function), Some(tier)) = (label("faas_name"), label("baton_tier")) else {
                    return;
                };
                let Some(bound) = label("le").and_then(|le| bound(&le)) else { return };
                let of_tier = self.durations.entry((function, tier)).or_default();
                *of_tier.entry(bound).or_default() += value;
            }
            "faas_errors_total" => {
                if let Some(function) = label("faas_name") {
                    self.errors.insert(function, value);
                }
            }
            "baton_sandboxes" => {
                if let Some(state) = label("baton_sandbox_state") {
                    self.sandboxes.insert(state, value);
                }
            }
            "baton_pool_memory_bytes" => self.memory = value,
            "baton_pool_memory_limit_bytes" => self.memory_limit = value,
            _ => {}
        }
    }
}

fn bound(le: &str) -> Option<Bound> {
    if le == "+Inf" {
        return Some(Bound::MAX);
    }
    let seconds: f64 = le.parse().ok()?;
    let bound = Duration::try_from_secs_f64(seconds).ok()?.as_nanos();
    u64::try_from(bound).ok()
}

/// `name{label="value",…} number`.
fn sample(line: &str) -> Option<(&str, BTreeMap<String, String>, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some((series, BTreeMap::new(), value));
    };
    let (mut found, mut rest) = (BTreeMap::new(), labels.strip_suffix('}')?);
    while let Some((key, quoted)) = rest.split_once("=\"") {
        let (mut text, mut chars) = (String::new(), quoted.char_indices());
        let end = loop {
            match chars.next()? {
                (_, '\\') => match chars.next()?.1 {
                    'n' => text.push('\n'),
                    other => text.push(other),
                },
                (end, '"') => break end,
                (_, other) => text.push(other),
            }
        };
        found.insert(key.trim_start_matches(',').to_owned(), text);
        rest = quoted.get(end + 1..)?;
    }
    Some((name, found, value))
}

/// What is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View {
    pub(super) rows: Vec<Row>,
    pub(super) sandboxes: BTreeMap<String, f64>,
    pub(super) memory: f64,
    pub(super) memory_limit: f64,
}

/// A function.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    /// In Wasm, then in native.
    pub(super) tiers: [Tier; 2],
    pub(super) errors: f64,
    pub(super) in_flight: u64,
    pub(super) waiting: u64,
    pub(super) sandboxes: BTreeMap<String, u64>,
}

/// Requests of one tier.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tier {
    /// A second.
    pub(super) rate: f64,
    pub(super) p50: Option<Duration>,
    pub(super) p99: Option<Duration>,
}

impl View {
    /// What happened between two readings, `elapsed` apart; the first view has only totals.
    pub(super) fn between(earlier: &Reading, later: &Reading, elapsed: Duration) -> Self {
        let per_second =
            |count: f64| if elapsed.is_zero() { 0.0 } else { count / elapsed.as_secs_f64() };
        let rows = later.functions.iter().map(|(name, in_flight, waiting, sandboxes)| {
            let tier = |tier: &str| {
                let key = (name.clone(), tier.to_owned());
                let counts = since(earlier.durations.get(&key), later.durations.get(&key));
                let total = counts.last().map_or(0.0, |(_, count)| *count);
                Tier {
                    rate: per_second(total),
                    p50: quantile(&counts, 0.5),
                    p99: quantile(&counts, 0.99),
                }
            };
            let errors = |reading: &Reading| reading.errors.get(name).copied().unwrap_or(0.0);
            Row {
                name: name.clone(),
                tiers: [tier("wasm"), tier("native")],
                errors: per_second(errors(later) - errors(earlier)),
                in_flight: *in_flight,
                waiting: *waiting,
                sandboxes: sandboxes.clone(),
            }
        });
        Self {
            rows: rows.collect(),
            sandboxes: later.sandboxes.clone(),
            memory: later.memory,
            memory_limit: later.memory_limit,
        }
    }
}

fn since(
    earlier: Option<&BTreeMap<Bound, f64>>,
    later: Option<&BTreeMap<Bound, f64>>,
) -> Vec<(Bound, f64)> {
    let then = |bound| earlier.and_then(|counts| counts.get(bound)).copied().unwrap_or(0.0);
    let now = later.into_iter().flatten();
    // A Baton that was started anew counts from zero.
    now.map(|(bound, count)| (*bound, (count - then(bound)).max(0.0))).collect()
}

/// As Prometheus' `histogram_quantile`: interpolated within the bucket.
fn quantile(cumulative: &[(Bound, f64)], q: f64) -> Option<Duration> {
    let total = cumulative.last()?.1;
    if total < 1.0 {
        return None;
    }
    let (mut lower, mut below) = (0, 0.0);
    for (bound, count) in cumulative {
        if *count >= q * total && *bound != Bound::MAX {
            let within = (q * total - below) / (count - below).max(1.0);
            let width = Duration::from_nanos(bound - lower);
            return Some(Duration::from_nanos(lower) + width.mul_f64(within.clamp(0.0, 1.0)));
        }
        if *bound != Bound::MAX {
            (lower, below) = (*bound, *count);
        }
    }
    Some(Duration::from_nanos(lower))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A page with `fast` requests below 1 ms and `slow` ones below 1 s.
    pub(crate) fn page(fast: u32, slow: u32) -> String {
        let all = fast + slow;
        let series = "http_server_request_duration_seconds_bucket{http_route=\"/a{}\\\"\",faas_name=\"hello\",baton_tier=\"wasm\"";
        format!(
            "# TYPE x histogram\n\
             {series},le=\"0.0005\"}} 0\n{series},le=\"0.001\"}} {fast}\n\
             {series},le=\"0.5\"}} {fast}\n{series},le=\"1\"}} {all}\n{series},le=\"+Inf\"}} {all}\n\
             faas_errors_total{{faas_name=\"hello\"}} {slow}\n\
             baton_sandboxes{{baton_sandbox_state=\"parked\"}} 4\n\
             baton_pool_memory_bytes 68157440\nbaton_pool_memory_limit_bytes 2147483648\n"
        )
    }

    pub(crate) const FUNCTIONS: &str = r#"{"functions":[{"name":"hello","in_flight":2,"waiting":0,"sandboxes":{"warm":1,"starting":0,"frozen":0}}]}"#;

    #[test]
    fn rates_and_quantiles_are_those_between_two_readings() {
        let earlier = Reading::parse(&page(1_000, 0), FUNCTIONS);
        let later = Reading::parse(&page(1_090, 10), FUNCTIONS);
        let view = View::between(&earlier, &later, Duration::from_secs(10));
        let [wasm, native] = &view.rows[0].tiers;
        assert_eq!(wasm.rate, 10.0);
        assert_eq!(view.rows[0].errors, 1.0);
        let ms = |duration: Option<Duration>| duration.unwrap().as_secs_f64() * 1e3;
        assert!((0.5..=1.0).contains(&ms(wasm.p50)) && (500.0..=1000.0).contains(&ms(wasm.p99)));
        assert_eq!(native, &Tier::default());
    }

    #[test]
    fn a_baton_that_was_started_anew_shows_no_negative_rate() {
        let earlier = Reading::parse(&page(1_000, 0), FUNCTIONS);
        let view = View::between(
            &earlier,
            &Reading::parse(&page(5, 0), FUNCTIONS),
            Duration::from_secs(1),
        );
        assert_eq!(view.rows[0].tiers[0].rate, 0.0);
    }
}
