//! Clients: one that speaks HTTP well and waits for its answer, and one that says what it is told.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::functions::{ExchangeError, whole};

/// How long a peer may be silent; far longer than any should.
const SILENCE: Duration = Duration::from_secs(60);

/// A request with a body in memory.
#[must_use]
pub fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header(header::HOST, "test.example");
    request.body(Full::new(body.into())).expect("a path of a test")
}

/// A connection that is kept alive.
pub struct Connection {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    ///
    /// # Panics
    /// When there is no runtime to be had.
    pub fn open(address: SocketAddr) -> Result<Self, ExchangeError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let sender = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // How it ended is told to whoever waits for an answer.
            runtime.spawn(connection);
            Ok::<_, ExchangeError>(sender)
        })?;
        Ok(Self { runtime, sender })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks or the answer is not HTTP.
    pub fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, ExchangeError> {
        self.runtime.block_on(async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            tokio::time::timeout(SILENCE, whole(response)).await?
        })
    }
}

/// The tier that `Server-Timing` names.
///
/// # Panics
/// When the header is missing or names none.
#[must_use]
#[track_caller]
pub fn tier_of<B>(response: &Response<B>) -> String {
    let timing = response.headers().get("server-timing").expect("a Server-Timing header");
    let timing = timing.to_str().expect("a readable header");
    let tier = timing.split(", ").find_map(|metric| metric.strip_prefix("tier;desc=\""));
    tier.and_then(|tier| tier.strip_suffix('"')).expect("a tier").to_owned()
}

/// Checks that an answer is the host's own problem document of this type and status, and returns
/// the document.
///
/// # Panics
/// When it is anything else.
#[track_caller]
pub fn assert_problem(response: &Response<Bytes>, kind: &str, status: u16) -> Value {
    let text = String::from_utf8_lossy(response.body());
    assert_eq!(response.status(), status, "{text}");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json", "{text}");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["type"], format!("urn:baton:problem:{kind}"), "{text}");
    assert_eq!(document["status"], status, "{text}");
    assert!(document["title"].is_string() && document["detail"].is_string(), "{text}");
    let trace_id = document["trace_id"].as_str().expect("a trace id");
    assert!(trace_id.len() == 32 && trace_id.bytes().all(|b| b.is_ascii_hexdigit()), "{text}");
    assert_eq!(response.headers().contains_key(header::RETRY_AFTER), status == 503, "{text}");
    document
}

/// A connection on which every byte is the test's.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    /// What was read beyond what [`Raw::until`] was asked for.
    ahead: Vec<u8>,
}

impl Raw {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    #[track_caller]
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(SILENCE)).expect("a timeout that is not zero");
        Self { stream, ahead: Vec::new() }
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// When the peer has closed the connection.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Another handle on the same connection, to write while this one reads.
    ///
    /// # Panics
    /// When the process is out of descriptors.
    #[must_use]
    pub fn try_clone(&self) -> Self {
        let stream = self.stream.try_clone().expect("a descriptor");
        Self { stream, ahead: Vec::new() }
    }

    /// Writes at most `most` bytes, and fewer when the peer has taken nothing for a second.
    /// Returns how many it took.
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn write_until_blocked(&mut self, most: usize) -> usize {
        let patience = Some(Duration::from_secs(1));
        self.stream.set_write_timeout(patience).expect("a timeout that is not zero");
        let chunk = vec![b'x'; 1 << 16];
        let mut written = 0;
        while written < most {
            match self.stream.write(&chunk[..chunk.len().min(most - written)]) {
                Ok(taken) => written += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        self.stream.set_write_timeout(None).expect("no timeout");
        written
    }

    /// Everything up to the first `end`, with it.
    ///
    /// # Panics
    /// When the connection ends before, or nothing comes for a minute.
    #[track_caller]
    pub fn until(&mut self, end: &str) -> String {
        let mut searched = 0;
        loop {
            let unseen = &self.ahead[searched..];
            if let Some(at) = unseen.windows(end.len()).position(|window| window == end.as_bytes())
            {
                let rest = self.ahead.split_off(searched + at + end.len());
                let text = std::mem::replace(&mut self.ahead, rest);
                return String::from_utf8_lossy(&text).into_owned();
            }
            searched = (self.ahead.len() + 1).saturating_sub(end.len());
            let mut chunk = [0; 1 << 16];
            let read = self.stream.read(&mut chunk).expect("an answer");
            let so_far = String::from_utf8_lossy(&self.ahead);
            assert!(read > 0, "the connection ended before {end:?}: {so_far:?}");
            self.ahead.extend_from_slice(&chunk[..read]);
        }
    }

    /// Everything until the peer closes the connection or breaks it off.
    ///
    /// # Panics
    /// When nothing comes for a minute.
    #[track_caller]
    pub fn rest(&mut self) -> String {
        let mut all = std::mem::take(&mut self.ahead);
        match self.stream.read_to_end(&mut all) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            read => drop(read.expect("the peer closes the connection")),
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Says that nothing more will be written.
    pub fn finish(&self) {
        // The peer may have closed it already.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Leaves: the peer sees the connection closed in both directions.
    pub fn leave(self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
