//! A Baton of a test's own: its manifest, its directories, its control groups, its processes.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Read as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Connection, Raw, request, tier_of};
use crate::functions::{functions_dir, target_dir};
use crate::{wait_for, wait_until};

/// The hidden subcommands that are Baton's processes.
const HOST: &str = "host-process";
const POOL: &str = "pool-daemon";

/// The program under test: what the variable `BATON` names, else the one that was built with the tests.
#[must_use]
pub fn program() -> PathBuf {
    let default = || target_dir().join("release/baton");
    std::env::var_os("BATON").map_or_else(default, PathBuf::from)
}

/// What a Baton is started with; later lines win nothing, a key may be given once.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    host: String,
    pool: String,
    telemetry: String,
    functions: String,
    variables: Vec<(String, String)>,
    arguments: Vec<String>,
    unprivileged: bool,
    hosts: Vec<String>,
    /// Descriptor 3 of the command.
    inherited: Option<Arc<OwnedFd>>,
    /// Standard error of the command.
    log: Option<Arc<OwnedFd>>,
    /// The only function, of `baton run`.
    alone: Option<String>,
}

impl Setup {
    /// No function yet, and the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `baton run` with both builds of a function, without a manifest.
    #[must_use]
    pub fn run(name: &str) -> Self {
        Self { alone: Some(name.to_owned()), ..Self::default() }
    }

    /// Adds a line to `[host]`.
    #[must_use]
    pub fn host(mut self, line: &str) -> Self {
        let _ = writeln!(self.host, "{line}");
        self
    }

    /// Adds a line to `[pool]`.
    #[must_use]
    pub fn pool(mut self, line: &str) -> Self {
        let _ = writeln!(self.pool, "{line}");
        self
    }

    /// Adds a line to `[telemetry]`.
    #[must_use]
    pub fn telemetry(mut self, line: &str) -> Self {
        let _ = writeln!(self.telemetry, "{line}");
        self
    }

    /// Adds a function with both builds, at `/NAME/*`.
    #[must_use]
    pub fn hybrid(self, name: &str) -> Self {
        self.function(name, "hybrid").component(name).executable(name)
    }

    /// Adds a function that only its component answers for.
    #[must_use]
    pub fn wasm(self, name: &str) -> Self {
        self.function(name, "wasm").component(name)
    }

    /// Adds a function that only its native build answers for.
    #[must_use]
    pub fn native(self, name: &str) -> Self {
        self.function(name, "native").executable(name)
    }

