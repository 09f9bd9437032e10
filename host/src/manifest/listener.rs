//! Where the host listens.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::fault::Misfit;

/// A listening socket of the host: `127.0.0.1:8080`, `unix:/run/baton/http.sock` or `fd:3`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Listener {
    /// An address to bind; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A Unix socket to bind at this path.
    Unix(PathBuf),
    /// A listening socket that Baton inherited, by its descriptor (3 or more).
    Fd(i32),
}

/// What a listener looks like.
const EXPECTED: &str =
    "IP:PORT such as \"127.0.0.1:8080\", \"unix:PATH\" or \"fd:N\" with N from 3";

/// The longest path that fits `sockaddr_un`, without its final zero byte.
pub(super) const UNIX_PATH_MAX: usize = 107;

impl Listener {
    /// The listener with a relative path taken from `base`.
    pub(super) fn resolve(self, base: &Path) -> Self {
        match self {
            Self::Unix(path) => Self::Unix(base.join(path)),
            other => other,
        }
    }
}

impl FromStr for Listener {
    type Err = Misfit;

    fn from_str(text: &str) -> Result<Self, Misfit> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err(Misfit::new(format!("\"{text}\" has no path"), EXPECTED)),
                1..=UNIX_PATH_MAX => Ok(Self::Unix(path.into())),
                length => Err(Misfit::new(
                    format!("the path of a Unix socket is {length} bytes long"),
                    format!("at most {UNIX_PATH_MAX} bytes"),
                )),
            };
        }
        if let Some(number) = text.strip_prefix("fd:") {
            let number = number.parse().ok().filter(|number| *number >= 3);
            return number.map(Self::Fd).ok_or_else(|| {
                Misfit::new(format!("\"{text}\" names no inherited descriptor"), EXPECTED)
            });
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            Misfit::new(format!("\"{text}\" is not a listener"), EXPECTED).suggest(meant(text))
        })
    }
}

/// `:8080`, `8080`, `localhost:8080` and `http://127.0.0.1:8080` are near misses, and so is a path.
fn meant(text: &str) -> Option<String> {
    if text.starts_with('/') {
        return Some(format!("\"unix:{text}\""));
    }
    let rest = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let rest = rest.replace("localhost", "127.0.0.1");
    let port = rest.strip_prefix(':').unwrap_or(&rest);
    let address = if port.parse::<u16>().is_ok() { format!("127.0.0.1:{port}") } else { rest };
    address.parse::<SocketAddr>().ok().map(|address| format!("\"{address}\""))
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(number) => write!(f, "fd:{number}"),
        }
    }
}
