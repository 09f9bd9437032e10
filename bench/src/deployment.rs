//! Where a function can run: in a Baton under a policy, under `wasmtime serve`, as a process, in a
//! container.

use std::fmt::{self, Display};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::baton::{Baton, Setup};
use crate::bench::Session;
use crate::cgroup::Cgroup;
use crate::client::{Client, Target};
use crate::load::{self, Arrival, Outcome};
use crate::machine::first_line;
use crate::oci::{self, Container, Rootfs};
use crate::server::{self, Announced, Server};
use crate::subject::Subject;

/// A place where a function can run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Deployment {
    /// In a Baton, under a policy.
    Baton(String),
    /// Under `wasmtime serve`, with a component that is in this form.
    Wasmtime(PathBuf, Form),
    /// As a process, without a sandbox.
    Process,
    /// In a container of this runtime.
    Container(String, Rootfs),
}

/// A form of a component.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// Compiled to machine code before.
    Ahead,
    /// Compiled by each process when it starts.
    AtStart,
    /// Compiled to Pulley's byte code before, and interpreted.
    Pulley,
}

impl Display for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Baton(policy) => write!(f, "baton {policy}"),
            Self::Wasmtime(_, Form::Ahead) => f.write_str("wasmtime"),
            Self::Wasmtime(_, Form::AtStart) => f.write_str("wasmtime JIT"),
            Self::Wasmtime(_, Form::Pulley) => f.write_str("wasmtime Pulley"),
            Self::Process => f.write_str("process"),
            Self::Container(runtime, rootfs) => write!(f, "{runtime} {rootfs}"),
        }
    }
}

/// `wasmtime`: what `WASMTIME` names, that of PATH, or that of `/opt/wasmtime/bin`.
#[must_use]
pub fn wasmtime(named: Option<&Path>) -> Option<PathBuf> {
    let candidates = match named {
        Some(path) => vec![path.to_owned()],
        None => vec![PathBuf::from("wasmtime"), PathBuf::from("/opt/wasmtime/bin/wasmtime")],
    };
    candidates
        .into_iter()
        .find(|path| first_line(&[&path.to_string_lossy(), "--version"]).is_some())
}

impl Deployment {
    /// Why the function cannot run there on this machine, if it cannot.
    #[must_use]
    pub fn lacks(&self, subject: &Subject) -> Option<String> {
        let component = || subject.component.is_none().then(|| "there is no component".to_owned());
        let native = || subject.native.is_none().then(|| "there is no native build".to_owned());
        match self {
            Self::Baton(policy) => match policy.as_str() {
                "wasm" => component(),
                "native" => native(),
                _ => component().or_else(native),
            },
            Self::Wasmtime(..) => component(),
            Self::Process => native(),
            Self::Container(runtime, rootfs) => native().or_else(|| oci::lacks(runtime, rootfs)),
        }
    }

    /// Starts it. A Baton is ready; of the others, the process was started just now.
    ///
    /// # Errors
    /// When that fails.
    pub fn start(&self, subject: &Subject, session: &Session) -> anyhow::Result<Running> {
        self.start_with(subject, session, Setup::new().section("[pool]\nmemory = \"4GiB\""))
    }

