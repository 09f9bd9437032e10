//! Native builds that are more than one static executable on an inherited socket: programs in a root of their own,
//! and programs that make their socket themselves.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use baton_tests::baton::{Baton, Setup, is_running};
use baton_tests::client::{assert_problem, tier_of};
use baton_tests::programs::{Linkage, install, layout, server};
use baton_tests::wait_until;
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;

/// A directory with the server that needs its libraries.
fn root() -> TempDir {
    let everybody = fs::Permissions::from_mode(0o755);
    let root = tempfile::Builder::new().permissions(everybody).tempdir().unwrap();
    install(root.path(), &server(Linkage::Dynamic));
    root
}

/// A function `f` in that directory.
fn in_root(root: &Path, command: &[&str], listen: &str) -> Setup {
    Setup::new()
        .function("f", "native")
        .with(&format!("native = {{ rootfs = {root:?}, command = {command:?} }}"))
        .with(&format!("listen = \"{listen}\""))
        .with("limits.pids = 16")
}

/// The server that is one file.
fn alone(listen: &str) -> Setup {
    let program = server(Linkage::Static);
    Setup::new()
        .function("f", "native")
        .with(&format!("native = {program:?}\nlisten = \"{listen}\"\nenv.LISTEN_AT = \"{listen}\""))
}

#[track_caller]
fn answers(baton: &Baton, path: &str) -> String {
    let answer = baton.get(path);
    let body = String::from_utf8_lossy(answer.body()).into_owned();
    assert_eq!((answer.status().as_u16(), tier_of(&answer).as_str()), (200, "native"), "{body}");
    body
}

#[test]
fn a_dynamic_program_answers_from_its_rootfs() {
    let root = root();
    fs::write(root.path().join("greeting"), "from the root").unwrap();
    let command = ["/bin/server-dynamic", "inherited", "hello there"];
    let baton = in_root(root.path(), &command, "inherited").with(r#"env.A = "b""#).start();
    assert_eq!(answers(&baton, "/f"), "hello there");
    assert_eq!(answers(&baton, "/f/greeting"), "from the root");
    let environment = answers(&baton, "/f/environment");
    assert!(environment.contains("A=b\n") && environment.contains("LISTEN_FDS=1\n"));
}

#[test]
fn a_script_answers_by_its_interpreter_in_the_rootfs() {
    let root = root();
    let script = root.path().join("bin/script");
    fs::write(&script, "#!/bin/server-dynamic inherited\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let baton = in_root(root.path(), &["/bin/script"], "inherited").start();
    assert_eq!(answers(&baton, "/f"), "/bin/script");
}

#[test]
fn the_component_answers_until_the_rootfs_is_warm() {
    let root = root();
    let command = ["/bin/server-dynamic", "inherited", "from the rootfs"];
    let native = format!("native = {{ rootfs = {:?}, command = {command:?} }}", root.path());
    let baton = Setup::new().function("f", "hybrid").component("hello").with(&native).start();
    baton.until_parked();
    assert_eq!(tier_of(&baton.get("/f")), "wasm");
    assert_eq!(baton.until_native("/f").body(), "from the rootfs");
}

#[test]
fn a_program_makes_its_unix_socket_in_its_sandbox() {
    assert_eq!(answers(&alone("unix:/run/f/a.sock").start(), "/f"), "hello");
    let root = root();
    fs::create_dir(root.path().join("var")).unwrap();
    symlink("/run", root.path().join("var/run")).unwrap();
    let command = ["/bin/server-dynamic", "unix:/var/run/a.sock"];
    let baton = in_root(root.path(), &command, "unix:/var/run/a.sock").start();
    assert_eq!(answers(&baton, "/f"), "hello");
    assert_eq!(answers(&baton, "/f"), "hello");
}

#[test]
fn a_program_listens_on_a_port_of_its_sandbox() {
    // Both have the same port, and this machine may have it too.
    let root = root();
    let native = format!(
        "native = {{ rootfs = {:?}, command = [\"/bin/server-dynamic\", \"tcp:8080\", \"in root\"] }}",
        root.path()
    );
    let baton = alone("tcp:8080")
        .function("g", "native")
        .with(&native)
        .with(r#"listen = "tcp:8080""#)
        .with("sandboxes.concurrency = 16")
        .start();
    assert_eq!(answers(&baton, "/f"), "hello");
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| assert_eq!(answers(&baton, "/g"), "in root"));
        }
    });
}

