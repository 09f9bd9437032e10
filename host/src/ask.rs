//! Questions to a running Baton's administration, for the commands that show something of it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::manifest::Listener;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error(
        "no Baton answers at {admin}; start one with `baton run` or `baton serve`, or name its \
         administration with --admin"
    )]
    Nobody {
        /// Where.
        admin: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Administration cannot be reached through a descriptor of another process.
    #[error("{admin} is no address that can be connected to; name an IP:PORT or unix:PATH")]
    NoAddress {
        /// What was named.
        admin: String,
    },
    /// It does not speak HTTP.
    #[error("{admin} is not the administration of a Baton: its answer is not HTTP")]
    NotHttp {
        /// Where.
        admin: String,
    },
    /// It has recorded none.
    #[error("the Baton at {admin} has recorded no request yet (are its traces sampled?)")]
    NoRequest {
        /// Where.
        admin: String,
    },
    /// It refuses.
    #[error("{admin} answers {path} with {status}: {body}")]
    Refused {
        /// Where.
        admin: String,
        /// What was asked for.
        path: String,
        /// The status.
        status: u16,
        /// What it says about it.
        body: String,
    },
}

/// The answer of the administration at `admin` to `GET path`, as text if it can be.
///
/// # Errors
/// When there is none, or one that is no success.
pub fn ask(admin: &Listener, path: &str) -> Result<String, AskError> {
    let nobody = |source| AskError::Nobody { admin: admin.to_string(), source };
    let answer = match admin {
        Listener::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, PATIENCE).map_err(nobody)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(nobody)?;
            exchange(stream, path).map_err(nobody)?
        }
        Listener::Unix(socket) => {
            let stream = UnixStream::connect(socket).map_err(nobody)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(nobody)?;
            exchange(stream, path).map_err(nobody)?
        }
        Listener::Fd(_) => return Err(AskError::NoAddress { admin: admin.to_string() }),
    };
    let not_http = || AskError::NotHttp { admin: admin.to_string() };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(not_http)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    match status.ok_or_else(not_http)? {
        200..=299 => Ok(body.to_owned()),
        status => Err(AskError::Refused {
            admin: admin.to_string(),
            path: path.to_owned(),
            status,
            body: body.to_owned(),
        }),
    }
}

/// The trace of this id, or else of the last request, drawn as a tree.
///
/// # Errors
/// When nobody answers, or the trace is not among those that are kept.
pub fn trace(admin: &Listener, id: Option<&str>) -> Result<String, AskError> {
    if let Some(id) = id {
        return ask(admin, &format!("/v1/traces/{id}"));
    }
    let list: serde_json::Value = serde_json::from_str(&ask(admin, "/v1/traces")?)
        .map_err(|_| AskError::NotHttp { admin: admin.to_string() })?;
    // What happens between requests has traces too.
    let is_request = |trace: &&serde_json::Value| {
        trace["name"].as_str().is_some_and(|name| !name.starts_with("baton."))
            && trace["attributes"]["http.response.status_code"].is_number()
    };
    let last = list["traces"].as_array().and_then(|traces| traces.iter().find(is_request));
    match last.and_then(|trace| trace["trace_id"].as_str()) {
        Some(id) => ask(admin, &format!("/v1/traces/{id}")),
        None => Err(AskError::NoRequest { admin: admin.to_string() }),
    }
}

/// HTTP/1.0: the answer ends with the connection.
fn exchange(mut stream: impl Read + Write, path: &str) -> io::Result<String> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n")?;
    let mut answer = vec![];
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
