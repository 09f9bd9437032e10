//! Which function a request is for.
//!
//! Contract: of all routes that match the request's host and path, the longest wins; of two equally
//! long ones the exact, then the one narrowed to a host. Paths are compared byte by byte, as the
//! client sent them: nothing is percent-decoded, no dot segment is resolved. A lookup allocates
//! nothing and looks at most as far into the path as the longest route goes.

use std::collections::HashMap;

use crate::manifest::{Function, Pattern};

/// The routing table of a manifest.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// By path without a final star; each list is sorted, so that the first match wins.
    by_path: HashMap<Box<str>, Vec<Target>>,
    /// The length of the longest key.
    longest: usize,
}

#[derive(Clone, Debug)]
struct Target {
    function: usize,
    exact: bool,
    host: Option<Box<str>>,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match<'p> {
    /// The index of the function in what the table was built of.
    pub function: usize,
    /// The start of the path that the route took, without a final slash: `X-Forwarded-Prefix`.
    pub prefix: &'p str,
    /// The rest, which the function sees; it begins with a slash.
    pub rest: &'p str,
}

impl Routes {
    /// The table of some functions, whose routes differ from each other.
    pub fn build(functions: &[Function]) -> Self {
        let mut routes = Self::default();
        for (index, function) in functions.iter().enumerate() {
            let (path, exact) = match &function.route.pattern {
                Pattern::Exact(path) => (path, true),
                Pattern::Below(path) => (path, false),
            };
            let host = function.route.host.as_deref().map(Box::from);
            let targets = routes.by_path.entry(path.as_str().into()).or_default();
            targets.push(Target { function: index, exact, host });
            targets.sort_by_key(|target| (!target.exact, target.host.is_none()));
            routes.longest = routes.longest.max(path.len());
        }
        routes
    }

    /// The function for a request: `host` is its host with or without a port, `path` its path
    /// without the query, beginning with a slash.
    pub fn lookup<'p>(&self, host: Option<&str>, path: &'p str) -> Option<Match<'p>> {
        let host = host.map(without_port);
        if let Some(found) = self.at(host, path, path.len()) {
            return Some(found);
        }
        let reach = path.len().min(self.longest + 1);
        let slashes = path.as_bytes()[..reach].iter().enumerate().rev();
        let mut ends = slashes.filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        ends.find_map(|end| self.at(host, path, end))
    }

    /// The best route of exactly the first `end` bytes of the path.
    fn at<'p>(&self, host: Option<&str>, path: &'p str, end: usize) -> Option<Match<'p>> {
        let whole = end == path.len();
        let targets = self.by_path.get(&path[..end])?;
        let fits = |target: &&Target| {
            (whole || !target.exact)
                && target
                    .host
                    .as_deref()
                    .is_none_or(|own| host.is_some_and(|host| host.eq_ignore_ascii_case(own)))
        };
        let function = targets.iter().find(fits)?.function;
        let prefix = path[..end].trim_end_matches('/');
        let rest = match &path[prefix.len()..] {
            "" => "/",
            rest => rest,
        };
        Some(Match { function, prefix, rest })
    }
}

