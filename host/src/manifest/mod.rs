//! The manifest, `baton.toml`: what Baton serves and within which bounds.
//!
//! Contract: what is in these types has been validated. Units are in the types, paths are resolved
//! against the manifest's directory, every default is filled in, and what contradicts itself does
//! not exist. They cross from the supervisor to the host process as JSON. Reading is in `read.rs`;
//! it reports everything that is wrong at once.

pub mod egress;
pub mod fault;
pub mod function;
pub mod host;
pub mod listener;
mod read;
pub mod route;
mod section;
pub mod telemetry;
pub mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use egress::{Egress, EgressHost, EgressRule, Scheme};
pub use fault::{Fault, Faults, Misfit, Position};
pub use function::{
    Function, Instances, KeepAlive, Limits, Listen, NativeSource, Policy, Retry, Sandboxes, Shown,
    Verifiable, Verify,
};
pub use host::{Cache, Host, LogFormat, NOBODYS, Tls, User};
pub use listener::Listener;
pub use route::{Pattern, Route};
pub use telemetry::{FunctionTelemetry, Keep, TelemetrySection};
pub use units::ByteSize;

/// A whole manifest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `[host]`.
    pub host: Host,
    /// `[pool]`.
    pub pool: PoolSection,
    /// `[telemetry]`.
    pub telemetry: TelemetrySection,
    /// `[[function]]`, in the order of the file.
    pub functions: Vec<Function>,
    /// Where each key stands in the file, for faults that are found later.
    #[serde(skip)]
    pub source: Source,
}

/// `[pool]`: the native tier as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSection {
    /// Generic sandboxes kept ready.
    pub parked: usize,
    /// What all sandboxes together may take: running, parked and being created.
    pub memory: ByteSize,
}

impl Default for PoolSection {
    fn default() -> Self {
        Self { parked: 4, memory: ByteSize::gib(2) }
    }
}

/// The file that a manifest was read from, and where its keys stand. Without a file (`baton run`)
/// it is empty and faults carry no position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    file: PathBuf,
    places: BTreeMap<String, Position>,
}

impl Source {
    /// A fault at a key path such as `host.listen[0]` or `function.resize.component`.
    pub fn fault(&self, key: impl Into<String>, misfit: Misfit) -> Fault {
        let key = key.into();
        Fault { position: self.places.get(&key).copied(), key, misfit }
    }

    /// All `faults` of this file, or nothing when there are none.
    pub fn faults(&self, faults: Vec<Fault>) -> Option<Faults> {
        Faults::of(&self.file, faults)
    }

    /// The file, as it was given.
    pub fn file(&self) -> &Path {
        &self.file
    }
}
