//! The files that a manifest names, looked at before anything is started.
//!
//! Contract: [`check`] opens every file that the manifest names, changes nothing, and tells all
//! faults at once, each at the key that names the file. A file is said by its absolute path.

pub mod component;
pub mod elf;
pub mod image;
pub(crate) mod rootfs;
pub mod unpack;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::manifest::{Fault, Faults, Function, Instances, Listen, Manifest, Misfit, NativeSource};
use component::{Generation, InspectError};
use elf::Linkage;

/// What a function's component file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Component {
    /// A component to be compiled.
    Portable(Generation),
    /// The result of `baton compile`, which was allowed.
    Precompiled,
}

/// Whether a precompiled component may be loaded: its machine code is believed unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precompiled {
    /// It is a fault.
    Refused,
    /// The person who started Baton said so.
    Allowed,
}

/// Looks at every file of a manifest; the answer has one entry a function, nothing for one without
/// a component.
pub fn check(
    manifest: &Manifest,
    precompiled: Precompiled,
) -> Result<Vec<Option<Component>>, Faults> {
    let mut check = Check { manifest, faults: vec![] };
    if let Some(tls) = &manifest.host.tls {
        for (key, path) in [("certificate", &tls.certificate), ("key", &tls.key)] {
            check.at(format!("host.tls.{key}"), open(path).map(drop));
        }
    }
    let components = manifest.functions.iter().map(|function| {
        if let Some(source) = &function.native {
            let key = format!("function.{}.native", function.name);
            check.at(key, native(source, &function.listen));
            let key = format!("function.{}.listen", function.name);
            check.at(key, rootfs::socket(&function.listen));
        }
        let key = format!("function.{}.component", function.name);
        function
            .component
            .as_deref()
            .and_then(|path| check.at(key, wasm(function, path, precompiled)))
    });
    let components = components.collect();
    match manifest.source.faults(check.faults) {
        Some(faults) => Err(faults),
        None => Ok(components),
    }
}

struct Check<'m> {
    manifest: &'m Manifest,
    faults: Vec<Fault>,
}

impl Check<'_> {
    fn at<T>(&mut self, key: String, result: Result<T, Misfit>) -> Option<T> {
        result.map_err(|misfit| self.faults.push(self.manifest.source.fault(key, misfit))).ok()
    }
}

/// A misfit that begins with the file's absolute path.
fn about(path: &Path, problem: impl std::fmt::Display, expected: &'static str) -> Misfit {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Misfit::new(format!("\"{}\" {problem}", path.display()), expected)
}

fn open(path: &Path) -> Result<File, Misfit> {
    let unreadable = |error: io::Error| about(path, format!("cannot be read: {error}"), "");
    // Opening a pipe would wait for its other end.
    let metadata = path.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(about(path, "is not a regular file", ""));
    }
    File::open(path).map_err(unreadable)
}

fn wasm(function: &Function, path: &Path, precompiled: Precompiled) -> Result<Component, Misfit> {
    let mut bytes = Vec::new();
    let read = open(path)?.read_to_end(&mut bytes);
    read.map_err(|error| about(path, format!("cannot be read: {error}"), ""))?;
    let generation = match component::inspect(&bytes) {
        Ok(generation) => generation,
        Err(InspectError::Precompiled) if precompiled == Precompiled::Allowed => {
            return Ok(Component::Precompiled);
        }
        Err(error) => return Err(about(path, &error, error.expected())),
    };
    match (&generation, &function.instances) {
        (Generation::P2 { version }, Instances::Reuse { concurrent: 2.., .. }) => {
            let problem = format!(
                "is of wasi:http {version}, and its instances answer one request at a time"
            );
            Err(about(path, problem, "instances.reuse.concurrent = 1"))
        }
        _ => Ok(Component::Portable(generation)),
    }
}

fn native(source: &NativeSource, listen: &Listen) -> Result<(), Misfit> {
    match source {
        NativeSource::Executable(path) => executable(path),
        NativeSource::Rootfs { dir, command } => rootfs::check(dir, command, listen),
        NativeSource::Image(path) => image::Image::open(path).map(drop).map_err(|error| {
            let expected = match error {
                image::ImageError::Other(_) => "an OCI layout, an archive of one or a saved image",
                _ => "",
            };
            about(path, error, expected)
        }),
    }
}

fn executable(path: &Path) -> Result<(), Misfit> {
    const STATIC: &str = "a static executable (Rust: -C target-feature=+crt-static, C: -static, Go: CGO_ENABLED=0) \
         or { rootfs = \"dir\", command = [...] } with its libraries";
    let file = open(path)?;
    match runnable(&file).map_err(|problem| about(path, problem, ""))? {
        Linkage::Static => Ok(()),
        Linkage::Dynamic { interpreter } => {
            let problem = format!("is dynamically linked and asks for the loader {interpreter}");
            Err(about(path, problem, STATIC))
        }
    }
}

/// How the file is linked, or why it cannot be executed.
fn runnable(mut file: &File) -> Result<Linkage, String> {
    let linkage = elf::inspect(&mut file).map_err(|error| error.to_string())?;
    let mode =
        file.metadata().map_err(|error| format!("cannot be read: {error}"))?.permissions().mode();
    if mode & 0o111 == 0 {
        return Err(format!("has the mode {:03o} and may not be executed: chmod +x", mode & 0o777));
    }
    Ok(linkage)
}

#[cfg(test)]
mod tests;
