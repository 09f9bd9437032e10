//! What is wrong with a manifest, said so that a person can act on it.
//!
//! Contract: a [`Misfit`] is why one value does not fit, wherever the value came from; a [`Fault`]
//! is a misfit at a key of a file; [`Faults`] is everything that is wrong with one file, sorted by
//! position, and is never empty.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a value does not fit: the problem, what would fit, and a guess at what was meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Misfit {
    /// What is wrong with the value, which it quotes.
    pub problem: String,
    /// What would have been right; empty when the problem says it.
    pub expected: Cow<'static, str>,
    /// What was probably meant, ready to be copied.
    pub suggestion: Option<String>,
}

impl Misfit {
    /// A misfit without a guess.
    pub fn new(problem: impl Into<String>, expected: impl Into<Cow<'static, str>>) -> Self {
        Self { problem: problem.into(), expected: expected.into(), suggestion: None }
    }

    /// Adds a guess at what was meant, if there is one.
    #[must_use]
    pub fn suggest(mut self, suggestion: Option<impl Into<String>>) -> Self {
        self.suggestion = suggestion.map(Into::into);
        self
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        if !self.expected.is_empty() {
            write!(f, "; expected {}", self.expected)?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean {suggestion}?")?;
        }
        Ok(())
    }
}

/// A place in a text file, both counted from 1; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

/// One thing that is wrong, where it is and at which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where; nothing when the file as a whole is meant.
    pub position: Option<Position>,
    /// The path of the key, such as `function.resize.limits.memory`; empty for a syntax error.
    pub key: String,
    /// What is wrong there.
    pub misfit: Misfit,
}

/// Everything that is wrong with one manifest, sorted by position.
///
/// It is shown with one line a fault and a summary as the last line. Without a file (`baton run`)
/// the lines begin with the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults {
    file: PathBuf,
    faults: Vec<Fault>,
}

impl Faults {
    /// The faults of `file`, or nothing when there are none. Of several at one key the first is
    /// kept: the others tend to follow from it.
    pub(crate) fn of(file: &Path, mut faults: Vec<Fault>) -> Option<Self> {
        faults.sort_by_key(|fault| fault.position);
        let mut seen = HashSet::new();
        faults.retain(|fault| seen.insert((fault.position, fault.key.clone())));
        (!faults.is_empty()).then(|| Self { file: file.to_owned(), faults })
    }

    /// A file that could not be used at all.
    pub(crate) fn whole(file: &Path, problem: impl Into<String>) -> Self {
        let fault = Fault { position: None, key: String::new(), misfit: Misfit::new(problem, "") };
        Self { file: file.to_owned(), faults: vec![fault] }
    }

    /// The faults, sorted by position; at least one.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        let has_file = !self.file.as_os_str().is_empty();
        for Fault { position, key, misfit } in &self.faults {
            match position {
                Some(Position { line, column }) => write!(f, "{file}:{line}:{column}: ")?,
                None if has_file => write!(f, "{file}: ")?,
                None => {}
            }
            if !key.is_empty() {
                write!(f, "{key}: ")?;
            }
            writeln!(f, "{misfit}")?;
        }
        let count = self.faults.len();
        let noun = if count == 1 { "fault" } else { "faults" };
        write!(f, "{count} {noun}")?;
        if has_file { write!(f, " in {file}") } else { Ok(()) }
    }
}

/// The one of `known` that `word` was probably meant to be.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    const ALIKE: f64 = 0.6;
    known
        .into_iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(word, known), known))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}
