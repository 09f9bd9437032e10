//! Reading a manifest: from text to validated types, or to everything that is wrong with it.
//!
//! Contract: [`Manifest::parse`] is pure. Reading goes on after a fault, with the default in place
//! of what did not fit, so that one run tells everything; what is returned is either a manifest
//! without any fault, or all faults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::egress::{Egress, EgressRule, host_name};
use super::fault::{Fault, Faults, Misfit, Position};
use super::function::{
    Function, Instances, KEEP, KEEP_ALIVE, Limits, Listen, NativeSource, POLICY, Policy, RETRY,
    Sandboxes, VERIFIABLE, Verify,
};
use super::host::{Cache, Host, LOG_FORMAT, Tls};
use super::listener::Listener;
use super::route::{Pattern, Route};
use super::section::{
    Document, Found, Section, boolean, choice, count, duration, filled, number, parsed, size,
    string, wrong_type,
};
use super::units::ByteSize;
use super::{FunctionTelemetry, Keep, Manifest, PoolSection, Source, TelemetrySection};

impl Manifest {
    /// Reads the manifest at `path`.
    pub fn read(path: &Path) -> Result<Self, Faults> {
        let unreadable =
            |error: std::io::Error| Faults::whole(path, format!("cannot be read: {error}"));
        let text = std::fs::read(path).map_err(unreadable)?;
        let text = String::from_utf8(text)
            .map_err(|error| Faults::whole(path, format!("is not a text in UTF-8: {error}")))?;
        let absolute = std::path::absolute(path).map_err(unreadable)?;
        parse(&text, path, absolute.parent().unwrap_or(path))
    }

    /// Reads `text`, the content of the file at `path`, which need not exist.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Faults> {
        parse(text, path, path.parent().unwrap_or(path))
    }
}

fn parse(text: &str, file: &Path, base: &Path) -> Result<Manifest, Faults> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let document = Document::new(text, base);
    let mut manifest = manifest(Section::root(&document, &table));
    let syntax = errors.iter().map(|error| syntax_fault(error, &document)).collect();
    let Found { faults, contradictions, places } = document.into_found();
    let faults =
        if errors.is_empty() { [faults, contradictions].concat() } else { legible(syntax, faults) };
    manifest.source = Source { file: file.to_owned(), places };
    match Faults::of(file, faults) {
        Some(faults) => Err(faults),
        None => Ok(manifest),
    }
}

fn syntax_fault(error: &toml::de::Error, document: &Document<'_>) -> Fault {
    let position = error.span().map(|span| document.position(span.start));
    Fault { position, key: String::new(), misfit: Misfit::new(error.message(), "") }
}

/// The faults of a text with syntax errors: the first error of each line, since the others follow
/// from it, and what is wrong by itself on other lines. What seems to be missing may not be, and
/// an array that is not closed swallows all lines below it.
fn legible(mut syntax: Vec<Fault>, mut faults: Vec<Fault>) -> Vec<Fault> {
    let line = |fault: &Fault| fault.position.map(|position| position.line);
    let in_array = |fault: &Fault| fault.misfit.problem.contains(" array");
    syntax.sort_by_key(|fault| fault.position);
    syntax.dedup_by_key(|fault| line(fault));
    syntax.dedup_by(|next, fault| in_array(next) && in_array(fault));
    let open = syntax.iter().find(|fault| in_array(fault)).map(line);
    faults.retain(|fault| {
        let is_legible = !syntax.iter().any(|error| line(error) == line(fault));
        is_legible && open.is_none_or(|open| line(fault) < open)
    });
    [syntax, faults].concat()
}

fn manifest(mut root: Section<'_>) -> Manifest {
    let host = host(root.section("host"));
    let pool = pool(root.section("pool"));
    let telemetry = telemetry(root.section("telemetry"));
    let mut names = Seen::default();
    let mut routes = Seen::default();
    let functions = root.sections("function");
    let functions: Vec<_> = functions
        .into_iter()
        .map(|section| function(section, &pool, &mut names, &mut routes))
        .collect();
    kept_running(&root, &functions, &pool);
    root.end();
    Manifest { host, pool, telemetry, functions, source: Source::default() }
}

