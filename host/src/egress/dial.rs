//! Connections to allowed origins, checked on the very address that is connected to.
//!
//! An origin must be named by a rule of the function's allow-list. Its name is resolved here, once
//! for each connection, and the connection goes to an address that was checked: one that is not
//! public only when a rule names the address itself (as a literal, a network or `localhost`) for
//! this scheme and port. A name never does, so a name that begins to point inwards (DNS rebinding)
//! reaches nothing.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::address::is_public;
use super::origin::Origin;
use crate::manifest;

/// Time to resolve a name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time to a connection, its name resolved and TLS agreed upon included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Outgoing connections of one function at once, idle ones included.
pub const CONNECTIONS_MAX: usize = 512;

/// Why a function's outgoing connection was not made.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// No rule names the origin.
    #[error("{origin} is not in the function's egress.allow")]
    NotAllowed {
        /// What was asked for.
        origin: Origin,
    },
    /// The name leads only to addresses that no rule names.
    #[error("{host} leads to {address}, a private address that no rule of egress.allow names")]
    Private {
        /// The host asked for.
        host: String,
        /// One of its addresses.
        address: IpAddr,
    },
    /// The name is unknown.
    #[error("{host} cannot be resolved")]
    Unknown {
        /// The host asked for.
        host: String,
    },
    /// The name was not resolved in time.
    #[error("{host} was not resolved within {RESOLVE_TIMEOUT:?}")]
    SlowName {
        /// The host asked for.
        host: String,
    },
    /// Nobody accepted.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address tried last.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody accepted in time.
    #[error("{origin} did not accept a connection in time")]
    Slow {
        /// What was asked for.
        origin: Origin,
    },
    /// The function has as many connections as it may.
    #[error("the function has {CONNECTIONS_MAX} outgoing connections, and none ended in time")]
    TooMany,
}

/// Finds the addresses of a name.
pub type Resolver =
    Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// The machine's own resolver.
#[must_use]
pub fn system_resolver() -> Resolver {
    Arc::new(|host, port| {
        Box::pin(async move {
            tokio::net::lookup_host((host.as_str(), port)).await.map(Iterator::collect)
        })
    })
}

/// Connects to what one function may reach.
pub(super) struct Dialer {
    rules: manifest::Egress,
    resolver: Resolver,
    places: Arc<Semaphore>,
}

impl Dialer {
    /// A dialer for what `rules` allow.
    #[must_use]
    pub(super) fn new(rules: manifest::Egress, resolver: Resolver) -> Self {
        Self { rules, resolver, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }

    /// Whether the function may ask this origin; its address is checked when it is connected to.
    ///
    /// # Errors
    /// `NotAllowed` when it may not.
    pub(super) fn check(&self, origin: &Origin) -> Result<(), Denied> {
        if self.rules.allow.iter().any(|rule| origin.is_named_by(rule)) {
            return Ok(());
        }
        Err(Denied::NotAllowed { origin: origin.clone() })
    }

    /// Whether an origin may have the `traceparent` of the function's requests.
    #[must_use]
    pub(super) fn traces(&self, origin: &Origin) -> bool {
        self.rules.trace.iter().any(|rule| origin.is_named_by(rule))
    }

    /// A connection to an allowed origin.
    ///
    /// # Errors
    /// When the origin is not allowed, or cannot be reached within [`CONNECT_TIMEOUT`].
    pub(super) async fn connect(&self, origin: &Origin) -> Result<Socket, Denied> {
        self.check(origin)?;
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let place = timeout_at(deadline, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(Denied::TooMany) };
        let addresses = self.permitted(origin, self.resolve(origin).await?)?;
        let stream = first(&addresses, deadline).await.map_err(|failed| match failed {
            Some((address, source)) => Denied::Connect { address, source },
            None => Denied::Slow { origin: origin.clone() },
        })?;
        Ok(Socket { stream, _place: place })
    }

    async fn resolve(&self, origin: &Origin) -> Result<Vec<SocketAddr>, Denied> {
        let host = origin.bare_host();
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, origin.port)]);
        }
        let resolving = (self.resolver)(host.to_owned(), origin.port);
        match timeout(RESOLVE_TIMEOUT, resolving).await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(_)) => Err(Denied::Unknown { host: host.to_owned() }),
            Err(_) => Err(Denied::SlowName { host: host.to_owned() }),
        }
    }

    /// The addresses that may be connected to.
    fn permitted(
        &self,
        origin: &Origin,
        addresses: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Denied> {
        let named = |address: &SocketAddr| {
            self.rules.allow.iter().any(|rule| {
                rule.covers(address.ip())
                    && rule.scheme.is_none_or(|scheme| scheme == origin.scheme)
                    && rule.port.is_none_or(|port| port == address.port())
            })
        };
        let (permitted, private): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|address| is_public(address.ip()) || named(address));
        let host = || origin.bare_host().to_owned();
        match (permitted.is_empty(), private.first()) {
            (true, Some(address)) => Err(Denied::Private { host: host(), address: address.ip() }),
            (true, None) => Err(Denied::Unknown { host: host() }),
            (false, _) => Ok(permitted),
        }
    }
}

/// The first that accepts; each has an equal share of the time that is left. `None`: too slow.
async fn first(
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<TcpStream, Option<(SocketAddr, io::Error)>> {
    let mut failed = None;
    for (&address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let time = deadline.saturating_duration_since(Instant::now());
        let share = time / u32::try_from(left).unwrap_or(u32::MAX);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Requests are written whole; waiting to fill a segment only delays them.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => failed = Some((address, error)),
            Err(_) => {}
        }
    }
    Err(failed)
}

