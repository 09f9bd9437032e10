//! Where a function may connect to.
//!
//! Contract: a rule is an origin (`https://api.example.com`, `http://10.0.0.7:8080`), or, without
//! scheme, an address, a network or `localhost` with an optional port, which then stands for both
//! schemes. A rule with a name covers the name and the public addresses behind it; private
//! addresses are covered only by a rule that says an address, a network or `localhost`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::fault::Misfit;

/// `[function.egress]`; empty: nothing is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// Where requests may go.
    pub allow: Vec<EgressRule>,
    /// Which of those get our `traceparent`.
    pub trace: Vec<EgressRule>,
}

/// One place, or one network of places.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EgressRule {
    /// The scheme; nothing means both.
    pub scheme: Option<Scheme>,
    /// The host or hosts.
    pub host: EgressHost,
    /// The port; nothing means any. An origin without a port has its scheme's.
    pub port: Option<u16>,
}

/// The scheme of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// `http`, port 80.
    Http,
    /// `https`, port 443.
    Https,
}

impl Scheme {
    /// Its name in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of an origin that names none.
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The host part of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EgressHost {
    /// A name in lower case: the name itself and the public addresses behind it.
    Name(String),
    /// `localhost`: the name and every loopback address.
    Localhost,
    /// One address, private or not.
    Address(IpAddr),
    /// A network, private or not.
    Network(IpNet),
}

impl EgressRule {
    /// Whether a request's URL is meant by this rule; `host` as the URL says it, brackets or not.
    pub fn admits(&self, scheme: Scheme, host: &str, port: u16) -> bool {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let named = match (&self.host, host.parse::<IpAddr>()) {
            (EgressHost::Name(name), _) => name.eq_ignore_ascii_case(host),
            (EgressHost::Localhost, Err(_)) => host.eq_ignore_ascii_case("localhost"),
            (_, Ok(address)) => self.covers(address),
            (_, Err(_)) => false,
        };
        named
            && self.scheme.is_none_or(|own| own == scheme)
            && self.port.is_none_or(|own| own == port)
    }

    /// Whether whatever `other` admits is admitted by this rule.
    pub fn includes(&self, other: &Self) -> bool {
        let host = match (&self.host, &other.host) {
            (_, EgressHost::Address(address)) => self.covers(*address),
            (EgressHost::Network(own), EgressHost::Network(other)) => own.contains(other),
            (own, other) => own == other,
        };
        host && (self.scheme.is_none() || self.scheme == other.scheme)
            && (self.port.is_none() || self.port == other.port)
    }

    /// Whether this rule names the address itself, so that it may be connected to though private.
    pub fn covers(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match &self.host {
            EgressHost::Name(_) => false,
            EgressHost::Localhost => address.is_loopback(),
            EgressHost::Address(own) => own.to_canonical() == address,
            EgressHost::Network(network) => network.contains(&address),
        }
    }
}

const EXPECTED: &str = "an origin such as \"https://api.example.com\", an IP address, a network such as \"10.0.0.0/8\" or \"localhost\"";

impl FromStr for EgressRule {
    type Err = Misfit;

    fn from_str(text: &str) -> Result<Self, Misfit> {
        let misfit = |problem: &str| Misfit::new(format!("\"{text}\" {problem}"), EXPECTED);
        let Some((scheme, rest)) = text.split_once("://") else {
            return bare(text);
        };
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => return Err(misfit(&format!("has the scheme {other}, not http or https"))),
        };
        if rest.contains('@') {
            return Err(misfit("names a user, which an origin does not"));
        }
        let (host, port) = host_and_port(rest).ok_or_else(|| {
            let origin = rest.split(['/', '?', '#']).next().filter(|origin| *origin != rest);
            let meant = origin.map(|origin| format!("\"{}://{origin}\"", scheme.as_str()));
            let problem = if meant.is_some() {
                "has a path, which an origin does not"
            } else {
                "is not an origin"
            };
            misfit(problem).suggest(meant)
        })?;
        Ok(Self { scheme: Some(scheme), host, port: port.or(Some(scheme.port())) })
    }
}