    /// Adds a line to the function that was added last, such as `limits.timeout = "1s"`.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        let _ = writeln!(self.functions, "{line}");
        self
    }

    /// Sets a variable of Baton's environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument to the command.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Has Baton started by a user who may do nothing.
    #[must_use]
    pub fn unprivileged(mut self) -> Self {
        self.unprivileged = true;
        self
    }

    /// Adds a line to what Baton finds in `/etc/hosts`, such as `127.0.0.1 inside.test`.
    #[must_use]
    pub fn hosts(mut self, line: &str) -> Self {
        self.hosts.push(line.to_owned());
        self
    }

    /// Has Baton inherit this as descriptor 3, as from a supervisor of services.
    #[must_use]
    pub fn inherit(mut self, descriptor: OwnedFd) -> Self {
        self.inherited = Some(Arc::new(descriptor));
        self
    }

    /// Has Baton write its log there, and not where [`Baton::log`] finds it.
    #[must_use]
    pub fn log_to(mut self, log: OwnedFd) -> Self {
        self.log = Some(Arc::new(log));
        self
    }

    /// Adds a function at `/NAME/*`, without an artifact yet.
    #[must_use]
    pub fn function(mut self, name: &str, policy: &str) -> Self {
        let _ = writeln!(
            self.functions,
            "[[function]]\nname = \"{name}\"\nroute = \"/{name}/*\"\npolicy = \"{policy}\""
        );
        self
    }

    /// Gives the last function the component of this name.
    #[must_use]
    pub fn component(self, name: &str) -> Self {
        let path = functions_dir().join(name).with_extension("wasm");
        self.with(&format!("component = \"{}\"", path.display()))
    }

    /// Gives the last function the native build of this name.
    #[must_use]
    pub fn executable(self, name: &str) -> Self {
        self.with(&format!("native = \"{}\"", functions_dir().join(name).display()))
    }

    /// The manifest; what it does not say about `[host]` suits a test.
    fn manifest(&self, cache: &Path) -> String {
        let mut host = self.host.clone();
        let mut default = |key: &str, line: &str| {
            if !self.host.lines().any(|line| line.starts_with(key)) {
                let _ = writeln!(host, "{line}");
            }
        };
        default("listen", r#"listen = ["127.0.0.1:0"]"#);
        default("admin", r#"admin = "127.0.0.1:0""#);
        default("server_timing", "server_timing = true");
        default("cache", &format!("cache.dir = \"{}\"", cache.display()));
        let Self { pool, telemetry, functions, .. } = self;
        format!("[host]\n{host}[pool]\n{pool}[telemetry]\n{telemetry}{functions}")
    }

    /// Starts Baton and waits until it is ready.
    ///
    /// # Panics
    /// When it ends instead; says what it wrote.
    #[must_use]
    #[track_caller]
    pub fn start(&self) -> Baton {
        self.start_in(Arc::new(Place::new()))
    }

    /// Starts Baton with the directories and control groups that another one has or had.
    ///
    /// # Panics
    /// As [`Setup::start`].
    #[must_use]
    #[track_caller]
    pub fn start_in(&self, place: Arc<Place>) -> Baton {
        let log = match &self.log {
            Some(log) => log.try_clone().map(Into::into),
            None => fs::File::options().create(true).append(true).open(place.log()),
        };
        let mut command = self.command(&place);
        command.stdout(Stdio::piped()).stderr(log.expect("a log file"));
        Baton::started(command.spawn().expect("baton can be started"), place)
    }

    /// Runs Baton where it is expected to end by itself.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn output(&self) -> Output {
        let place = Place::new();
        self.command(&place).output().expect("baton can be started")
    }

    fn command(&self, place: &Place) -> Command {
        // Shared by all tests, so that each component is compiled once.
        let cache = target_dir().join("tests-cache");
        let mut text = self.manifest(&cache);
        let mut command = Command::new(program());
        if !self.hosts.is_empty() {
            // A mount namespace of its own, whose pid `exec` keeps.
            let hosts = place.path().join("hosts");
            fs::write(&hosts, self.hosts.join("\n") + "\n").expect("a writable directory");
            command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", HOSTS, path(&hosts), path(&program())]);
        }
        if self.unprivileged {
            let functions = place.hand_over();
            text = self.manifest(&place.path().join("cache"));
            text = text.replace(path(&functions_dir()), path(&functions));
            command = Command::new("setpriv");
            command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
            command.arg(place.path().join("baton"));
        }
        if let Some(name) = &self.alone {
            let native = functions_dir().join(name);
            command.args(["run", path(&native.with_extension("wasm")), "--native", path(&native)]);
            command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
            command.args(["--cache-dir", path(&cache)]);
        } else {
            let manifest = place.manifest();
            fs::write(&manifest, text).expect("a writable directory");
            command.args(["serve", "--config", path(&manifest)]);
        }
        command.args(["--state-dir", path(&place.state())]);
        command.args(["--cgroup-parent", &place.cgroup_parent]);
        command.args(&self.arguments);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        match &self.inherited {
            None => command,
            Some(descriptor) => inheriting(&command, descriptor),
        }
    }
}

/// Runs a command that has another `/etc/hosts`.
const HOSTS: &str = r#"mount --bind "$0" /etc/hosts && exec "$@""#;

/// The same command, started by a shell that moves `descriptor` from standard input to 3.
fn inheriting(command: &Command, descriptor: &OwnedFd) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"exec "$0" "$@" 3<&0 </dev/null"#]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(descriptor.try_clone().expect("a descriptor"));
    shell
}

