//! `baton compile`: machine code of components ahead of time.

use std::num::NonZero;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use sha2::{Digest, Sha256};

use crate::artifact::component;
use crate::cli::CompileArguments;
use crate::wasm::{Cache, Key, hex};
use crate::{manifest, progress, supervisor};

/// Compiles components to files or into the cache, as many at once as there are processors, and says
/// of each where it went as soon as it is there.
///
/// # Errors
/// When one of them cannot be read or compiled, or the result not written; the others are compiled
/// nevertheless.
pub fn compile(arguments: &CompileArguments, say: &(dyn Fn(&str) + Sync)) -> anyhow::Result<()> {
    let CompileArguments { components, output, .. } = arguments;
    if output.is_some() && components.len() > 1 {
        return Err(supervisor::Misuse::Arguments(
            "--output names one file, and there are several components; leave it out, and each is \
             written beside its component",
        )
        .into());
    }
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    let work = || {
        while let Some(component) = components.get(next.fetch_add(1, Ordering::Relaxed)) {
            match one(component, arguments) {
                Ok(done) => say(&done),
                Err(error) => {
                    faults
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(format!("{error:#}"));
                }
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..workers.min(components.len()) {
            scope.spawn(work);
        }
    });
    let faults = faults.into_inner().unwrap_or_else(PoisonError::into_inner);
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn one(path: &Path, arguments: &CompileArguments) -> anyhow::Result<String> {
    let wasm = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let generation = component::inspect(&wasm)
        .with_context(|| format!("{} is not a component that Baton serves", path.display()))?;
    let engine = wasmtime::Engine::new(&generation.engine().compiler())
        .map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let compiling = progress::compiling(&path.display().to_string());
    let code = engine
        .precompile_component(&wasm)
        .map_err(|error| anyhow::anyhow!("{error:#}"))
        .with_context(|| format!("cannot compile {}", path.display()))?;
    drop(compiling);
    if arguments.cache {
        into_cache(&arguments.cache_dir, &engine, &wasm, &code)?;
        return Ok(format!(
            "{} is in the cache at {}",
            path.display(),
            arguments.cache_dir.display()
        ));
    }
    let output = arguments.output.clone().unwrap_or_else(|| beside(path));
    std::fs::write(&output, &code).with_context(|| format!("cannot write {}", output.display()))?;
    Ok(format!("{}: {} bytes of machine code", output.display(), code.len()))
}

fn beside(component: &Path) -> PathBuf {
    component.with_extension("cwasm")
}

fn into_cache(
    dir: &Path,
    engine: &wasmtime::Engine,
    wasm: &[u8],
    code: &[u8],
) -> anyhow::Result<()> {
    let host = manifest::Host {
        cache: manifest::Cache { dir: dir.to_owned(), ..manifest::Cache::default() },
        ..manifest::Host::default()
    };
    let opened = supervisor::open_cache(&host)
        .with_context(|| format!("cannot use the cache at {}", dir.display()))?;
    let cache = Cache::new(dir.to_owned(), host.cache.size.0);
    let stored = cache.store(&Key::new(engine, &hex(&Sha256::digest(wasm))), code)?;
    // The host, which maps it, is the one that owns the directory.
    let owner = std::fs::File::from(opened).metadata()?;
    std::os::unix::fs::chown(&stored, Some(owner.uid()), Some(owner.gid()))
        .with_context(|| format!("cannot give {} to the host's user", stored.display()))?;
    Ok(())
}
