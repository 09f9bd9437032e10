//! `baton compile`: a component's machine code ahead of time.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sha2::{Digest, Sha256};

use crate::cli::CompileArguments;
use crate::wasm::{Cache, Key, compiler, hex};

/// Compiles a component to a file or into the cache, and says where it went.
///
/// # Errors
/// When the component cannot be read or compiled, or the result not written.
pub fn compile(arguments: &CompileArguments) -> anyhow::Result<String> {
    let path = &arguments.component;
    let wasm = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let engine =
        wasmtime::Engine::new(&compiler()).map_err(|error| anyhow::anyhow!("{error:#}"))?;
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
    let cache = Cache::new(dir.to_owned(), u64::MAX);
    let key = Key::new(engine, &hex(&Sha256::digest(wasm)));
    cache.store(&key, code)?;
    Ok(())
}
