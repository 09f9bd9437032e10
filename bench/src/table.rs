//! Tables of text, aligned for a terminal and for Markdown alike.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::measured::quoted;

/// A table; its first column is aligned to the left, the others to the right.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Table {
    /// What it shows, and how that was measured.
    pub title: String,
    /// Names of the columns, with units.
    pub columns: Vec<String>,
    /// Rows of as many cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new<C: Into<String>>(
        title: impl Into<String>,
        columns: impl IntoIterator<Item = C>,
    ) -> Self {
        let columns = columns.into_iter().map(Into::into).collect();
        Self { title: title.into(), columns, rows: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// When it has not as many cells as there are columns.
    pub fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// As comma-separated values, the columns' names first.
    #[must_use]
    pub fn csv(&self) -> String {
        let line = |cells: &Vec<String>| -> String {
            cells.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(",") + "\n"
        };
        std::iter::once(&self.columns).chain(&self.rows).map(line).collect()
    }
}

impl Display for Table {
    /// As Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = |cell: &String| cell.chars().count();
        let lines = || std::iter::once(&self.columns).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| lines().map(|row| length(&row[column])).max().unwrap_or(0).max(3))
            .collect();
        if !self.title.is_empty() {
            writeln!(f, "{}\n", self.title)?;
        }
        for (index, row) in lines().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(f, "| {cell:<width$} |")?,
                    _ => write!(f, " {cell:>width$} |")?,
                }
            }
            writeln!(f)?;
            if index == 0 {
                for (column, width) in widths.iter().enumerate() {
                    match column {
                        0 => write!(f, "| {} |", "-".repeat(*width))?,
                        _ => write!(f, " {}: |", "-".repeat(*width - 1))?,
                    }
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown_with_aligned_columns() {
        let mut table = Table::new("Figures", ["variant", "p50 ms"]);
        table.row(["a", "1.25"]);
        let text = "Figures\n\n| variant | p50 ms |\n| ------- | -----: |\n| a       |   1.25 |\n";
        assert_eq!(table.to_string(), text);
        assert_eq!(table.csv(), "variant,p50 ms\na,1.25\n");
    }
}
