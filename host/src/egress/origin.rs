//! Where a request goes: scheme, host and port.

use std::fmt;

use http::Uri;

use crate::manifest::{EgressRule, Scheme};

/// An origin (RFC 6454).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The scheme.
    pub scheme: Scheme,
    /// The host as the URI has it: an IPv6 address in brackets.
    pub host: String,
    /// The port, the scheme's own when the URI says none.
    pub port: u16,
}

impl Origin {
    /// The origin of an absolute URI; `None` for one that is not `http` or `https` or that names a
    /// user.
    #[must_use]
    pub fn of(uri: &Uri) -> Option<Self> {
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return None,
        };
        Self::from_authority(scheme, uri)
    }

    /// The origin of a URI whose scheme is known, or is none as in `CONNECT host:port`.
    #[must_use]
    pub fn from_authority(scheme: Scheme, uri: &Uri) -> Option<Self> {
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        // A port that is no number is none for `http::Uri`.
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if authority.as_str().len() == authority.host().len() => scheme.port(),
            None => return None,
        };
        Some(Self { scheme, host: authority.host().to_owned(), port })
    }

    /// The host without brackets.
    #[must_use]
    pub fn bare_host(&self) -> &str {
        let inner = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.unwrap_or(&self.host)
    }

    /// Whether a rule means this origin.
    pub(super) fn is_named_by(&self, rule: &EgressRule) -> bool {
        rule.admits(self.scheme, &self.host, self.port)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.host)?;
        if self.port == self.scheme.port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uri: &str) -> Option<String> {
        Origin::of(&uri.parse().unwrap()).map(|origin| origin.to_string())
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(of("http://a.test/b?c").as_deref(), Some("http://a.test"));
        assert_eq!(of("http://a.test:80").as_deref(), Some("http://a.test"));
        assert_eq!(of("https://[::1]:8443/").as_deref(), Some("https://[::1]:8443"));
    }

    #[test]
    fn what_names_a_user_or_another_scheme_has_no_origin() {
        for uri in ["http://a.test@b.test/", "ftp://a.test/", "/path", "a.test:80"] {
            assert_eq!(of(uri), None, "{uri}");
        }
    }
}
