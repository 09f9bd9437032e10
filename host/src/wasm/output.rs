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
    /// Changes when an instance takes its next request.
    invocation: Mutex<(TraceId, SpanId)>,
}

impl Log {
    pub(super) fn new(sink: LineSink) -> Self {
        Self { sink, invocation: Mutex::new((TraceId::INVALID, SpanId::INVALID)) }
    }

    /// What is printed from here on belongs to this invocation in this trace.
    pub(super) fn belongs_to(&self, trace_id: TraceId, invocation: SpanId) {
        *self.invocation.lock().unwrap_or_else(PoisonError::into_inner) = (trace_id, invocation);
    }

    fn emit(&self, stream: Stream, text: &[u8]) {
        let (trace_id, invocation) =
            *self.invocation.lock().unwrap_or_else(PoisonError::into_inner);
        (self.sink)(Line { stream, trace_id, invocation, text });
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
        Box::new(Lines { output: self.clone(), line: Vec::new() })
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Lines { output: self.clone(), line: Vec::new() })
    }
}

/// Collects bytes until a line is whole.
struct Lines {
    output: Output,
    line: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.emit();
            } else {
                self.line.push(byte);
                if self.line.len() == LINE_MAX {
                    self.emit();
                }
            }
        }
    }

    fn emit(&mut self) {
        let Output { stream, log } = &self.output;
        log.emit(*stream, &self.line);
        self.line.clear();
    }
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
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
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Lines {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.get_mut().push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.emit();
        }
    }
}
