//! A function: what is run, where requests for it come from and within which bounds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::egress::Egress;
use super::fault::Misfit;
use super::route::Route;
use super::section::choose;
use super::telemetry::FunctionTelemetry;
use super::units::ByteSize;

/// `[[function]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// Its name, unique in the manifest.
    pub name: String,
    /// The requests that it answers.
    pub route: Route,
    /// The WebAssembly component, a file.
    pub component: Option<PathBuf>,
    /// The native build.
    pub native: Option<NativeSource>,
    /// The socket on which the native build accepts.
    pub listen: Listen,
    /// Which tier answers; it never asks for an artifact that is not there.
    pub policy: Policy,
    /// Whether a request that failed in one tier is tried in the other.
    pub retry: Retry,
    /// Comparison of the tiers' answers.
    pub verify: Verify,
    /// How long an instance of the component lives.
    pub instances: Instances,
    /// How long an idle sandbox is kept.
    pub keep_alive: KeepAlive,
    /// The bounds of a request, an instance and a sandbox.
    pub limits: Limits,
    /// How many sandboxes there are.
    pub sandboxes: Sandboxes,
    /// The whole environment of the function, in both tiers.
    pub env: BTreeMap<String, String>,
    /// Where the function may connect to.
    pub egress: Egress,
    /// What differs in what is told of it.
    pub telemetry: FunctionTelemetry,
}

impl Function {
    /// A function with every default, which has no artifact yet.
    pub fn new(name: impl Into<String>, route: Route) -> Self {
        Self {
            name: name.into(),
            route,
            component: None,
            native: None,
            listen: Listen::Inherited,
            policy: Policy::Adaptive,
            retry: Retry::Idempotent,
            verify: Verify::default(),
            instances: Instances::Fresh,
            keep_alive: KeepAlive::Fixed,
            limits: Limits::default(),
            sandboxes: Sandboxes::default(),
            env: BTreeMap::new(),
            egress: Egress::default(),
            telemetry: FunctionTelemetry::default(),
        }
    }
}

/// The native build of a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NativeSource {
    /// One statically linked executable.
    Executable(PathBuf),
    /// A directory that becomes `/`.
    Rootfs {
        /// The directory.
        dir: PathBuf,
        /// The program, a path inside the directory, and its arguments; never empty.
        command: Vec<String>,
    },
    /// An OCI layout, a directory or an archive of it.
    Image(PathBuf),
}

/// The socket on which a native build accepts requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Listen {
    /// Descriptor 3, by the systemd convention.
    #[default]
    Inherited,
    /// A Unix socket that the function makes at this absolute path inside its sandbox.
    Unix(PathBuf),
    /// A TCP port that the function binds on its sandbox's loopback.
    Tcp(u16),
}

/// Which tier answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Always the component.
    Wasm,
    /// Always the native build.
    Native,
    /// A warm sandbox with room if there is one, otherwise the component and a sandbox prepared behind.
    Hybrid,
    /// As hybrid, but sandboxes are only prepared when measured times say that it pays.
    Adaptive,
}

impl Policy {
    /// Whether some request may be answered by the component.
    pub fn uses_wasm(self) -> bool {
        self != Self::Native
    }

    /// Whether some request may be answered by the native build.
    pub fn uses_native(self) -> bool {
        self != Self::Wasm
    }
}

pub(super) const POLICY: &[(&str, Policy)] = &[
    ("wasm", Policy::Wasm),
    ("native", Policy::Native),
    ("hybrid", Policy::Hybrid),
    ("adaptive", Policy::Adaptive),
];

impl FromStr for Policy {
    type Err = Misfit;

    fn from_str(text: &str) -> Result<Self, Misfit> {
        choose(text, POLICY)
    }
}

/// Which requests are tried again in the other tier after a failure before any answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retry {
    /// Those whose method is idempotent.
    #[default]
    Idempotent,
    /// All whose body can be replayed.
    Always,
    /// None.
    Never,
}

pub(super) const RETRY: &[(&str, Retry)] =
    &[("idempotent", Retry::Idempotent), ("always", Retry::Always), ("never", Retry::Never)];

