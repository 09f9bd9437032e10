//! Results: what was measured, where, as tables, bars and data, in a file.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::bars::Bar;
use crate::baton::target_dir;
use crate::characterize::Size;
use crate::machine::Machine;
use crate::measured::Measured;
use crate::table::Table;

/// The version of the files; a reader of another one refuses them.
pub const FORMAT: u32 = 1;

/// Everything that one measurement found out.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// [`FORMAT`].
    pub format: u32,
    /// What was measured.
    pub name: String,
    /// Where.
    pub machine: Machine,
    /// The seed of everything random.
    pub seed: u64,
    /// What is printed.
    pub tables: Vec<Table>,
    /// What had to be reached.
    pub bars: Vec<Bar>,
    /// Remarks: what was left out and why, what is to be kept in mind.
    pub notes: Vec<String>,
    /// Raw data by name, for reports and for calculating anew.
    pub data: Map<String, Value>,
}

impl Results {
    /// Nothing measured yet, on this machine.
    #[must_use]
    pub fn new(name: &str, seed: u64) -> Self {
        Self {
            format: FORMAT,
            name: name.to_owned(),
            machine: Machine::here(),
            seed,
            tables: Vec::new(),
            bars: Vec::new(),
            notes: Vec::new(),
            data: Map::new(),
        }
    }

    /// Adds raw data.
    ///
    /// # Errors
    /// When it has no form in JSON.
    pub fn data(&mut self, name: &str, data: &impl Serialize) -> serde_json::Result<()> {
        self.data.insert(name.to_owned(), serde_json::to_value(data)?);
        Ok(())
    }

    /// Whether the target was lost before the measurement was at its end.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        let rows = self.data.get("measured").and_then(Value::as_array);
        rows.is_some_and(|rows| rows.iter().any(|row| row["lost"].is_string()))
    }

    /// As text: tables, notes, the machine, then one line a bar.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            text += &format!("{table}\n");
        }
        for note in &self.notes {
            text += &format!("note: {note}\n");
        }
        text += &format!("machine: {}; seed {}\n", self.machine.line(), self.seed);
        for bar in &self.bars {
            text += &format!("{bar}\n");
        }
        text
    }

    /// Writes it to `target/bench/NAME.json`, and returns where that is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> anyhow::Result<PathBuf> {
        let directory = target_dir().join("bench");
        let path = directory.join(&self.name).with_extension("json");
        self.write_to(&path)?;
        Ok(path)
    }

    /// Writes it to a file, whole or not at all; what is no regular file (`/dev/null`, a pipe) is
    /// written to and not replaced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_to(&self, path: &Path) -> anyhow::Result<()> {
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Ok(fs::write(path, serde_json::to_vec_pretty(self)?)?);
        }
        let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.persist(path)?;
        Ok(())
    }
}

/// Results that were read from a file.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// What was measured.
    pub name: String,
    /// Where.
    pub machine: Machine,
    /// What was printed.
    pub tables: Vec<Table>,
    /// Remarks.
    pub notes: Vec<String>,
    /// Single measurements, of those commands that make them.
    pub measured: Vec<Measured>,
    /// Sizes, of those commands that measure them.
    pub sizes: Vec<Size>,
}

/// Why results cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such file.
    #[error("cannot read {}", .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is something else.
    #[error("{} is no results file of baton-bench: {what}", .path.display())]
    Other {
        /// Which.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// It was written by another version.
    #[error(
        "{} has format {found}, and this baton-bench reads format {FORMAT}; measure again, or read \
         it with the version that wrote it",
        .path.display()
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: String,
    },
}

/// Reads a results file.
///
/// # Errors
/// When it is not there, is something else, or is of another version.
pub fn read(path: &Path) -> Result<Stored, ReadError> {
    let source = fs::read(path);
    let bytes = source.map_err(|source| ReadError::Open { path: path.to_owned(), source })?;
    let other = |what: String| ReadError::Other { path: path.to_owned(), what };
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| other(error.to_string()))?;
    match &value["format"] {
        Value::Null => return Err(other("it has no \"format\"".into())),
        format if *format == FORMAT => {}
        found => {
            return Err(ReadError::Version { path: path.to_owned(), found: found.to_string() });
        }
    }
    let field = |name: &str| value[name].clone();
    let broken = |error: serde_json::Error| other(error.to_string());
    let data = |name: &str| match &value["data"][name] {
        Value::Null => Value::Array(Vec::new()),
        found => found.clone(),
    };
    Ok(Stored {
        name: serde_json::from_value(field("name")).map_err(broken)?,
        machine: serde_json::from_value(field("machine")).map_err(broken)?,
        tables: serde_json::from_value(field("tables")).map_err(broken)?,
        notes: serde_json::from_value(field("notes")).map_err(broken)?,
        measured: serde_json::from_value(data("measured")).map_err(broken)?,
        sizes: serde_json::from_value(data("sizes")).map_err(broken)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("a writable file");
        read(file.path()).expect_err("a fault").to_string()
    }

    #[test]
    fn what_is_no_regular_file_is_written_to_and_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).expect("what was written")
        });
        Results::new("run", 1).write_to(&pipe).expect("a reader is there");
        assert!(reader.join().expect("a reader").contains("\"run\""));
        assert!(!fs::metadata(&pipe).expect("the pipe").is_file());
    }

    #[test]
    fn results_are_read_as_they_were_written() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut results = Results::new("run", 1);
        results.tables.push(Table::new("t", ["a"]));
        results.data("measured", &[Measured::default()]).expect("data");
        results.write_to(file.path()).expect("a writable file");
        let stored = read(file.path()).expect("results");
        assert_eq!((stored.name.as_str(), &stored.machine), ("run", &results.machine));
        assert_eq!((&stored.tables, stored.measured.len()), (&results.tables, 1));
        assert!(!results.is_partial());
        let lost = Measured { lost: Some("refused".into()), ..Measured::default() };
        results.data("measured", &[lost]).expect("data");
        assert!(results.is_partial());
    }

    #[test]
    fn results_of_another_version_say_so() {
        let fault = fault(r#"{"format": 7, "anything": "else"}"#);
        assert!(fault.contains("has format 7") && fault.contains("measure again"), "{fault}");
    }

    #[test]
    fn what_is_no_results_file_says_so() {
        assert!(fault("{}").contains("it has no \"format\""));
        assert!(fault("<html>").contains("is no results file"));
        assert!(fault(r#"{"format": 1}"#).contains("is no results file"));
    }
}
