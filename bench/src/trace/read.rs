//! Reading a trace, a row at a time: a day of the dataset has tens of thousands of rows, and may have
//! a million.
//!
//! A fault names file, line and column, what was found, and what was expected. Nothing is skipped or
//! guessed: a trace with a fault is not replayed in part.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use csv::{Reader, ReaderBuilder, StringRecord};

use super::{Durations, Invocations};

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be opened.
    #[error("cannot open {}", .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is no comma-separated text with as many fields in each row as in the first.
    #[error("{file}: not the columns of the first line in each row")]
    Form {
        /// Which.
        file: String,
        /// Where.
        #[source]
        source: csv::Error,
    },
    /// A column is missing.
    #[error("{file}:1: there is no column {missing:?}; expected {expected}")]
    Column {
        /// Which file.
        file: String,
        /// Which column.
        missing: String,
        /// All that are needed.
        expected: &'static str,
    },
    /// Minutes are missing between others.
    #[error("{file}:1: after minute {before} comes {found:?}; expected minutes without a gap")]
    Gap {
        /// Which file.
        file: String,
        /// The last minute that was in order.
        before: usize,
        /// The next column.
        found: String,
    },
    /// A value is none.
    #[error("{file}:{line}: column {column:?} is {found:?}, expected {expected}")]
    Value {
        /// Which file.
        file: String,
        /// Which line.
        line: u64,
        /// Which column.
        column: String,
        /// What is there.
        found: String,
        /// What should be.
        expected: &'static str,
    },
    /// There is no row.
    #[error("{file}: there is no function in it")]
    Empty {
        /// Which file.
        file: String,
    },
}

const INVOCATIONS: &str = "HashOwner, HashApp, HashFunction, Trigger, 1, 2, … up to 1440";
const DURATIONS: &str = "HashFunction, Average and percentile_Average_50 among its columns";

/// The rows of a file of invocations per minute.
#[derive(Debug)]
pub struct InvocationsReader<R> {
    file: String,
    reader: Reader<R>,
    columns: StringRecord,
    record: StringRecord,
}

/// Opens a file of invocations per minute.
///
/// # Errors
/// When it cannot be opened or its columns are not those of the format.
pub fn invocations(path: &Path) -> Result<InvocationsReader<File>, TraceError> {
    InvocationsReader::new(&path.display().to_string(), open(path)?)
}

fn open(path: &Path) -> Result<File, TraceError> {
    File::open(path).map_err(|source| TraceError::Open { path: path.to_owned(), source })
}

impl<R: Read> InvocationsReader<R> {
    /// Of anything that can be read; `file` is its name in messages.
    ///
    /// # Errors
    /// When its columns are not those of the format.
    pub fn new(file: &str, source: R) -> Result<Self, TraceError> {
        let file = file.to_owned();
        let mut reader = ReaderBuilder::new().from_reader(source);
        let form = |source| TraceError::Form { file: file.clone(), source };
        let columns = reader.headers().map_err(form)?.clone();
        for (place, wanted) in
            ["HashOwner", "HashApp", "HashFunction", "Trigger"].iter().enumerate()
        {
            if columns.get(place) != Some(wanted) {
                let (missing, expected) = ((*wanted).to_owned(), INVOCATIONS);
                return Err(TraceError::Column { file, missing, expected });
            }
        }
        for (before, found) in columns.iter().skip(4).enumerate() {
            if found.trim() != (before + 1).to_string() {
                return Err(TraceError::Gap { file, before, found: found.to_owned() });
            }
        }
        if columns.len() == 4 {
            let (missing, expected) = ("1".to_owned(), INVOCATIONS);
            return Err(TraceError::Column { file, missing, expected });
        }
        Ok(Self { file, reader, columns, record: StringRecord::new() })
    }

    /// How many minutes each row has.
    #[must_use]
    pub fn minutes(&self) -> usize {
        self.columns.len() - 4
    }

    fn row(&self) -> Result<Invocations, TraceError> {
        let field = |place| self.record.get(place).unwrap_or_default();
        let counts = (4..self.columns.len()).map(|column| {
            field(column).trim().parse().map_err(|_| TraceError::Value {
                file: self.file.clone(),
                line: self.record.position().map_or(0, csv::Position::line),
                column: self.columns.get(column).unwrap_or_default().to_owned(),
                found: field(column).to_owned(),
                expected: "a count of invocations, 0 or more",
            })
        });
        Ok(Invocations {
            owner: field(0).to_owned(),
            app: field(1).to_owned(),
            function: field(2).to_owned(),
            trigger: field(3).to_owned(),
            counts: counts.collect::<Result<_, _>>()?,
        })
    }
}

impl<R: Read> Iterator for InvocationsReader<R> {
    type Item = Result<Invocations, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.reader.read_record(&mut self.record) {
            Ok(true) => Some(self.row()),
            Ok(false) => None,
            Err(source) => Some(Err(TraceError::Form { file: self.file.clone(), source })),
        }
    }
}

/// The durations of all functions of a file.
///
/// # Errors
/// When it cannot be opened, or is not of the format.
pub fn durations(path: &Path) -> Result<Vec<Durations>, TraceError> {
    durations_of(&path.display().to_string(), open(path)?)
}

