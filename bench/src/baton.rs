//! A Baton under measurement, with directories and control groups of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::cgroup::Cgroup;
use crate::client::{self, Request, Target};
use crate::cores::Cores;
use crate::server::{Announced, Server};

/// How long until components are loaded and parked sandboxes are there.
const READY_MAX: Duration = Duration::from_secs(120);

/// `target`, where this program was built into.
///
/// # Panics
/// When it does not know where it is.
#[must_use]
pub fn target_dir() -> PathBuf {
    let program = std::env::current_exe().expect("a program knows its file");
    let profile = program.ancestors().find(|path| path.ends_with("release"));
    profile.and_then(Path::parent).unwrap_or(Path::new("target")).to_owned()
}

/// The Baton that is measured: what the variable `BATON` names, else the one that tests use.
#[must_use]
pub fn program() -> PathBuf {
    let default = || target_dir().join("release/baton");
    std::env::var_os("BATON").map_or_else(default, PathBuf::from)
}

/// Both builds of a function of ours: the component, the executable.
#[must_use]
pub fn builds(name: &str) -> (PathBuf, PathBuf) {
    let native = target_dir().join("functions").join(name);
    (native.with_extension("wasm"), native)
}

/// What a Baton is started with.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    host: Vec<String>,
    sections: Vec<String>,
    functions: Vec<String>,
    variables: Vec<(String, String)>,
    fresh_cache: bool,
    program: Option<PathBuf>,
}

impl Setup {
    /// No function yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Another `baton` than the one beside this program.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// Adds a line to `[host]`.
    #[must_use]
    pub fn host(mut self, line: &str) -> Self {
        self.host.push(line.to_owned());
        self
    }

    /// Adds a section, such as `[pool]\nparked = 8`.
    #[must_use]
    pub fn section(mut self, text: &str) -> Self {
        self.sections.push(text.to_owned());
        self
    }

    /// Adds both builds of a function of ours at `/NAME/*`, as far as the policy uses them.
    #[must_use]
    pub fn function(self, name: &str, policy: &str) -> Self {
        let (component, native) = builds(name);
        self.custom(name, policy, Some(&component), Some(&native))
    }

    /// Adds any function at `/NAME/*`; builds that the policy does not use are left out.
    #[must_use]
    pub fn custom(
        mut self,
        name: &str,
        policy: &str,
        component: Option<&Path>,
        native: Option<&Path>,
    ) -> Self {
        let mut text = format!("[[function]]\nname = {name:?}\nroute = \"/{name}/*\"\n");
        text += &format!("policy = {policy:?}\n");
        if let Some(path) = component.filter(|_| policy != "native") {
            text += &format!("component = {:?}\n", path.display().to_string());
        }
        if let Some(path) = native.filter(|_| policy != "wasm") {
            text += &format!("native = {:?}\n", path.display().to_string());
        }
        self.functions.push(text);
        self
    }

    /// Adds a line to the last function, such as `limits.timeout = "60s"`.
    ///
    /// # Panics
    /// When there is no function yet.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        let function = self.functions.last_mut().expect("a function to say more about");
        function.push_str(line);
        function.push('\n');
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has every component compiled at the start, instead of taken from the bench's cache.
    #[must_use]
    pub fn fresh_cache(mut self) -> Self {
        self.fresh_cache = true;
        self
    }

    /// Starts it on those cores and waits until it is ready: components loaded, sandboxes parked.
    ///
    /// # Errors
    /// When it cannot be started or does not become ready.
    pub fn start(&self, cores: &Cores) -> anyhow::Result<Baton> {
        let place = Place::new()?;
        let path = place.directory.path();
        let cache = match self.fresh_cache {
            true => path.join("cache"),
            false => target_dir().join("bench-cache"),
        };
        let mut manifest =
            String::from("[host]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n");
        let defaults = ["server_timing = true".to_owned(), format!("cache.dir = {cache:?}")];
        for line in &defaults {
            let key = line.split(' ').next().unwrap_or_default();
            if !self.host.iter().any(|line| line.starts_with(key)) {
                manifest += &format!("{line}\n");
            }
        }
        for text in self.host.iter().chain(&self.sections).chain(&self.functions) {
            manifest += &format!("{text}\n");
        }
        let config = path.join("baton.toml");
        fs::write(&config, manifest)?;
        let mut command = Command::new(self.program.clone().unwrap_or_else(program));
        command.arg("serve").arg("--config").arg(&config);
        command.arg("--state-dir").arg(path.join("state"));
        command.arg("--cgroup-parent").arg(&place.cgroup_path);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let announced = Announced::Lines(vec!["listening", "administration"]);
        let server = Server::start(command, &announced, cores, &path.join("log"))?;
        let baton = Baton { server, place };
        baton.wait_until_ready()?;
        Ok(baton)
    }
}

