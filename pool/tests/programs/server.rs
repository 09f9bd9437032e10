//! The function of these tests: an HTTP server in a few lines on the inherited socket, whose paths are what it shall
//! try; its answer is what came of it, and `hello` for a path that is none of these.

use std::fs::File;
use std::io::{Read, Write};
use std::ffi::c_long;
use std::net::{TcpListener, TcpStream};
use std::os::fd::FromRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

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
        ["connect-unix", ..] => said(UnixStream::connect(&path["/connect-unix".len()..])),
        ["connect-abstract", name] => {
            said(SocketAddr::from_abstract_name(name).and_then(|name| UnixStream::connect_addr(&name)))
        }
        ["call", ref words @ ..] => match call(&words.iter().map(|word| word.parse().expect("a number")).collect::<Vec<_>>()) {
            Ok(answer) => format!("returned {answer}"),
            Err(error) => error.to_string(),
        },
        ["old-call"] => format!("returned {}", old_call()),
        ["files", ..] => {
            let mut count = 0;
            loop {
                match File::create(format!("{}/{count}", &path["/files".len()..])) {
                    Ok(_) => count += 1,
                    Err(error) => break format!("{count} and then {error}"),
                }
            }
        }
        ["open"] => {
            let mut files = Vec::new();
            loop {
                match File::open("/") {
                    Ok(file) => files.push(file),
                    Err(error) => break format!("{} and then {error}", files.len()),
                }
            }
        }
        ["fork", number, signal, close] => {
            let [number, signal, close] = [number, signal, close].map(|word| word.parse().expect("a number"));
            let mut children = 0;
            loop {
                match call(&[number, signal]) {
                    Ok(0) => {
                        // The connection among them, whose end would not be seen.
                        let _ = call(&[close, 3, c_long::from(u32::MAX)]);
                        loop {
                            std::thread::park();
                        }
                    }
                    Ok(_) => children += 1,
                    Err(error) => break format!("{children} and then {error}"),
                }
            }
        }
        ["exit", status] => std::process::exit(status.parse().expect("a status")),
        _ => "hello".into(),
    }
}

fn said<T>(done: std::io::Result<T>) -> String {
    done.map_or_else(|error| error.to_string(), |_| "connected".into())
}

/// A system call by its number, with arguments that are numbers.
fn call(words: &[c_long]) -> std::io::Result<c_long> {
    let mut all = [0; 7];
    all[..words.len()].copy_from_slice(words);
    let [number, a, b, c, d, e, f] = all;
    // SAFETY: the kernel checks what it is given, and no call here is given memory of ours.
    match unsafe { syscall(number, a, b, c, d, e, f) } {
        -1 => Err(std::io::Error::last_os_error()),
        answer => Ok(answer),
    }
}

/// `getpid` in the way of 32-bit programs.
#[cfg(target_arch = "x86_64")]
fn old_call() -> i32 {
    let mut number = 20;
    // SAFETY: it only returns a number.
    unsafe { std::arch::asm!("int 0x80", inout("eax") number, out("r8") _, out("r9") _, out("r10") _, out("r11") _) };
    number
}

#[cfg(not(target_arch = "x86_64"))]
fn old_call() -> i32 {
    std::process::abort()
}
