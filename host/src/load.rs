//! Components on their way into memory: from the cache, or by the compiler.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::component::Component;

use crate::function::{Function, Loaded};
use crate::handover::{Artifact, read_sealed};
use crate::wasm::{Cache, Engine, Key, Line, LineSink, LoadError, Program, Settings, Source};

/// Loads components for the functions of one host.
pub struct Loader {
    engine: Arc<Engine>,
    cache: Option<(Cache, OwnedFd)>,
    headers: usize,
}

impl Loader {
    /// A loader for `engine`; `cache` is the opened cache directory and its bound in bytes.
    #[must_use]
    pub fn new(engine: Arc<Engine>, cache: Option<(OwnedFd, u64)>, headers: usize) -> Self {
        let cache = cache.map(|(dir, size)| {
            let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
            (Cache::new(path, size), dir)
        });
        Self { engine, cache, headers }
    }

    /// Loads a function's component. It takes as long as the compiler takes: not for a thread that
    /// serves requests.
    ///
    /// # Errors
    /// When the component cannot be compiled, linked or instantiated.
    pub fn load(&self, function: &Function, code: &Code) -> Result<Loaded, LoadError> {
        let spec = &function.spec;
        let (component, source) = match code {
            Code::Portable(artifact) => self.compiled(artifact)?,
            Code::Machine(artifact) => (self.trusted(artifact)?, Source::Memory),
        };
        let settings = Settings {
            memory: usize::try_from(spec.limits.memory.0).unwrap_or(usize::MAX),
            cpu_time: spec.limits.cpu_time,
            headers: self.headers,
            env: spec.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            egress: Arc::clone(&function.egress),
            sink: sink(spec.name.as_str().into()),
        };
        let program = Program::new(Arc::clone(&self.engine), &component, settings)?;
        Ok(Loaded { program, source })
    }

    fn trusted(&self, artifact: &Artifact) -> Result<Component, LoadError> {
        let fail = |error: String| LoadError::Precompiled(error);
        let code = read_sealed(&artifact.file).map_err(|error| fail(error.to_string()))?;
        #[expect(unsafe_code, reason = "the person who started Baton vouched for this file")]
        // SAFETY: `--allow-precompiled` says that the file comes from `baton compile`; Wasmtime
        // checks its version and settings, and the copy is sealed.
        let component = unsafe { Component::deserialize(self.engine.wasmtime(), code) };
        component.map_err(|error| fail(format!("{error:#}")))
    }

    fn compiled(&self, artifact: &Artifact) -> Result<(Component, Source), LoadError> {
        let engine = self.engine.wasmtime();
        let key = Key::new(engine, &artifact.digest);
        if let Some((cache, _)) = &self.cache {
            match cache.load(engine, &key) {
                Ok(Some(component)) => return Ok((component, Source::Cache)),
                Ok(None) => {}
                Err(error) => warn(&error),
            }
        }
        let fail = |error: wasmtime::Error| LoadError::Compile(format!("{error:#}"));
        let wasm =
            read_sealed(&artifact.file).map_err(|error| LoadError::Compile(error.to_string()))?;
        let component = Component::from_binary(engine, &wasm).map_err(fail)?;
        if let Some((cache, _)) = &self.cache {
            let code = component.serialize().map_err(fail)?;
            if let Err(error) = cache.store(&key, &code) {
                warn(&error);
            }
        }
        Ok((component, Source::Compile))
    }
}

/// What a component is loaded from.
#[derive(Debug)]
pub enum Code {
    /// WebAssembly, to be compiled.
    Portable(Artifact),
    /// Machine code that somebody vouched for (`--allow-precompiled`).
    Machine(Artifact),
}

fn warn(error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(error, "components are compiled anew at each start");
}

/// A function's output goes to the host's own log, bound to function, tier and trace.
fn sink(function: Arc<str>) -> LineSink {
    Arc::new(move |line: Line<'_>| {
        tracing::info!(
            target: "function",
            function = &*function,
            tier = "wasm",
            stream = line.stream.name(),
            trace_id = %line.trace_id,
            invocation = %line.invocation,
            "{}",
            String::from_utf8_lossy(line.text)
        );
    })
}