/// Sandboxes that are kept running for ever must fit the budget together.
fn kept_running(root: &Section<'_>, functions: &[Function], pool: &PoolSection) {
    let kept = functions.iter().map(|function| {
        let sandboxes = u64::try_from(function.sandboxes.min).unwrap_or(u64::MAX);
        function.limits.memory.bytes().saturating_mul(sandboxes)
    });
    let kept = ByteSize(kept.fold(0, u64::saturating_add));
    if kept > pool.memory {
        let problem =
            format!("\"{}\" is less than the {kept} that sandboxes.min keeps running", pool.memory);
        root.contradiction(
            "pool.memory",
            Misfit::new(problem, "a larger pool.memory or fewer sandboxes"),
        );
    }
}

const DAY: Duration = Duration::from_hours(24);
const SECOND: Duration = Duration::from_secs(1);
const INSTANT: Duration = Duration::from_millis(1);
const SIZE_MAX: ByteSize = ByteSize::gib(1 << 20);
const COUNT_MAX: usize = 1_000_000;

fn host(mut section: Section<'_>) -> Host {
    let default = Host::default();
    let s = &mut section;
    let host = Host {
        listen: listeners(s).unwrap_or(default.listen),
        admin: s
            .get("admin", parsed::<Listener>("a listener such as \"127.0.0.1:8081\""))
            .map_or(default.admin, |listener| listener.resolve(s.base())),
        user: s.get("user", parsed("a user's name or number in quotes")).unwrap_or(default.user),
        max_connections: s
            .get("max_connections", count(1..=COUNT_MAX))
            .unwrap_or(default.max_connections),
        headers: s
            .get("headers", size(ByteSize::kib(1)..=ByteSize::mib(1)))
            .unwrap_or(default.headers),
        header_timeout: s
            .get("header_timeout", duration(INSTANT..=DAY))
            .unwrap_or(default.header_timeout),
        grace: s.get("grace", duration(Duration::ZERO..=DAY)).unwrap_or(default.grace),
        drain_delay: s
            .get("drain_delay", duration(Duration::ZERO..=DAY))
            .unwrap_or(default.drain_delay),
        server_timing: s.get("server_timing", boolean).unwrap_or(default.server_timing),
        log: s.get("log", choice(LOG_FORMAT)).unwrap_or(default.log),
        tls: tls(s.section("tls")),
        cache: cache(s.section("cache")),
    };
    distinct(&section, &host);
    section.end();
    host
}

fn listeners(section: &mut Section<'_>) -> Option<Vec<Listener>> {
    const EXPECTED: &str = "an array of listeners such as [\"127.0.0.1:8080\"]";
    let listeners = section.list("listen", EXPECTED, parsed::<Listener>(EXPECTED))?;
    if listeners.is_empty() {
        section.contradiction("listen", Misfit::new("has no listener", EXPECTED));
        return None;
    }
    Some(listeners.into_iter().map(|listener| listener.resolve(section.base())).collect())
}

/// A socket can be bound once.
fn distinct(section: &Section<'_>, host: &Host) {
    let listen = host.listen.iter().enumerate();
    let named = listen.map(|(index, listener)| (format!("listen[{index}]"), listener));
    let mut bound = vec![];
    for (key, listener) in named.chain([("admin".to_owned(), &host.admin)]) {
        let any_port = matches!(listener, Listener::Tcp(address) if address.port() == 0);
        if bound.contains(&listener) && !any_port {
            let problem = format!("\"{listener}\" is listened on already");
            section.contradiction(&key, Misfit::new(problem, "another listener"));
        }
        bound.push(listener);
    }
}

fn tls(mut section: Section<'_>) -> Option<Tls> {
    if section.is_absent() {
        return None;
    }
    const CERTIFICATE: &str = "the path of a certificate chain in PEM";
    const KEY: &str = "the path of the private key in PEM";
    let certificate = section.require("certificate", CERTIFICATE, filled(CERTIFICATE));
    let key = section.require("key", KEY, filled(KEY));
    let tls = certificate.zip(key).map(|(certificate, key)| Tls {
        certificate: section.resolve(certificate),
        key: section.resolve(key),
    });
    section.end();
    tls
}

