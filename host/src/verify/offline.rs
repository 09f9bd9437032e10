//! `baton verify`: a file of requests is answered by both builds, and the answers are compared.
//!
//! Each build is served by a Baton of its own, with the policies `wasm` and `native` and the
//! function's own limits and environment, so that what is compared is what would be served. Each
//! line of the file is one request, a JSON object:
//!
//! ```json
//! {"method": "POST", "path": "/a?b=c", "headers": {"content-type": "text/plain"}, "body": "text"}
//! ```
//! All but `path` may be left out; `body_base64` stands for a body that is not text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use super::{Answer, differences};
use crate::manifest::{Function, Listen, NativeSource, Shown};

/// A request of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default = "get")]
    method: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    body_base64: Option<String>,
}

fn get() -> String {
    "GET".to_owned()
}

impl Line {
    fn request(&self) -> anyhow::Result<Request<Full<Bytes>>> {
        ensure!(self.path.starts_with('/'), "the path {:?} does not begin with /", self.path);
        let body: Vec<u8> = match (&self.body, &self.body_base64) {
            (Some(_), Some(_)) => bail!("has both body and body_base64"),
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(text)) => {
                BASE64_STANDARD.decode(text).context("body_base64 is not base64")?
            }
            (None, None) => Vec::new(),
        };
        let mut request = Request::builder().method(self.method.as_str()).uri(&self.path);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.header(header::HOST, "localhost");
        request.body(Full::new(body.into())).context("is not a request")
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// What is to be shown.
    pub text: String,
    /// Requests whose answers differed.
    pub differed: usize,
}

/// Has both builds of `function` answer the requests in `file`; `program` is the `baton` to serve
/// them, `within` a directory for what it needs meanwhile.
///
/// # Errors
/// When the file is not readable or no list of requests, or a build cannot be served here.
pub fn verify(
    program: &Path,
    within: &Path,
    function: &Function,
    file: &Path,
) -> anyhow::Result<Report> {
    let (Some(component), Some(native)) = (&function.component, &function.native) else {
        bail!(
            "the function {:?} does not have both builds, so there is nothing to compare",
            function.name
        );
    };
    let lines = read(file)?;
    let component = format!("component = {}", quoted(path(component)?)?);
    let native = format!("native = {}\nlisten = {}", source(native)?, listen(&function.listen)?);
    let wasm = Served::start(program, within, &manifest(function, "wasm", &component)?)?;
    let native = Served::start(program, within, &manifest(function, "native", &native)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut report = Report { text: String::new(), differed: 0 };
    for (number, line) in &lines {
        let answers = runtime.block_on(async {
            let compared = &function.verify.headers;
            anyhow::Ok((
                ask(wasm.address, line.request()?, compared).await?,
                ask(native.address, line.request()?, compared).await?,
            ))
        });
        let (wasm, native) = answers.with_context(|| format!("{}:{number}", file.display()))?;
        let found = differences(&wasm, &native);
        if !found.is_empty() {
            report.differed += 1;
            let (method, path) = (&line.method, &line.path);
            let _ = writeln!(
                report.text,
                "{}:{number}: {method} {path}: {} differ\n  wasm   {}\n  native {}",
                file.display(),
                found.join(", "),
                wasm.shown(Shown::Bodies),
                native.shown(Shown::Bodies)
            );
        }
    }
    let (all, differed) = (lines.len(), report.differed);
    let _ = write!(report.text, "{all} requests: {} agreed, {differed} differed", all - differed);
    Ok(report)
}

fn read(file: &Path) -> anyhow::Result<Vec<(usize, Line)>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the requests in {}", file.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parsed = lines.map(|(index, line)| {
        let number = index + 1;
        let parsed: anyhow::Result<Line> = serde_json::from_str(line)
            .map_err(anyhow::Error::from)
            .and_then(|line: Line| line.request().map(|_| line));
        Ok((number, parsed.with_context(|| format!("{}:{number}", file.display()))?))
    });
    let lines = parsed.collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(!lines.is_empty(), "there is no request in {}", file.display());
    Ok(lines)
}

/// The least manifest that serves one build at `/`.
fn manifest(function: &Function, policy: &str, artifact: &str) -> anyhow::Result<String> {
    let limits = &function.limits;
    let mut text = format!(
        "[host]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
         [pool]\nparked = 1\nmemory = \"{}B\"\n\
         [[function]]\nname = {}\nroute = \"/*\"\npolicy = \"{policy}\"\n{artifact}\n\
         [function.limits]\nmemory = \"{}B\"\ncpu = {:?}\npids = {}\nrequest_body = \"{}B\"\n\
         cpu_time = \"{}ms\"\ntimeout = \"{}ms\"\nstart_timeout = \"{}ms\"\n[function.env]\n",
        limits.memory.0.saturating_mul(2).max(64 << 20),
        quoted(&function.name)?,
        limits.memory.0,
        limits.cpu,
        limits.pids,
        limits.request_body.0,
        limits.cpu_time.as_millis(),
        limits.timeout.as_millis(),
        limits.start_timeout.as_millis(),
    );
    for (name, value) in &function.env {
        let _ = writeln!(text, "{} = {}", quoted(name)?, quoted(value)?);
    }
    Ok(text)
}

