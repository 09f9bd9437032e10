//! The function of these tests: an HTTP server in a few lines on the inherited socket, whose paths are what it shall
//! try; its answer is what came of it, and `hello` for a path that is none of these.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;

fn main() {
    // SAFETY: descriptor 3 is the listening socket, as LISTEN_FDS says.
    let listener = unsafe { UnixListener::from_raw_fd(3) };
    println!("serving {}", std::env::args().collect::<Vec<_>>().join(" "));
    for connection in listener.incoming() {
        let mut connection = connection.expect("a connection");
        let mut request = [0; 4096];
        let length = connection.read(&mut request).expect("a request");
        let request = String::from_utf8_lossy(&request[..length]);
        let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
        let body = answer(&path);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(body.as_bytes()));
    }
}

fn answer(path: &str) -> String {
    match path.trim_start_matches('/').split('/').collect::<Vec<_>>()[..] {
        ["read", ..] => {
            let mut text = String::new();
            match File::open(&path[5..]).and_then(|mut file| file.read_to_string(&mut text)) {
                Ok(_) => text,
                Err(error) => error.to_string(),
            }
        }
        ["list", ..] => match std::fs::read_dir(&path[5..]) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned() + "\n").collect(),
            Err(error) => error.to_string(),
        },
        ["write", ..] => match std::fs::write(&path[6..], "written") {
            Ok(()) => "written".into(),
            Err(error) => error.to_string(),
        },
        ["fill", .., bytes] => {
            let name = &path[5..path.len() - bytes.len() - 1];
            match std::fs::write(name, vec![1u8; bytes.parse().expect("a size")]) {
                Ok(()) => "written".into(),
                Err(error) => error.to_string(),
            }
        }
        ["environment"] => std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect(),
        ["descriptors"] => (0..64).filter(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok()).map(|fd| format!("{fd} ")).collect(),
        ["burn", bytes] => {
            let memory = vec![1u8; bytes.parse().expect("a size")];
            format!("{}", memory.iter().map(|byte| u64::from(*byte)).sum::<u64>())
        }
        ["connect", address] => match TcpStream::connect(address).and_then(|mut stream| stream.write_all(b"hello")) {
            Ok(()) => "connected".into(),
            Err(error) => error.to_string(),
        },
        ["listen", address] => match TcpListener::bind(address) {
            Ok(listener) => {
                std::thread::spawn(move || listener.accept().map(|(mut stream, _)| stream.write_all(b"hello")));
                "listening".into()
            }
            Err(error) => error.to_string(),
        },
        ["listen-unix", ..] => match UnixListener::bind(&path["/listen-unix".len()..]) {
            Ok(listener) => {
                std::thread::spawn(move || listener.accept().map(|(mut stream, _)| stream.write_all(b"hello")));
                "listening".into()
            }
            Err(error) => error.to_string(),
        },
        ["exit", status] => std::process::exit(status.parse().expect("a status")),
        _ => "hello".into(),
    }
}