#[test]
fn a_program_that_listens_elsewhere_never_accepts() {
    let root = root();
    let command = ["/bin/server-dynamic", "unix:/run/other.sock"];
    let baton = in_root(root.path(), &command, "unix:/run/a.sock")
        .with(r#"limits.start_timeout = "500ms""#)
        .start();
    assert_problem(&baton.get("/f"), "starting", 503);
    wait_until("the reason is logged", || baton.log().contains("never accepted"));
    wait_until("its sandbox is removed", || baton.sandboxes_of("f").is_empty());
}

#[test]
fn a_program_that_ends_at_once_says_why() {
    let root = root();
    let command = ["/bin/server-dynamic", "unix:/nowhere/a.sock"];
    let baton = in_root(root.path(), &command, "unix:/run/a.sock").start();
    assert_problem(&baton.get("/f"), "crashed", 502);
    wait_until("its last words are logged", || {
        baton.log().contains("a place for the socket") && baton.log().contains("exit 101")
    });
}

#[test]
fn roots_are_there_again_after_the_pool_daemon_was_killed() {
    let root = root();
    let baton = in_root(root.path(), &["/bin/server-dynamic", "inherited"], "inherited").start();
    assert_eq!(answers(&baton, "/f"), "hello");
    let daemon = baton.pool_pid();
    kill(daemon, Signal::SIGKILL).unwrap();
    wait_until("the daemon is dead", || !is_running(daemon));
    wait_until("sandboxes are made again", || baton.get("/f").status() == 200);
}

#[test]
fn what_a_rootfs_lacks_is_a_fault_at_its_place() {
    let root = root();
    let fault = |command: &[&str], listen: &str| {
        let output = in_root(root.path(), command, listen).output();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).replace(root.path().to_str().unwrap(), "ROOT")
    };
    let missing = fault(&["/bin/nothing"], "inherited");
    assert!(missing.contains("\"ROOT\" as a rootfs: /bin/nothing cannot be read"), "{missing}");
    let nowhere = fault(&["/bin/server-dynamic"], "unix:/srv/a.sock");
    assert!(nowhere.contains("/srv is no directory for the function's socket"), "{nowhere}");
    let top = fault(&["/bin/server-dynamic"], "unix:/a.sock");
    assert!(top.contains("\"/a.sock\" is no place for a socket"), "{top}");
}

#[test]
fn an_image_is_served_from_its_layout_or_an_archive_of_it() {
    let (root, image) = (root(), tempfile::tempdir().unwrap());
    fs::write(root.path().join("greeting"), "from the image").unwrap();
    let config = serde_json::json!({
        "Entrypoint": ["server-dynamic"], "Cmd": ["unix:/srv/a.sock", "hello"],
        "Env": ["PATH=/bin", "A=image", "B=image"], "WorkingDir": "/work",
    });
    layout(root.path(), image.path(), &config);
    let archive = image.path().join("image.tar");
    let tar = ["-cf", archive.to_str().unwrap(), "-C", image.path().to_str().unwrap()];
    let parts = ["oci-layout", "index.json", "blobs"];
    assert!(std::process::Command::new("tar").args(tar).args(parts).status().unwrap().success());
    for path in [image.path(), &archive] {
        let baton = Setup::new()
            .function("f", "native")
            .with(&format!("native = {{ image = {path:?} }}"))
            .with(r#"listen = "unix:/srv/a.sock""#)
            .with(r#"env.A = "manifest""#)
            .start();
        assert_eq!(answers(&baton, "/f"), "hello");
        assert_eq!(answers(&baton, "/f/greeting"), "from the image");
        assert_eq!(answers(&baton, "/f/directory"), "Ok(\"/work\")");
        let environment = answers(&baton, "/f/environment");
        assert!(environment.contains("A=manifest\n") && environment.contains("B=image\n"));
        let index = fs::read_to_string(image.path().join("index.json")).unwrap();
        let traces = baton.administration("/v1/traces");
        let last = traces["traces"][0]["trace_id"].as_str().unwrap();
        let told = baton.administration(&format!("/v1/traces/{last}"));
        let forward = told["traces"][0]["root"]["children"].as_array().unwrap().last().unwrap();
        let digest = forward["attributes"]["oci.manifest.digest"].as_str();
        assert!(digest.is_some_and(|digest| index.contains(digest)), "{forward:#}");
    }
}

#[test]
fn an_image_for_another_machine_is_a_fault() {
    let image = tempfile::tempdir().unwrap();
    layout(root().path(), image.path(), &serde_json::json!({ "Cmd": ["/app"] }));
    let index =
        r#"{"manifests":[{"digest":"sha256:0","platform":{"os":"linux","architecture":"mips"}}]}"#;
    fs::write(image.path().join("index.json"), index).unwrap();
    let native = format!("native = {{ image = {:?} }}", image.path());
    let output = Setup::new().function("f", "native").with(&native).output();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("is an image for linux/mips, and this machine is linux/"), "{said}");
}