fn source(native: &NativeSource) -> anyhow::Result<String> {
    Ok(match native {
        NativeSource::Executable(file) => quoted(path(file)?)?,
        NativeSource::Rootfs { dir, command } => {
            let command = serde_json::to_string(command)?;
            format!("{{ rootfs = {}, command = {command} }}", quoted(path(dir)?)?)
        }
        NativeSource::Image(image) => format!("{{ image = {} }}", quoted(path(image)?)?),
    })
}

fn listen(listen: &Listen) -> anyhow::Result<String> {
    match listen {
        Listen::Inherited => quoted("inherited"),
        Listen::Unix(socket) => quoted(&format!("unix:{}", path(socket)?)),
        Listen::Tcp(port) => quoted(&format!("tcp:{port}")),
    }
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("the path {} is not text", path.display()))
}

/// A string of TOML; what JSON escapes, TOML's basic strings escape alike.
fn quoted(text: &str) -> anyhow::Result<String> {
    Ok(serde_json::to_string(text)?)
}

/// A Baton that serves one build; it is stopped when dropped.
struct Served {
    process: Child,
    address: SocketAddr,
    _place: Place,
}

impl Served {
    fn start(program: &Path, within: &Path, manifest: &str) -> anyhow::Result<Self> {
        let place = Place::make(within, manifest)?;
        let mut process = Command::new(program)
            .args(["serve", "--config"])
            .arg(place.manifest())
            .arg("--state-dir")
            .arg(place.0.join("state"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let output = process.stdout.take().map(BufReader::new);
        for line in output.into_iter().flat_map(|output| output.lines().map_while(Result::ok)) {
            let address = line.strip_prefix("listening on http://").map(str::parse);
            if let Some(Ok(address)) = address {
                return Ok(Self { process, address, _place: place });
            }
        }
        let ended = process.wait()?;
        bail!("a build could not be served ({ended}); what it said stands above")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let pid = i32::try_from(self.process.id()).map(Pid::from_raw);
        if let Ok(pid) = pid {
            // It may have ended by itself.
            let _ = kill(pid, Signal::SIGTERM);
        }
        let _ = self.process.wait();
    }
}

/// A directory with a manifest, removed when dropped.
struct Place(PathBuf);

impl Place {
    fn make(within: &Path, manifest: &str) -> anyhow::Result<Self> {
        let name = format!("baton-verify-{}", baton_otel::context::new_trace_id());
        let place = Self(within.join(name));
        let cache = quoted(path(&place.0.join("cache"))?)?;
        let made = std::fs::create_dir(&place.0).and_then(|()| {
            let text = manifest.replacen("[host]", &format!("[host]\ncache.dir = {cache}"), 1);
            std::fs::write(place.manifest(), text)
        });
        made.with_context(|| format!("cannot write {}", place.0.display()))?;
        Ok(place)
    }

    fn manifest(&self) -> PathBuf {
        self.0.join("baton.toml")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nothing else needs it, and it may never have been made.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn ask(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
    compared: &[String],
) -> anyhow::Result<Answer> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        Ok(collect(response, compared).await)
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    loop {
        tokio::select! {
            answer = &mut exchange => return answer,
            ended = &mut connection => if ended.is_err() { return Ok(Answer::default()) },
        }
    }
}

/// The answer; a body that breaks off is a failure.
async fn collect(response: Response<Incoming>, compared: &[String]) -> Answer {
    let mut answer = Answer::new(response.status(), response.headers(), compared);
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                if let Some(data) = frame.data_ref() {
                    answer.body.push(data);
                }
            }
            Err(_) => return Answer::default(),
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let error = format!("{:#}", read(file.path()).unwrap_err());
        error.replace(file.path().to_str().unwrap(), "FILE")
    }

    #[test]
    fn a_line_that_is_no_request_is_named() {
        assert!(faults("{\"path\": \"/\"}\n\n{\"path\": \"a\"}").starts_with("FILE:3: the path"));
        assert!(faults("{\"path\": \"/\", \"wrong\": 1}").starts_with("FILE:1: unknown field"));
        assert!(faults("\n").starts_with("there is no request"));
    }

    #[test]
    fn a_body_is_text_or_base64() {
        let line: Line =
            serde_json::from_str(r#"{"path": "/", "method": "PUT", "body_base64": "AAE="}"#)
                .unwrap();
        let request = line.request().unwrap();
        assert_eq!((request.method().as_str(), request.uri().path()), ("PUT", "/"));
    }
}
