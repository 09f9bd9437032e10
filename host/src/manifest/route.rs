//! Which requests a function answers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::fault::Misfit;

/// A pattern of paths, narrowed to one host or not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Route {
    /// The host in lower case, without a port; nothing means every host.
    pub host: Option<String>,
    /// The paths.
    pub pattern: Pattern,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host.as_deref().unwrap_or_default(), self.pattern)
    }
}

/// Paths: one, or everything from one downwards. They are compared byte by byte: nothing is
/// percent-decoded and no dot segment is resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// `/resize`: this path alone.
    Exact(String),
    /// `/resize/*`, kept as `/resize`: this path and everything below; empty for `/*`.
    Below(String),
}

const EXPECTED: &str = "a path such as \"/resize\", or \"/resize/*\" for it and everything below";

/// Longer routes help nobody, and lookups stay short.
const LENGTH_MAX: usize = 1024;

impl FromStr for Pattern {
    type Err = Misfit;

    fn from_str(text: &str) -> Result<Self, Misfit> {
        let misfit = |problem: String| Misfit::new(problem, EXPECTED);
        if !text.starts_with('/') {
            let meant =
                Self::from_str(&format!("/{text}")).ok().map(|meant| format!("\"{meant}\""));
            return Err(misfit(format!("\"{text}\" does not begin with a slash")).suggest(meant));
        }
        if text.len() > LENGTH_MAX {
            return Err(misfit(format!("a route of {} bytes is too long", text.len())));
        }
        let path = text.strip_suffix("/*").unwrap_or(text);
        if path.contains('*') {
            return Err(misfit(format!("\"{text}\" has a * that is not its last segment")));
        }
        if let Some(bad) =
            path.chars().find(|c| !c.is_ascii_graphic() || "?#\"<>\\^`{|}".contains(*c))
        {
            return Err(misfit(format!(
                "\"{text}\" contains {bad:?}, which no request's path contains"
            )));
        }
        if path.contains("//") || path.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(misfit(format!("\"{text}\" has an empty or a dot segment")));
        }
        Ok(match text.strip_suffix("/*") {
            Some(path) => Self::Below(path.to_owned()),
            None => Self::Exact(text.to_owned()),
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Below(path) => write!(f, "{path}/*"),
        }
    }
}
