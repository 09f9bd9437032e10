//! Where results go: standard output always, files when asked for.

use std::path::PathBuf;

use clap::Args;

use crate::measured::{self, Measured};
use crate::results::Results;
use crate::table::Table;

/// Files for results.
#[derive(Clone, Debug, Args)]
pub struct OutputArguments {
    /// Write everything to this file as JSON; `report` reads it
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Write one row a measurement to this file as CSV, or the table of what measures nothing
    #[arg(long)]
    pub csv: Option<PathBuf>,
}

impl OutputArguments {
    /// Writes the files, and returns what is printed.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, results: &Results) -> anyhow::Result<String> {
        if let Some(path) = &self.json {
            results.write_to(path)?;
        }
        if let Some(path) = &self.csv {
            let text = match results.data.get("measured") {
                Some(rows) => {
                    measured::csv(&serde_json::from_value::<Vec<Measured>>(rows.clone())?)
                }
                // What measures nothing has its tables.
                None => results.tables.iter().map(Table::csv).collect(),
            };
            std::fs::write(path, text)?;
        }
        Ok(results.text())
    }
}