/// As [`durations`], of anything that can be read.
///
/// # Errors
/// When it is not of the format.
pub fn durations_of(file: &str, source: impl Read) -> Result<Vec<Durations>, TraceError> {
    let mut reader = ReaderBuilder::new().from_reader(source);
    let form = |source| TraceError::Form { file: file.to_owned(), source };
    let columns = reader.headers().map_err(form)?.clone();
    let place = |wanted: &'static str| {
        columns.iter().position(|column| column == wanted).ok_or_else(|| TraceError::Column {
            file: file.to_owned(),
            missing: wanted.to_owned(),
            expected: DURATIONS,
        })
    };
    let places = (place("HashFunction")?, place("Average")?, place("percentile_Average_50")?);
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(form)?;
        let number = |column: usize| {
            let found = record.get(column).unwrap_or_default();
            let number = found.trim().parse().ok().filter(|ms: &f64| ms.is_finite() && *ms >= 0.0);
            number.ok_or_else(|| TraceError::Value {
                file: file.to_owned(),
                line: record.position().map_or(0, csv::Position::line),
                column: columns.get(column).unwrap_or_default().to_owned(),
                found: found.to_owned(),
                expected: "milliseconds, 0 or more",
            })
        };
        rows.push(Durations {
            function: record.get(places.0).unwrap_or_default().to_owned(),
            average: number(places.1)?,
            median: number(places.2)?,
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\n";

    fn read(text: &str) -> Result<Vec<Invocations>, TraceError> {
        InvocationsReader::new("t.csv", text.as_bytes())?.collect()
    }

    fn fault(text: &str) -> String {
        read(text).expect_err("a fault").to_string()
    }

    #[test]
    fn rows_are_read_with_their_counts() {
        let rows = read(&format!("{HEAD}o,a,f,http,0,5,12\n")).expect("a trace");
        assert_eq!((rows[0].function.as_str(), &rows[0].counts[..]), ("f", &[0, 5, 12][..]));
    }

    #[test]
    fn a_missing_column_is_named() {
        let fault = fault("HashOwner,HashFunction,Trigger,1\no,f,http,1\n");
        assert!(fault.starts_with("t.csv:1: there is no column \"HashApp\""), "{fault}");
        let fault = InvocationsReader::new("t.csv", "".as_bytes()).map(|_| ());
        assert!(fault.expect_err("a fault").to_string().contains("HashOwner"));
    }

    #[test]
    fn a_trace_without_minutes_says_so() {
        let fault = fault("HashOwner,HashApp,HashFunction,Trigger\no,a,f,http\n");
        assert!(fault.contains("no column \"1\""), "{fault}");
    }

    #[test]
    fn a_negative_count_is_a_fault_with_its_place() {
        let fault = fault(&format!("{HEAD}o,a,f,http,0,5,12\no,a,g,http,0,-5,12\n"));
        let expected =
            "t.csv:3: column \"2\" is \"-5\", expected a count of invocations, 0 or more";
        assert_eq!(fault, expected);
    }

    #[test]
    fn an_empty_count_is_a_fault() {
        assert!(fault(&format!("{HEAD}o,a,f,http,0,,12\n")).contains("column \"2\" is \"\""));
    }

    #[test]
    fn a_gap_between_minutes_is_a_fault() {
        let fault = fault("HashOwner,HashApp,HashFunction,Trigger,1,2,4\n");
        assert_eq!(fault, "t.csv:1: after minute 2 comes \"4\"; expected minutes without a gap");
    }

    #[test]
    fn a_row_that_is_cut_off_is_a_fault() {
        assert!(fault(&format!("{HEAD}o,a,f,http,0\n")).contains("not the columns"));
    }

    #[test]
    fn a_duration_that_is_no_number_is_a_fault() {
        let head = "HashOwner,HashApp,HashFunction,Average,Count,percentile_Average_50\n";
        let good = durations_of("d.csv", format!("{head}o,a,f,12.5,3,11\n").as_bytes());
        assert_eq!(good.expect("durations")[0].average, 12.5);
        for bad in ["NaN", "-1", "x"] {
            let text = format!("{head}o,a,f,{bad},3,11\n");
            let fault = durations_of("d.csv", text.as_bytes()).expect_err("a fault").to_string();
            assert!(fault.contains("d.csv:2") && fault.contains("Average"), "{fault}");
        }
    }

    /// A trace of a million rows that exists nowhere as a whole.
    struct Endless {
        rows: usize,
        rest: Vec<u8>,
    }

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.rest.is_empty() && self.rows > 0 {
                self.rows -= 1;
                self.rest = b"o,a,f,http,0,1,2\n".to_vec();
            }
            let length = self.rest.len().min(buffer.len());
            buffer[..length].copy_from_slice(&self.rest[..length]);
            self.rest.drain(..length);
            Ok(length)
        }
    }

    #[test]
    fn a_million_rows_are_read_one_at_a_time() {
        let source = Endless { rows: 1_000_000, rest: HEAD.as_bytes().to_vec() };
        let rows = InvocationsReader::new("t.csv", source).expect("columns");
        let sum: u64 = rows.map(|row| u64::from(row.expect("a row").counts[2])).sum();
        assert_eq!(sum, 2_000_000);
    }
}
