//! A small HTTP/1.1 client: one connection, one request at a time, as little work as possible, so
//! that the load costs less than what it measures.
//!
//! It understands what servers of functions answer: bodies with a length, in chunks, or until the
//! end of the connection. It sends no HEAD and no Upgrade.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// Where a server listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// On a TCP port.
    Tcp(SocketAddr),
    /// On a Unix socket.
    Unix(PathBuf),
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// A request, as the bytes that are sent.
#[derive(Clone, Debug)]
pub struct Request(Bytes);

impl Request {
    /// A request with a body, empty for none.
    #[must_use]
    pub fn new(method: &Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if !body.is_empty() || *method != Method::GET {
            let _ = write!(head, "content-length: {}\r\n", body.len());
        }
        head.push_str("\r\n");
        Self(Bytes::from([head.as_bytes(), body].concat()))
    }

    /// GET.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new(&Method::GET, path, &[], b"")
    }

    /// POST of JSON.
    #[must_use]
    pub fn post(path: &str, json: &str) -> Self {
        Self::new(&Method::POST, path, &[("content-type", "application/json")], json.as_bytes())
    }
}

/// What answered.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The component.
    Wasm,
    /// The native build.
    Native,
    /// The server does not say, or answered itself.
    Unknown,
}

/// The head of an answer, and the body as far as it is wanted.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Which tier answered, by `Server-Timing`.
    pub tier: Tier,
    /// `Server-Timing` as it came, when the body is kept.
    pub timing: String,
    /// The body, when it is kept.
    pub body: Vec<u8>,
    /// Its length.
    pub length: usize,
    /// Whether the connection may be used again.
    reusable: bool,
}

impl Answer {
    /// The milliseconds of a phase in `Server-Timing`; of all phases of that name together.
    #[must_use]
    pub fn phase(&self, name: &str) -> Option<f64> {
        let durations = self.timing.split(',').filter_map(|metric| {
            let mut parts = metric.split(';').map(str::trim);
            let named = parts.next() == Some(name);
            parts.find_map(|part| part.strip_prefix("dur=")).filter(|_| named)?.parse().ok()
        });
        durations.reduce(|sum: f64, more: f64| sum + more)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Nobody listens, or the connection broke.
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    /// It ended before the answer was whole.
    #[error("the connection ended before the answer was whole")]
    Ended,
    /// The answer is not HTTP/1.
    #[error("the answer is not HTTP/1: {0}")]
    Malformed(String),
}

/// Longest head, most headers.
const HEADERS_MAX: usize = 64;
const READ_AT_ONCE: usize = 64 << 10;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection.
pub struct Connection {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// How the end of a body is found.
enum Framing {
    Length(usize),
    Chunks,
    End,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody accepts.
    pub async fn open(target: &Target) -> io::Result<Self> {
        let stream: Box<dyn Stream> = match target {
            Target::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Target::Unix(path) => Box::new(UnixStream::connect(path).await?),
        };
        Ok(Self { stream, buffer: BytesMut::with_capacity(READ_AT_ONCE) })
    }

    /// Sends a request and reads its answer; the body is kept only when `keep` says so. Returns
    /// whether the connection may be used again in [`Connection::is_reusable`].
    ///
    /// # Errors
    /// When there is no whole answer; the connection is of no use then.
    pub async fn send(&mut self, request: &Request, keep: bool) -> Result<Answer, ExchangeError> {
        self.stream.write_all(&request.0).await?;
        let (mut answer, framing) = self.head(keep).await?;
        match framing {
            Framing::Length(length) => self.take(length, keep, &mut answer).await?,
            Framing::Chunks => self.chunks(keep, &mut answer).await?,
            Framing::End => {
                answer.reusable = false;
                loop {
                    let available = self.buffer.len();
                    self.take(available, keep, &mut answer).await?;
                    if !self.more().await? {
                        break;
                    }
                }
            }
        }
        Ok(answer)
    }

    /// Whether an answer left the connection usable.
    #[must_use]
    pub fn is_reusable(&self, answer: &Answer) -> bool {
        answer.reusable && self.buffer.is_empty()
    }

    async fn head(&mut self, keep: bool) -> Result<(Answer, Framing), ExchangeError> {
        loop {
            if let Some((length, answer, framing)) = parse(&self.buffer, keep)? {
                let _ = self.buffer.split_to(length);
                // An interim answer is followed by the real one.
                if answer.status >= 200 {
                    return Ok((answer, framing));
                }
                continue;
            }
            if !self.more().await? {
                return Err(ExchangeError::Ended);
            }
        }
    }

    /// Reads what there is; false at the end.
    async fn more(&mut self) -> io::Result<bool> {
        self.buffer.reserve(READ_AT_ONCE);
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    async fn take(
        &mut self,
        length: usize,
        keep: bool,
        answer: &mut Answer,
    ) -> Result<(), ExchangeError> {
        let mut left = length;
        loop {
            let part = self.buffer.split_to(left.min(self.buffer.len()));
            left -= part.len();
            answer.length += part.len();
            if keep {
                answer.body.extend_from_slice(&part);
            }
            if left == 0 {
                return Ok(());
            }
            if !self.more().await? {
                return Err(ExchangeError::Ended);
            }
        }
    }

    async fn chunks(&mut self, keep: bool, answer: &mut Answer) -> Result<(), ExchangeError> {
        loop {
            let line = self.line().await?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16)
                .map_err(|_| ExchangeError::Malformed(format!("{line:?} is no size of a chunk")))?;
            if size == 0 {
                // Trailers, up to an empty line.
                while !self.line().await?.is_empty() {}
                return Ok(());
            }
            self.take(size, keep, answer).await?;
            self.line().await?;
        }
    }