    fn start_with(
        &self,
        subject: &Subject,
        session: &Session,
        setup: Setup,
    ) -> anyhow::Result<Running> {
        let cores = &session.cores.server;
        let begun = Instant::now();
        let native = || subject.native.clone().context("there is no native build");
        let (place, prefix) = match self {
            Self::Baton(policy) => {
                (Place::Baton(subject.add_to(setup, policy).start(cores)?), subject.prefix())
            }
            Self::Wasmtime(program, form) => {
                let component = subject.component.as_deref().context("there is no component")?;
                let component = prepared(program, component, *form)?;
                let address = free_port()?;
                let directory = TempDir::new()?;
                let mut command = Command::new(program);
                command.args(["serve", "-S", "cli=y", "--addr", &address.to_string()]);
                if *form != Form::AtStart {
                    command.arg("--allow-precompiled");
                }
                if *form == Form::Pulley {
                    command.args(["--target", "pulley64"]);
                } else if *form == Form::AtStart {
                    command.args(["-C", "cache=n"]);
                }
                if subject.scratch {
                    let scratch = directory.path().join("scratch");
                    std::fs::create_dir(&scratch)?;
                    command.arg("--dir").arg(format!("{}::/tmp", scratch.display()));
                }
                command.arg(component);
                let begun = Instant::now();
                let log = directory.path().join("log");
                let server = Server::start(command, &Announced::Port(address), cores, &log)?;
                return Ok(Running {
                    place: Place::Server(server, directory, None),
                    prefix: String::new(),
                    begun,
                });
            }
            Self::Process => {
                let (directory, socket, listener) = bound()?;
                let mut command = Command::new("sh");
                command.args(["-c", r#"LISTEN_PID=$$ exec "$0" 3<&0 </dev/null"#]);
                command.arg(native()?).env_clear();
                command.envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "http")]);
                command.stdin(OwnedFd::from(listener));
                let log = directory.path().join("log");
                let server = Server::start(command, &Announced::Inherited(socket), cores, &log)?;
                (Place::Server(server, directory, None), String::new())
            }
            Self::Container(runtime, rootfs) => {
                let (directory, socket, listener) = bound()?;
                let container = Container::prepare(
                    runtime,
                    rootfs,
                    &native()?,
                    subject.scratch,
                    directory.path(),
                )?;
                let begun = Instant::now();
                let command = container.command(listener);
                let log = directory.path().join("log");
                let server = Server::start(command, &Announced::Inherited(socket), cores, &log)?;
                return Ok(Running {
                    place: Place::Server(server, directory, Some(container)),
                    prefix: String::new(),
                    begun,
                });
            }
        };
        Ok(Running { place, prefix, begun })
    }

    /// Prepares cold requests to the function there.
    ///
    /// # Errors
    /// When a Baton cannot be started.
    pub fn cold<'a>(&self, subject: &'a Subject, session: &'a Session) -> anyhow::Result<Cold<'a>> {
        let running = match self {
            Self::Baton(_) => {
                let mut subject = subject.clone();
                subject.lines.push("sandboxes.idle_timeout = \"1ms\"".into());
                Some(self.start(&subject, session)?)
            }
            _ => None,
        };
        Ok(Cold { deployment: self.clone(), running, subject, session })
    }
}

/// A component in its form, made once for each component and kept beside the other results.
fn prepared(program: &Path, component: &Path, form: Form) -> anyhow::Result<PathBuf> {
    let (suffix, target): (_, &[&str]) = match form {
        Form::AtStart => return Ok(component.to_owned()),
        Form::Ahead => ("cwasm", &[]),
        Form::Pulley => ("pulley.cwasm", &["--target", "pulley64"]),
    };
    let directory = crate::baton::target_dir().join("bench");
    std::fs::create_dir_all(&directory)?;
    let name = component.file_stem().context("a component has a name")?;
    let made = directory.join(name).with_extension(suffix);
    let age = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    if age(&made) < age(component) || !made.exists() {
        let mut command = Command::new(program);
        command.arg("compile").args(target).arg(component).arg("-o").arg(&made);
        let output = command.output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "wasmtime compile failed: {errors}");
    }
    Ok(made)
}

/// The file of a component in a form, for its size.
///
/// # Errors
/// When it cannot be compiled.
pub fn artifact(program: &Path, component: &Path, form: Form) -> anyhow::Result<PathBuf> {
    prepared(program, component, form)
}

fn bound() -> io::Result<(TempDir, PathBuf, UnixListener)> {
    let directory = tempfile::Builder::new().prefix("baton-bench-").tempdir()?;
    let socket = directory.path().join("http.sock");
    let listener = UnixListener::bind(&socket)?;
    Ok((directory, socket, listener))
}

fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// A function that runs somewhere.
#[derive(Debug)]
pub struct Running {
    place: Place,
    /// Its route's prefix.
    pub prefix: String,
    /// When its start began.
    pub begun: Instant,
}

#[derive(Debug)]
enum Place {
    Baton(Baton),
    /// The directory and the container are only there as long as it runs.
    Server(Server, TempDir, Option<Container>),
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn target(&self) -> Target {
        match &self.place {
            Place::Baton(baton) => baton.target(),
            Place::Server(server, ..) => server.target(),
        }
    }

    /// The Baton, if it runs in one.
    #[must_use]
    pub fn baton(&self) -> Option<&Baton> {
        match &self.place {
            Place::Baton(baton) => Some(baton),
            Place::Server(..) => None,
        }
    }