/// A rule without scheme says an address, a network or `localhost`; a name would be ambiguous.
fn bare(text: &str) -> Result<EgressRule, Misfit> {
    match host_and_port(text) {
        Some((EgressHost::Name(_), _)) => {
            Err(Misfit::new(format!("\"{text}\" has no scheme"), EXPECTED)
                .suggest(Some(format!("\"https://{text}\""))))
        }
        Some((host, port)) => Ok(EgressRule { scheme: None, host, port }),
        None => Err(Misfit::new(format!("\"{text}\" is not a place to connect to"), EXPECTED)),
    }
}

fn host_and_port(text: &str) -> Option<(EgressHost, Option<u16>)> {
    if let Ok(address) = text.parse() {
        return Some((EgressHost::Address(address), None));
    }
    if let Ok(network) = text.parse::<IpNet>() {
        return Some((EgressHost::Network(network.trunc()), None));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let host = EgressHost::Address(IpAddr::V6(address.parse().ok()?));
        return match port.strip_prefix(':') {
            Some(port) => Some((host, Some(port_number(port)?))),
            None => port.is_empty().then_some((host, None)),
        };
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port_number(port)?)),
        None => (text, None),
    };
    let host = if let Ok(address) = host.parse() {
        EgressHost::Address(address)
    } else if host.eq_ignore_ascii_case("localhost") {
        EgressHost::Localhost
    } else {
        EgressHost::Name(host_name(host)?)
    };
    Some((host, port))
}

fn port_number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

/// A DNS name in lower case, if `text` is one.
pub(super) fn host_name(text: &str) -> Option<String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name whose last label is a number is a mistyped address.
    let number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    let fits = text.len() <= 253
        && text.split('.').all(label)
        && !text.rsplit('.').next().is_some_and(number);
    fits.then(|| text.to_ascii_lowercase())
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(scheme) = self.scheme {
            write!(f, "{}://", scheme.as_str())?;
        }
        match &self.host {
            EgressHost::Name(name) => f.write_str(name)?,
            EgressHost::Localhost => f.write_str("localhost")?,
            EgressHost::Address(IpAddr::V6(address))
                if self.scheme.is_some() || self.port.is_some() =>
            {
                write!(f, "[{address}]")?;
            }
            EgressHost::Address(address) => write!(f, "{address}")?,
            EgressHost::Network(network) => write!(f, "{network}")?,
        }
        match self.port {
            Some(port) if self.scheme.map(Scheme::port) != Some(port) => write!(f, ":{port}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> EgressRule {
        text.parse().unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_origin_admits_its_own_scheme_host_and_port_alone() {
        let rule = rule("https://api.example.com");
        assert!(rule.admits(Scheme::Https, "API.example.com", 443));
        assert!(!rule.admits(Scheme::Http, "api.example.com", 443));
        assert!(!rule.admits(Scheme::Https, "api.example.com", 8443));
        assert!(!rule.admits(Scheme::Https, "example.com", 443));
        assert!(!rule.admits(Scheme::Https, "api.example.com.evil.example", 443));
    }

    #[test]
    fn a_network_admits_its_addresses_in_both_schemes_and_any_port() {
        let rule = rule("10.0.0.0/8");
        assert!(rule.admits(Scheme::Http, "10.1.2.3", 8080));
        assert!(!rule.admits(Scheme::Http, "11.1.2.3", 8080));
        assert!(!rule.admits(Scheme::Http, "example.com", 80));
    }

    #[test]
    fn only_a_rule_that_says_so_covers_an_address() {
        assert!(!rule("http://db.internal").covers(address("10.0.0.1")));
        assert!(rule("http://10.0.0.1:5432").covers(address("10.0.0.1")));
        assert!(rule("fd00::/8").covers(address("fd00::1")));
        assert!(rule("localhost").covers(address("::1")));
        assert!(!rule("localhost").covers(address("10.0.0.1")));
    }

    #[test]
    fn an_ipv4_address_mapped_into_ipv6_is_the_same_address() {
        assert!(rule("127.0.0.0/8").covers(address("::ffff:127.0.0.1")));
    }

    #[test]
    fn a_rule_is_read_back_as_it_was_written() {
        let rules = [
            "https://api.example.com",
            "http://api.example.com:8080",
            "http://[::1]:8080",
            "http://10.0.0.1",
            "10.0.0.1",
            "::1",
            "[::1]:80",
            "10.0.0.0/8",
            "localhost",
            "localhost:3000",
        ];
        for text in rules {
            assert_eq!(rule(text).to_string(), text);
        }
    }
}
