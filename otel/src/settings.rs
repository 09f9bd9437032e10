//! What the telemetry is to do, resolved from the manifest and the `OTEL_*` variables: pure.
//!
//! The variables win over the manifest. A value that is not understood is ignored with a warning, as
//! the OpenTelemetry specification asks, except for an address, without which nothing can work.
//! Spans, metrics and log records are exported when the manifest or a variable names an endpoint, or
//! when `OTEL_{TRACES,METRICS,LOGS}_EXPORTER=otlp` asks for the default one; `OTEL_SDK_DISABLED=true`
//! turns all export off, `OTEL_…_EXPORTER=none` that of one signal.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opentelemetry::KeyValue;
use percent_encoding::percent_decode_str;

use crate::context::Sampler;
use crate::names::attribute;

/// The variables of the process as a value; an empty one counts as unset.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The first of these variables that is set, with its name.
    fn first<'a>(&'a self, names: &[&'static str]) -> Option<(&'static str, &'a str)> {
        names.iter().find_map(|&name| Some((name, self.get(name)?)))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// What the manifest and the program say.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the collector, `http://HOST:PORT` or `https://…`.
    pub endpoint: Option<String>,
    /// `service.name` of the resource.
    pub service_name: String,
    /// `service.version` of the resource.
    pub service_version: String,
    /// Share of the traces that begin here which is recorded, 0 to 1.
    pub sample: f64,
}

/// An endpoint that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the telemetry endpoint {endpoint:?} of {origin} is not an http:// or https:// address")]
pub struct InvalidEndpoint {
    endpoint: String,
    origin: &'static str,
}

/// How it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    HttpProtobuf,
}

/// Where a signal goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    /// The whole address; with HTTP that includes the path.
    pub(crate) endpoint: Uri,
    pub(crate) protocol: Protocol,
    pub(crate) headers: HeaderMap,
    /// For one batch, retries included.
    pub(crate) timeout: Duration,
    pub(crate) batching: Batching,
}

/// Bounds of what waits for its export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batching {
    /// Spans or log records that may wait; more are dropped and counted.
    pub(crate) queue: usize,
    /// Spans or log records of one batch; a trace is not cut in two.
    pub(crate) batch: usize,
    /// The longest that one waits for its batch to fill; of metrics the time between two exports.
    pub(crate) delay: Duration,
}

/// Whether telemetry can start with these.
///
/// # Errors
/// When the manifest or a variable names an endpoint that is none.
pub fn check(config: &Config, environment: &Environment) -> Result<(), InvalidEndpoint> {
    Settings::resolve(config, environment, 0, None).map(drop)
}

/// Everything that [`crate::Telemetry::start`] acts on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) sampler: Sampler,
    pub(crate) resource: Vec<KeyValue>,
    /// Where spans go.
    pub(crate) target: Option<Target>,
    /// Where metrics go.
    pub(crate) metrics: Option<Target>,
    /// Where log records go.
    pub(crate) logs: Option<Target>,
    /// What was not understood, a sentence each.
    pub(crate) warnings: Vec<String>,
}

impl Settings {
    /// Resolves manifest and variables for the process `pid` on the machine `host_name`.
    pub(crate) fn resolve(
        config: &Config,
        environment: &Environment,
        pid: u32,
        host_name: Option<String>,
    ) -> Result<Self, InvalidEndpoint> {
        let mut reader = Reader { environment, warnings: vec![] };
        let sampler = reader.sampler(config.sample);
        let resource = reader.resource(config, pid, host_name);
        let manifest = config.endpoint.as_deref();
        let target = reader.target(&TRACES, manifest)?;
        let metrics = reader.target(&METRICS, manifest)?;
        let logs = reader.target(&LOGS, manifest)?;
        Ok(Self { sampler, resource, target, metrics, logs, warnings: reader.warnings })
    }
}

