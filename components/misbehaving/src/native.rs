//! The native build: the least HTTP that can be spoken badly, on the inherited socket.
//!
//! Every connection carries one exchange and has a thread of its own. SIGTERM ends the process.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use listenfd::ListenFd;
use nix::sys::signal::{SigSet, Signal};

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n";

pub(crate) fn serve() -> io::Result<()> {
    let misbehaviour = std::env::var("MISBEHAVE").unwrap_or_default();
    if misbehaviour == "exit" {
        return Ok(());
    }
    let mut terminated = SigSet::empty();
    terminated.add(Signal::SIGTERM);
    terminated.thread_block()?;
    let listener = ListenFd::from_env().take_unix_listener(0)?;
    let listener = listener.ok_or(io::ErrorKind::NotFound)?;
    if misbehaviour != "deaf" {
        thread::spawn(move || accept(&listener));
    }
    terminated.wait()?;
    Ok(())
}

fn accept(listener: &UnixListener) {
    for stream in listener.incoming().flatten() {
        // The client's leaving is its own affair.
        thread::spawn(move || exchange(stream));
    }
}

fn exchange(mut stream: UnixStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let head = read_head(&mut reader)?;
    let target = head.split(' ').nth(1).unwrap_or_default();
    match target {
        headers if headers.ends_with("/headers") => {
            respond(&mut stream, &format!("target: {target}\n{}", rest(&head)))
        }
        "/hold" => {
            read_body(&mut reader, &head)?;
            respond(&mut stream, "held\n")
        }
        "/files" => respond(&mut stream, &crate::files()),
        "/fill" => respond(&mut stream, &crate::fill()),
        "/shout" => respond(&mut stream, &crate::shout()),
        "/sleep" => {
            thread::sleep(crate::HOUR);
            Ok(())
        }
        "/loop" => crate::compute_for_ever(),
        "/allocate" | "/allocate-natively" => crate::allocate_for_ever(),
        "/allocate-midway" => {
            write!(stream, "{FINE}content-length: 1000\r\n\r\nsome of it\n")?;
            crate::allocate_for_ever()
        }
        "/crash" => crash(),
        "/crash-midway" => {
            write!(stream, "{FINE}content-length: 1000\r\n\r\nsome of it\n")?;
            crash()
        }
        "/short" => write!(stream, "{FINE}content-length: 1000\r\n\r\nsome of it\n"),
        "/drip" => drip(&mut stream),
        "/divergent" => respond(&mut stream, "native\n"),
        "/trailers" => {
            let came = read_trailers(&mut reader)?;
            write!(stream, "{FINE}trailer: x-last\r\ntransfer-encoding: chunked\r\n\r\n")?;
            if !came.is_empty() {
                write!(stream, "{:x}\r\n{came}\r\n", came.len())?;
            }
            write!(stream, "0\r\nx-last: word\r\n\r\n")
        }
        "/upgrade" => {
            write!(
                stream,
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"
            )?;
            io::copy(&mut reader, &mut stream).map(drop)
        }
        "/silent" => Ok(()),
        "/invalid-header" => write!(stream, "{FINE}x y: z\r\ncontent-length: 0\r\n\r\n"),
        _ if target.starts_with("/tcp/") => talk(&mut stream, &mut reader, &head),
        "/garbage" => write!(stream, "\0 this is not HTTP \0\r\n\r\n"),
        _ => respond(&mut stream, "fine\n"),
    }
}

/// Sends the request's body to an address, and answers with all that comes back, or the error.
fn talk(stream: &mut UnixStream, reader: &mut impl Read, head: &str) -> io::Result<()> {
    let address = head.split(' ').nth(1).and_then(|target| target.strip_prefix("/tcp/"));
    let mut body = vec![0; announced(head).unwrap_or_default()];
    reader.read_exact(&mut body)?;
    let said = TcpStream::connect(address.unwrap_or_default()).and_then(|mut peer| {
        peer.set_read_timeout(Some(SILENCE))?;
        peer.write_all(&body)?;
        let mut said = Vec::new();
        match peer.read_to_end(&mut said) {
            Err(error) if said.is_empty() => Err(error),
            _ => Ok(String::from_utf8_lossy(&said).into_owned()),
        }
    });
    respond(stream, &said.unwrap_or_else(|error| format!("error: {error}\n")))
}

/// How long a peer may be silent before its words are taken for all.
const SILENCE: Duration = Duration::from_secs(20);

/// The length of the body that a head announces.
fn announced(head: &str) -> Option<usize> {
    let mut lines = head.lines();
    lines.find_map(|line| {
        line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
    })
}

#[expect(clippy::disallowed_methods, reason = "that a function ends midway is what is tested")]
fn crash() -> ! {
    std::process::exit(1)
}

fn read_head(reader: &mut impl BufRead) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// The header lines, with plain line feeds.
fn rest(head: &str) -> String {
    head.lines().skip(1).filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

/// Reads to the last chunk, or as much as was announced.
fn read_body(reader: &mut impl BufRead, head: &str) -> io::Result<()> {
    if let Some(length) = announced(head) {
        let length = u64::try_from(length).map_err(io::Error::other)?;
        io::copy(&mut Read::take(reader, length), &mut io::sink())?;
        return Ok(());
    }
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Ok(());
    }
    let mut line = String::new();
    // A line of a body that looks like the last chunk is not in any test.
    while line != "0\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// The lines after the last chunk, with plain line feeds.
fn read_trailers(reader: &mut impl BufRead) -> io::Result<String> {
    let mut lines = reader.lines().skip_while(|line| line.as_ref().is_ok_and(|line| line != "0"));
    lines.next().transpose()?;
    let mut trailers = String::new();
    for line in lines {
        match line?.as_str() {
            "" => break,
            line => trailers += &format!("{line}\n"),
        }
    }
    Ok(trailers)
}

fn respond(stream: &mut UnixStream, text: &str) -> io::Result<()> {
    write!(stream, "{FINE}content-length: {}\r\n\r\n{text}", text.len())
}

fn drip(stream: &mut UnixStream) -> io::Result<()> {
    write!(stream, "{FINE}transfer-encoding: chunked\r\n\r\n")?;
    loop {
        write!(stream, "5\r\ndrop\n\r\n")?;
        thread::sleep(Duration::from_millis(1));
    }
}
