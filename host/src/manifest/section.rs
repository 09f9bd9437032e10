//! One table of the manifest while it is read.
//!
//! Contract: every look at a key makes it a known one; a value that does not fit becomes a fault at
//! its place and reads as absent, so that reading goes on and finds the next fault; [`Section::end`]
//! makes a fault of every key that was never asked for. An absent table is an empty one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Misfit, Position, nearest};
use super::units::{self, A_DURATION, A_SIZE, ByteSize};

/// What all sections of one file share: its text, and what was found in it so far.
pub(super) struct Document<'a> {
    line_starts: Vec<usize>,
    text: &'a str,
    base: &'a Path,
    found: RefCell<Found>,
}

/// What reading a document brought to light besides the values.
#[derive(Default)]
pub(super) struct Found {
    /// Keys and values that are wrong by themselves.
    pub(super) faults: Vec<Fault>,
    /// What is missing, or does not go with something else.
    pub(super) contradictions: Vec<Fault>,
    /// Where each value stands, by its key path.
    pub(super) places: BTreeMap<String, Position>,
}

impl<'a> Document<'a> {
    /// A document whose relative paths are taken from `base`.
    pub(super) fn new(text: &'a str, base: &'a Path) -> Self {
        let after_newline = text.match_indices('\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(after_newline).collect();
        Self { line_starts, text, base, found: RefCell::default() }
    }

    /// The place of a byte of the text.
    pub(super) fn position(&self, offset: usize) -> Position {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts[line - 1];
        Position { line, column: self.text[start..offset].chars().count() + 1 }
    }

    fn fault(&self, key: String, position: Position, misfit: Misfit) {
        let fault = Fault { position: Some(position), key, misfit };
        self.found.borrow_mut().faults.push(fault);
    }

    /// What was found, at the end.
    pub(super) fn into_found(self) -> Found {
        self.found.into_inner()
    }
}

/// A table and the keys of it that were asked for.
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    path: String,
    at: usize,
    table: Option<&'a DeTable<'a>>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The table that is the whole document.
    pub(super) fn root(document: &'a Document<'a>, table: &'a Spanned<DeTable<'a>>) -> Self {
        Self { document, path: String::new(), at: 0, table: Some(table.get_ref()), known: vec![] }
    }

    /// Calls the section by another path in faults.
    pub(super) fn rename(&mut self, path: String) {
        self.document.found.borrow_mut().places.insert(path.clone(), self.position());
        self.path = path;
    }

    /// Where the section begins.
    pub(super) fn position(&self) -> Position {
        self.document.position(self.at)
    }

    /// Where the value of a key stands, or the section when the key is absent. The key may lead
    /// into sections that were read before, as in `limits.memory`.
    pub(super) fn position_of(&self, key: &str) -> Position {
        if let Some(value) = self.table.and_then(|table| table.get(key)) {
            return self.document.position(value.span().start);
        }
        let found = self.document.found.borrow();
        found.places.get(&self.join(key)).copied().unwrap_or_else(|| self.position())
    }

    /// Whether the key is there, with a fitting value or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Whether the whole table is absent.
    pub(super) fn is_absent(&self) -> bool {
        self.table.is_none()
    }

