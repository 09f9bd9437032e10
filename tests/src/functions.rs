//! Functions as processes: each build started as its host starts it, and HTTP to talk to it.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// The target directory that the running test was built in.
///
/// # Panics
/// When the test does not run from `target/PROFILE/deps`.
pub fn target_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its executable");
    test.ancestors().nth(3).expect("a test runs from target/PROFILE/deps").to_owned()
}

/// `target/functions`, where both builds of every function are.
pub fn functions_dir() -> PathBuf {
    target_dir().join("functions")
}

/// The function that fails in each build in its own way.
pub const MISBEHAVING: &str = "misbehaving";

/// The names of the functions that have both builds and behave.
///
/// # Panics
/// When nothing was built.
pub fn built_twice() -> Vec<String> {
    let entries = fs::read_dir(functions_dir()).expect("run `just functions` first");
    let files = entries.map(|entry| entry.expect("a readable directory").path());
    let mut names: Vec<String> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "wasm"))
        .map(|file| file.with_extension(""))
        .filter(|native| native.exists() && !native.ends_with(MISBEHAVING))
        .filter_map(|native| Some(native.file_name()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// Where a function listens.
#[derive(Clone, Debug)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port of this machine.
    Tcp(SocketAddr),
}

/// A function that is being served; dropping it ends its process.
#[derive(Debug)]
pub struct Served {
    /// Where it listens.
    pub address: Address,
    /// Its process: the function itself, or Baton.
    pub process: Child,
    _directory: Option<TempDir>,
    _output: Option<BufReader<ChildStdout>>,
}

impl Served {
    /// Starts a native function on a listener that it inherits as descriptor 3.
    ///
    /// # Errors
    /// When the socket cannot be made or the program not be started.
    pub fn native(program: &Path) -> io::Result<Self> {
        let directory = TempDir::new()?;
        let path = directory.path().join("http.sock");
        let listener = UnixListener::bind(&path)?;
        // The shell moves the listener from its standard input, and keeps its pid in `exec`.
        let process = Command::new("sh")
            .args(["-c", r#"LISTEN_PID=$$ exec "$0" 3<&0 </dev/null"#])
            .arg(program)
            .env_clear()
            .envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "http")])
            .stdin(OwnedFd::from(listener))
            .spawn()?;
        let address = Address::Unix(path);
        Ok(Self { address, process, _directory: Some(directory), _output: None })
    }

    /// Starts a component under `baton run`, on a free port.
    ///
    /// # Errors
    /// When Baton cannot be started, or ends without listening.
    pub fn component(component: &Path) -> io::Result<Self> {
        let mut process = Command::new(crate::baton::program())
            .arg("run")
            .arg(component)
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = BufReader::new(process.stdout.take().expect("standard output is a pipe"));
        let mut line = String::new();
        let address = loop {
            line.clear();
            if output.read_line(&mut line)? == 0 {
                let status = process.wait()?;
                return Err(io::Error::other(format!(
                    "baton run ended without listening: {status}"
                )));
            }
            if let Some(address) = line.trim_end().strip_prefix("listening on http://") {
                break Address::Tcp(address.parse().map_err(io::Error::other)?);
            }
        };
        Ok(Self { address, process, _directory: None, _output: Some(output) })
    }

    /// Sends SIGTERM and waits for the process to leave.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    ///
    /// # Panics
    /// When `kill` cannot be run.
    pub fn terminate(&mut self) -> io::Result<std::process::ExitStatus> {
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().expect("kill is everywhere");
        self.process.wait()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            // Both end on SIGTERM; what Baton started must be left to it to remove.
            let _ = self.terminate();
        }
    }
}

/// Why an exchange over HTTP failed.
pub type ExchangeError = Box<dyn std::error::Error + Send + Sync>;

/// One request on a connection of its own, and `read` on the response while it comes.
///
/// # Errors
/// When the connection or the exchange breaks, or `read` fails.
pub async fn exchange<B, T>(
    address: &Address,
    request: Request<B>,
    read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, ExchangeError>,
) -> Result<T, ExchangeError>
where
    B: Body<Data = Bytes, Error: Into<ExchangeError>> + Send + 'static,
{
    match address {
        Address::Unix(path) => on(UnixStream::connect(path).await?, request, read).await,
        Address::Tcp(address) => on(TcpStream::connect(address).await?, request, read).await,
    }
}

async fn on<I, B, T>(
    stream: I,
    request: Request<B>,
    read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, ExchangeError>,
) -> Result<T, ExchangeError>
where
    I: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes, Error: Into<ExchangeError>> + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(Patient(stream))).await?;
    let mut asked = pin!(async move {
        let response = sender.send_request(request).await?;
        read(response).await
    });
    tokio::select! {
        biased;
        answer = &mut asked => return answer,
        // How it ended `asked` sees.
        _ = connection => {}
    }
    asked.await
}

/// A stream whose writes wait for ever once the other side takes no more: a server that refuses a large body answers
/// and closes while the rest of it is being written, and hyper gives up an answer at the first write that fails.
struct Patient<I>(I);

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patient<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.0).poll_write(cx, bytes) {
            Poll::Ready(Err(error))
                if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
            {
                Poll::Pending
            }
            polled => polled,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Reads a response to its end.
///
/// # Errors
/// When the body breaks off.
pub async fn whole(response: Response<Incoming>) -> Result<Response<Bytes>, ExchangeError> {
    let (head, body) = response.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}
