//! A server that functions ask: it notes what came, and answers what it is told to.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Makes an answer, head and body, of a request's head: nothing means to be silent, one of HTTP/1.0
/// ends the connection.
type Answer = dyn Fn(&str) -> Vec<u8> + Send + Sync;

/// An HTTP/1.1 server on loopback, without TLS.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Seen>,
}

struct Seen {
    answer: Box<Answer>,
    heads: Mutex<Vec<String>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    over: AtomicBool,
}

impl Origin {
    /// A server that answers every request with `text`.
    #[must_use]
    pub fn saying(text: &'static str) -> Self {
        Self::answering(move |_| {
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()).into_bytes()
        })
    }

    /// A server with these answers.
    ///
    /// # Panics
    /// When there is no port to be had.
    #[must_use]
    pub fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let seen = Arc::new(Seen {
            answer: Box::new(answer),
            heads: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.over.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { address, seen }
    }

    /// The URL of a path of it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The heads of the requests that have come, each in lower case.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections were made to it.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    /// How many of them are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.seen.over.store(true, Ordering::Relaxed);
        // Wakes the acceptor; who is connected ends with its peer.
        let _ = TcpStream::connect(self.address);
    }
}

impl Seen {
    fn serve(&self, stream: TcpStream) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        // The end of a connection is the peer's to choose.
        let _ = self.converse(stream);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head)? == 0 {
                    return Ok(());
                }
            }
            let head = head.to_ascii_lowercase();
            self.heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
            skip_body(&mut reader, &head)?;
            let answer = (self.answer)(&head);
            stream.write_all(&answer)?;
            if answer.starts_with(b"HTTP/1.0") {
                return Ok(());
            }
        }
    }
}

fn skip_body(reader: &mut impl BufRead, head: &str) -> io::Result<()> {
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("transfer-encoding:").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            io::copy(&mut reader.by_ref().take(size + 2), &mut io::sink())?;
            if size == 0 {
                return Ok(());
            }
        }
    }
    let length = field("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
    io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
    Ok(())
}