fn cache(mut section: Section<'_>) -> Cache {
    let default = Cache::default();
    let dir = section.get("dir", filled("the path of a directory"));
    let cache = Cache {
        dir: dir.map_or(default.dir, |dir| section.resolve(dir)),
        size: section.get("size", size(ByteSize(0)..=SIZE_MAX)).unwrap_or(default.size),
    };
    section.end();
    cache
}

fn pool(mut section: Section<'_>) -> PoolSection {
    let default = PoolSection::default();
    let pool = PoolSection {
        parked: section.get("parked", count(0..=10_000)).unwrap_or(default.parked),
        memory: section.get("memory", size(ByteSize::mib(1)..=SIZE_MAX)).unwrap_or(default.memory),
    };
    section.end();
    pool
}

fn telemetry(mut section: Section<'_>) -> TelemetrySection {
    let default = TelemetrySection::default();
    let telemetry = TelemetrySection {
        endpoint: section.get("endpoint", endpoint),
        sample: section.get("sample", number(0.0..=1.0)).unwrap_or(default.sample),
        keep: Keep {
            keep_errors: section.get("keep_errors", boolean).unwrap_or(default.keep.keep_errors),
            keep_slow: section
                .get("keep_slow", duration(INSTANT..=DAY))
                .unwrap_or(default.keep.keep_slow),
        },
        keep_unsampled: section.get("keep_unsampled", boolean).unwrap_or(default.keep_unsampled),
    };
    section.end();
    telemetry
}

fn function_telemetry(mut section: Section<'_>) -> FunctionTelemetry {
    let telemetry = FunctionTelemetry {
        sample: section.get("sample", number(0.0..=1.0)),
        keep_errors: section.get("keep_errors", boolean),
        keep_slow: section.get("keep_slow", duration(INSTANT..=DAY)),
    };
    section.end();
    telemetry
}

/// The URL of a collector: an origin, with a path or without.
fn endpoint(value: &DeValue<'_>) -> Result<String, Misfit> {
    const EXPECTED: &str = "a URL such as \"http://127.0.0.1:4317\"";
    let url = string(EXPECTED)(value)?;
    let misfit = || Misfit::new(format!("\"{url}\" is not a URL of http or https"), EXPECTED);
    let (scheme, rest) = url.split_once("://").ok_or_else(misfit)?;
    let host = rest.split('/').next().unwrap_or_default();
    format!("{scheme}://{host}").parse::<EgressRule>().map_err(|_| misfit())?;
    Ok(url)
}

/// What was given once already, and where.
type Seen = BTreeMap<String, Position>;

fn function(
    mut section: Section<'_>,
    pool: &PoolSection,
    names: &mut Seen,
    routes: &mut Seen,
) -> Function {
    let name = name(&mut section, names);
    let route = route(&mut section, routes);
    let s = &mut section;
    let mut function = Function {
        component: s
            .get("component", filled("the path of a component"))
            .map(|path| s.resolve(path)),
        native: native(s),
        listen: s.get("listen", listen).unwrap_or_default(),
        retry: s.get("retry", choice(RETRY)).unwrap_or_default(),
        verify: verify(s.section("verify")),
        instances: instances(s),
        keep_alive: s.get("keep_alive", choice(KEEP_ALIVE)).unwrap_or_default(),
        limits: limits(s.section("limits")),
        sandboxes: sandboxes(s.section("sandboxes")),
        env: s.entries("env", variable),
        egress: egress(s.section("egress")),
        telemetry: function_telemetry(s.section("telemetry")),
        ..Function::new(name, route)
    };
    function.policy = policy(s, function.verify.sample);
    if function.policy.uses_native() && function.limits.memory > pool.memory {
        let problem = format!("\"{}\" is more than pool.memory", function.limits.memory);
        let expected = format!("at most {}, so that one sandbox fits", pool.memory);
        s.contradiction("limits.memory", Misfit::new(problem, expected));
    }
    section.end();
    function
}

