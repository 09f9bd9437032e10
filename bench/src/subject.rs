//! What is measured: both builds of a function, and the request that it is asked.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use http::Method;

use crate::baton::{self, Setup};
use crate::bench::Session;
use crate::client::Request;
use crate::store::Store;

/// A function and a request to it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its name, and its route.
    pub name: String,
    /// What distinguishes this request from others of the same function, such as `512 KiB`.
    pub parameters: String,
    /// The component.
    pub component: Option<PathBuf>,
    /// The static executable.
    pub native: Option<PathBuf>,
    /// The method.
    pub method: Method,
    /// The path below the function's route, from `/` on.
    pub path: String,
    /// The body.
    pub body: String,
    /// `limits.memory`.
    pub memory: String,
    /// Whether it needs a private `/tmp`.
    pub scratch: bool,
    /// More lines of the function in the manifest.
    pub lines: Vec<String>,
    /// The object store that it reaches, which lives as long as this.
    pub store: Option<Arc<Store>>,
}

/// Functions of ours that are built under another name, after their paper's.
const BUILDS: [(&str, &str); 6] = [
    ("aes", "aes-encryption"),
    ("whatlang", "language-detection"),
    ("audio-generation", "audio-sine-wave"),
    ("fuzzy-search", "fuzzysearch"),
    ("matrix-mult", "matmul"),
    ("image-processing", "imageprocessing"),
];

impl Subject {
    /// A function of ours, by the name of its route in `functions.toml`, asked with this body; GET
    /// when there is none.
    #[must_use]
    pub fn ours(name: &str, body: &str) -> Self {
        let build =
            BUILDS.iter().find(|(route, _)| *route == name).map_or(name, |(_, build)| build);
        let (component, native) = baton::builds(build);
        let method = if body.is_empty() { Method::GET } else { Method::POST };
        Self {
            name: name.to_owned(),
            parameters: String::new(),
            component: Some(component),
            native: Some(native),
            method,
            path: "/".to_owned(),
            body: body.to_owned(),
            memory: "512MiB".to_owned(),
            scratch: false,
            lines: Vec::new(),
            store: None,
        }
    }

    /// With another name for its parameters.
    #[must_use]
    pub fn called(mut self, parameters: &str) -> Self {
        parameters.clone_into(&mut self.parameters);
        self
    }

    /// The request; `prefix` is the function's route, empty where it is served at `/`.
    #[must_use]
    pub fn request(&self, prefix: &str) -> Request {
        let path = format!("{prefix}{}", self.path);
        let headers: &[(&str, &str)] =
            if self.body.is_empty() { &[] } else { &[("content-type", "application/json")] };
        Request::new(&self.method, &path, headers, self.body.as_bytes())
    }

    /// Its route's prefix in a Baton.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("/{}", self.name)
    }

    /// Adds it to what a Baton is started with.
    #[must_use]
    pub fn add_to(&self, setup: Setup, policy: &str) -> Setup {
        let (component, native) = (self.component.as_deref(), self.native.as_deref());
        let setup = setup
            .custom(&self.name, policy, component, native)
            .with(&format!("limits.memory = {:?}", self.memory))
            .with("limits.cpu_time = \"180s\"\nlimits.timeout = \"180s\"")
            .with("limits.concurrency = 256\nlimits.queue = 4096\nlimits.queue_timeout = \"60s\"");
        let scratch = self.scratch.then(|| "limits.scratch = \"32MiB\"".to_owned());
        scratch.iter().chain(&self.lines).fold(setup, |setup, line| setup.with(line))
    }
}

/// A function on the command line.
#[derive(Clone, Debug, Args)]
pub struct SubjectArguments {
    /// A function: of target/functions, or any name for --component and --native
    pub function: String,
    /// Its component, a file
    #[arg(long)]
    pub component: Option<PathBuf>,
    /// Its native build, a static executable
    #[arg(long)]
    pub native: Option<PathBuf>,
    /// Method of the request [default: GET, with a body POST]
    #[arg(long)]
    pub method: Option<Method>,
    /// Path of the request below the function's route
    #[arg(long, default_value = "/")]
    pub path: String,
    /// Body of the request
    #[arg(long, default_value = "")]
    pub body: String,
    /// Memory limit of an instance and of a sandbox
    #[arg(long, default_value = "512MiB")]
    pub memory: String,
    /// Give it a private /tmp of 32 MiB
    #[arg(long)]
    pub scratch: bool,
    /// Start an S3 server that it may reach; {store} in the body is the URL of its bucket, which holds
    /// text-512, text-1024 and text-2048 (KiB). Containers have no network
    #[arg(long)]
    pub store: bool,
}

impl SubjectArguments {
    /// The function, when its files are there, and its store on the cores of the load.
    ///
    /// # Errors
    /// Which file is missing; a store that cannot be started.
    pub fn subject(&self, session: &Session) -> anyhow::Result<Subject> {
        let mut subject = Subject::ours(&self.function, &self.body);
        if self.component.is_some() || self.native.is_some() {
            subject.component.clone_from(&self.component);
            subject.native.clone_from(&self.native);
        } else {
            // A function of ours may have one build only.
            subject.component = subject.component.filter(|path| path.exists());
            subject.native = subject.native.filter(|path| path.exists());
        }
        if let Some(method) = &self.method {
            subject.method = method.clone();
        }
        subject.path.clone_from(&self.path);
        subject.memory.clone_from(&self.memory);
        subject.scratch = self.scratch;
        let artifacts = subject.component.iter().chain(&subject.native);
        anyhow::ensure!(
            artifacts.clone().next().is_some(),
            "there is no build of {:?} in {}; run `just functions`, or name one with --component \
             or --native",
            self.function,
            baton::target_dir().join("functions").display()
        );
        for path in artifacts {
            anyhow::ensure!(path.exists(), "{} does not exist", path.display());
        }
        let absolute = |path: Option<PathBuf>| path.map(|path| path.canonicalize()).transpose();
        subject.component = absolute(subject.component)?;
        subject.native = absolute(subject.native)?;
        if self.store {
            let store = session.cores.load.run(Store::start)?;
            subject.body = subject.body.replace("{store}", &store.url());
            subject.lines.push(format!("egress.allow = [{:?}]", store.origin()));
            subject.store = Some(Arc::new(store));
        }
        Ok(subject)
    }
}
