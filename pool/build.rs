//! Compiles the stub that parked sandboxes run: static, without libc, a few kilobytes.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=stub/stub.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let variable =
        |name| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for a build script"));
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args([
        "stub/stub.rs",
        "--edition=2024",
        "--crate-type=bin",
        "--crate-name=stub",
        "--target",
    ]);
    rustc.arg(variable("TARGET"));
    rustc.args([
        "-Dwarnings",
        "-Copt-level=2",
        "-Cpanic=abort",
        "-Cstrip=symbols",
        "-Cdefault-linker-libraries=no",
    ]);
    rustc.args(["-Crelocation-model=static", "-Ctarget-feature=+crt-static"]);
    for argument in
        ["-nostartfiles", "-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,-z,norelro"]
    {
        rustc.arg(format!("-Clink-arg={argument}"));
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("-Clinker=");
        option.push(linker);
        rustc.arg(option);
    }
    rustc.arg("-o").arg(PathBuf::from(variable("OUT_DIR")).join("stub"));
    let status = rustc.status().expect("rustc starts");
    assert!(status.success(), "the stub was not compiled: {status}");
}