/// A connection, which counts among those of its function as long as it is open.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use tokio::net::TcpListener;

    use super::*;
    use crate::manifest::Scheme;

    /// A dialer whose resolver gives one answer after the other.
    fn dialer(allow: &[&str], answers: &[&[SocketAddr]]) -> Dialer {
        let allow = allow.iter().map(|rule| rule.parse().unwrap()).collect();
        let answers: VecDeque<Vec<SocketAddr>> = answers.iter().map(|a| a.to_vec()).collect();
        let answers = Mutex::new(answers);
        let resolver: Resolver = Arc::new(move |_, _| {
            let answer = answers.lock().unwrap().pop_front().expect("no other question");
            Box::pin(async { Ok(answer) })
        });
        Dialer::new(manifest::Egress { allow, trace: Vec::new() }, resolver)
    }

    fn http(host: &str, port: u16) -> Origin {
        Origin { scheme: Scheme::Http, host: host.to_owned(), port }
    }

    /// A listener on loopback, and where it is.
    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn an_origin_outside_the_list_is_denied_and_not_even_resolved() {
        let denied = dialer(&["https://api.example.com"], &[]);
        let denied = denied.connect(&http("evil.example.com", 443)).await;
        assert!(matches!(denied, Err(Denied::NotAllowed { .. })), "{denied:?}");
    }

    #[tokio::test]
    async fn a_name_that_begins_to_point_inwards_is_denied() {
        let (inside, inner) = listener().await;
        let outer = SocketAddr::from(([127, 0, 0, 2], inner.port()));
        let _outside = TcpListener::bind(outer).await.unwrap();
        let rule = format!("http://rebind.example.com:{}", inner.port());
        let dialer = dialer(&[&rule, "127.0.0.2"], &[&[outer], &[inner]]);
        let origin = http("rebind.example.com", inner.port());
        assert!(dialer.connect(&origin).await.is_ok());
        let denied = dialer.connect(&origin).await;
        assert!(matches!(denied, Err(Denied::Private { .. })), "{denied:?}");
        let accepted = timeout(Duration::ZERO, inside.accept()).await;
        assert!(accepted.is_err(), "nobody connected");
    }

    #[tokio::test]
    async fn the_address_that_was_checked_is_the_one_connected_to() {
        let (_inside, address) = listener().await;
        let (name, literal) = ("http://a.example.com:1", address.ip().to_string());
        // A second answer would be another address: the resolver is asked once.
        let dialer = dialer(&[name, &literal], &[&[address]]);
        let socket = dialer.connect(&http("a.example.com", 1)).await.unwrap();
        assert_eq!(socket.stream.peer_addr().unwrap(), address);
    }

    #[test]
    fn of_a_names_addresses_only_the_public_ones_are_used() {
        let all = ["10.0.0.1:80", "1.1.1.1:80"].map(|a| a.parse().unwrap());
        let dialer = dialer(&["http://a.example.com"], &[]);
        let permitted = dialer.permitted(&http("a.example.com", 80), all.to_vec());
        assert_eq!(permitted.unwrap(), [all[1]]);
    }

    #[test]
    fn a_rule_for_a_private_address_opens_its_own_port_and_scheme_alone() {
        let dialer = dialer(&["https://a.example.com", "http://10.0.0.1:8080"], &[]);
        let permitted = |scheme, port| {
            let origin = Origin { scheme, host: "a.example.com".to_owned(), port };
            dialer.permitted(&origin, vec![SocketAddr::from(([10, 0, 0, 1], port))])
        };
        assert!(permitted(Scheme::Http, 8080).is_ok());
        assert!(permitted(Scheme::Https, 443).is_err());
        assert!(permitted(Scheme::Https, 8080).is_err());
    }

    #[tokio::test]
    async fn literals_networks_and_localhost_reach_private_addresses() {
        let (_listener, address) = listener().await;
        let port = address.port();
        let literal = format!("http://127.0.0.1:{port}");
        for (rule, host) in [
            (literal.as_str(), "127.0.0.1"),
            ("127.0.0.0/8", "127.0.0.1"),
            ("localhost", "localhost"),
            ("localhost", "127.0.0.1"),
        ] {
            let connected = dialer(&[rule], &[&[address]]).connect(&http(host, port)).await;
            assert!(connected.is_ok(), "{rule} {host}: {connected:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_hangs_is_given_up() {
        let rules = ["http://a.example.com".parse().unwrap()];
        let rules = manifest::Egress { allow: rules.to_vec(), trace: Vec::new() };
        let hangs = Dialer::new(rules, Arc::new(|_, _| Box::pin(std::future::pending())));
        let denied = hangs.connect(&http("a.example.com", 80)).await;
        assert!(matches!(denied, Err(Denied::SlowName { .. })), "{denied:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_function_has_no_more_connections_than_it_may() {
        let (_listener, address) = listener().await;
        let dialer = dialer(&["127.0.0.1"], &[]);
        let _all = dialer.places.acquire_many(512).await.unwrap();
        let denied = dialer.connect(&http("127.0.0.1", address.port())).await;
        assert!(matches!(denied, Err(Denied::TooMany)), "{denied:?}");
    }
}