    /// Its control group, if it has one of its own.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Cgroup> {
        match &self.place {
            Place::Baton(baton) => Some(baton.cgroup()),
            Place::Server(_, _, container) => container.as_ref().map(Container::cgroup),
        }
    }

    /// Its first process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match &self.place {
            Place::Baton(baton) => baton.server.pid(),
            Place::Server(server, ..) => server.pid(),
        }
    }

    /// CPU time of all of it, in nanoseconds.
    #[must_use]
    pub fn cpu_ns(&self) -> u64 {
        match &self.place {
            Place::Baton(baton) => baton.cpu_ns(),
            Place::Server(server, _, None) => server.cpu_ns(),
            Place::Server(server, _, Some(container)) => {
                container.cgroup().cpu_ns().unwrap_or_else(|| server.cpu_ns())
            }
        }
    }

    /// The most memory in bytes that the process which runs the function ever had resident: of a
    /// component Baton's host or Wasmtime, of a native build the largest of its processes.
    #[must_use]
    pub fn memory(&self) -> Option<u64> {
        let processes = server::tree(self.pid());
        let native = self.baton().is_some_and(|baton| baton.cgroup().memory_peak().is_some());
        let peak = |pid: &u32| server::memory(*pid).map(|memory| memory.peak);
        if let (Some(baton), true) = (self.baton(), native) {
            let sandboxes = baton.admin("/v1/sandboxes").ok()?;
            let rows = sandboxes["sandboxes"].as_array()?.iter();
            let pids = rows.filter(|row| row["function"].is_string());
            let pids = pids.filter_map(|row| u32::try_from(row["pid"].as_u64()?).ok());
            if let Some(most) = pids.filter_map(|pid| peak(&pid)).max() {
                return Some(most);
            }
        }
        processes.iter().filter_map(peak).max()
    }

    /// Waits until no sandbox is being made or taken away.
    ///
    /// # Errors
    /// When that does not come.
    pub fn settle(&self) -> anyhow::Result<()> {
        self.baton().map_or(Ok(()), Baton::settle)
    }

    /// Stops it.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn stop(self) -> anyhow::Result<()> {
        match self.place {
            Place::Baton(baton) => baton.stop(),
            Place::Server(server, _directory, container) => {
                if let Some(container) = container {
                    container.delete()?;
                    drop(server);
                    return Ok(());
                }
                server.stop()
            }
        }
    }
}

/// Cold requests to a function.
///
/// In a Baton: the Baton runs and has loaded the component, and the function has neither an idle nor
/// a leased sandbox. Elsewhere: from the start of the process or container on.
#[derive(Debug)]
pub struct Cold<'a> {
    deployment: Deployment,
    running: Option<Running>,
    subject: &'a Subject,
    session: &'a Session,
}

/// How long a function may keep its sandbox when nobody asks it.
const COLD_MAX: Duration = Duration::from_secs(30);

impl Cold<'_> {
    /// One of them, in milliseconds until the whole answer was there.
    ///
    /// # Errors
    /// When there is no answer, or it is no success.
    pub fn once(&mut self) -> anyhow::Result<f64> {
        let Self { deployment, running, subject, session } = self;
        session.cores.load.run(|| {
            if let Some(running) = running {
                wait_until_cold(running, &subject.name)?;
                let mut client = Client::new(&running.target())?;
                let request = subject.request(&running.prefix);
                let begun = Instant::now();
                let answer = client.ask(&request)?;
                let elapsed = begun.elapsed();
                anyhow::ensure!(answer.status == 200, "{deployment} answered {}", answer.status);
                return Ok(elapsed.as_secs_f64() * 1e3);
            }
            let running = deployment.start(subject, session)?;
            let answer = Client::new(&running.target())?.ask(&subject.request(""));
            let elapsed = running.begun.elapsed();
            running.stop()?;
            let status = answer.with_context(|| format!("{deployment}"))?.status;
            anyhow::ensure!(status == 200, "{deployment} answered {status}");
            Ok(elapsed.as_secs_f64() * 1e3)
        })
    }

    /// So many of them at once, to a Baton.
    ///
    /// # Errors
    /// When the load cannot be made, or this is no Baton.
    pub fn burst(&mut self, size: usize) -> anyhow::Result<Outcome> {
        let running = self.running.as_ref().context("bursts are for a Baton")?;
        wait_until_cold(running, &self.subject.name)?;
        let request = [self.subject.request(&running.prefix)];
        let arrivals = vec![Arrival { at: Duration::ZERO, request: 0 }; size];
        let cores = &self.session.cores.load;
        Ok(load::open(&running.target(), &request, &arrivals, size, cores)?)
    }

    /// Ends what was started for them.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn stop(self) -> anyhow::Result<()> {
        self.running.map_or(Ok(()), Running::stop)
    }
}

fn wait_until_cold(running: &Running, function: &str) -> anyhow::Result<()> {
    let Some(baton) = running.baton() else { return Ok(()) };
    let deadline = Instant::now() + COLD_MAX;
    loop {
        baton.settle()?;
        let sandboxes = baton.admin("/v1/sandboxes").unwrap_or_default();
        let rows = sandboxes["sandboxes"].as_array();
        if !rows.is_some_and(|rows| rows.iter().any(|row| row["function"] == function)) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "{function} keeps its sandbox");
        std::thread::sleep(Duration::from_millis(2));
    }
}