/// A user who owns nothing, by number.
const NOBODY: &str = "65533";

fn path(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}

/// Where a Baton keeps its things; it outlives a Baton that is killed.
#[derive(Debug)]
pub struct Place {
    directory: TempDir,
    /// The control group that all of it is below, with a name that Baton takes for its own.
    pub cgroup_parent: String,
}

impl Place {
    /// A new place.
    ///
    /// # Panics
    /// When there is no room for temporary files.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // The host process is another user and has to get at its directory inside.
        let everybody = fs::Permissions::from_mode(0o755);
        let directory =
            tempfile::Builder::new().prefix("baton-test-").permissions(everybody).tempdir();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            directory: directory.expect("a temporary directory"),
            cgroup_parent: format!("baton/test-{}-{number}/baton", std::process::id()),
        }
    }

    /// The place's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Its state directory, which Baton makes.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Makes the place another user's, with the program and the functions in it, since that user
    /// may not be able to come where they are. Returns the directory of the functions.
    fn hand_over(&self) -> PathBuf {
        let functions = self.path().join("functions");
        fs::create_dir(&functions).expect("a new place");
        fs::copy(program(), self.path().join("baton")).expect("room for a copy");
        for entry in fs::read_dir(functions_dir()).expect("run `just functions` first") {
            let entry = entry.expect("a readable directory");
            fs::copy(entry.path(), functions.join(entry.file_name())).expect("room for a copy");
        }
        let id = NOBODY.parse().ok();
        std::os::unix::fs::chown(self.path(), id, id).expect("root gives away its files");
        functions
    }

    /// The manifest of the Baton that was started last.
    #[must_use]
    pub fn manifest(&self) -> PathBuf {
        self.path().join("baton.toml")
    }

    fn log(&self) -> PathBuf {
        self.path().join("log")
    }

    /// Its control groups, one in each hierarchy that has it.
    #[must_use]
    pub fn cgroups(&self) -> Vec<PathBuf> {
        cgroups(&self.cgroup_parent)
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Place {
    /// Baton removes what is below its parent group; the parent and what is around it are ours.
    fn drop(&mut self) {
        let around = self.cgroup_parent.rsplit_once('/').map(|(around, _)| cgroups(around));
        for cgroup in self.cgroups().into_iter().chain(around.into_iter().flatten()) {
            // What keeps it is what the tests of leftovers look for.
            let _ = fs::remove_dir(cgroup);
        }
    }
}

/// A running Baton. Dropping it stops it; when the test has failed its log is shown.
#[derive(Debug)]
pub struct Baton {
    process: Child,
    _output: BufReader<ChildStdout>,
    /// Where functions are served.
    pub address: SocketAddr,
    /// Where administration is served.
    pub admin: SocketAddr,
    /// Where it keeps its things.
    pub place: Arc<Place>,
}

/// One row of `GET /v1/sandboxes`.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// Its function; a parked one has none.
    pub function: Option<String>,
    /// Its state.
    pub state: String,
    /// Its first process.
    pub pid: i32,
}

impl Baton {
    #[track_caller]
    fn started(mut process: Child, place: Arc<Place>) -> Self {
        let mut output = BufReader::new(process.stdout.take().expect("standard output is a pipe"));
        let mut announced = |what: &str| {
            for line in output.by_ref().lines() {
                // There may be more listeners, of which the first is used.
                let line = line.expect("readable output");
                let address = line.strip_prefix(what).and_then(|rest| rest.split_once("://"));
                if let Some(address) = address.and_then(|(_, address)| address.parse().ok()) {
                    return address;
                }
            }
            let log = fs::read_to_string(place.log()).unwrap_or_default();
            panic!("baton ended without saying where it is {what}\n{log}")
        };
        let address = announced("listening on ");
        let admin = announced("administration on ");
        let baton = Self { process, _output: output, address, admin, place };
        wait_until("Baton is ready", || {
            baton.ask_admin("/readyz").is_some_and(|r| r.status() == 200)
        });
        baton
    }