    /// A path against the manifest's directory.
    pub(super) fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        self.document.base.join(path)
    }

    /// The manifest's directory.
    pub(super) fn base(&self) -> &'a Path {
        self.document.base
    }

    /// Records a value that is wrong by itself.
    fn fault(&self, key: &str, misfit: Misfit) {
        self.document.fault(self.join(key), self.position_of(key), misfit);
    }

    /// Records what is missing or does not go with something else, at [`Section::position_of`] the
    /// key; an empty key means the section.
    pub(super) fn contradiction(&self, key: &str, misfit: Misfit) {
        let fault = Fault { position: Some(self.position_of(key)), key: self.join(key), misfit };
        self.document.found.borrow_mut().contradictions.push(fault);
    }

    /// The value of a key, if it is there and fits.
    pub(super) fn get<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Misfit>,
    ) -> Option<T> {
        let value = self.value(key)?;
        self.fit(self.join(key), value, &read)
    }

    /// As [`Section::get`], where absence is a fault too.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Misfit>,
    ) -> Option<T> {
        if !self.has(key) {
            self.contradiction(key, Misfit::new("is missing", expected));
        }
        self.get(key, read)
    }

    /// The elements of an array, if all of them fit.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Misfit>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let path = self.join(key);
        let Some(array) = value.get_ref().as_array() else {
            let one = text(value.get_ref()).map(|text| format!("[{text}]"));
            let misfit = wrong_type(value.get_ref(), expected).suggest(one);
            self.fault(key, misfit);
            return None;
        };
        let element = |(index, value)| self.fit(format!("{path}[{index}]"), value, &read);
        let elements: Vec<_> = array.iter().enumerate().map(element).collect();
        elements.into_iter().collect()
    }

    /// Every entry of a table with free keys that fits.
    pub(super) fn entries<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str, &DeValue<'_>) -> Result<T, Misfit>,
    ) -> BTreeMap<String, T> {
        let section = self.section(key);
        let entry = |(name, value): (&Spanned<_>, &'a _)| {
            let name: &std::borrow::Cow<'_, str> = name.get_ref();
            let value = section.fit(section.join(name), value, &|value| read(name, value))?;
            Some((name.to_string(), value))
        };
        section.table.into_iter().flat_map(DeTable::iter).filter_map(entry).collect()
    }

    /// A table inside this one.
    pub(super) fn section(&mut self, key: &'static str) -> Self {
        let value = self.value(key);
        let table = value.and_then(|value| {
            let table = value.get_ref().as_table();
            if table.is_none() {
                let expected = format!("the table [{}]", self.join(key));
                self.fault(key, wrong_type(value.get_ref(), expected));
            }
            table
        });
        self.inner(self.join(key), value.map_or(self.at, |value| value.span().start), table)
    }

    /// A table that is one form of a value.
    pub(super) fn variant(&mut self, key: &'static str) -> Option<Self> {
        let value = self.value(key)?;
        let table = value.get_ref().as_table()?;
        Some(self.inner(self.join(key), value.span().start, Some(table)))
    }

    /// The tables of an array of tables.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else { return vec![] };
        let tables =
            value.get_ref().as_array().filter(|array| array.iter().all(|v| v.get_ref().is_table()));
        let Some(tables) = tables else {
            let expected = format!("tables headed [[{}]]", self.join(key));
            self.fault(key, wrong_type(value.get_ref(), expected));
            return vec![];
        };
        let path = self.join(key);
        let section = |(index, value): (usize, &'a Spanned<DeValue<'a>>)| {
            self.inner(format!("{path}[{index}]"), value.span().start, value.get_ref().as_table())
        };
        tables.iter().enumerate().map(section).collect()
    }

    /// Makes a fault of every key that was never asked for.
    pub(super) fn end(self) {
        for (key, _) in self.table.into_iter().flat_map(DeTable::iter) {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let misfit = match nearest(name, self.known.iter().copied()) {
                Some(meant) => Misfit::new("is an unknown key", "").suggest(Some(meant)),
                None => Misfit::new("is an unknown key", one_of(&self.known, "")),
            };
            let position = self.document.position(key.span().start);
            self.document.fault(self.join(name), position, misfit);
        }
    }

    fn inner(&self, path: String, at: usize, table: Option<&'a DeTable<'a>>) -> Self {
        let position = self.document.position(at);
        self.document.found.borrow_mut().places.insert(path.clone(), position);
        Self { document: self.document, path, at, table, known: vec![] }
    }

    fn join(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let table: &'a DeTable<'a> = self.table?;
        table.get(key)
    }

    fn fit<T>(
        &self,
        path: String,
        value: &Spanned<DeValue<'_>>,
        read: &impl Fn(&DeValue<'_>) -> Result<T, Misfit>,
    ) -> Option<T> {
        let position = self.document.position(value.span().start);
        let fitted = read(value.get_ref()).map_err(|misfit| {
            let requoted = requoted(value.get_ref()).filter(|(value, _)| read(value).is_ok());
            let requoted = requoted.map(|(_, text)| text);
            let suggestion = misfit.suggestion.clone().or(requoted);
            self.document.fault(path.clone(), position, misfit.suggest(suggestion));
        });
        self.document.found.borrow_mut().places.insert(path, position);
        fitted.ok()
    }
}

/// A string without its quotes, or anything else with quotes: the mistake that is made most.
fn requoted<'v>(value: &'v DeValue<'_>) -> Option<(DeValue<'v>, String)> {
    match (value, text(value)) {
        (DeValue::String(text), _) => {
            Some((DeValue::parse(text).ok()?.into_inner(), text.to_string()))
        }
        (_, Some(text)) => {
            let quoted = format!("\"{text}\"");
            Some((DeValue::String(text.into()), quoted))
        }
        _ => None,
    }
}

