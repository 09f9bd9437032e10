//! Every way in which a file that a manifest names can be wrong.

use std::fs;
use std::os::unix::fs::symlink;

use object::elf;
use tempfile::TempDir;

use super::component::tests::exporting;
use super::elf::tests::{elsewhere, executable, here};
use super::*;
use crate::manifest::{Pattern, Route};

const HANDLER: &str = "wasi:http/incoming-handler@0.2.3";

/// A directory with files; their modes allow execution.
fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    directory
}

/// Checks a function with these artifacts.
fn checked(directory: &TempDir, artifacts: &str) -> Result<Vec<Option<Component>>, Faults> {
    let text = format!("[[function]]\nname = \"f\"\nroute = \"/\"\n{artifacts}\n");
    let manifest = Manifest::parse(&text, &directory.path().join("baton.toml")).unwrap();
    check(&manifest, Precompiled::Refused)
}

/// The faults, with the directory and the architectures of this machine replaced.
fn said(directory: &TempDir, artifacts: &str) -> String {
    let said = checked(directory, artifacts).unwrap_err().to_string();
    let said = said.replace(directory.path().to_str().unwrap(), "DIR");
    let there = if std::env::consts::ARCH == "aarch64" { "x86_64" } else { "aarch64" };
    said.replace(std::env::consts::ARCH, "HERE").replace(there, "THERE")
}

#[test]
fn sound_artifacts_pass_and_tell_their_generation() {
    let component = exporting(HANDLER);
    let directory =
        directory(&[("f.wasm", &component), ("f", &executable(here(), elf::ET_EXEC, None))]);
    let version = "0.2.3".to_owned();
    assert_eq!(
        checked(&directory, "component = \"f.wasm\"\nnative = \"f\"").unwrap(),
        [Some(Component::Portable(Generation::P2 { version }))],
    );
}

