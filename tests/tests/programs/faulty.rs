//! A server that fails at a moment of its caller's choice, for the tests of who answers then. It serves one connection
//! after the other, and the query of a request says what happens:
//!
//! | query | what it does |
//! |---|---|
//! | none | answers `native` and keeps the connection |
//! | `deaf` | the same, but reads no more from the connection, so that what is written there is refused, and ends soon after |
//! | `last` | answers, closes the connection, and ends when another waits to be accepted |
//! | `swallow` | reads the body to its end, and ends |
//! | `early` | answers 100,000 bytes with the head read, leaves the body where it is, and closes the connection |
//! | `reset` | ends with the head read, and the body left where it is |
//! | `half` | answers with half of what it announces, and ends |
//! | `chunks` | answers with a chunk of a body that has no length, and ends |
//!
//! With `UNACCEPTING` in its environment it ends when the first connection waits to be accepted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::exit;
use std::time::Duration;

/// `struct pollfd` of poll.h.
#[repr(C)]
struct Poll {
    descriptor: i32,
    events: i16,
    happened: i16,
}

const POLLIN: i16 = 1;

/// Time for another request to come.
const SOON: Duration = Duration::from_millis(200);

unsafe extern "C" {
    fn poll(all: *mut Poll, count: u64, milliseconds: i32) -> i32;
}

fn main() {
    // SAFETY: descriptor 3 is the listening socket, as LISTEN_FDS says.
    let listener = unsafe { UnixListener::from_raw_fd(3) };
    if std::env::var_os("UNACCEPTING").is_some() {
        leave_unaccepted(&listener);
    }
    for stream in listener.incoming() {
        serve(&listener, stream.expect("a connection"));
    }
}

/// Ends once a connection waits.
fn leave_unaccepted(listener: &UnixListener) -> ! {
    let mut one = Poll { descriptor: listener.as_raw_fd(), events: POLLIN, happened: 0 };
    // SAFETY: it is one, and outlives the call.
    unsafe { poll(&raw mut one, 1, -1) };
    exit(1)
}

fn serve(listener: &UnixListener, stream: UnixStream) {
    let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let mut say = |text: &str| stream.write_all(text.as_bytes()).is_ok();
        let target = head.split(' ').nth(1).unwrap_or_default();
        match target.split_once('?').map_or("", |(_, query)| query) {
            "swallow" => {
                let length = announced(&head);
                let _ = std::io::copy(&mut reader.take(length), &mut std::io::sink());
                exit(1)
            }
            "reset" => exit(1),
            "early" => {
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 100000\r\n\r\n";
                say(&(head.to_owned() + &"x".repeat(100_000)));
                return;
            }
            "half" => {
                say("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nsome of it\n");
                exit(1)
            }
            "chunks" => {
                say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\nsome of it\n\r\n");
                exit(1)
            }
            "last" => {
                say("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 6\r\n\r\nnative");
                drop((reader, stream));
                leave_unaccepted(listener)
            }
            query => {
                let length = announced(&head);
                let _ = std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink());
                if query == "deaf" {
                    let _ = reader.get_ref().shutdown(Shutdown::Read);
                }
                if !say("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nnative") {
                    return;
                }
                if query == "deaf" {
                    std::thread::sleep(SOON);
                    exit(1)
                }
            }
        }
    }
}

/// The length of the body that a head announces.
fn announced(head: &str) -> u64 {
    let head = head.to_ascii_lowercase();
    let mut lines = head.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    length.unwrap_or(0)
}
