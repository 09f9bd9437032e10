//! Results: what was measured, where, as tables, bars and data, in a file.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::bars::Bar;
use crate::baton::target_dir;
use crate::machine::Machine;
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

    /// Writes it to a file, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_to(&self, path: &Path) -> anyhow::Result<()> {
        let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.persist(path)?;
        Ok(())
    }
}
