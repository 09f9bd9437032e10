//! The command line: what it says, and how it ends.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use baton_tests::baton::{Setup, program};
use baton_tests::functions::functions_dir;
use tempfile::TempDir;

fn baton(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().unwrap()
}

#[track_caller]
fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn answered(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn component(name: &str) -> String {
    text(&functions_dir().join(name).with_extension("wasm")).to_owned()
}

/// A directory with this manifest.
fn manifest(content: &str) -> (TempDir, String) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("baton.toml");
    fs::write(&path, content).unwrap();
    let path = text(&path).to_owned();
    (directory, path)
}

/// Checks that a manifest is refused with one line `FILE:LINE:COLUMN: …` for each of `faults`, in
/// this order, by `check` and by `serve` alike.
#[track_caller]
fn assert_refused(content: &str, faults: &[&str]) {
    let (_directory, path) = manifest(content);
    for command in ["check", "serve"] {
        let output = baton(&[command, "--config", &path]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{command}: {said}");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), faults.len() + 1, "{command}: {said}");
        for (line, fault) in lines.iter().zip(faults) {
            let line = line.trim_start_matches("baton: ");
            let place = line.strip_prefix(&format!("{path}:")).unwrap_or_else(|| panic!("{said}"));
            let mut place = place.splitn(3, ':');
            let mut number = || place.next().and_then(|number| number.parse::<u32>().ok());
            assert!(number().is_some() && number().is_some(), "no line and column: {line}");
            assert!(line.contains(fault), "{line:?} does not say {fault:?}");
        }
    }
}

/// Checks that a function with these artifacts is refused with one fault.
#[track_caller]
fn assert_artifact_refused(artifacts: &str, fault: &str) {
    let function = format!("[[function]]\nname = \"f\"\nroute = \"/\"\n{artifacts}\n");
    assert_refused(&function, &[fault]);
}

#[test]
fn a_sound_manifest_passes_the_check() {
    let (_directory, path) = manifest(&format!(
        "[[function]]\nname = \"hello\"\nroute = \"/\"\ncomponent = \"{}\"\n",
        component("hello")
    ));
    let output = baton(&["check", "--config", &path]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(answered(&output).contains("no faults"));
}

#[test]
fn all_faults_of_a_manifest_are_said_at_once_with_their_places() {
    assert_refused(
        "[host]\ngrace = \"30\"\nlisten_on = []\n\n\
         [[function]]\nname = \"a\"\nroute = \"/a\"\ncomponent = \"a.wasm\"\nlimits.memory = \"64M\"\n\n\
         [[function]]\nname = \"b\"\nroute = \"/a\"\ncomponent = \"b.wasm\"\npolicy = \"fast\"\n",
        &["host.grace", "host.listen_on", "limits.memory", "route", "policy"],
    );
}

#[test]
fn a_manifest_that_is_no_toml_is_refused_with_the_place() {
    assert_refused("[host\n", &[""]);
}

#[test]
fn a_manifest_that_is_not_there_is_named() {
    let output = baton(&["check", "--config", "/nowhere/baton.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("/nowhere/baton.toml"), "{}", said(&output));
}

#[test]
fn all_faults_of_artifacts_are_said_at_once() {
    assert_refused(
        "[[function]]\nname = \"a\"\nroute = \"/a\"\ncomponent = \"a.wasm\"\n\n\
         [[function]]\nname = \"b\"\nroute = \"/b\"\nnative = \"b\"\n",
        &["a.wasm", "/b"],
    );
}

#[test]
fn a_core_module_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("core.wasm");
    fs::write(&path, b"\0asm\x01\0\0\0").unwrap();
    assert_artifact_refused(
        &format!("component = \"{}\"", path.display()),
        "a core WebAssembly module",
    );
}

#[test]
fn a_component_of_another_world_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("empty.wasm");
    fs::write(&path, b"\0asm\x0d\0\x01\0").unwrap();
    assert_artifact_refused(&format!("component = \"{}\"", path.display()), "incoming-handler");
}

#[test]
fn a_dynamically_linked_executable_is_refused_with_its_loader() {
    assert_artifact_refused("native = \"/bin/sh\"", "/lib64/ld-linux-x86-64.so.2");
}

#[test]
fn a_file_that_is_no_executable_is_refused() {
    assert_artifact_refused(
        &format!("native = \"{}\"", component("hello")),
        "is not an executable",
    );
}

#[test]
fn an_executable_of_another_architecture_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("foreign");
    fs::copy(functions_dir().join("hello"), &path).unwrap();
    let mut program = fs::read(&path).unwrap();
    // e_machine: RISC-V.
    program[18..20].copy_from_slice(&243_u16.to_le_bytes());
    fs::write(&path, program).unwrap();
    assert_artifact_refused(&format!("native = \"{}\"", path.display()), "native");
}

#[test]
fn an_executable_that_may_not_be_executed_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("plain");
    fs::write(&path, fs::read(functions_dir().join("hello")).unwrap()).unwrap();
    assert_artifact_refused(&format!("native = \"{}\"", path.display()), "chmod +x");
}