fn name(section: &mut Section<'_>, names: &mut Seen) -> String {
    const EXPECTED: &str = "a name of letters, digits, '-', '_' and '.', at most 63 of them";
    let read = |value: &DeValue<'_>| {
        let name = string(EXPECTED)(value)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let fits = (1..=63).contains(&name.len())
            && name.bytes().all(plain)
            && name.starts_with(|first: char| first.is_ascii_alphanumeric());
        let misfit = || Misfit::new(format!("\"{name}\" is not a name"), EXPECTED);
        if fits { Ok(name) } else { Err(misfit()) }
    };
    let Some(name) = section.require("name", EXPECTED, read) else { return String::new() };
    section.rename(format!("function.{name}"));
    only_once(section, "name", name.clone(), "another name", names);
    name
}

fn route(section: &mut Section<'_>, routes: &mut Seen) -> Route {
    const EXPECTED: &str = "a path such as \"/resize\" or \"/resize/*\"";
    let pattern = section.require("route", EXPECTED, parsed::<Pattern>(EXPECTED));
    let host = section.get("host", |value| {
        const EXPECTED: &str = "a host's name without scheme and port, such as \"www.example.com\"";
        let text = string(EXPECTED)(value)?;
        let address = text.parse::<std::net::IpAddr>().ok().map(|address| address.to_string());
        host_name(&text)
            .or(address)
            .ok_or_else(|| Misfit::new(format!("\"{text}\" is not a host"), EXPECTED))
    });
    let Some(pattern) = pattern else {
        return Route { host, pattern: Pattern::Below(String::new()) };
    };
    let route = Route { host, pattern };
    only_once(section, "route", route.to_string(), "another route or host", routes);
    route
}

fn only_once(
    section: &Section<'_>,
    key: &str,
    value: String,
    expected: &'static str,
    seen: &mut Seen,
) {
    match seen.get(&value) {
        Some(first) => {
            let problem = format!("\"{value}\" is taken by the function at line {}", first.line);
            section.contradiction(key, Misfit::new(problem, expected));
        }
        None => {
            seen.insert(value, section.position_of(key));
        }
    }
}

const NATIVE: &str =
    "the path of an executable, { rootfs = \"dir\", command = [\"/app\"] } or { image = \"path\" }";

fn native(section: &mut Section<'_>) -> Option<NativeSource> {
    let Some(table) = section.variant("native") else {
        let path = section.get("native", filled(NATIVE))?;
        return Some(NativeSource::Executable(section.resolve(path)));
    };
    if table.has("image") { image(table) } else { rootfs(table) }
}

fn image(mut table: Section<'_>) -> Option<NativeSource> {
    const EXPECTED: &str = "the path of an OCI layout or of an archive of one";
    let image = table.get("image", filled(EXPECTED));
    let source = image.map(|path| NativeSource::Image(table.resolve(path)));
    table.end();
    source
}

fn rootfs(mut table: Section<'_>) -> Option<NativeSource> {
    const COMMAND: &str = "the program inside the rootfs and its arguments, such as [\"/app\"]";
    table.get("image", filled(NATIVE)); // known, absent here
    if !table.has("rootfs") {
        table.contradiction("", Misfit::new("says neither rootfs nor image", NATIVE));
    }
    let dir = table.get("rootfs", filled("the path of a directory"));
    let has_command = table.has("command");
    let command = table.list("command", COMMAND, string(COMMAND));
    match command.as_deref().map(<[_]>::first) {
        Some(Some(program)) if !program.starts_with('/') => {
            let problem = format!("\"{program}\" is not an absolute path inside the rootfs");
            table.contradiction("command", Misfit::new(problem, COMMAND));
        }
        Some(None) => table.contradiction("command", Misfit::new("has no program", COMMAND)),
        None if !has_command && dir.is_some() => {
            table.contradiction("command", Misfit::new("is missing", COMMAND));
        }
        _ => {}
    }
    let source = dir.zip(command);
    let source =
        source.map(|(dir, command)| NativeSource::Rootfs { dir: table.resolve(dir), command });
    table.end();
    source
}