/// Directories and control groups of one Baton; removed after it.
#[derive(Debug)]
struct Place {
    directory: TempDir,
    cgroup_path: String,
    cgroup: Cgroup,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // The host process is another user and has to get at its directory inside.
        let everybody = fs::Permissions::from_mode(0o755);
        let mut builder = tempfile::Builder::new();
        let directory = builder.prefix("baton-bench-").permissions(everybody).tempdir()?;
        let cgroup_path = format!("baton/bench-{}-{number}", std::process::id());
        let cgroup = Cgroup::new(&cgroup_path);
        Ok(Self { directory, cgroup_path, cgroup })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cgroup.remove();
        // Empty only when nobody else is below it.
        Cgroup::new("baton").remove();
    }
}

/// A running Baton. Dropping it stops it.
#[derive(Debug)]
pub struct Baton {
    /// Its process and addresses.
    pub server: Server,
    place: Place,
}

impl Baton {
    /// Where functions are served.
    #[must_use]
    pub fn target(&self) -> Target {
        self.server.target()
    }

    /// The control group that its sandboxes are below.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.place.cgroup
    }

    /// CPU time of all of it in nanoseconds: of its processes that live, and of its sandboxes.
    ///
    /// What a function's process used remains counted when it has ended.
    #[must_use]
    pub fn cpu_ns(&self) -> u64 {
        let sandboxes = self.cgroup().cpu_ns().unwrap_or(0);
        let own = crate::server::tree(self.server.pid());
        let own = own.into_iter().filter(|pid| !self.is_sandboxed(*pid));
        sandboxes + own.map(crate::server::cpu_ns).sum::<u64>()
    }

    fn is_sandboxed(&self, pid: u32) -> bool {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        groups.contains(&self.place.cgroup_path)
    }

    /// An answer of the administration.
    ///
    /// # Errors
    /// When there is none, or it is no success.
    pub fn admin(&self, path: &str) -> anyhow::Result<Value> {
        let target = self.server.addresses[1].into();
        let answer = client::ask(&target, &Request::get(path))?;
        anyhow::ensure!(answer.status == 200, "{path} of the administration: {}", answer.status);
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Waits until no sandbox is being made or taken away any more.
    ///
    /// # Errors
    /// When that does not come.
    pub fn settle(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_MAX;
        while Instant::now() < deadline {
            let sandboxes = self.admin("/v1/sandboxes").unwrap_or_default();
            let rows = sandboxes["sandboxes"].as_array().cloned().unwrap_or_default();
            let state = |row: &Value| row["state"].as_str().unwrap_or_default().to_owned();
            let quiet = |row| matches!(state(row).as_str(), "parked" | "idle" | "frozen");
            if rows.iter().all(quiet) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        anyhow::bail!("sandboxes do not settle within {} s", READY_MAX.as_secs())
    }

    fn wait_until_ready(&self) -> anyhow::Result<()> {
        let target = self.server.addresses[1].into();
        let deadline = Instant::now() + READY_MAX;
        let ready = || client::ask(&target, &Request::get("/readyz"));
        while !ready().is_ok_and(|answer| answer.status == 200) {
            anyhow::ensure!(Instant::now() < deadline, "Baton is not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.settle()
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.directory.path().join("log")).unwrap_or_default()
    }

    /// Stops it.
    ///
    /// # Errors
    /// When it did not end well.
    pub fn stop(self) -> anyhow::Result<()> {
        let Self { server, place } = self;
        let stopped = server.stop().context("baton");
        drop(place);
        stopped
    }
}