    /// Answers of functions, on a connection of its own for each.
    ///
    /// # Panics
    /// When there is no whole answer.
    #[must_use]
    #[track_caller]
    pub fn ask(&self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        let connection = Connection::open(self.address);
        connection.and_then(|mut connection| connection.send(request)).expect("a whole answer")
    }

    /// Asks with GET.
    ///
    /// # Panics
    /// As [`Baton::ask`].
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> Response<Bytes> {
        self.ask(request(Method::GET, path, ""))
    }

    /// Asks with POST.
    ///
    /// # Panics
    /// As [`Baton::ask`].
    #[must_use]
    #[track_caller]
    pub fn post(&self, path: &str, body: impl Into<Bytes>) -> Response<Bytes> {
        self.ask(request(Method::POST, path, body))
    }

    /// A connection to say anything on.
    #[must_use]
    #[track_caller]
    pub fn raw(&self) -> Raw {
        Raw::open(self.address)
    }

    /// An answer of the administration; none while the host process is being started again.
    #[must_use]
    pub fn ask_admin(&self, path: &str) -> Option<Response<Bytes>> {
        Connection::open(self.admin).ok()?.send(request(Method::GET, path, "")).ok()
    }

    /// A document of the administration.
    ///
    /// # Panics
    /// When it does not answer with JSON.
    #[must_use]
    #[track_caller]
    pub fn administration(&self, path: &str) -> Value {
        let answer = self.ask_admin(path).expect("administration answers");
        serde_json::from_slice(answer.body()).expect("JSON")
    }

    /// Its sandboxes; none while the host process is being started again.
    #[must_use]
    pub fn sandboxes(&self) -> Vec<Sandbox> {
        let rows = self
            .ask_admin("/v1/sandboxes")
            .and_then(|answer| serde_json::from_slice::<Value>(answer.body()).ok())
            .and_then(|document| document["sandboxes"].as_array().cloned());
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let read = |row: Value| Sandbox {
            id: text(&row["id"]).unwrap_or_default(),
            function: text(&row["function"]),
            state: text(&row["state"]).unwrap_or_default(),
            pid: row["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default(),
        };
        rows.unwrap_or_default().into_iter().map(read).collect()
    }

    /// The sandboxes of a function.
    #[must_use]
    pub fn sandboxes_of(&self, function: &str) -> Vec<Sandbox> {
        let mut sandboxes = self.sandboxes();
        sandboxes.retain(|sandbox| sandbox.function.as_deref() == Some(function));
        sandboxes
    }

    /// Requests that are in a function now.
    ///
    /// # Panics
    /// When administration does not answer.
    #[must_use]
    #[track_caller]
    pub fn in_flight(&self, function: &str) -> u64 {
        let document = self.administration(&format!("/v1/functions/{function}"));
        document["in_flight"].as_u64().expect("a count")
    }

    /// Waits until a sandbox is parked: a request has one prepared only while the pool works.
    ///
    /// # Panics
    /// When none is within half a minute.
    #[track_caller]
    pub fn until_parked(&self) {
        let parked = |sandbox: &Sandbox| sandbox.state == "parked";
        wait_until("a sandbox is parked", || self.sandboxes().iter().any(parked));
    }

    /// Asks until the native build answers, and returns that answer.
    ///
    /// # Panics
    /// When it does not within half a minute.
    #[track_caller]
    pub fn until_native(&self, path: &str) -> Response<Bytes> {
        wait_for("the native build answers", || {
            let answer = self.get(path);
            (tier_of(&answer) == "native").then_some(answer)
        })
    }

    /// Puts another manifest in the place of its own, as editors do; it is not told.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn rewrite(&self, setup: &Setup) {
        let (new, manifest) = (self.place.path().join("new.toml"), self.place.manifest());
        let text = setup.manifest(&target_dir().join("tests-cache"));
        let written = fs::write(&new, text).and_then(|()| fs::rename(new, manifest));
        written.expect("a writable directory");
    }