fn listen(value: &DeValue<'_>) -> Result<Listen, Misfit> {
    const EXPECTED: &str =
        "\"inherited\", \"unix:PATH\" with an absolute path inside the sandbox, or \"tcp:PORT\"";
    let text = value.as_str().ok_or_else(|| wrong_type(value, EXPECTED))?;
    let port = |port: &str| port.parse().ok().filter(|port| *port > 0).map(Listen::Tcp);
    let path = |path: &str| {
        let fits = path.starts_with('/') && path.len() <= super::listener::UNIX_PATH_MAX;
        fits.then(|| Listen::Unix(PathBuf::from(path)))
    };
    let listen = match text.split_once(':') {
        None if text == "inherited" => Some(Listen::Inherited),
        Some(("tcp", rest)) => port(rest),
        Some(("unix", rest)) => path(rest),
        _ => None,
    };
    listen.ok_or_else(|| Misfit::new(format!("\"{text}\" is not a function's socket"), EXPECTED))
}

fn verify(mut section: Section<'_>) -> Verify {
    let default = Verify::default();
    let verify = Verify {
        sample: section.get("sample", number(0.0..=1.0)).unwrap_or(default.sample),
        requests: section.get("requests", choice(VERIFIABLE)).unwrap_or(default.requests),
        headers: section
            .list("headers", "a list of header names", header_name)
            .unwrap_or(default.headers),
        threshold: section.get("threshold", count(1..=1_000)).unwrap_or(default.threshold),
        keep: section.get("keep", choice(KEEP)).unwrap_or(default.keep),
        outbound: section.get("outbound", boolean).unwrap_or(default.outbound),
    };
    section.end();
    verify
}

fn header_name(value: &DeValue<'_>) -> Result<String, Misfit> {
    const EXPECTED: &str = "the name of a header";
    let name = string(EXPECTED)(value)?;
    let misfit = || Misfit::new(format!("\"{name}\" is not a header"), EXPECTED);
    let parsed: http::HeaderName = name.parse().map_err(|_| misfit())?;
    Ok(parsed.as_str().to_owned())
}

fn instances(section: &mut Section<'_>) -> Instances {
    const EXPECTED: &str =
        "\"fresh\" or { reuse = { requests = 1000, concurrent = 1, idle = \"10s\" } }";
    let Some(mut table) = section.variant("instances") else {
        let fresh = |value: &DeValue<'_>| match value.as_str() {
            Some("fresh") => Ok(()),
            Some(other) => Err(Misfit::new(format!("\"{other}\" is unknown"), EXPECTED)),
            None => Err(wrong_type(value, EXPECTED)),
        };
        section.get("instances", fresh);
        return Instances::Fresh;
    };
    if !table.has("reuse") {
        table.contradiction("", Misfit::new("does not say reuse", EXPECTED));
    }
    let mut reuse = table.section("reuse");
    let instances = Instances::Reuse {
        requests: reuse.get("requests", count(1..=u64::MAX)).unwrap_or(1000),
        concurrent: reuse.get("concurrent", count(1..=COUNT_MAX)).unwrap_or(1),
        idle: reuse.get("idle", duration(Duration::ZERO..=DAY)).unwrap_or(10 * SECOND),
    };
    reuse.end();
    table.end();
    instances
}

fn limits(mut section: Section<'_>) -> Limits {
    let default = Limits::default();
    let s = &mut section;
    let some_time = || duration(INSTANT..=DAY);
    let limits = Limits {
        memory: s.get("memory", size(ByteSize::mib(1)..=SIZE_MAX)).unwrap_or(default.memory),
        cpu: s.get("cpu", number(0.01..=1024.0)).unwrap_or(default.cpu),
        cpu_time: s.get("cpu_time", some_time()).unwrap_or(default.cpu_time),
        pids: s.get("pids", count(1..=1_000_000)).unwrap_or(default.pids),
        timeout: s.get("timeout", some_time()).unwrap_or(default.timeout),
        start_timeout: s.get("start_timeout", some_time()).unwrap_or(default.start_timeout),
        concurrency: s.get("concurrency", count(1..=COUNT_MAX)).unwrap_or(default.concurrency),
        queue: s.get("queue", count(0..=COUNT_MAX)).unwrap_or(default.queue),
        queue_timeout: s
            .get("queue_timeout", duration(Duration::ZERO..=DAY))
            .unwrap_or(default.queue_timeout),
        request_body: s
            .get("request_body", size(ByteSize(0)..=SIZE_MAX))
            .unwrap_or(default.request_body),
        scratch: s.get("scratch", size(ByteSize(0)..=SIZE_MAX)).unwrap_or(default.scratch),
    };
    section.end();
    limits
}

