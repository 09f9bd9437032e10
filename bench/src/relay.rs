//! Something to compare a proxy of HTTP with: a relay between a client and a function behind a Unix socket that moves
//! bytes and understands none of them. It is simple, with two threads a connection, and no floor: others are quicker.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use rustix::pipe::{SpliceFlags, splice};

/// Bytes that are moved at once, as many as a pipe has room for.
const PIECE: usize = 64 * 1024;

/// How bytes get from one socket to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Read and written: copied out of the kernel and into it again.
    Copied,
    /// Handed on within the kernel, through a pipe.
    Spliced,
}

/// Serves until killed, each direction of each connection by a thread that waits in the kernel. Says where it listens.
///
/// # Errors
/// When it cannot listen.
pub fn serve(to: &Path, manner: Manner) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    writeln!(io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    loop {
        let (client, _) = listener.accept()?;
        client.set_nodelay(true)?;
        let function = UnixStream::connect(to)?;
        let (from_client, to_function) = (client.try_clone()?, function.try_clone()?);
        // Whoever leaves is none of our business.
        thread::spawn(move || {
            let _ = up(from_client, to_function, manner);
        });
        thread::spawn(move || {
            let _ = down(function, client, manner);
        });
    }
}

fn up(mut client: TcpStream, mut function: UnixStream, manner: Manner) -> io::Result<()> {
    match manner {
        Manner::Copied => copy(|piece| client.read(piece), |piece| function.write_all(piece))?,
        Manner::Spliced => hand_on(&client, &function)?,
    }
    function.shutdown(Shutdown::Write)
}

fn down(mut function: UnixStream, mut client: TcpStream, manner: Manner) -> io::Result<()> {
    match manner {
        Manner::Copied => copy(|piece| function.read(piece), |piece| client.write_all(piece))?,
        Manner::Spliced => hand_on(&function, &client)?,
    }
    client.shutdown(Shutdown::Write)
}

fn copy(
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match read(&mut piece)? {
            0 => return Ok(()),
            length => write(&piece[..length])?,
        }
    }
}

fn hand_on(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let (reader, writer) = io::pipe()?;
    loop {
        let mut left = splice(&from, None, &writer, None, PIECE, SpliceFlags::MOVE)?;
        if left == 0 {
            return Ok(());
        }
        while left > 0 {
            left -= splice(&reader, None, &to, None, left, SpliceFlags::MOVE)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn whole(manner: Manner) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("function.sock");
        let function = UnixListener::bind(&path).unwrap();
        let clients = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut asked = TcpStream::connect(clients.local_addr().unwrap()).unwrap();
        let (client, _) = clients.accept().unwrap();
        let to_function = UnixStream::connect(&path).unwrap();
        let (mut function, _) = function.accept().unwrap();
        let (from_client, from_function) =
            (client.try_clone().unwrap(), to_function.try_clone().unwrap());
        let relays = [
            thread::spawn(move || up(from_client, to_function, manner)),
            thread::spawn(move || down(from_function, client, manner)),
        ];
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(1_000_000).collect();
        let answer = thread::spawn(move || {
            let mut received = Vec::new();
            function.read_to_end(&mut received).unwrap();
            function.write_all(&received).unwrap();
        });
        asked.write_all(&sent).unwrap();
        asked.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        asked.read_to_end(&mut received).unwrap();
        answer.join().unwrap();
        for relay in relays {
            relay.join().unwrap().unwrap();
        }
        assert!(received == sent);
    }

    #[test]
    fn what_is_copied_arrives_whole() {
        whole(Manner::Copied);
    }

    #[test]
    fn what_is_spliced_arrives_whole() {
        whole(Manner::Spliced);
    }
}
