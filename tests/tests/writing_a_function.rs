//! `docs/writing-a-function.md` is true: its files written, its commands run, its answers given.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use baton_tests::functions::target_dir;
use tempfile::TempDir;

/// A code block of the page: the words after its fence, the line of text before it, its content.
struct Block {
    kind: String,
    before: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut before = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let inside = lines.by_ref().take_while(|line| *line != "```");
            let text = inside.fold(String::new(), |text, line| text + line + "\n");
            blocks.push(Block { kind: kind.to_owned(), before: before.clone(), text });
        } else if !line.is_empty() {
            line.clone_into(&mut before);
        }
    }
    blocks
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A place like the reader's: a directory with a built clone called `baton`.
fn beside_the_clone() -> TempDir {
    let place = TempDir::new().unwrap();
    let clone = place.path().join("baton");
    fs::create_dir(&clone).unwrap();
    for entry in fs::read_dir(repository()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "target" {
            symlink(entry.path(), clone.join(entry.file_name())).unwrap();
        }
    }
    symlink(target_dir(), clone.join("target")).unwrap();
    place
}

/// The reader's shell, in the crate's directory once that exists, with what was built kept for the
/// next run of this test.
fn shell(place: &Path, script: &str) -> Command {
    let crate_dir = place.join("greeter");
    let mut command = Command::new(repository().join(".config/wasm"));
    if !script.contains("wasm32-wasip2") {
        command = Command::new("env");
    }
    command
        .args(["bash", "-euo", "pipefail", "-c", script])
        .current_dir(if crate_dir.exists() { crate_dir } else { place.to_owned() })
        .env_remove("CARGO_TARGET_DIR");
    command
}

fn keep_builds(crate_dir: &Path) {
    let kept = target_dir().join("writing-a-function");
    fs::create_dir_all(&kept).unwrap();
    symlink(kept, crate_dir.join("target")).unwrap();
    fs::copy(repository().join("Cargo.lock"), crate_dir.join("Cargo.lock")).unwrap();
}

/// Where the page's server listens. Another one may already do so here, so the test takes a free port.
const PAGE_ADDRESS: &str = "127.0.0.1:8080";
const FREE_PORTS: &str = " --listen 127.0.0.1:0 --admin 127.0.0.1:0";

/// The page's server, which goes on running; dropping it ends it.
struct Background {
    process: Child,
    address: String,
}

impl Background {
    fn start(mut command: Command) -> Self {
        let mut process = command.process_group(0).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines
            .find_map(|line| Some(line.unwrap().strip_prefix("listening on http://")?.to_owned()));
        let address = address.unwrap_or_else(|| panic!("{command:?} ended without listening"));
        Self { process, address }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let group = format!("-{}", self.process.id());
        let _ = Command::new("kill").args(["-TERM", "--", &group]).status();
        let _ = self.process.wait();
    }
}

fn run(mut command: Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap().replace('\r', "")
}

/// Every line that the page shows came, in that order.
fn assert_shown(page: &str, came: &str) {
    let mut lines = came.lines();
    for line in page.lines() {
        assert!(lines.any(|came| came == line), "the page shows {line:?}, but there came:\n{came}");
    }
}

#[test]
fn page_leads_from_nothing_to_a_running_function() {
    let page = fs::read_to_string(repository().join("docs/writing-a-function.md")).unwrap();
    let place = beside_the_clone();
    let crate_dir = place.path().join("greeter");
    let mut background: Option<Background> = None;
    let mut printed = String::new();
    for Block { kind, before, text } in blocks(&page) {
        let file = before.strip_prefix('`').and_then(|line| line.strip_suffix("`:"));
        match (kind.as_str(), file) {
            (_, Some(file)) => fs::write(crate_dir.join(file), text).unwrap(),
            ("sh background", None) => {
                let text = text.trim_end().to_owned() + FREE_PORTS;
                background = Some(Background::start(shell(place.path(), &text)));
            }
            ("sh", None) => {
                // The set-up has seen to it, with Debian's compiler where rustup could not.
                let text = text.replace("rustup target add wasm32-wasip2\n", "");
                let address = background.as_ref().map_or(PAGE_ADDRESS, |server| &server.address);
                let text = text.replace(PAGE_ADDRESS, address);
                printed = run(shell(place.path(), &text));
                if !crate_dir.join("target").exists() {
                    keep_builds(&crate_dir);
                }
            }
            ("text", None) => assert_shown(&text, &printed),
            _ => {}
        }
    }
    assert!(background.is_some(), "the page runs the function");
}
