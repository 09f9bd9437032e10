//! `baton compile`: a component's machine code ahead of time.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sha2::{Digest, Sha256};

use crate::artifact::component;
use crate::cli::CompileArguments;
use crate::wasm::{Cache, Key, hex};
use crate::{manifest, supervisor};

/// Compiles a component to a file or into the cache, and says where it went.
///
/// # Errors
/// When the component cannot be read or compiled, or the result not written.
pub fn compile(arguments: &CompileArguments) -> anyhow::Result<String> {
    let path = &arguments.component;
    let wasm = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let generation = component::inspect(&wasm)
        .with_context(|| format!("{} is not a component that Baton serves", path.display()))?;
    let engine = wasmtime::Engine::new(&generation.engine().compiler())
        .map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let code = engine
        .precompile_component(&wasm)
        .map_err(|error| anyhow::anyhow!("{error:#}"))
        .with_context(|| format!("cannot compile {}", path.display()))?;
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