/// `verify`: a share of the requests is answered by both tiers and the answers are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verify {
    /// The share, 0 to 1.
    pub sample: f64,
    /// Which requests may be doubled.
    pub requests: Verifiable,
    /// Headers that are compared besides status and body, in lower case.
    pub headers: Vec<String>,
    /// So many differences among the last 1,000 comparisons demote the function to Wasm.
    pub threshold: u64,
    /// What is kept of answers that differ.
    pub keep: Shown,
    /// Whether requests of a function that may connect elsewhere are doubled, and so its calls.
    pub outbound: bool,
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            sample: 0.0,
            requests: Verifiable::default(),
            headers: vec!["content-type".to_owned()],
            threshold: 3,
            keep: Shown::default(),
            outbound: false,
        }
    }
}

/// What is kept and shown of answers that differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shown {
    /// Status, the compared headers, lengths and digests; the path without its query.
    #[default]
    Digests,
    /// Also the query and the first KiB of the bodies.
    Bodies,
}

pub(super) const KEEP: &[(&str, Shown)] = &[("digests", Shown::Digests), ("bodies", Shown::Bodies)];

/// The requests that may be sent to both tiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verifiable {
    /// Those whose method is safe.
    #[default]
    Safe,
    /// All.
    All,
}

pub(super) const VERIFIABLE: &[(&str, Verifiable)] =
    &[("safe", Verifiable::Safe), ("all", Verifiable::All)];

/// How long an instance of a component lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Instances {
    /// One request: nothing is shared between requests.
    #[default]
    Fresh,
    /// Many requests, which then share the guest's memory.
    Reuse {
        /// Requests until it is dropped.
        requests: u64,
        /// Requests at once.
        concurrent: usize,
        /// How long it is kept without a request.
        idle: Duration,
    },
}

/// How long an idle sandbox is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepAlive {
    /// `sandboxes.idle_timeout`.
    #[default]
    Fixed,
    /// As long as the distribution of the pauses between requests says, at most `idle_timeout`.
    Histogram,
}

pub(super) const KEEP_ALIVE: &[(&str, KeepAlive)] =
    &[("fixed", KeepAlive::Fixed), ("histogram", KeepAlive::Histogram)];

/// `[function.limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of an instance, and of a sandbox (swap included).
    pub memory: ByteSize,
    /// CPU quota of a sandbox, in cores.
    pub cpu: f64,
    /// CPU time of one request, in both tiers.
    pub cpu_time: Duration,
    /// Processes and threads of a sandbox.
    pub pids: u32,
    /// Time of one request, from its head to the end of its answer.
    pub timeout: Duration,
    /// Time until an activated sandbox accepts its first connection.
    pub start_timeout: Duration,
    /// Requests in flight.
    pub concurrency: usize,
    /// Requests that wait for one of those to end.
    pub queue: usize,
    /// How long they wait.
    pub queue_timeout: Duration,
    /// The size of a request's body.
    pub request_body: ByteSize,
    /// The size of `/tmp`, in both tiers; 0: none.
    pub scratch: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: ByteSize::mib(64),
            cpu: 1.0,
            cpu_time: Duration::from_secs(10),
            pids: 32,
            timeout: Duration::from_secs(30),
            start_timeout: Duration::from_secs(10),
            concurrency: 64,
            queue: 128,
            queue_timeout: Duration::from_secs(5),
            request_body: ByteSize::mib(10),
            scratch: ByteSize(0),
        }
    }
}

/// `[function.sandboxes]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandboxes {
    /// Kept running without requests.
    pub min: usize,
    /// At most.
    pub max: usize,
    /// Requests at once in one sandbox.
    pub concurrency: usize,
    /// How long one is kept without a request.
    pub idle_timeout: Duration,
    /// How long an idle sandbox runs before it is frozen.
    pub freeze_after: Duration,
}

impl Default for Sandboxes {
    fn default() -> Self {
        Self {
            min: 0,
            max: 4,
            concurrency: 1,
            idle_timeout: Duration::from_secs(60),
            freeze_after: Duration::from_secs(5),
        }
    }
}