#[test]
fn a_missing_file_is_named_by_its_absolute_path() {
    let directory = directory(&[]);
    insta::assert_snapshot!(said(&directory, "component = \"f.wasm\"\nnative = \"f\""), @r#"
    DIR/baton.toml:4:13: function.f.component: "DIR/f.wasm" cannot be read: No such file or directory (os error 2)
    DIR/baton.toml:5:10: function.f.native: "DIR/f" cannot be read: No such file or directory (os error 2)
    2 faults in DIR/baton.toml
    "#);
}

#[test]
fn a_directory_or_a_pipe_is_no_artifact() {
    let directory = directory(&[("d/file", b"")]);
    nix::unistd::mkfifo(&directory.path().join("p"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    insta::assert_snapshot!(said(&directory, "component = \"d\"\nnative = \"p\""), @r#"
    DIR/baton.toml:4:13: function.f.component: "DIR/d" is not a regular file
    DIR/baton.toml:5:10: function.f.native: "DIR/p" is not a regular file
    2 faults in DIR/baton.toml
    "#);
}

#[test]
fn a_core_module_is_no_component() {
    let directory = directory(&[("f.wasm", &wat::parse_str("(module)").unwrap())]);
    insta::assert_snapshot!(said(&directory, "component = \"f.wasm\""), @r#"
    DIR/baton.toml:4:13: function.f.component: "DIR/f.wasm" is a core WebAssembly module, not a component; expected a component, as the target wasm32-wasip2 or `wasm-tools component new` makes it
    1 fault in DIR/baton.toml
    "#);
}

#[test]
fn a_wrong_world_says_what_it_exports_and_what_was_expected() {
    let directory = directory(&[("f.wasm", &exporting("wasi:cli/run@0.2.0"))]);
    insta::assert_snapshot!(said(&directory, "component = \"f.wasm\""), @r#"
    DIR/baton.toml:4:13: function.f.component: "DIR/f.wasm" exports wasi:cli/run@0.2.0; expected an export of wasi:http/incoming-handler@0.2.x or wasi:http/handler@0.3.x
    1 fault in DIR/baton.toml
    "#);
}

#[test]
fn a_precompiled_component_is_refused_unless_allowed() {
    let directory = directory(&[("f.cwasm", b"\x7fELF\x02\x01\x01\xc8")]);
    insta::assert_snapshot!(said(&directory, "component = \"f.cwasm\""), @r#"
    DIR/baton.toml:4:13: function.f.component: "DIR/f.cwasm" is a precompiled component; expected a component, or the option --allow-precompiled if you trust who compiled it
    1 fault in DIR/baton.toml
    "#);
    let text = "[[function]]\nname = \"f\"\nroute = \"/\"\ncomponent = \"f.cwasm\"";
    let manifest = Manifest::parse(text, &directory.path().join("baton.toml")).unwrap();
    let allowed = check(&manifest, Precompiled::Allowed).unwrap();
    assert_eq!(allowed, [Some(Component::Precompiled)]);
}

#[test]
fn an_instance_of_0_2_cannot_answer_two_requests_at_once() {
    let directory = directory(&[("f.wasm", &exporting(HANDLER))]);
    let artifacts = "component = \"f.wasm\"\ninstances = { reuse = { concurrent = 2 } }";
    insta::assert_snapshot!(said(&directory, artifacts), @r#"
    DIR/baton.toml:4:13: function.f.component: "DIR/f.wasm" is of wasi:http 0.2.3, and its instances answer one request at a time; expected instances.reuse.concurrent = 1
    1 fault in DIR/baton.toml
    "#);
}

#[test]
fn a_dynamic_executable_names_its_loader_and_the_ways_out() {
    let dynamic = executable(here(), elf::ET_DYN, Some("/lib64/ld-linux-x86-64.so.2"));
    let directory = directory(&[("f", &dynamic)]);
    insta::assert_snapshot!(said(&directory, "native = \"f\""), @r#"
    DIR/baton.toml:4:10: function.f.native: "DIR/f" is dynamically linked and asks for the loader /lib64/ld-linux-x86-64.so.2; expected a static executable (Rust: -C target-feature=+crt-static, C: -static, Go: CGO_ENABLED=0) or { rootfs = "dir", command = [...] } with its libraries
    1 fault in DIR/baton.toml
    "#);
}

#[test]
fn a_script_or_a_text_is_no_executable() {
    let directory = directory(&[("f", b"#!/bin/sh\n"), ("g", b"hello")]);
    insta::assert_snapshot!(said(&directory, "native = \"f\""), @r#"
    DIR/baton.toml:4:10: function.f.native: "DIR/f" is not an executable but a script, which needs a rootfs with its interpreter
    1 fault in DIR/baton.toml
    "#);
    insta::assert_snapshot!(said(&directory, "native = \"g\""), @r#"
    DIR/baton.toml:4:10: function.f.native: "DIR/g" is not an executable but an unknown kind of file
    1 fault in DIR/baton.toml
    "#);
}

#[test]
fn another_architecture_is_named_beside_this_one() {
    let directory = directory(&[("f", &executable(elsewhere(), elf::ET_EXEC, None))]);
    insta::assert_snapshot!(said(&directory, "native = \"f\""), @r#"
    DIR/baton.toml:4:10: function.f.native: "DIR/f" is an executable for THERE, and this machine is HERE
    1 fault in DIR/baton.toml
    "#);
}

#[test]
fn an_executable_needs_the_mode_of_one() {
    let directory = directory(&[("f", &executable(here(), elf::ET_EXEC, None))]);
    let path = directory.path().join("f");
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    insta::assert_snapshot!(said(&directory, "native = \"f\""), @r#"
    DIR/baton.toml:4:10: function.f.native: "DIR/f" has the mode 644 and may not be executed: chmod +x
    1 fault in DIR/baton.toml
    "#);
}

#[test]
fn a_dynamic_executable_is_fine_in_a_rootfs_that_has_its_loader() {
    let dynamic = executable(here(), elf::ET_DYN, Some("/lib64/ld.so"));
    let directory = directory(&[("root/usr/app", &dynamic), ("root/usr/lib64/ld.so", b"")]);
    let native = "native = { rootfs = \"root\", command = [\"/app\"] }";
    // Both links lead out of the directory unless it is taken for the root.
    symlink("/usr/app", directory.path().join("root/app")).unwrap();
    insta::assert_snapshot!(said(&directory, native), @r#"
    DIR/baton.toml:4:10: function.f.native: "DIR/root" as a rootfs: /app asks for the loader /lib64/ld.so, which cannot be read: No such file or directory (os error 2)
    1 fault in DIR/baton.toml
    "#);
    symlink("/usr/lib64", directory.path().join("root/lib64")).unwrap();
    checked(&directory, native).unwrap();
}

#[test]
fn a_rootfs_is_a_directory_that_has_the_program() {
    let directory = directory(&[("root/file", b""), ("file", b"")]);
    let native = |dir| format!("native = {{ rootfs = \"{dir}\", command = [\"/app\"] }}");
    let said = ["root", "file", "none"].map(|dir| said(&directory, &native(dir)));
    insta::assert_snapshot!(said.join("\n"), @r#"
    DIR/baton.toml:4:10: function.f.native: "DIR/root" as a rootfs: /app cannot be read: No such file or directory (os error 2)
    1 fault in DIR/baton.toml
    DIR/baton.toml:4:10: function.f.native: "DIR/file" is not a directory; expected the directory that becomes /
    1 fault in DIR/baton.toml
    DIR/baton.toml:4:10: function.f.native: "DIR/none" cannot be read: No such file or directory (os error 2)
    1 fault in DIR/baton.toml
    "#);
}

#[test]
fn what_is_neither_a_layout_nor_an_archive_is_no_image() {
    let directory =
        directory(&[("image/oci-layout", b"{}"), ("image.tar", b""), ("root/file", b"")]);
    let native = |path| format!("native = {{ image = \"{path}\" }}");
    for path in ["image", "image.tar", "root"] {
        let said = said(&directory, &native(path));
        let problem =
            format!("\"DIR/{path}\" is not an image: it has neither oci-layout and index.json");
        assert!(said.contains(&problem), "{said}");
    }
    assert!(said(&directory, &native("none")).contains("\"DIR/none\" cannot be read"));
}

#[test]
fn a_missing_certificate_is_a_fault_like_any_other() {
    let directory = directory(&[("key.pem", b"")]);
    let text = "[host.tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";
    let manifest = Manifest::parse(text, &directory.path().join("baton.toml")).unwrap();
    let said = check(&manifest, Precompiled::Refused).unwrap_err().to_string();
    insta::assert_snapshot!(said.replace(directory.path().to_str().unwrap(), "DIR"), @r#"
    DIR/baton.toml:2:15: host.tls.certificate: "DIR/cert.pem" cannot be read: No such file or directory (os error 2)
    1 fault in DIR/baton.toml
    "#);
}

#[test]
fn a_function_of_the_command_line_has_faults_without_a_file() {
    let route = Route { host: None, pattern: Pattern::Below(String::new()) };
    let mut function = Function::new("f", route);
    function.component = Some("/nowhere/f.wasm".into());
    let manifest = Manifest { functions: vec![function], ..Manifest::default() };
    let faults = check(&manifest, Precompiled::Refused).unwrap_err();
    insta::assert_snapshot!(faults, @r#"
    function.f.component: "/nowhere/f.wasm" cannot be read: No such file or directory (os error 2)
    1 fault
    "#);
}