#[test]
fn run_refuses_what_cannot_be_served() {
    for arguments in [vec!["run", "/nowhere.wasm"], vec!["run"], vec!["run", "--native", "/bin/sh"]]
    {
        let output = baton(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Setup::new().wasm("hello").host(&format!("listen = [\"{address}\"]")).output();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let said = said(&output);
    assert!(said.contains(&address) && said.contains("another process listens there"), "{said}");
}

#[test]
fn an_unknown_command_is_a_misuse() {
    assert_eq!(baton(&["srve"]).status.code(), Some(2));
}

#[test]
fn doctor_says_what_the_machine_offers() {
    let output = baton(&["doctor"]);
    assert!(output.status.success());
    let report = answered(&output);
    for what in ["privilege", "cgroup", "namespaces", "seccomp", "idle cgroups", "pagemap scan"] {
        assert!(report.contains(what), "{report}");
    }
    assert!(report.contains("Both tiers work here"), "these tests need both: {report}");
}

#[test]
fn doctor_says_to_a_user_what_is_missing() {
    let output = Command::new("setpriv")
        .args(["--reuid", "65533", "--regid", "65533", "--clear-groups"])
        .arg(program())
        .arg("doctor")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(answered(&output).contains("not root; no sandboxes are made"), "{}", answered(&output));
}

#[test]
fn a_component_compiled_into_the_cache_is_loaded_from_there() {
    let place = TempDir::new().unwrap();
    let cache = place.path().join("cache");
    let compiled = baton(&["compile", &component("hello"), "--cache", "--cache-dir", text(&cache)]);
    assert!(compiled.status.success(), "{}", said(&compiled));
    let baton =
        Setup::new().wasm("hello").host(&format!("cache.dir = \"{}\"", cache.display())).start();
    assert_eq!(baton.get("/hello").body(), "hello, world\n");
    assert_eq!(baton.administration("/v1/functions/hello")["component"]["source"], "cache");
}

#[test]
fn several_components_are_compiled_side_by_side_and_one_that_cannot_be_costs_none_of_the_others() {
    let place = TempDir::new().unwrap();
    let cache = place.path().join("cache");
    let [hello, raw] = ["hello", "raw"].map(component);
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let compiled =
        baton(&["compile", &hello, manifest, &raw, "--cache", "--cache-dir", text(&cache)]);
    assert_eq!(compiled.status.code(), Some(1));
    assert!(said(&compiled).contains("Cargo.toml is not a component"), "{}", said(&compiled));
    assert_eq!(answered(&compiled).lines().count(), 2, "{}", answered(&compiled));
    let cached = fs::read_dir(&cache).unwrap().filter(|entry| {
        entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "cwasm")
    });
    assert_eq!(cached.count(), 2);
    let one_file = baton(&["compile", &hello, &raw, "-o", text(&place.path().join("a.cwasm"))]);
    assert_eq!(one_file.status.code(), Some(2), "{}", said(&one_file));
    assert!(said(&one_file).contains("--output names one file"), "{}", said(&one_file));
}

#[test]
fn a_terminal_shows_how_far_compilations_are_and_a_file_gets_lines() {
    let place = TempDir::new().unwrap();
    let cache = |name: &str| place.path().join(name).display().to_string();
    let arguments = |name: &str| {
        [
            "compile".to_owned(),
            component("hello"),
            component("raw"),
            "--cache".to_owned(),
            "--cache-dir".to_owned(),
            cache(name),
        ]
    };
    // `script` runs a command on a terminal of its own.
    let command = format!("{} {}", program().display(), arguments("a").join(" "));
    let on_terminal =
        Command::new("script").args(["-qec", &command, "/dev/null"]).output().unwrap();
    assert!(on_terminal.status.success(), "{}", answered(&on_terminal));
    let drawn = answered(&on_terminal);
    assert!(drawn.contains("compiling ") && drawn.contains("/2 "), "{drawn:?}");
    let piped = Command::new(program()).args(arguments("b")).output().unwrap();
    assert_eq!((answered(&piped).lines().count(), said(&piped).as_str()), (2, ""));
}

#[test]
fn a_component_is_compiled_once_and_then_loaded_from_the_cache() {
    let place = TempDir::new().unwrap();
    let cache = format!("cache.dir = \"{}\"", place.path().join("cache").display());
    let setup = Setup::new().wasm("raw").host(&cache);
    for source in ["compile", "cache"] {
        let baton = setup.start();
        assert_eq!(baton.administration("/v1/functions/raw")["component"]["source"], source);
    }
}

#[test]
fn a_damaged_cache_entry_is_compiled_anew() {
    let place = TempDir::new().unwrap();
    let cache = place.path().join("cache");
    let setup = Setup::new().wasm("raw").host(&format!("cache.dir = \"{}\"", cache.display()));
    drop(setup.start());
    for entry in fs::read_dir(&cache).unwrap() {
        let path = entry.unwrap().path();
        let mut code = fs::read(&path).unwrap();
        let middle = code.len() / 2;
        code[middle] ^= 0xff;
        fs::write(&path, code).unwrap();
    }
    let baton = setup.start();
    assert_eq!(baton.get("/raw").status(), 200);
    assert_eq!(baton.administration("/v1/functions/raw")["component"]["source"], "compile");
}

#[test]
fn machine_code_from_elsewhere_is_refused_unless_allowed() {
    let place = TempDir::new().unwrap();
    let code = place.path().join("hello.cwasm");
    let compiled = baton(&["compile", &component("hello"), "-o", text(&code)]);
    assert!(compiled.status.success(), "{}", said(&compiled));
    let refused = baton(&["run", text(&code)]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("--allow-precompiled"), "{}", said(&refused));
    let baton = Setup::new()
        .function("hello", "wasm")
        .with(&format!("component = \"{}\"", code.display()))
        .argument("--allow-precompiled")
        .start();
    assert_eq!(baton.get("/hello").body(), "hello, world\n");
}

#[test]
fn explain_shows_a_functions_choice_and_names_the_functions_that_there_are() {
    let baton = Setup::new().wasm("hello").start();
    assert_eq!(baton.get("/hello").status(), 200);
    let explain = |name: &str, more: &[&str]| {
        let mut command = Command::new(program());
        command.args(["explain", name, "--admin", &baton.admin.to_string()]).args(more);
        command.output().expect("baton can be started")
    };
    let shown = explain("hello", &[]);
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success(), "{shown:?}");
    assert!(text.starts_with("hello  policy wasm\n\nnext request: wasm (policy)\n"), "{text}");
    let document = explain("hello", &["--json"]);
    let document: serde_json::Value = serde_json::from_slice(&document.stdout).unwrap();
    assert_eq!(document["next"]["reason"], "policy");
    let unknown = explain("nobody", &[]);
    assert_eq!(unknown.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(said.contains("there is no function \"nobody\"; it serves: hello"), "{said}");
}
