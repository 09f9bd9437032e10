//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::artifact::Precompiled;
use crate::manifest::{Function, Listener, Manifest, NativeSource, Pattern, Policy, Route};
use crate::supervisor::{Places, PoolArguments};

/// A serverless function host: WebAssembly at once, a native sandbox as soon as that is faster.
#[derive(Debug, Parser)]
#[command(name = "baton", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve one function at `/`, without a manifest
    Run(RunArguments),
    /// Serve the functions of a manifest
    Serve(ServeArguments),
    /// Check a manifest and everything that it names; all faults are shown at once
    Check(CheckArguments),
    /// Compile a component ahead of time
    Compile(CompileArguments),
    /// Say where a running Baton sends a function's requests, and why
    Explain(ExplainArguments),
    /// Have both builds of a function answer a file of requests, and compare
    Verify(VerifyArguments),
    /// Say what this machine offers, and what Baton does without the rest
    Doctor,
    /// Show a request's trace: the last one's, or that of the given id
    Trace(TraceArguments),
    /// Show what a running Baton does, live
    Top(TopArguments),
    /// The host process (started by the supervisor)
    #[command(hide = true, name = crate::supervisor::HOST_COMMAND)]
    HostProcess(HostArguments),
    /// The pool daemon (started by the supervisor)
    #[command(hide = true, name = crate::supervisor::POOL_COMMAND)]
    PoolDaemon(PoolArguments),
}

/// `baton check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The manifest
    #[arg(long, default_value = "baton.toml")]
    pub config: PathBuf,
    #[command(flatten)]
    precompiled: PrecompiledArgument,
}

impl CheckArguments {
    /// Whether a precompiled component may be loaded.
    #[must_use]
    pub fn precompiled(&self) -> Precompiled {
        self.precompiled.get()
    }
}

/// Whether machine code from elsewhere is believed.
#[derive(Debug, Args)]
struct PrecompiledArgument {
    /// Load components that were compiled elsewhere (.cwasm): their machine code runs unchecked,
    /// so whoever made it can do what Baton's host process can
    #[arg(long)]
    allow_precompiled: bool,
}

impl PrecompiledArgument {
    fn get(&self) -> Precompiled {
        if self.allow_precompiled { Precompiled::Allowed } else { Precompiled::Refused }
    }
}

/// `baton run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The component, a file
    #[arg(required_unless_present = "native")]
    pub component: Option<PathBuf>,
    /// The native build of the same function, a static executable
    #[arg(long)]
    pub native: Option<PathBuf>,
    /// Which tier answers: wasm, native, hybrid or adaptive [default: adaptive, or what the artifact given allows]
    #[arg(long, value_parser = policy)]
    pub policy: Option<Policy>,
    /// Where to serve: IP:PORT, unix:PATH or fd:N
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: Listener,
    /// Where to serve administration
    #[arg(long, default_value = "127.0.0.1:8081")]
    pub admin: Listener,
    /// The directory of compiled components
    #[arg(long)]
    pub cache_dir: Option<PathBuf>,
    #[command(flatten)]
    watch: WatchArgument,
    #[command(flatten)]
    places: PlaceArguments,
    #[command(flatten)]
    precompiled: PrecompiledArgument,
}

/// `baton serve`.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// The manifest
    #[arg(long, default_value = "baton.toml")]
    pub config: PathBuf,
    #[command(flatten)]
    watch: WatchArgument,
    #[command(flatten)]
    places: PlaceArguments,
    #[command(flatten)]
    precompiled: PrecompiledArgument,
}

/// When files are read again.
#[derive(Debug, Args)]
struct WatchArgument {
    /// Take up the manifest and the artifacts when they change on disk, as SIGHUP does
    #[arg(long)]
    watch: bool,
}

/// Where a run keeps its things.
#[derive(Debug, Args)]
struct PlaceArguments {
    /// The directory below which each run keeps its state [default: /run/baton, for users other
    /// than root a directory of their own]
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// The cgroup below which each run has its own [default: `baton`, within what the service
    /// manager has delegated where it has]
    #[arg(long)]
    cgroup_parent: Option<String>,
}

impl PlaceArguments {
    fn places(&self) -> Places {
        let uid = nix::unistd::geteuid();
        let default = || match uid.is_root() {
            true => PathBuf::from("/run/baton"),
            false => std::env::temp_dir().join(format!("baton-{uid}")),
        };
        Places {
            state_dir: self.state_dir.clone().unwrap_or_else(default),
            cgroup_parent: self.cgroup_parent.clone(),
        }
    }
}

/// `baton compile`.
#[derive(Debug, Args)]
pub struct CompileArguments {
    /// The component, or several that are compiled side by side
    #[arg(required = true, value_name = "COMPONENT")]
    pub components: Vec<PathBuf>,
    /// Where to write the machine code, of one component [default: its name with `.cwasm`]
    #[arg(short, long, conflicts_with = "cache")]
    pub output: Option<PathBuf>,
    /// Put it into the cache, where `run` and `serve` find it
    #[arg(long)]
    pub cache: bool,
    /// The directory of compiled components
    #[arg(long, requires = "cache", default_value = "/var/cache/baton")]
    pub cache_dir: PathBuf,
}

/// `baton trace`.
#[derive(Debug, Args)]
pub struct TraceArguments {
    /// The trace, 32 hexadecimal digits [default: that of the last request]
    pub id: Option<String>,
    /// The administration of the Baton that served it
    #[arg(long, default_value = "127.0.0.1:8081")]
    pub admin: Listener,
}

