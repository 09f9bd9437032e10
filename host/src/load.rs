//! Components on their way into memory: from the cache, or by the compiler.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use wasmtime::component::Component;

use crate::artifact::component::inspect;
use crate::function::{Function, Loaded};
use crate::handover::{Artifact, read_sealed};
use crate::lines::Writer;
use crate::observer::Observer;
use crate::progress;
use crate::tier::Tier;
use crate::wasm::{
    Cache, Engine, EngineError, Generation, Key, Line, LineSink, LoadError, Program, Settings,
    Slots, Source,
};

/// Loads components for the functions of one host.
pub struct Loader {
    second: Arc<Engine>,
    /// Made for the first component that needs it.
    third: OnceLock<Result<Arc<Engine>, String>>,
    slots: Slots,
    cache: Option<(Cache, OwnedFd)>,
    headers: usize,
    observer: Arc<Observer>,
}

/// A component with the engine that it was compiled for.
struct Compiled {
    component: Component,
    engine: Arc<Engine>,
    generation: Generation,
    source: Source,
}

impl Loader {
    /// A loader whose engines hold `slots`; `cache` is the opened cache directory and its bound in
    /// bytes.
    ///
    /// # Errors
    /// When the machine cannot hold the slots.
    pub fn new(
        slots: Slots,
        cache: Option<(OwnedFd, u64)>,
        headers: usize,
        observer: Arc<Observer>,
    ) -> Result<Self, EngineError> {
        let cache = cache.map(|(dir, size)| {
            let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
            (Cache::new(path, size), dir)
        });
        let second = Arc::new(Engine::new(Generation::Second, slots)?);
        observer.metrics.watch(&second);
        Ok(Self { second, third: OnceLock::new(), slots, cache, headers, observer })
    }

    /// Loads a function's component. It takes as long as the compiler takes: not for a thread that
    /// serves requests.
    ///
    /// # Errors
    /// When the component cannot be compiled, linked or instantiated.
    pub fn load(&self, function: &Function, code: &Code) -> Result<Loaded, LoadError> {
        let began = Instant::now();
        let spec = &function.spec;
        let Compiled { component, engine, generation, source } = match code {
            Code::Portable(artifact) => self.compiled(function.name(), artifact)?,
            Code::Machine(artifact) => self.trusted(artifact)?,
        };
        let settings = Settings {
            memory: usize::try_from(spec.limits.memory.0).unwrap_or(usize::MAX),
            cpu_time: spec.limits.cpu_time,
            timeout: spec.limits.timeout,
            instances: spec.instances.clone(),
            headers: self.headers,
            env: spec.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            config: Arc::new(spec.env.clone().into_iter().collect()),
            scratch: function.scratch.clone(),
            egress: Arc::clone(&function.egress),
            sink: sink(Arc::clone(&self.observer), function),
        };
        let program = Program::new(engine, generation, &component, settings)?;
        self.observer.metrics.loaded(source, began.elapsed());
        function.counts.started(Tier::Wasm, Ok(began.elapsed()));
        Ok(Loaded { program, source })
    }

    fn engine(&self, generation: Generation) -> Result<Arc<Engine>, LoadError> {
        let third = || {
            let engine = Engine::new(Generation::Third, self.slots).map(Arc::new);
            engine.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
        };
        match generation {
            Generation::Second => Ok(Arc::clone(&self.second)),
            Generation::Third => {
                let made = self.third.get_or_init(|| {
                    let engine = third();
                    if let Ok(engine) = &engine {
                        self.observer.metrics.watch(engine);
                    }
                    engine
                });
                made.clone().map_err(LoadError::Engine)
            }
        }
    }

    /// Machine code says itself for which engine it was made.
    fn trusted(&self, artifact: &Artifact) -> Result<Compiled, LoadError> {
        let fail = |error: String| LoadError::Precompiled(error);
        let code = read_sealed(&artifact.file).map_err(|error| fail(error.to_string()))?;
        let map = |generation| {
            let engine = self.engine(generation)?;
            #[expect(unsafe_code, reason = "the person who started Baton vouched for this file")]
            // SAFETY: `--allow-precompiled` says that the file comes from `baton compile`; Wasmtime
            // checks its version and settings, and the copy is sealed.
            let component = unsafe { Component::deserialize(engine.wasmtime(), &code) };
            let component = component.map_err(|error| fail(format!("{error:#}")))?;
            Ok(Compiled { component, engine, generation, source: Source::Memory })
        };
        map(Generation::Second).or_else(|refused| map(Generation::Third).map_err(|_| refused))
    }

    fn compiled(&self, name: &str, artifact: &Artifact) -> Result<Compiled, LoadError> {
        // A component lies in the cache for the one engine that it is for: where it is found it
        // needs no look inside.
        if let Some(found) = self.cached(artifact, Generation::Second)? {
            return Ok(found);
        }
        let wasm =
            read_sealed(&artifact.file).map_err(|error| LoadError::Compile(error.to_string()))?;
        let generation =
            inspect(&wasm).map_err(|error| LoadError::Link(error.to_string()))?.engine();
        if generation == Generation::Third
            && let Some(found) = self.cached(artifact, Generation::Third)?
        {
            return Ok(found);
        }
        let fail = |error: wasmtime::Error| LoadError::Compile(format!("{error:#}"));
        let engine = self.engine(generation)?;
        tracing::info!(function = name, "compiling the component");
        let compiling = progress::compiling(name);
        let component = Component::from_binary(engine.wasmtime(), &wasm).map_err(fail)?;
        drop(compiling);
        if let Some((cache, _)) = &self.cache {
            let key = Key::new(engine.wasmtime(), &artifact.digest);
            let code = component.serialize().map_err(fail)?;
            if let Err(error) = cache.store(&key, &code) {
                warn(&error);
            }
        }
        Ok(Compiled { component, engine, generation, source: Source::Compile })
    }

    fn cached(
        &self,
        artifact: &Artifact,
        generation: Generation,
    ) -> Result<Option<Compiled>, LoadError> {
        let Some((cache, _)) = &self.cache else { return Ok(None) };
        let engine = self.engine(generation)?;
        let key = Key::new(engine.wasmtime(), &artifact.digest);
        Ok(match cache.load(engine.wasmtime(), &key) {
            Ok(found) => found.map(|component| Compiled {
                component,
                engine,
                generation,
                source: Source::Cache,
            }),
            Err(error) => {
                warn(&error);
                None
            }
        })
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

/// A component's output, bound to function and request.
fn sink(observer: Arc<Observer>, function: &Function) -> LineSink {
    let (name, digest) = (Arc::clone(&function.labels.name), Arc::clone(&function.labels.digest));
    Arc::new(move |line: Line<'_>| {
        let request = (line.trace_id, line.invocation);
        let writer = Writer {
            function: &name,
            revision: &digest,
            tier: Tier::Wasm,
            instance: &line.invocation.to_string(),
            stream: line.stream.name(),
            request: Some(request),
            served: &[request],
        };
        observer.line(writer, line.text);
    })
}
