//! A connection that left HTTP/1.1 for another protocol, such as WebSocket.
//!
//! ```text
//! request with Upgrade ─▶ a sandbox is leased, whatever it takes ─▶ 101 ─▶ bytes, both ways
//!                                                                └─ anything else ─▶ an ordinary answer
//! ```
//! Contract: a client and a function in its sandbox exchange bytes as fast as the slower of both
//! reads them. When one of them has ended its half, the other has the function's `timeout` to end
//! its own. The request lasts until then, with its place in the function, in the sandbox and among
//! the connections.

use std::io;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Version, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};

use crate::in_flight::InFlight;
use crate::native::{Connection, Lease};
use crate::record::Outcome;

/// Bytes on their way in one direction.
const BUFFER: usize = 16 << 10;

/// A client that asks for another protocol.
pub struct Asked {
    protocol: HeaderValue,
    client: OnUpgrade,
}

impl Asked {
    /// What `request` asks for, if it does: an HTTP/1.1 request with `Connection: upgrade` and
    /// `Upgrade` (RFC 9110, section 7.8).
    pub fn by<B>(request: &mut Request<B>) -> Option<Self> {
        let asks = request.version() == Version::HTTP_11 && names_upgrade(request.headers());
        let protocol = request.headers().get(header::UPGRADE).filter(|_| asks)?.clone();
        Some(Self { protocol, client: hyper::upgrade::on(request) })
    }

    /// Asks the next hop for the same.
    pub fn pass_on(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.protocol.clone());
    }
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).iter();
    let mut options = values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    options.any(|option| option.trim().eq_ignore_ascii_case("upgrade"))
}

/// A function that has agreed to another protocol, in its sandbox.
pub struct Tunnel {
    connection: Connection,
    function: OnUpgrade,
    lease: Lease,
}

impl Tunnel {
    /// The rest of a connection on which a function has answered 101.
    pub(crate) fn new(connection: Connection, function: OnUpgrade, lease: Lease) -> Self {
        Self { connection, function, lease }
    }

    /// Carries bytes until both sides have ended.
    pub async fn carry(self, client: Asked, mut in_flight: InFlight) {
        let timeout = in_flight.record.function.as_ref().map(|it| it.spec.limits.timeout);
        let record = &mut in_flight.record;
        let joined = async {
            self.connection.end().await;
            let client = TokioIo::new(client.client.await?);
            let function = TokioIo::new(self.function.await?);
            let (received, sent) = (&mut record.received, &mut record.sent);
            Ok::<_, hyper::Error>(join(client, function, timeout, received, sent).await)
        };
        let outcome = match joined.await {
            Ok(Ok(())) => Outcome::Complete,
            // Who speaks another protocol ends it as he likes: a broken connection is no failure.
            Ok(Err(_)) | Err(_) => Outcome::ClientGone,
        };
        self.lease.release();
        in_flight.end(outcome);
    }
}

/// Copies both ways; `up` and `down` count bytes from the client and to it.
async fn join(
    client: impl AsyncRead + AsyncWrite,
    function: impl AsyncRead + AsyncWrite,
    timeout: Option<Duration>,
    up: &mut u64,
    down: &mut u64,
) -> io::Result<()> {
    let ((from_client, to_client), (from_function, to_function)) = (split(client), split(function));
    let mut up = std::pin::pin!(pump(from_client, to_function, up));
    let mut down = std::pin::pin!(pump(from_function, to_client, down));
    let patience = timeout.unwrap_or_default();
    tokio::select! {
        ended = &mut up => {
            ended?;
            tokio::time::timeout(patience, down).await?
        }
        ended = &mut down => {
            ended?;
            tokio::time::timeout(patience, up).await?
        }
    }
}

/// Copies until the end of `from`, and passes that on.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: &mut u64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            read => {
                to.write_all(buffer.get(..read).unwrap_or_default()).await?;
                to.flush().await?;
                *count += read as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(version: Version, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Asked::by(&mut request.body(()).unwrap()).is_some()
    }

    #[test]
    fn an_upgrade_needs_both_headers_and_http_1_1() {
        let both = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        assert!(asks(Version::HTTP_11, &both));
        assert!(!asks(Version::HTTP_10, &both));
        assert!(!asks(Version::HTTP_2, &both));
        assert!(!asks(Version::HTTP_11, &both[..1]));
        assert!(!asks(Version::HTTP_11, &both[1..]));
        assert!(!asks(Version::HTTP_11, &[("connection", "close"), ("upgrade", "websocket")]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_never_ends_is_given_up_when_its_time_is_over() {
        let (client, host) = tokio::io::duplex(64);
        let (function, sandbox) = tokio::io::duplex(64);
        let (mut up, mut down) = (0, 0);
        let timeout = Some(Duration::from_secs(5));
        let joined = join(host, function, timeout, &mut up, &mut down);
        drop(client);
        assert_eq!(joined.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(sandbox);
    }
}
