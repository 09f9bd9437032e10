//! A directory that becomes the root of a function's sandboxes.
//!
//! Contract: paths in it are resolved as a process whose root it is would resolve them, so that no link leads out.
//! The function will be an ordinary user there, and owns nothing.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::elf::Linkage;
use super::{about, runnable};
use crate::manifest::{Listen, Misfit};

/// Whether `command` can be executed in `dir` and make the socket that it shall make.
pub(super) fn check(dir: &Path, command: &[String], listen: &Listen) -> Result<(), Misfit> {
    let root = open(dir)?;
    let inside = |path: &str, problem: &dyn std::fmt::Display| {
        about(dir, format!("as a rootfs: {path} {problem}"), "")
    };
    let program = command.first().map_or("/", String::as_str);
    executable(&root, program).map_err(|(path, problem)| inside(&path, &problem))?;
    if let Some(directory) = socket_directory(listen) {
        let directory = directory.to_string_lossy();
        let found = within(&root, &directory, OFlag::O_DIRECTORY);
        found.map_err(|error| {
            inside(&directory, &format!("is no directory for the function's socket: {error}"))
        })?;
    }
    Ok(())
}

/// Opens the directory, which everybody must be able to enter.
pub(super) fn open(dir: &Path) -> Result<File, Misfit> {
    let unreadable = |error: io::Error| about(dir, format!("cannot be read: {error}"), "");
    let root = File::open(dir).map_err(unreadable)?;
    let metadata = root.metadata().map_err(unreadable)?;
    if !metadata.is_dir() {
        return Err(about(dir, "is not a directory", "the directory that becomes /"));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o005 != 0o005 {
        let problem = format!("has the mode {mode:03o}, and the function is not its owner");
        return Err(about(dir, problem, "chmod o+rx"));
    }
    Ok(root)
}

/// Where a function makes its socket.
pub(crate) fn socket_directory(listen: &Listen) -> Option<&Path> {
    match listen {
        Listen::Unix(path) => path.parent(),
        Listen::Inherited | Listen::Tcp(_) => None,
    }
}

/// Whether a socket can be made at this path of a sandbox.
pub(super) fn socket(listen: &Listen) -> Result<(), Misfit> {
    let Listen::Unix(path) = listen else { return Ok(()) };
    const EXPECTED: &str =
        "a path in a directory that can be the function's, such as \"unix:/run/function.sock\"";
    let down = |component| matches!(component, Component::RootDir | Component::Normal(_));
    let kept = ["/", "/dev", "/proc"].map(Path::new);
    match path.parent() {
        Some(directory)
            if path.components().all(down)
                && !kept.contains(&directory)
                && !path.starts_with("/proc") =>
        {
            Ok(())
        }
        _ => {
            let problem = format!("\"{}\" is no place for a socket", path.display());
            Err(Misfit::new(problem, EXPECTED))
        }
    }
}

/// Where a program lies that an image names as its shell would: by its path, or by its name in one of `PATH`'s
/// directories. Else what was looked for, and why it cannot be executed.
pub(crate) fn find(
    root: &File,
    program: &str,
    directory: &str,
    env: &[(String, String)],
) -> Result<String, (String, String)> {
    const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    if program.contains('/') {
        let path = Path::new(directory).join(program).to_string_lossy().into_owned();
        return executable(root, &path).map(|()| path);
    }
    let directories = env.iter().find(|(name, _)| name == "PATH");
    let directories = directories.map_or(PATH, |(_, directories)| directories);
    let mut candidates = directories.split(':').map(|directory| format!("{directory}/{program}"));
    match candidates.find(|path| file(root, path).is_ok()) {
        Some(path) => executable(root, &path).map(|()| path),
        None => Err((program.to_owned(), format!("is in no directory of PATH, {directories}"))),
    }
}

/// Whether the program can be executed in `root`; else the path that is in the way, and why.
pub(super) fn executable(root: &File, program: &str) -> Result<(), (String, String)> {
    let unreadable =
        |path: &str, error: io::Error| (path.to_owned(), format!("cannot be read: {error}"));
    let file = file(root, program).map_err(|error| unreadable(program, error))?;
    let mut start = [0; 2];
    let is_script = (&file).read_exact(&mut start).is_ok() && start == *b"#!";
    (&file).rewind().map_err(|error| unreadable(program, error))?;
    if is_script {
        return Ok(());
    }
    match runnable(&file).map_err(|problem| (program.to_owned(), problem))? {
        Linkage::Static => Ok(()),
        Linkage::Dynamic { interpreter } => match self::file(root, &interpreter) {
            Ok(_) => Ok(()),
            Err(error) => {
                let problem =
                    format!("asks for the loader {interpreter}, which cannot be read: {error}");
                Err((program.to_owned(), problem))
            }
        },
    }
}

/// Opens a regular file in `root`.
pub(super) fn file(root: &File, path: &str) -> io::Result<File> {
    let file = within(root, path, OFlag::O_NONBLOCK)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::IsADirectory.into()) }
}

/// Opens a path as a process whose root is `root` would, symbolic links included.
fn within(root: &File, path: &str, flags: OFlag) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | flags)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(root, path, how)?.into())
}