/// `baton top`.
#[derive(Debug, Args)]
pub struct TopArguments {
    /// The administration of the Baton to look at
    #[arg(long, default_value = "127.0.0.1:8081")]
    pub admin: Listener,
}

/// `baton explain`.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The function's name
    pub function: String,
    /// Where the running Baton serves administration: IP:PORT or unix:PATH
    #[arg(long, default_value = "127.0.0.1:8081")]
    pub admin: Listener,
    /// Show the whole document
    #[arg(long)]
    pub json: bool,
}

/// `baton verify`.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// The function of the manifest; with --native, the component, a file
    pub function: String,
    /// The requests, one JSON object a line: method, path, headers, and body or body_base64
    #[arg(long)]
    pub requests: PathBuf,
    /// The manifest
    #[arg(long, default_value = "baton.toml", conflicts_with = "native")]
    pub config: PathBuf,
    /// The native build, a static executable, where there is no manifest
    #[arg(long)]
    pub native: Option<PathBuf>,
}

impl VerifyArguments {
    /// The function that is meant.
    ///
    /// # Errors
    /// When the manifest has faults or does not name it.
    pub fn function(&self) -> anyhow::Result<Function> {
        if let Some(native) = &self.native {
            let route = Route { host: None, pattern: Pattern::Below(String::new()) };
            let mut function = Function::new("function", route);
            function.component = Some(std::path::absolute(&self.function)?);
            function.native = Some(NativeSource::Executable(std::path::absolute(native)?));
            return Ok(function);
        }
        let manifest = Manifest::read(&self.config)?;
        let named = |function: &&Function| function.name == self.function;
        let Some(function) = manifest.functions.iter().find(named) else {
            let known: Vec<_> = manifest.functions.iter().map(|f| f.name.as_str()).collect();
            anyhow::bail!(
                "{} has no function {:?}; it has: {}",
                self.config.display(),
                self.function,
                known.join(", ")
            );
        };
        let mut function = function.clone();
        function.component = function.component.map(std::path::absolute).transpose()?;
        function.native = function.native.map(absolute).transpose()?;
        Ok(function)
    }
}

fn absolute(native: NativeSource) -> std::io::Result<NativeSource> {
    Ok(match native {
        NativeSource::Executable(file) => NativeSource::Executable(std::path::absolute(file)?),
        NativeSource::Rootfs { dir, command } => {
            NativeSource::Rootfs { dir: std::path::absolute(dir)?, command }
        }
        NativeSource::Image(image) => NativeSource::Image(std::path::absolute(image)?),
    })
}

/// The host process.
#[derive(Debug, Args)]
pub struct HostArguments {
    /// Descriptor of the socket to the supervisor
    #[arg(long)]
    pub control: i32,
    /// The user to become
    #[arg(long)]
    pub uid: Option<u32>,
    /// The group to become
    #[arg(long, requires = "uid")]
    pub gid: Option<u32>,
}

fn policy(text: &str) -> Result<Policy, String> {
    match text {
        "wasm" => Ok(Policy::Wasm),
        "native" => Ok(Policy::Native),
        "hybrid" => Ok(Policy::Hybrid),
        "adaptive" => Ok(Policy::Adaptive),
        _ => Err("expected wasm, native, hybrid or adaptive".into()),
    }
}

impl ServeArguments {
    /// Whether a precompiled component may be loaded.
    #[must_use]
    pub fn precompiled(&self) -> Precompiled {
        self.precompiled.get()
    }

    /// Whether files are read again when they change.
    #[must_use]
    pub fn watch(&self) -> bool {
        self.watch.watch
    }

    /// Where the run keeps its things.
    #[must_use]
    pub fn places(&self) -> Places {
        self.places.places()
    }
}

impl RunArguments {
    /// Whether a precompiled component may be loaded.
    #[must_use]
    pub fn precompiled(&self) -> Precompiled {
        self.precompiled.get()
    }

    /// Whether files are read again when they change.
    #[must_use]
    pub fn watch(&self) -> bool {
        self.watch.watch
    }

    /// Where the run keeps its things.
    #[must_use]
    pub fn places(&self) -> Places {
        self.places.places()
    }

    /// The manifest that these arguments stand for: one function at `/` and everything below.
    ///
    /// # Errors
    /// When the policy needs an artifact that is not given.
    pub fn manifest(&self) -> Result<Manifest, &'static str> {
        let name = self.component.as_ref().or(self.native.as_ref());
        let name = name.and_then(|path| path.file_stem()?.to_str()).unwrap_or("function");
        let route = Route { host: None, pattern: Pattern::Below(String::new()) };
        let mut function = Function::new(name, route);
        function.policy = self.policy.unwrap_or(match (&self.component, &self.native) {
            (Some(_), None) => Policy::Wasm,
            (None, _) => Policy::Native,
            (Some(_), Some(_)) => Policy::Adaptive,
        });
        if function.policy.uses_wasm() && self.component.is_none() {
            return Err("this policy needs a component, the first argument");
        }
        if function.policy.uses_native() && self.native.is_none() {
            return Err("this policy needs a native build; name it with --native");
        }
        function.component.clone_from(&self.component);
        function.native = self.native.clone().map(NativeSource::Executable);
        let mut manifest = Manifest { functions: vec![function], ..Manifest::default() };
        manifest.host.listen = vec![self.listen.clone()];
        manifest.host.admin = self.admin.clone();
        manifest.host.server_timing = true;
        if let Some(dir) = &self.cache_dir {
            manifest.host.cache.dir.clone_from(dir);
        }
        Ok(manifest)
    }
}
