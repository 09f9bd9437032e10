//! A question to the administration of a running Baton.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::manifest::Listener;

/// How long administration may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why administration could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answers there.
    #[error("no administration of Baton answers at {admin}; is it running, and is --admin right?")]
    Connect {
        /// Where it was looked for.
        admin: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It does not know the function.
    #[error("there is no function {name:?}; it serves: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// It is something else that answers there.
    #[error("what answers at {admin} is not the administration of Baton: {said}")]
    Foreign {
        /// Where.
        admin: String,
        /// What it said.
        said: String,
    },
}

/// Asks a running Baton for the document of the function `name`.
///
/// # Errors
/// When nobody answers at `admin`, or it does not know the function.
pub fn ask(admin: &Listener, name: &str) -> Result<Value, AskError> {
    let encoded = utf8_percent_encode(name, NON_ALPHANUMERIC);
    let (status, text) = get(admin, &format!("/v1/functions/{encoded}/explain"))?;
    if status == 404 {
        return Err(AskError::Unknown { name: name.to_owned(), known: known(admin)? });
    }
    let foreign = || AskError::Foreign { admin: admin.to_string(), said: format!("{status}") };
    serde_json::from_str(&text).ok().filter(|_| status == 200).ok_or_else(foreign)
}

fn known(admin: &Listener) -> Result<String, AskError> {
    let (_, text) = get(admin, "/v1/functions")?;
    let document: Value = serde_json::from_str(&text).unwrap_or_default();
    let rows = document["functions"].as_array().cloned().unwrap_or_default();
    let names: Vec<_> =
        rows.iter().filter_map(|row| row["name"].as_str().map(str::to_owned)).collect();
    Ok(names.join(", "))
}

/// The least HTTP that an answer of known length needs.
fn get(admin: &Listener, path: &str) -> Result<(u16, String), AskError> {
    let failed = |source| AskError::Connect { admin: admin.to_string(), source };
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let answer = match admin {
        Listener::Tcp(address) => {
            TcpStream::connect_timeout(address, PATIENCE).and_then(|stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                exchange(stream, &request)
            })
        }
        Listener::Unix(socket) => UnixStream::connect(socket).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            exchange(stream, &request)
        }),
        Listener::Fd(_) => Err(std::io::Error::other("a descriptor is nobody's address")),
    };
    let answer = answer.map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let foreign = || AskError::Foreign {
        admin: admin.to_string(),
        said: answer.lines().next().unwrap_or_default().to_owned(),
    };
    Ok((status.ok_or_else(foreign)?, body.to_owned()))
}

fn exchange(mut stream: impl Read + Write, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
