//! What a function may connect to, checked on the very address that is connected to.
//!
//! A request's origin must be named by a rule of the function's allow-list. Its name is resolved
//! here, once, and the connection goes to an address that was checked: private, loopback,
//! link-local and other special addresses only when a rule names the address itself (as a literal,
//! a network or `localhost`). A name never does, so a name that begins to point inwards (DNS
//! rebinding) reaches nothing.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::manifest::{self, Scheme};

/// Time to resolve a name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time to connect, unless the function asks for less.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a function's outgoing connection was not made.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// No rule names the origin.
    #[error("{scheme}://{host}:{port} is not in the function's egress.allow", scheme = .scheme.as_str())]
    NotAllowed {
        /// The scheme asked for.
        scheme: Scheme,
        /// The host asked for.
        host: String,
        /// The port asked for.
        port: u16,
    },
    /// The name leads only to addresses that no rule names.
    #[error("{host} leads to {address}, a private address that no rule of egress.allow names")]
    Private {
        /// The host asked for.
        host: String,
        /// One of its addresses.
        address: IpAddr,
    },
    /// The name is unknown, or was not resolved in time.
    #[error("{host} cannot be resolved")]
    Unknown {
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
        source: std::io::Error,
    },
    /// Nobody accepted in time.
    #[error("{host} did not accept a connection in time")]
    Slow {
        /// The host asked for.
        host: String,
    },
}

/// The allow-list of one function.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    rules: manifest::Egress,
}

impl Egress {
    /// The allow-list that the manifest states.
    #[must_use]
    pub fn new(rules: manifest::Egress) -> Self {
        Self { rules }
    }

    /// Whether an origin may have the request's `traceparent`.
    #[must_use]
    pub fn traces(&self, scheme: Scheme, host: &str, port: u16) -> bool {
        self.rules.trace.iter().any(|rule| rule.admits(scheme, host, port))
    }

    /// A connection to an allowed origin.
    ///
    /// # Errors
    /// When the origin is not allowed or cannot be reached within `timeout`.
    pub async fn connect(
        &self,
        scheme: Scheme,
        host: &str,
        port: u16,
        timeout: Duration,
    ) -> Result<TcpStream, Denied> {
        if !self.rules.allow.iter().any(|rule| rule.admits(scheme, host, port)) {
            return Err(Denied::NotAllowed { scheme, host: host.to_owned(), port });
        }
        let addresses = self.permitted(host, resolve(host, port).await?)?;
        tokio::time::timeout(timeout, first(&addresses))
            .await
            .map_err(|_| Denied::Slow { host: host.to_owned() })?
            .map_err(|(address, source)| Denied::Connect { address, source })
    }

    /// The addresses that may be connected to.
    fn permitted(&self, host: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Denied> {
        let named = |address: IpAddr| self.rules.allow.iter().any(|rule| rule.covers(address));
        let (permitted, private): (Vec<_>, Vec<_>) = addresses
            .into_iter()
            .partition(|address| is_public(address.ip()) || named(address.ip()));
        match (permitted.is_empty(), private.first()) {
            (true, Some(address)) => {
                Err(Denied::Private { host: host.to_owned(), address: address.ip() })
            }
            (true, None) => Err(Denied::Unknown { host: host.to_owned() }),
            (false, _) => Ok(permitted),
        }
    }
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Denied> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    match tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((bare, port))).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(_)) | Err(_) => Err(Denied::Unknown { host: host.to_owned() }),
    }
}

async fn first(addresses: &[SocketAddr]) -> Result<TcpStream, (SocketAddr, std::io::Error)> {
    let mut failed = None;
    for &address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Requests are written whole; waiting to fill a segment only delays them.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => failed = Some((address, error)),
        }
    }
    Err(failed.unwrap_or_else(|| {
        (SocketAddr::from(([0, 0, 0, 0], 0)), std::io::ErrorKind::AddrNotAvailable.into())
    }))
}

/// Whether an address belongs to the public Internet, by the IANA special-purpose registries
/// (RFC 6890 and its updates). Addresses that embed an IPv4 address are judged by that one.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(a == 0
                || v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && (b == 18 || b == 19))
                || a >= 224)
        }
        IpAddr::V6(v6) => embedded(v6).map_or_else(
            || {
                let s = v6.segments();
                // Only 2000::/3 is global unicast; of it, documentation and ORCHID are not.
                (s[0] & 0xe000) == 0x2000
                    && !(s[0] == 0x2001 && s[1] < 0x0200)
                    && !(s[0] == 0x2001 && s[1] == 0x0db8)
                    && !(s[0] == 0x3fff && s[1] < 0x1000)
            },
            |v4| is_public(IpAddr::V4(v4)),
        ),
    }
}

/// The IPv4 address inside a mapped, NAT64 or 6to4 address.
fn embedded(v6: Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    let s = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        std::net::Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(v4(high, low))
        }
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(allow: &[&str]) -> Egress {
        let allow = allow.iter().map(|rule| rule.parse().unwrap()).collect();
        Egress::new(manifest::Egress { allow, trace: Vec::new() })
    }

    #[test]
    fn special_addresses_are_not_public() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn ordinary_addresses_are_public() {
        for address in ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "64:ff9b::101:101"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn an_origin_outside_the_list_is_denied() {
        let denied = egress(&["https://api.example.com"])
            .connect(Scheme::Http, "127.0.0.1", 1, CONNECT_TIMEOUT)
            .await;
        assert!(matches!(denied, Err(Denied::NotAllowed { .. })), "{denied:?}");
    }

    #[test]
    fn a_name_that_points_inwards_is_denied() {
        let denied = egress(&["http://rebind.example.com"])
            .permitted("rebind.example.com", vec!["127.0.0.1:80".parse().unwrap()]);
        assert!(matches!(denied, Err(Denied::Private { .. })), "{denied:?}");
    }

    #[test]
    fn of_a_names_addresses_only_the_public_ones_are_used() {
        let all = ["10.0.0.1:80", "1.1.1.1:80"].map(|a| a.parse().unwrap());
        let permitted = egress(&["http://a.example.com"]).permitted("a.example.com", all.to_vec());
        assert_eq!(permitted.unwrap(), [all[1]]);
    }

    #[tokio::test]
    async fn a_literal_rule_reaches_a_private_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let rule = format!("http://127.0.0.1:{port}");
        let connected =
            egress(&[&rule]).connect(Scheme::Http, "127.0.0.1", port, CONNECT_TIMEOUT).await;
        assert!(connected.is_ok());
    }
}
