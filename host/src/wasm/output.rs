//! What a guest writes on its standard output and error, cut into lines.

use std::io::Result;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use baton_otel::{SpanId, TraceId};
use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Longest line handed on, in bytes; what exceeds it begins a new line.
const LINE_MAX: usize = 8 << 10;

/// Standard output or standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The name used in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One line of a function's output.
#[derive(Debug)]
pub struct Line<'a> {
    /// Where it was written.
    pub stream: Stream,
    /// The trace of the request that wrote it.
    pub trace_id: TraceId,
    /// Which invocation of the function wrote it.
    pub invocation: SpanId,
    /// The line without its end, at most 8 KiB.
    pub text: &'a [u8],
}

/// Takes a function's output lines; called on the request's thread, so it must not block.
pub type LineSink = Arc<dyn Fn(Line<'_>) + Send + Sync>;

/// Where the lines of an instance go, and whose they are.
pub(super) struct Log {
    sink: LineSink,
    state: Mutex<State>,
}

struct State {
    /// Changes when an instance takes its next request.
    invocation: (TraceId, SpanId),
    /// What was written on each stream since its last whole line. A guest may have several handles of
    /// a stream, or ask for one each time, so this is not the handle's.
    begun: [Vec<u8>; 2],
}

impl Log {
    pub(super) fn new(sink: LineSink) -> Self {
        let invocation = (TraceId::INVALID, SpanId::INVALID);
        Self { sink, state: Mutex::new(State { invocation, begun: Default::default() }) }
    }

    /// What is printed from here on belongs to this invocation in this trace; what is begun ends here.
    pub(super) fn belongs_to(&self, trace_id: TraceId, invocation: SpanId) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.end(&mut state);
        state.invocation = (trace_id, invocation);
    }

    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for &byte in bytes {
            let line = state.line(stream);
            if byte != b'\n' {
                line.push(byte);
            }
            if byte == b'\n' || line.len() == LINE_MAX {
                self.emit(&mut state, stream);
            }
        }
    }

    fn end(&self, state: &mut State) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !state.line(stream).is_empty() {
                self.emit(state, stream);
            }
        }
    }

    fn emit(&self, state: &mut State, stream: Stream) {
        let (trace_id, invocation) = state.invocation;
        let text = state.line(stream);
        (self.sink)(Line { stream, trace_id, invocation, text });
        text.clear();
    }
}

impl State {
    fn line(&mut self, stream: Stream) -> &mut Vec<u8> {
        let [stdout, stderr] = &mut self.begun;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.end(&mut state);
    }
}

/// One of a guest's two output streams.
#[derive(Clone)]
pub(super) struct Output {
    pub stream: Stream,
    pub log: Arc<Log>,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.log.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LINE_MAX)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.log.write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Recorded = Arc<Mutex<Vec<(SpanId, String)>>>;

    fn recording() -> (Arc<Log>, Recorded) {
        let lines: Arc<Mutex<Vec<_>>> = Arc::default();
        let told = Arc::clone(&lines);
        let sink = move |line: Line<'_>| {
            let text = String::from_utf8_lossy(line.text).into_owned();
            told.lock().unwrap().push((line.invocation, text));
        };
        (Arc::new(Log::new(Arc::new(sink))), lines)
    }

    fn print(log: &Arc<Log>, stream: Stream, text: &'static str) {
        let mut handle = Output { stream, log: Arc::clone(log) }.p2_stream();
        handle.write(Bytes::from_static(text.as_bytes())).unwrap();
    }

    fn texts(lines: &Mutex<Vec<(SpanId, String)>>) -> Vec<String> {
        lines.lock().unwrap().iter().map(|(_, text)| text.clone()).collect()
    }

    #[test]
    fn a_line_may_be_written_through_several_handles_and_beside_the_other_stream() {
        let (log, lines) = recording();
        print(&log, Stream::Stderr, "one ");
        print(&log, Stream::Stdout, "between\n\n");
        print(&log, Stream::Stderr, "line\nrest");
        assert_eq!(texts(&lines), ["between", "", "one line"]);
        drop(log);
        assert_eq!(texts(&lines), ["between", "", "one line", "rest"]);
    }

    #[test]
    fn what_an_invocation_began_is_its_own_and_a_long_line_is_cut() {
        let (log, lines) = recording();
        let first = SpanId::INVALID;
        print(&log, Stream::Stdout, "begun");
        let second = SpanId::from_bytes([1; 8]);
        log.belongs_to(TraceId::INVALID, second);
        let long = "x".repeat(LINE_MAX + 1).leak();
        print(&log, Stream::Stdout, long);
        drop(log);
        let whole = (second, "x".repeat(LINE_MAX));
        let expected = [(first, "begun".to_owned()), whole, (second, "x".to_owned())];
        assert_eq!(*lines.lock().unwrap(), expected);
    }
}