/// `[::1]:8080` is `::1`, `example.com:8080` and `example.com.` are `example.com`.
fn without_port(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::Route;

    fn functions(routes: &[(Option<&str>, &str)]) -> Vec<Function> {
        let function = |(host, pattern): &(Option<&str>, &str)| {
            let host = host.map(str::to_owned);
            Function::new("f", Route { host, pattern: pattern.parse().unwrap() })
        };
        routes.iter().map(function).collect()
    }

    fn found<'p>(
        routes: &[(Option<&str>, &str)],
        host: Option<&str>,
        path: &'p str,
    ) -> Option<(usize, &'p str, &'p str)> {
        let found = Routes::build(&functions(routes)).lookup(host, path)?;
        Some((found.function, found.prefix, found.rest))
    }

    #[test]
    fn a_starred_route_matches_itself_and_everything_below_but_no_longer_word() {
        let routes = [(None, "/resize/*")];
        assert_eq!(found(&routes, None, "/resize"), Some((0, "/resize", "/")));
        assert_eq!(found(&routes, None, "/resize/"), Some((0, "/resize", "/")));
        assert_eq!(found(&routes, None, "/resize/a/b"), Some((0, "/resize", "/a/b")));
        assert_eq!(found(&routes, None, "/resized"), None);
        assert_eq!(found(&routes, None, "/"), None);
    }

    #[test]
    fn an_exact_route_matches_itself_alone() {
        let routes = [(None, "/resize")];
        assert_eq!(found(&routes, None, "/resize"), Some((0, "/resize", "/")));
        assert_eq!(found(&routes, None, "/resize/"), None);
        assert_eq!(found(&routes, None, "/resize/a"), None);
    }

    #[test]
    fn the_longest_match_wins() {
        let routes = [(None, "/*"), (None, "/a/*"), (None, "/a/b/*"), (None, "/a/b")];
        assert_eq!(found(&routes, None, "/x"), Some((0, "", "/x")));
        assert_eq!(found(&routes, None, "/a/x"), Some((1, "/a", "/x")));
        assert_eq!(found(&routes, None, "/a/b/c"), Some((2, "/a/b", "/c")));
        assert_eq!(found(&routes, None, "/a/b"), Some((3, "/a/b", "/")));
    }

    #[test]
    fn a_route_for_the_host_goes_before_an_equal_one_for_every_host() {
        let routes = [(None, "/a/*"), (Some("www.example.com"), "/a/*")];
        assert_eq!(found(&routes, Some("WWW.example.com:8080"), "/a"), Some((1, "/a", "/")));
        assert_eq!(found(&routes, Some("example.com"), "/a"), Some((0, "/a", "/")));
        assert_eq!(found(&routes, None, "/a"), Some((0, "/a", "/")));
    }

    #[test]
    fn an_encoded_slash_or_letter_does_not_match_a_plain_one() {
        let routes = [(None, "/a/*")];
        assert_eq!(found(&routes, None, "/a%2Fb"), None);
        assert_eq!(found(&routes, None, "/%61/b"), None);
        assert_eq!(found(&routes, None, "/a/../b"), Some((0, "/a", "/../b")));
    }

    #[test]
    fn an_address_in_brackets_is_a_host() {
        let routes = [(Some("::1"), "/*")];
        assert_eq!(found(&routes, Some("[::1]:80"), "/x"), Some((0, "", "/x")));
    }

    /// What the contract says, word by word, over all routes.
    fn model(routes: &[(Option<&str>, &str)], host: Option<&str>, path: &str) -> Option<usize> {
        let matching = routes.iter().enumerate().filter(|(_, (own, pattern))| {
            let path_fits = match pattern.strip_suffix("/*") {
                Some(above) => path == above || path.starts_with(&format!("{above}/")),
                None => path == *pattern,
            };
            path_fits && (own.is_none() || *own == host)
        });
        let rank = |pattern: &str| pattern.strip_suffix("/*").unwrap_or(pattern).len();
        matching
            .max_by_key(|(_, (own, pattern))| {
                (rank(pattern), !pattern.ends_with("/*"), own.is_some())
            })
            .map(|(index, _)| index)
    }

    const PATTERNS: [&str; 9] =
        ["/*", "/", "/a/*", "/a", "/a/", "/a/b/*", "/a/b", "/ab/*", "/a/b/c"];
    const HOSTS: [Option<&str>; 3] = [None, Some("h"), Some("i")];

    proptest! {
        #[test]
        fn lookup_agrees_with_a_search_through_all_routes(
            routes in proptest::collection::hash_set(
                (proptest::sample::select(&HOSTS[..]), proptest::sample::select(&PATTERNS[..])),
                0..12,
            ),
            host in proptest::sample::select(&HOSTS[..]),
            path in "(/[abc]{0,2}){1,4}",
        ) {
            let routes: Vec<_> = routes.into_iter().collect();
            let found = found(&routes, host, &path);
            prop_assert_eq!(found.map(|found| found.0), model(&routes, host, &path));
            if let Some((_, prefix, rest)) = found {
                prop_assert!(path.starts_with(prefix) && rest.starts_with('/'));
                prop_assert!(path == prefix || [prefix, rest].concat() == path);
            }
        }
    }
}