/// A simple value as it stands in the file.
fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(format!("\"{text}\"")),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// The misfit of a value that has another type.
pub(super) fn wrong_type(
    value: &DeValue<'_>,
    expected: impl Into<std::borrow::Cow<'static, str>>,
) -> Misfit {
    let kind = match value.type_str() {
        kind @ ("integer" | "array") => format!("an {kind}"),
        kind => format!("a {kind}"),
    };
    let problem = match text(value) {
        Some(text) => format!("{text} is {kind}"),
        None => format!("is {kind}"),
    };
    Misfit::new(problem, expected)
}

/// `one of "a", "b" or "c"`, every word between two of `quote`.
fn one_of(words: &[&str], quote: &str) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("{quote}{word}{quote}")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "no key".to_owned(),
    }
}

/// Reads a string as it is.
pub(super) fn string(expected: &'static str) -> impl Fn(&DeValue<'_>) -> Result<String, Misfit> {
    move |value| value.as_str().map(str::to_owned).ok_or_else(|| wrong_type(value, expected))
}

/// Reads a string that is not empty: a path or a name.
pub(super) fn filled(expected: &'static str) -> impl Fn(&DeValue<'_>) -> Result<String, Misfit> {
    move |value| match string(expected)(value)? {
        empty if empty.is_empty() => Err(Misfit::new("is empty", expected)),
        other => Ok(other),
    }
}

/// Reads a string that its type parses.
pub(super) fn parsed<T: FromStr<Err = Misfit>>(
    expected: &'static str,
) -> impl Fn(&DeValue<'_>) -> Result<T, Misfit> {
    move |value| value.as_str().ok_or_else(|| wrong_type(value, expected))?.parse()
}

/// Finds a word among the choices.
pub(super) fn choose<T: Copy>(word: &str, choices: &[(&'static str, T)]) -> Result<T, Misfit> {
    let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
    let found = choices.iter().find(|(choice, _)| *choice == word);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let meant = nearest(word, words.iter().copied()).map(|meant| format!("\"{meant}\""));
        Misfit::new(format!("\"{word}\" is unknown"), one_of(&words, "\"")).suggest(meant)
    })
}

/// Reads one of some words.
pub(super) fn choice<T: Copy>(
    choices: &[(&'static str, T)],
) -> impl Fn(&DeValue<'_>) -> Result<T, Misfit> {
    move |value| match value.as_str() {
        Some(word) => choose(word, choices),
        None => {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            Err(wrong_type(value, one_of(&words, "\"")))
        }
    }
}

/// Reads `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Misfit> {
    value.as_bool().ok_or_else(|| wrong_type(value, "true or false"))
}

/// Reads a whole number within bounds.
pub(super) fn count<T>(range: RangeInclusive<T>) -> impl Fn(&DeValue<'_>) -> Result<T, Misfit>
where
    T: TryFrom<i128> + PartialOrd + Copy + Display,
{
    move |value| {
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        let Some(number) = value.as_integer() else { return Err(wrong_type(value, expected())) };
        let parsed = i128::from_str_radix(number.as_str(), number.radix()).ok();
        let fits = parsed.and_then(|n| T::try_from(n).ok()).filter(|n| range.contains(n));
        fits.ok_or_else(|| Misfit::new(format!("{number} is out of range"), expected()))
    }
}

/// Reads a number, with a point or without, within bounds.
pub(super) fn number(range: RangeInclusive<f64>) -> impl Fn(&DeValue<'_>) -> Result<f64, Misfit> {
    move |value| {
        let expected = || format!("a number from {:?} to {:?}", range.start(), range.end());
        let text = match value {
            DeValue::Float(number) => number.as_str(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            _ => return Err(wrong_type(value, expected())),
        };
        let fits = text.parse().ok().filter(|n| range.contains(n));
        fits.ok_or_else(|| Misfit::new(format!("{text} is out of range"), expected()))
    }
}

/// Reads a size within bounds.
pub(super) fn size(
    range: RangeInclusive<ByteSize>,
) -> impl Fn(&DeValue<'_>) -> Result<ByteSize, Misfit> {
    move |value| {
        let size: ByteSize = parsed(A_SIZE)(value)?;
        if range.contains(&size) {
            return Ok(size);
        }
        let expected = format!("a size from {} to {}", range.start(), range.end());
        Err(Misfit::new(format!("\"{size}\" is out of range"), expected))
    }
}

/// Reads a duration within bounds.
pub(super) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&DeValue<'_>) -> Result<Duration, Misfit> {
    move |value| {
        let text = value.as_str().ok_or_else(|| wrong_type(value, A_DURATION))?;
        let duration = units::duration(text)?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let [least, most] = [*range.start(), *range.end()].map(units::duration_text);
        let expected = format!("a duration from {least} to {most}");
        Err(Misfit::new(format!("\"{text}\" is out of range"), expected))
    }
}
