//! Native programs that are no functions of ours, and root file systems for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::functions::target_dir;

/// How a program gets its libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// It contains them.
    Static,
    /// They are in its root.
    Dynamic,
}

/// The program `tests/programs/server.rs`.
///
/// # Panics
/// When it does not compile.
#[must_use]
pub fn server(linkage: Linkage) -> PathBuf {
    program("server", linkage)
}

/// The program `tests/programs/faulty.rs`.
///
/// # Panics
/// When it does not compile.
#[must_use]
pub fn faulty() -> PathBuf {
    program("faulty", Linkage::Static)
}

/// A program of `tests/programs`, compiled when its source is newer.
fn program(source: &str, linkage: Linkage) -> PathBuf {
    let (kind, option) = match linkage {
        Linkage::Static => ("static", "-Ctarget-feature=+crt-static"),
        Linkage::Dynamic => ("dynamic", "-Ctarget-feature=-crt-static"),
    };
    let name = format!("{source}-{kind}");
    let directory = target_dir().join("tests-programs");
    fs::create_dir_all(&directory).expect("a writable target directory");
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let source = programs.join(source).with_extension("rs");
    let executable = directory.join(&name);
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    if modified(&executable) < modified(&source) {
        // Tests run side by side: each compiles its own, and the last one stays.
        let (process, thread) = (std::process::id(), std::thread::current().id());
        let fresh = directory.join(format!("{name}-{process}-{thread:?}"));
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition=2024", "-O", option, "--target", &target, "-o"]);
        let status = rustc.args([&fresh, &source]).status().expect("rustc starts");
        assert!(status.success(), "{name} does not compile");
        fs::rename(&fresh, &executable).expect("a writable target directory");
    }
    executable
}

/// Makes an OCI layout of one layer, which holds `root`, in `layout`.
///
/// # Panics
/// When a command that it takes is missing.
pub fn layout(root: &Path, layout: &Path, config: &serde_json::Value) {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a writable directory");
    let put = |path: &Path| {
        let sum = Command::new("sha256sum").arg(path).output().expect("sha256sum starts").stdout;
        let sum = String::from_utf8_lossy(&sum).split(' ').next().unwrap_or_default().to_owned();
        fs::rename(path, blobs.join(&sum)).expect("a writable directory");
        format!("sha256:{sum}")
    };
    let text = |value: &serde_json::Value| {
        let path = layout.join("new");
        fs::write(&path, value.to_string()).expect("a writable directory");
        put(&path)
    };
    let layer = layout.join("layer");
    let tar = Command::new("tar")
        .args(["--mtime=@0", "--sort=name", "--owner=0", "--group=0", "-cf"])
        .arg(&layer)
        .arg("-C")
        .arg(root)
        .arg(".")
        .status();
    assert!(tar.expect("tar starts").success(), "the root cannot be packed");
    let layer = put(&layer);
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let config = text(&serde_json::json!({
        "architecture": architecture, "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": [layer] },
    }));
    let manifest =
        serde_json::json!({ "config": { "digest": config }, "layers": [{ "digest": layer }] });
    let index = serde_json::json!({ "manifests": [{ "digest": text(&manifest) }] });
    fs::write(layout.join("index.json"), index.to_string()).expect("a writable directory");
    fs::write(layout.join("oci-layout"), "{}").expect("a writable directory");
}

/// Makes `root` a root file system of this program, at `/bin/NAME`, with the libraries that its loader finds here.
///
/// # Panics
/// When `root` cannot be written.
pub fn install(root: &Path, program: &Path) {
    for directory in ["bin", "dev", "proc", "run", "tmp"] {
        fs::create_dir_all(root.join(directory)).expect("a writable directory");
    }
    let name = program.file_name().expect("a program has a name");
    fs::copy(program, root.join("bin").join(name)).expect("a readable program");
    let listed = Command::new("ldd").arg(program).output().expect("ldd starts").stdout;
    let listed = String::from_utf8(listed).expect("paths that are text");
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a directory")).expect("a writable directory");
        fs::copy(library, to).expect("a readable library");
    }
}
