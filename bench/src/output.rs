//! Where results go: standard output always, files when asked for.

use std::path::PathBuf;

use clap::Args;

use crate::measured::{self, Measured};
use crate::results::Results;

/// Files for results.
#[derive(Clone, Debug, Args)]
pub struct OutputArguments {
    /// Write everything to this file as JSON; `report` reads it
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Write one row a measurement to this file as CSV
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
            let rows: Vec<Measured> = match results.data.get("measured") {
                Some(measured) => serde_json::from_value(measured.clone())?,
                None => Vec::new(),
            };
            std::fs::write(path, measured::csv(&rows))?;
        }
        Ok(results.text())
    }
}