const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What is exported, and the variables that are about it alone or about all.
#[derive(Debug)]
pub(crate) struct Signal {
    exporter: &'static str,
    endpoint: &'static str,
    protocols: [&'static str; 2],
    headers: [&'static str; 2],
    timeouts: [&'static str; 2],
    compressions: [&'static str; 2],
    /// Its path on an OTLP collector over HTTP.
    path: &'static str,
    /// Variables of the bounds (queue, batch, delay in milliseconds), each with its default; without
    /// a name the default holds.
    batching: [(&'static str, u64); 3],
}

macro_rules! signal {
    ($name:literal, $path:literal, $batching:expr) => {
        Signal {
            exporter: concat!("OTEL_", $name, "_EXPORTER"),
            endpoint: concat!("OTEL_EXPORTER_OTLP_", $name, "_ENDPOINT"),
            protocols: [
                concat!("OTEL_EXPORTER_OTLP_", $name, "_PROTOCOL"),
                "OTEL_EXPORTER_OTLP_PROTOCOL",
            ],
            headers: [
                concat!("OTEL_EXPORTER_OTLP_", $name, "_HEADERS"),
                "OTEL_EXPORTER_OTLP_HEADERS",
            ],
            timeouts: [
                concat!("OTEL_EXPORTER_OTLP_", $name, "_TIMEOUT"),
                "OTEL_EXPORTER_OTLP_TIMEOUT",
            ],
            compressions: [
                concat!("OTEL_EXPORTER_OTLP_", $name, "_COMPRESSION"),
                "OTEL_EXPORTER_OTLP_COMPRESSION",
            ],
            path: $path,
            batching: $batching,
        }
    };
}

static TRACES: Signal = signal!(
    "TRACES",
    "/v1/traces",
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", 8_192),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
        ("OTEL_BSP_SCHEDULE_DELAY", 1_000),
    ]
);
static METRICS: Signal =
    signal!("METRICS", "/v1/metrics", [("", 1), ("", 1), ("OTEL_METRIC_EXPORT_INTERVAL", 60_000)]);
static LOGS: Signal = signal!(
    "LOGS",
    "/v1/logs",
    [
        ("OTEL_BLRP_MAX_QUEUE_SIZE", 4_096),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", 512),
        ("OTEL_BLRP_SCHEDULE_DELAY", 1_000),
    ]
);

/// Reads variables and remembers what it did not understand.
struct Reader<'a> {
    environment: &'a Environment,
    warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    fn ignore(&mut self, name: &str, value: &str, wanted: &str) {
        let warning = format!("{name}={value:?} is ignored: wanted {wanted}");
        // What is said of all signals is read once for each.
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// The number in the first of these variables that is set.
    fn number<T: FromStr>(&mut self, names: &[&'static str], wanted: &str) -> Option<T> {
        let (name, value) = self.environment.first(names)?;
        let number = value.parse().ok();
        if number.is_none() {
            self.ignore(name, value, wanted);
        }
        number
    }

    fn sampler(&mut self, sample: f64) -> Sampler {
        let manifest = Sampler::parent_based(sample);
        let Some(sampler) = self.environment.get(SAMPLER) else { return manifest };
        match sampler {
            "always_on" => Sampler::ratio(1.0),
            "always_off" => Sampler::ratio(0.0),
            "traceidratio" => Sampler::ratio(self.sampler_ratio()),
            "parentbased_always_on" => Sampler::parent_based(1.0),
            "parentbased_always_off" => Sampler::parent_based(0.0),
            "parentbased_traceidratio" => Sampler::parent_based(self.sampler_ratio()),
            other => {
                self.ignore(SAMPLER, other, "[parentbased_]always_on, always_off or traceidratio");
                manifest
            }
        }
    }

    fn sampler_ratio(&mut self) -> f64 {
        self.number(&[SAMPLER_ARG], "a number from 0 to 1").unwrap_or(1.0)
    }

    fn resource(&mut self, config: &Config, pid: u32, host_name: Option<String>) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new(attribute::SERVICE_NAME, config.service_name.clone()),
            KeyValue::new(attribute::SERVICE_VERSION, config.service_version.clone()),
            KeyValue::new(attribute::PROCESS_PID, i64::from(pid)),
        ];
        attributes.extend(host_name.map(|name| KeyValue::new(attribute::HOST_NAME, name)));
        for (key, value) in self.pairs("OTEL_RESOURCE_ATTRIBUTES") {
            attributes.retain(|pair| pair.key.as_str() != key);
            attributes.push(KeyValue::new(key, value));
        }
        if let Some(name) = self.environment.get("OTEL_SERVICE_NAME") {
            attributes.retain(|pair| pair.key.as_str() != attribute::SERVICE_NAME);
            attributes.push(KeyValue::new(attribute::SERVICE_NAME, name.to_owned()));
        }
        attributes
    }

    fn target(
        &mut self,
        signal: &Signal,
        manifest: Option<&str>,
    ) -> Result<Option<Target>, InvalidEndpoint> {
        let disabled = self.environment.get("OTEL_SDK_DISABLED");
        let wanted = match self.environment.get(signal.exporter) {
            _ if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) => {
                return Ok(None);
            }
            Some("none") => return Ok(None),
            Some("otlp") => true,
            Some(other) => {
                self.ignore(signal.exporter, other, "otlp or none");
                false
            }
            None => false,
        };
        let named = self
            .environment
            .first(&[signal.endpoint, ENDPOINT])
            .or(manifest.map(|endpoint| ("the manifest", endpoint)));
        let Some(((origin, address), protocol)) = self.address(signal, named, wanted) else {
            return Ok(None);
        };
        let complete = origin == signal.endpoint;
        let endpoint = endpoint(address, protocol, complete, signal.path)
            .ok_or_else(|| InvalidEndpoint { endpoint: address.to_owned(), origin })?;
        if let Some((name, value)) =
            self.environment.first(&signal.compressions).filter(|(_, value)| *value != "none")
        {
            self.ignore(name, value, "none");
        }
        let milliseconds = self.number(&signal.timeouts, "milliseconds").unwrap_or(10_000);
        Ok(Some(Target {
            endpoint,
            protocol,
            headers: self.headers(signal),
            timeout: Duration::from_millis(milliseconds),
            batching: self.batching(signal),
        }))
    }

    /// The address, where it is from, and the protocol spoken there; `None` when none is named and
    /// the default one is not `wanted`. An address without a protocol speaks gRPC, unless its port
    /// is that of OTLP over HTTP, 4318, or it has a path.
    fn address<'n>(
        &mut self,
        signal: &Signal,
        named: Option<(&'static str, &'n str)>,
        wanted: bool,
    ) -> Option<((&'static str, &'n str), Protocol)> {
        let (protocol_name, protocol) = self.environment.first(&signal.protocols).unzip();
        let protocol = match protocol {
            Some("grpc") => Some(Protocol::Grpc),
            Some("http/protobuf") => Some(Protocol::HttpProtobuf),
            Some(other) => {
                self.ignore(protocol_name.unwrap_or_default(), other, "grpc or http/protobuf");
                None
            }
            None => None,
        };
        let (origin, address) = match (named, protocol) {
            (Some(named), _) => named,
            (None, Some(Protocol::HttpProtobuf)) => (signal.exporter, "http://localhost:4318"),
            (None, _) => (signal.exporter, "http://localhost:4317"),
        };
        let speaks_http = |uri: Uri| uri.port_u16() == Some(4318) || uri.path().len() > 1;
        let by_address = || match address.parse().is_ok_and(speaks_http) {
            true => Protocol::HttpProtobuf,
            false => Protocol::Grpc,
        };
        (named.is_some() || wanted)
            .then(|| ((origin, address), protocol.unwrap_or_else(by_address)))
    }

    fn headers(&mut self, signal: &Signal) -> HeaderMap {
        let Some((name, _)) = self.environment.first(&signal.headers) else {
            return HeaderMap::new();
        };
        let mut headers = HeaderMap::new();
        for (key, value) in self.pairs(name) {
            match (HeaderName::from_str(&key), HeaderValue::from_str(&value)) {
                (Ok(key), Ok(value)) => drop(headers.insert(key, value)),
                _ => self.ignore(name, &key, "a list of HEADER=VALUE"),
            }
        }
        headers
    }

    fn batching(&mut self, signal: &Signal) -> Batching {
        let mut number = |(name, default): (&'static str, u64)| {
            self.number(&[name], "a number above 0").filter(|&number| number > 0).unwrap_or(default)
        };
        let [queue, batch, delay] = signal.batching.map(&mut number);
        let batch = batch.min(queue);
        Batching {
            queue: usize::try_from(queue).unwrap_or(usize::MAX),
            batch: usize::try_from(batch).unwrap_or(usize::MAX),
            delay: Duration::from_millis(delay),
        }
    }

    /// The `key=value` pairs of a variable, separated by commas, values percent-decoded.
    fn pairs(&mut self, name: &'static str) -> Vec<(String, String)> {
        let value = self.environment.get(name).unwrap_or_default();
        let mut pairs = vec![];
        for pair in value.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                Some((key, value)) if !key.is_empty() => {
                    let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
                    pairs.push((key.to_owned(), value));
                }
                _ => self.ignore(name, pair, "a list of KEY=VALUE"),
            }
        }
        pairs
    }
}