    /// Puts another manifest in the place of its own and sends it SIGHUP.
    ///
    /// # Panics
    /// As [`Baton::rewrite`], and when it has ended already.
    pub fn reload(&self, setup: &Setup) {
        self.rewrite(setup);
        kill(self.pid(), Signal::SIGHUP).expect("baton is running");
    }

    /// Waits until a line of its log holds `text`.
    ///
    /// # Panics
    /// When none does within half a minute.
    #[track_caller]
    pub fn until_logged(&self, text: &str) {
        wait_until(text, || self.log().contains(text));
    }

    /// What it has written on standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.log()).unwrap_or_default()
    }

    /// Its first process, the supervisor.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).expect("a pid"))
    }

    /// Its host process.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn host_pid(&self) -> Pid {
        self.child(HOST)
    }

    /// Its pool daemon.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn pool_pid(&self) -> Pid {
        self.child(POOL)
    }

    /// Its host process, if there is one at this moment.
    #[must_use]
    pub fn try_host_pid(&self) -> Option<Pid> {
        self.try_child(HOST)
    }

    #[track_caller]
    fn child(&self, command: &str) -> Pid {
        wait_for(command, || self.try_child(command))
    }

    fn try_child(&self, command: &str) -> Option<Pid> {
        children(self.pid()).into_iter().find(|&child| runs(child, command))
    }

    /// Sends it SIGTERM.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn terminate(&self) {
        kill(self.pid(), Signal::SIGTERM).expect("baton is running");
    }

    /// How it has ended, if it has.
    ///
    /// # Panics
    /// When the system does not know it.
    #[must_use]
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().expect("it is our child")
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it does not within half a minute.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("Baton has ended", || self.ended())
    }

    /// Stops it as an operator does.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.wait()
    }

    /// Kills its supervisor and returns what it leaves behind.
    ///
    /// # Panics
    /// When it has ended already.
    #[must_use]
    pub fn killed(mut self) -> Arc<Place> {
        kill(self.pid(), Signal::SIGKILL).expect("baton is running");
        self.wait();
        Arc::clone(&self.place)
    }
}

impl Drop for Baton {
    #[expect(clippy::print_stderr, reason = "a failed test shows what Baton wrote")]
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            // Drained politely first: what it started is for it to remove.
            let _ = kill(self.pid(), Signal::SIGTERM);
            if std::thread::panicking() {
                // A second one does not wait for requests in flight.
                let _ = kill(self.pid(), Signal::SIGINT);
            }
            let _ = self.process.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Whether a process is there and has not ended.
#[must_use]
pub fn is_running(pid: Pid) -> bool {
    state(pid.as_raw()).is_ok_and(|(state, _)| !matches!(state.as_str(), "Z" | "X"))
}

/// The directories of a control group, in each hierarchy that has it.
pub(crate) fn cgroups(group: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_dir(root).into_iter().flatten().flatten();
    let roots = controllers.map(|entry| entry.path()).chain([root.to_owned()]);
    roots.map(|root| root.join(group)).filter(|path| path.is_dir()).collect()
}

/// The processes that a process has started.
#[must_use]
pub fn children(pid: Pid) -> Vec<Pid> {
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|&id| state(id).is_ok_and(|(_, parent)| parent == pid.as_raw()))
        .map(Pid::from_raw)
        .collect()
}

/// The state of a process and its parent.
fn state(pid: i32) -> io::Result<(String, i32)> {
    let status = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything.
    let mut after = status.rsplit(") ").next().unwrap_or_default().split(' ');
    let (state, parent) = (after.next(), after.next().and_then(|id| id.parse().ok()));
    let unreadable = || io::Error::other(status.clone());
    Ok((state.ok_or_else(unreadable)?.to_owned(), parent.ok_or_else(unreadable)?))
}

fn runs(pid: Pid, command: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|&byte| byte == 0).nth(1) == Some(command.as_bytes())
}