    async fn line(&mut self) -> Result<String, ExchangeError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if !self.more().await? {
                return Err(ExchangeError::Ended);
            }
        }
    }
}

/// The head at the beginning of `buffer` with its length; nothing when it is not whole yet.
fn parse(buffer: &[u8], keep: bool) -> Result<Option<(usize, Answer, Framing)>, ExchangeError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(buffer);
    let malformed = |error: httparse::Error| ExchangeError::Malformed(error.to_string());
    let httparse::Status::Complete(length) = parsed.map_err(malformed)? else {
        return Ok(None);
    };
    let status = response.code.unwrap_or(0);
    let mut framing =
        if matches!(status, 100..200 | 204 | 304) { Framing::Length(0) } else { Framing::End };
    let mut answer = Answer {
        status,
        tier: Tier::Unknown,
        timing: String::new(),
        body: Vec::new(),
        length: 0,
        reusable: response.version == Some(1),
    };
    for header in response.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or_default();
        if header.name.eq_ignore_ascii_case("content-length") {
            let length = value.trim().parse();
            let length = length
                .map_err(|_| ExchangeError::Malformed(format!("{value:?} is no content-length")))?;
            framing = Framing::Length(length);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            framing = Framing::Chunks;
        } else if header.name.eq_ignore_ascii_case("connection") {
            answer.reusable &= !value.eq_ignore_ascii_case("close");
        } else if header.name.eq_ignore_ascii_case("server-timing") {
            answer.tier = tier(value).unwrap_or(answer.tier);
            if keep {
                answer.timing.push_str(value);
                answer.timing.push(',');
            }
        }
    }
    Ok(Some((length, answer, framing)))
}

fn tier(timing: &str) -> Option<Tier> {
    let (_, rest) = timing.split_once("tier;desc=")?;
    let rest = rest.trim_start_matches('"');
    match rest {
        _ if rest.starts_with("wasm") => Some(Tier::Wasm),
        _ if rest.starts_with("native") => Some(Tier::Native),
        _ => None,
    }
}

/// A client outside of any runtime, which keeps its connection.
#[derive(Debug)]
pub struct Client {
    runtime: tokio::runtime::Runtime,
    target: Target,
    connection: Option<Connection>,
}

impl Client {
    /// Of this server; connects with the first request.
    ///
    /// # Errors
    /// When the machine gives no more descriptors.
    pub fn new(target: &Target) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, target: target.clone(), connection: None })
    }

    /// One exchange, with the body kept.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn ask(&mut self, request: &Request) -> Result<Answer, ExchangeError> {
        let Self { runtime, target, connection } = self;
        runtime.block_on(async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::open(target).await?,
            };
            let answer = open.send(request, true).await?;
            *connection = open.is_reusable(&answer).then_some(open);
            Ok(answer)
        })
    }
}

/// One exchange on a connection of its own, with the body kept, outside of any runtime.
///
/// # Errors
/// When there is no whole answer.
pub fn ask(target: &Target, request: &Request) -> Result<Answer, ExchangeError> {
    Client::new(target)?.ask(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    /// A server that sends these bytes to one client.
    fn answering(bytes: &'static [u8]) -> Target {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("a bound listener");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let _ = stream.read(&mut [0; 1024]);
            stream.write_all(bytes).expect("a client that reads");
        });
        address.into()
    }

    #[test]
    fn a_body_may_have_a_length_or_come_in_chunks_or_until_the_end() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nhe\r\n3\r\nllo\r\n0\r\nt: 1\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello",
        ] {
            let answer = ask(&answering(bytes), &Request::get("/")).expect("an answer");
            assert_eq!((answer.status, &answer.body[..]), (200, &b"hello"[..]));
        }
    }

    #[test]
    fn an_answer_that_is_cut_off_is_an_error() {
        let cut = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello");
        assert!(matches!(ask(&cut, &Request::get("/")), Err(ExchangeError::Ended)));
        let other = answering(b"SSH-2.0-OpenSSH\r\n");
        assert!(matches!(ask(&other, &Request::get("/")), Err(ExchangeError::Malformed(_))));
    }

    #[test]
    fn server_timing_says_the_tier_and_the_phases() {
        let target = answering(
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nserver-timing: db;dur=1\r\n\
              server-timing: tier;desc=\"native\", lease;dur=0.5, forward;dur=1.25\r\n\r\n",
        );
        let answer = ask(&target, &Request::get("/")).expect("an answer");
        assert_eq!(answer.tier, Tier::Native);
        assert_eq!((answer.phase("forward"), answer.phase("db")), (Some(1.25), Some(1.0)));
        assert_eq!(answer.phase("handle"), None);
    }
}
