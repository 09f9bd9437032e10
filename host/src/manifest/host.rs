//! The host's own section of the manifest.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fault::Misfit;
use super::listener::Listener;
use super::units::ByteSize;

/// `[host]`: listeners, privileges, connections and logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Where functions are served; at least one.
    pub listen: Vec<Listener>,
    /// Where administration is served.
    pub admin: Listener,
    /// Whom the host process becomes.
    pub user: User,
    /// Connections at once, over all listeners.
    pub max_connections: usize,
    /// The size of a request's head.
    pub headers: ByteSize,
    /// How long a client may take to send a request's head.
    pub header_timeout: Duration,
    /// How long a drain waits for requests in flight.
    pub grace: Duration,
    /// How long readiness fails before the listeners close.
    pub drain_delay: Duration,
    /// Whether answers say in `Server-Timing` which tier served and how long the phases took.
    pub server_timing: bool,
    /// The form of the access log.
    pub log: LogFormat,
    /// TLS on the TCP listeners of functions.
    pub tls: Option<Tls>,
    /// The compiled components on disk.
    pub cache: Cache,
}

impl Default for Host {
    fn default() -> Self {
        let local = |port| Listener::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Self {
            listen: vec![local(8080)],
            admin: local(8081),
            user: User::Id(NOBODYS),
            max_connections: 10_000,
            headers: ByteSize::kib(64),
            header_timeout: Duration::from_secs(10),
            grace: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            server_timing: false,
            log: LogFormat::Text,
            tls: None,
            cache: Cache::default(),
        }
    }
}

/// The host's user where none is named: a number that no machine gives to anybody. 65534 is the kernel's own for users
/// that it cannot say, and has files.
pub const NOBODYS: u32 = 65533;

/// A user of the system, by id or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum User {
    /// By number; it needs no entry in the user database.
    Id(u32),
    /// By name, looked up when the host starts.
    Name(String),
}

impl FromStr for User {
    type Err = Misfit;

    fn from_str(text: &str) -> Result<Self, Misfit> {
        let misfit = |problem: String| Misfit::new(problem, "a user's name or number");
        if text.is_empty() || text.contains([':', '/', '\0', ' ']) {
            return Err(misfit(format!("\"{text}\" is not a user")));
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Name(text.to_owned()));
        }
        // The largest number means "unchanged" to the kernel.
        let id = text.parse().ok().filter(|id| *id != u32::MAX);
        id.map(Self::Id)
            .ok_or_else(|| misfit(format!("\"{text}\" is too large for a user's number")))
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// How a request's access line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

pub(super) const LOG_FORMAT: &[(&str, LogFormat)] =
    &[("text", LogFormat::Text), ("json", LogFormat::Json)];

/// `[host.tls]`: a certificate chain and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// `[host.cache]`: components compiled ahead of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// The directory, which only Baton's own user may write.
    pub dir: PathBuf,
    /// What all entries together may take.
    pub size: ByteSize,
}

impl Default for Cache {
    fn default() -> Self {
        Self { dir: PathBuf::from("/var/cache/baton"), size: ByteSize::gib(1) }
    }
}
