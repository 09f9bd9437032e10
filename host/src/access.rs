//! The access log: one line a request on standard error, written by a thread of its own.
//!
//! A request appends its line to a buffer behind a short mutex. The writer takes the whole buffer
//! at once, so a busy host makes few system calls, and a stalled terminal loses lines (counted)
//! rather than stalling requests.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::manifest::LogFormat;
use crate::record::{Outcome, Record, protocol_version};

/// Lines waiting to be written may take this many bytes; what exceeds it is dropped and counted.
const BUFFER_MAX: usize = 1 << 20;

/// How long the writer lets lines gather once there is one.
const GATHER: Duration = Duration::from_millis(5);

/// Writes a line for every request.
pub struct AccessLog {
    format: LogFormat,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// Not told yet.
    dropped: u64,
    dropped_ever: u64,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    method: &'a str,
    path: &'a str,
    protocol: &'static str,
    status: u16,
    bytes: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    trace_id: String,
}

impl AccessLog {
    /// A log that writes to `out`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(format: LogFormat, out: impl Write + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        let writer = thread::Builder::new()
            .name("baton-access".into())
            .spawn(move || write_lines(&state, out))?;
        Ok(Self { format, shared, writer: Some(writer) })
    }

    /// Says how a request ended.
    pub fn write(&self, record: &Record, end: Instant, outcome: Outcome) {
        let error = record.problem.map(|kind| kind.name().into());
        let error = error.or_else(|| record.error_type(outcome));
        if self.format == LogFormat::Text {
            return self.push(text(record, end, error.as_deref()).as_bytes());
        }
        let line = Line {
            time: humantime::format_rfc3339_millis(record.phases.wall(end)).to_string(),
            method: record.method.as_str(),
            path: record.uri.path(),
            protocol: protocol_version(record.version),
            status: record.status.as_u16(),
            bytes: record.sent,
            duration_ms: (end - record.phases.began()).as_secs_f64() * 1e3,
            function: record.function.as_ref().map(|function| function.name()),
            tier: record.tier.map(|(tier, _)| tier.name()),
            error: error.as_deref(),
            client: record.peer.client.map(|client| client.to_string()),
            trace_id: record.context.trace_id.to_string(),
        };
        // A struct of strings and numbers always serializes.
        self.push(&serde_json::to_vec(&line).unwrap_or_default());
    }

    /// Lines that were dropped so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lock().dropped_ever
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.shared.lock();
        if state.lines.len() + line.len() > BUFFER_MAX {
            state.dropped += 1;
            state.dropped_ever += 1;
            return;
        }
        let was_empty = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        state.lines.push(b'\n');
        drop(state);
        if was_empty {
            self.shared.work.notify_one();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_one();
        if let Some(writer) = self.writer.take() {
            // What it could not write it has said already.
            let _ = writer.join();
        }
    }
}

/// A line for people, written in one go: it is written for every request.
fn text(record: &Record, end: Instant, error: Option<&str>) -> String {
    let us = (end - record.phases.began()).as_micros();
    let mut text = String::with_capacity(256);
    let _ = write!(
        text,
        "{} {} {} HTTP/{} {} {}B {}.{:03}ms function={} tier={} trace={}",
        humantime::format_rfc3339_millis(record.phases.wall(end)),
        record.method,
        record.uri.path(),
        protocol_version(record.version),
        record.status.as_u16(),
        record.sent,
        us / 1_000,
        us % 1_000,
        record.function.as_ref().map_or("-", |function| function.name()),
        record.tier.map_or("-", |(tier, _)| tier.name()),
        record.context.trace_id,
    );
    if let Some(error) = error {
        text.push_str(" error=");
        text.push_str(error);
    }
    text
}

fn write_lines(shared: &Shared, mut out: impl Write) {
    loop {
        let mut state = shared.lock();
        while state.lines.is_empty() && !state.stop {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let stop = state.stop;
        drop(state);
        if !stop {
            thread::sleep(GATHER);
        }
        let mut state = shared.lock();
        let lines = std::mem::take(&mut state.lines);
        let dropped = std::mem::take(&mut state.dropped);
        drop(state);
        // There is no better place to complain than the one that does not take it.
        let _ = out.write_all(&lines);
        if dropped > 0 {
            let _ = writeln!(out, "access log: {dropped} lines dropped, the reader is too slow");
        }
        if stop {
            return;
        }
    }
}
