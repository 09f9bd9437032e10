//! An object store in memory: GET reads what PUT wrote, as S3 does by path; POST is echoed.
//!
//! It stands for the store that data-intensive functions fetch from and write to, so that retrieval
//! can be told from computation; it answers from memory, so retrieval here is the cost of the way.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

type Objects = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// A running store; it ends with the program.
#[derive(Debug)]
pub struct Store {
    address: SocketAddr,
    objects: Objects,
}

/// Objects are held in memory; what is longer is refused.
const LONGEST: usize = 16 << 20;

impl Store {
    /// Starts one on a free port of this machine.
    ///
    /// # Errors
    /// When there is no port or no thread.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let objects = Objects::default();
        let shared = Arc::clone(&objects);
        std::thread::Builder::new().name("store".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let objects = Arc::clone(&shared);
                // Whoever cannot be served is not connected any more.
                let serve = move || drop(serve(&stream, &objects));
                let _ = std::thread::Builder::new().name("store".into()).spawn(serve);
            }
        })?;
        Ok(Self { address, objects })
    }

    /// Its URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Puts an object at a path such as `/text-512`.
    pub fn put(&self, path: &str, object: Vec<u8>) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.insert(path.to_owned(), object);
    }
}

/// Serves one connection to its end.
fn serve(stream: &TcpStream, objects: &Objects) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let method = words.next().unwrap_or_default().to_owned();
        let path = words.next().unwrap_or_default().to_owned();
        let body = body(&mut reader)?;
        let mut objects = objects.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, answer) = match method.as_str() {
            "GET" => match objects.get(&path) {
                Some(object) => ("200 OK", object.clone()),
                None => ("404 Not Found", Vec::new()),
            },
            "PUT" => {
                objects.insert(path, body);
                ("200 OK", Vec::new())
            }
            "POST" => ("200 OK", body),
            _ => ("405 Method Not Allowed", Vec::new()),
        };
        drop(objects);
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", answer.len());
        let mut stream = stream;
        stream.write_all(&[head.as_bytes(), &answer].concat())?;
    }
}

/// The headers are read away, the body is returned.
fn body(reader: &mut BufReader<&TcpStream>) -> io::Result<Vec<u8>> {
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        chunked |= line.starts_with("transfer-encoding:");
    }
    if !chunked {
        return exactly(reader, length);
    }
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        body.extend(exactly(reader, size)?);
        reader.read_line(&mut String::new())?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn exactly(reader: &mut impl io::Read, length: usize) -> io::Result<Vec<u8>> {
    if length > LONGEST {
        return Err(io::Error::other("an object that is too long"));
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Request, ask};
    use http::Method;

    #[test]
    fn what_was_put_can_be_read_and_nothing_else() {
        let store = Store::start().expect("a store");
        let target = store.address.into();
        let put = Request::new(&Method::PUT, "/a", &[], b"text");
        assert_eq!(ask(&target, &put).expect("an answer").status, 200);
        assert_eq!(ask(&target, &Request::get("/a")).expect("an answer").body, b"text");
        assert_eq!(ask(&target, &Request::get("/b")).expect("an answer").status, 404);
    }
}
