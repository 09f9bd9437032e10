//! Baton's own log, and with it the lines of functions: as text for people or as JSON for machines.

use std::io::{IsTerminal as _, stderr};
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::manifest::LogFormat;
use crate::progress::Above;

/// libcontainer and libcgroups report every controller that they do not find, for each sandbox.
const DEFAULT: &str = "info,libcgroups=error,libcontainer=error";

/// Lines that wait to be written; the queue's memory is all touched at the start, 32 bytes for each.
const LINES_MAX: usize = 16_384;

/// Counts the lines that the host's log has lost.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// Each line where it arises: for processes that must not have a thread.
    Directly,
    /// A thread behind a bounded queue: requests must not wait for whoever reads.
    Aside,
}

/// Starts the log of this process, by `filter` if it is understood. Dropping the guard writes what
/// waits. A second call changes nothing.
#[must_use]
pub fn start(format: LogFormat, filter: Option<&str>, writing: Writing) -> Option<WorkerGuard> {
    let (writer, guard) = match writing {
        Writing::Directly => (BoxMakeWriter::new(stderr), None),
        Writing::Aside => {
            let (writer, guard) = NonBlockingBuilder::default()
                .buffered_lines_limit(LINES_MAX)
                .finish(Above(stderr()));
            // There is one log in a process.
            let _ = DROPPED.set(writer.error_counter());
            (BoxMakeWriter::new(writer), Some(guard))
        }
    };
    let wanted = filter.map(EnvFilter::try_new);
    let refused = wanted.as_ref().and_then(|filter| filter.as_ref().err()).map(ToString::to_string);
    let filter = wanted.and_then(Result::ok).unwrap_or_else(|| EnvFilter::new(DEFAULT));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // A log that is there already stays.
    let _ = match format {
        LogFormat::Text => log.with_ansi(stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    if let Some(reason) = refused {
        tracing::warn!(reason, "BATON_LOG is not understood; the default is used");
    }
    guard
}

/// Lines that were lost since nobody read them.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.get().map_or(0, |counter| u64::try_from(counter.dropped_lines()).unwrap_or(u64::MAX))
}
