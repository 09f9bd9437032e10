//! A server that does not care who runs it, for the tests of native builds that are more than one static executable:
//! `server inherited|unix:PATH|tcp:PORT [BODY]`, or the first by LISTEN_AT, answers each request with BODY, or with the file that its path names.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixListener;

unsafe extern "C" {
    safe fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
}

const SIGTERM: i32 = 15;

extern "C" fn leave(_: i32) {
    std::process::exit(0)
}

fn main() {
    signal(SIGTERM, leave);
    let arguments: Vec<String> = std::env::args().collect();
    let body = arguments.get(2).cloned().unwrap_or_else(|| "hello".into());
    let place = arguments.get(1).cloned().or_else(|| std::env::var("LISTEN_AT").ok());
    match place.unwrap_or_default().split_once(':') {
        Some(("unix", path)) => {
            let listener = UnixListener::bind(path).expect("a place for the socket");
            listener.incoming().for_each(|stream| serve(stream.expect("a connection"), &body));
        }
        Some(("tcp", port)) => {
            let port = port.parse().expect("a port");
            let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
            listener.incoming().for_each(|stream| serve(stream.expect("a connection"), &body));
        }
        _ => {
            // SAFETY: descriptor 3 is the listening socket, as LISTEN_FDS says.
            let listener = unsafe { UnixListener::from_raw_fd(3) };
            listener.incoming().for_each(|stream| serve(stream.expect("a connection"), &body));
        }
    }
}

/// Every connection has a thread of its own.
fn serve<S: Read + Write + Send + 'static>(stream: S, body: &str) {
    let body = body.to_owned();
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if stream.read_line(&mut head).unwrap_or(0) == 0 {
                    return;
                }
            }
            let path = head.split(' ').nth(1).unwrap_or("/");
            let body = match path {
                "/" => body.clone(),
                "/environment" => std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect(),
                "/directory" => format!("{:?}", std::env::current_dir()),
                path => std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string()),
            };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            if stream.get_mut().write_all((head + &body).as_bytes()).is_err() {
                return;
            }
        }
    });
}