fn sandboxes(mut section: Section<'_>) -> Sandboxes {
    let default = Sandboxes::default();
    let s = &mut section;
    let sandboxes = Sandboxes {
        min: s.get("min", count(0..=10_000)).unwrap_or(default.min),
        max: s.get("max", count(1..=10_000)).unwrap_or(default.max),
        concurrency: s.get("concurrency", count(1..=COUNT_MAX)).unwrap_or(default.concurrency),
        idle_timeout: s
            .get("idle_timeout", duration(Duration::ZERO..=30 * DAY))
            .unwrap_or(default.idle_timeout),
        freeze_after: s
            .get("freeze_after", duration(Duration::ZERO..=30 * DAY))
            .unwrap_or(default.freeze_after),
    };
    if sandboxes.min > sandboxes.max {
        let problem = format!("{} is more than max, {}", sandboxes.min, sandboxes.max);
        section.contradiction("min", Misfit::new(problem, "at most max"));
    }
    section.end();
    sandboxes
}

/// One environment variable.
fn variable(name: &str, value: &DeValue<'_>) -> Result<String, Misfit> {
    const EXPECTED: &str = "a string in quotes";
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(Misfit::new("is not the name of a variable", "a name without '='"));
    }
    if ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"].contains(&name) {
        return Err(Misfit::new("is set by Baton", "another variable"));
    }
    let value = string(EXPECTED)(value)?;
    if value.contains('\0') {
        return Err(Misfit::new("contains a zero byte", EXPECTED));
    }
    Ok(value)
}

fn egress(mut section: Section<'_>) -> Egress {
    const EXPECTED: &str = "an array of origins such as [\"https://api.example.com\"]";
    let rule = || parsed::<EgressRule>(EXPECTED);
    let allow = section.list("allow", EXPECTED, rule());
    let trace = section.list("trace", EXPECTED, rule()).unwrap_or_default();
    let allow_is_known = allow.is_some() || !section.has("allow");
    let egress = Egress { allow: allow.unwrap_or_default(), trace };
    for (index, traced) in egress.trace.iter().enumerate() {
        if allow_is_known && !egress.allow.iter().any(|allowed| allowed.includes(traced)) {
            let problem = format!("\"{traced}\" is not allowed");
            let misfit = Misfit::new(problem, "an origin of egress.allow");
            section.contradiction(&format!("trace[{index}]"), misfit);
        }
    }
    section.end();
    egress
}

/// The policy that was asked for or follows from the artifacts, and whether they are there for it.
fn policy(section: &mut Section<'_>, verified: f64) -> Policy {
    let asked = section.get("policy", choice(POLICY));
    let (wasm, native) = (section.has("component"), section.has("native"));
    if !wasm && !native {
        section.contradiction("", Misfit::new("has nothing to run", "component, native or both"));
        return Policy::Adaptive;
    }
    let follows = match (wasm, native) {
        (true, false) => Policy::Wasm,
        (false, true) => Policy::Native,
        _ => Policy::Adaptive,
    };
    let policy = asked.unwrap_or(follows);
    let missing = match () {
        () if policy.uses_wasm() && !wasm => Some("component"),
        () if policy.uses_native() && !native => Some("native"),
        () => None,
    };
    let both = verified > 0.0 && !(wasm && native);
    if let Some(missing) = missing {
        let name = POLICY.iter().find(|(_, choice)| *choice == policy).map_or("", |(name, _)| name);
        let meant = POLICY.iter().find(|(_, choice)| *choice == follows);
        let misfit = Misfit::new(format!("\"{name}\" needs {missing}, which is missing"), "");
        section
            .contradiction("policy", misfit.suggest(meant.map(|(name, _)| format!("\"{name}\""))));
    } else if both {
        section
            .contradiction("verify", Misfit::new("compares component and native", "both of them"));
    }
    policy
}

#[cfg(test)]
mod tests;