/// The whole address; `complete` says that an HTTP path has been given, otherwise it is that of OTLP.
/// An address of everything that names the path of traces, as many do, means the collector there.
fn endpoint(address: &str, protocol: Protocol, complete: bool, path: &str) -> Option<Uri> {
    let base = address.trim_end_matches('/').trim_end_matches(TRACES.path);
    let uri: Uri = match protocol {
        Protocol::HttpProtobuf if !complete => format!("{base}{path}"),
        _ => address.to_owned(),
    }
    .parse()
    .ok()?;
    (matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(endpoint: Option<&str>, variables: &[(&str, &str)]) -> Settings {
        try_resolve(endpoint, variables).unwrap()
    }

    fn try_resolve(
        endpoint: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Settings, InvalidEndpoint> {
        let config = Config {
            endpoint: endpoint.map(str::to_owned),
            service_name: "baton".into(),
            service_version: "1.2.3".into(),
            sample: 0.25,
        };
        let environment = variables.iter().copied().collect();
        Settings::resolve(&config, &environment, 42, Some("machine".into()))
    }

    fn target(endpoint: Option<&str>, variables: &[(&str, &str)]) -> Option<(String, Protocol)> {
        let target = resolve(endpoint, variables).target?;
        Some((target.endpoint.to_string(), target.protocol))
    }

    #[test]
    fn nothing_is_exported_unless_an_endpoint_or_the_exporter_is_named() {
        assert_eq!(target(None, &[]), None);
        assert_eq!(target(None, &[("OTEL_SERVICE_NAME", "x"), (ENDPOINT, " ")]), None);
        assert_eq!(target(None, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), None);
    }

    #[test]
    fn export_can_be_turned_off_by_variable() {
        for off in [("OTEL_SDK_DISABLED", "True"), (TRACES.exporter, "none")] {
            assert_eq!(target(Some("http://c:4317"), &[off, (ENDPOINT, "http://d:4317")]), None);
        }
    }

    #[test]
    fn a_variable_wins_over_the_manifest_and_the_one_for_traces_over_the_general_one() {
        let (manifest, general) = (Some("http://m:4317"), (ENDPOINT, "http://g:4317"));
        let traces = (TRACES.endpoint, "http://t:4317");
        let grpc = |address: &str| Some((address.to_owned(), Protocol::Grpc));
        assert_eq!(target(manifest, &[]), grpc("http://m:4317/"));
        assert_eq!(target(manifest, &[general]), grpc("http://g:4317/"));
        assert_eq!(target(manifest, &[general, traces]), grpc("http://t:4317/"));
    }

    #[test]
    fn the_path_of_otlp_is_added_except_to_the_address_for_traces() {
        let over_http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        let path = |endpoint, variables: &[(&str, &str)]| {
            let mut variables = variables.to_vec();
            variables.push(over_http);
            target(endpoint, &variables).unwrap().0
        };
        assert_eq!(path(Some("http://m:1"), &[]), "http://m:1/v1/traces");
        assert_eq!(path(Some("http://m:1/base/"), &[]), "http://m:1/base/v1/traces");
        assert_eq!(path(Some("http://m:1/v1/traces"), &[]), "http://m:1/v1/traces");
        assert_eq!(path(None, &[(ENDPOINT, "http://g:1/x")]), "http://g:1/x/v1/traces");
        assert_eq!(path(None, &[(TRACES.endpoint, "http://t:1/x")]), "http://t:1/x");
    }

    #[test]
    fn without_a_protocol_the_address_tells_it() {
        let protocol = |address| target(Some(address), &[]).unwrap().1;
        assert_eq!(protocol("http://c:4317"), Protocol::Grpc);
        assert_eq!(protocol("https://c"), Protocol::Grpc);
        assert_eq!(protocol("http://c:4318"), Protocol::HttpProtobuf);
        assert_eq!(protocol("http://c:6006/v1/traces"), Protocol::HttpProtobuf);
        let grpc = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc");
        assert_eq!(target(Some("http://c:4318"), &[grpc]).unwrap().1, Protocol::Grpc);
    }

    #[test]
    fn asking_for_otlp_alone_means_the_default_address() {
        let otlp = (TRACES.exporter, "otlp");
        let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        assert_eq!(target(None, &[otlp]).unwrap().0, "http://localhost:4317/");
        assert_eq!(target(None, &[otlp, http]).unwrap().0, "http://localhost:4318/v1/traces");
    }

    #[test]
    fn an_address_that_is_not_one_is_refused_with_its_origin() {
        for address in ["127.0.0.1:4317", "collector", "ftp://c:1", "http://", "http://a b"] {
            let error = try_resolve(None, &[(ENDPOINT, address)]).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "the telemetry endpoint {address:?} of OTEL_EXPORTER_OTLP_ENDPOINT \
                     is not an http:// or https:// address"
                )
            );
        }
        let error = try_resolve(Some("nowhere"), &[]).unwrap_err().to_string();
        assert!(error.contains("of the manifest"), "{error}");
    }

    #[test]
    fn the_sampler_variable_wins_over_the_manifest() {
        let sampler = |variables: &[(&str, &str)]| resolve(None, variables).sampler;
        let arg = (SAMPLER_ARG, "0.5");
        assert_eq!(sampler(&[]), Sampler::parent_based(0.25));
        assert_eq!(sampler(&[(SAMPLER, "always_on")]), Sampler::ratio(1.0));
        assert_eq!(sampler(&[(SAMPLER, "parentbased_always_off")]), Sampler::parent_based(0.0));
        assert_eq!(sampler(&[(SAMPLER, "traceidratio"), arg]), Sampler::ratio(0.5));
        assert_eq!(
            sampler(&[(SAMPLER, "parentbased_traceidratio"), arg]),
            Sampler::parent_based(0.5)
        );
        assert_eq!(sampler(&[(SAMPLER, "parentbased_traceidratio")]), Sampler::parent_based(1.0));
    }

    #[test]
    fn what_is_not_understood_is_ignored_with_a_warning_that_names_it() {
        for (name, value) in [
            (SAMPLER, "sometimes"),
            (TRACES.exporter, "console"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "novalue"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=c"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
            ("OTEL_RESOURCE_ATTRIBUTES", "x"),
        ] {
            let settings = resolve(Some("http://c:4317"), &[(name, value)]);
            let plain = resolve(Some("http://c:4317"), &[]);
            assert_eq!(settings.target, plain.target, "{name}");
            assert_eq!(settings.warnings.len(), 1, "{:?}", settings.warnings);
            assert!(settings.warnings[0].starts_with(name), "{:?}", settings.warnings);
        }
    }

    #[test]
    fn metrics_and_logs_go_where_traces_go_unless_their_own_variables_say_otherwise() {
        let all = |variables: &[(&str, &str)]| {
            let settings = resolve(Some("http://c:4318/v1/traces"), variables);
            [settings.target, settings.metrics, settings.logs]
                .map(|target| target.map_or(String::new(), |target| target.endpoint.to_string()))
        };
        let [traces, metrics, logs] =
            ["traces", "metrics", "logs"].map(|signal| format!("http://c:4318/v1/{signal}"));
        assert_eq!(all(&[]), [traces.clone(), metrics, logs.clone()]);
        let elsewhere = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://m:4318/x");
        assert_eq!(all(&[elsewhere]), [traces.clone(), "http://m:4318/x".into(), logs.clone()]);
        assert_eq!(all(&[("OTEL_METRICS_EXPORTER", "none")]), [traces, String::new(), logs]);
    }

    #[test]
    fn headers_timeout_and_batching_come_from_their_variables() {
        let settings = resolve(
            Some("http://c:4317"),
            &[
                ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret%20one, x=y"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
                ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
                ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1000"),
                ("OTEL_BSP_SCHEDULE_DELAY", "20"),
            ],
        );
        let target = settings.target.unwrap();
        assert_eq!(target.headers["api-key"], "secret one");
        assert_eq!(target.headers["x"], "y");
        assert_eq!(target.timeout, Duration::from_millis(250));
        let batching = Batching { queue: 100, batch: 100, delay: Duration::from_millis(20) };
        assert_eq!(target.batching, batching);
        assert_eq!(settings.warnings, Vec::<String>::new());
    }

    #[test]
    fn the_resource_is_ours_with_the_variables_on_top() {
        let resource = |variables: &[(&str, &str)]| {
            let mut pairs: Vec<String> = resolve(None, variables)
                .resource
                .iter()
                .map(|pair| format!("{}={}", pair.key, pair.value))
                .collect();
            pairs.sort();
            pairs.join(" ")
        };
        assert_eq!(
            resource(&[]),
            "host.name=machine process.pid=42 service.name=baton service.version=1.2.3"
        );
        assert_eq!(
            resource(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,host.name=b%2Cc,k=v")]),
            "host.name=b,c k=v process.pid=42 service.name=a service.version=1.2.3"
        );
        let both = [("OTEL_RESOURCE_ATTRIBUTES", "service.name=a"), ("OTEL_SERVICE_NAME", "b")];
        assert!(resource(&both).contains("service.name=b "));
    }
}
