//! A real daemon, real sandboxes and a real function for the tests of this crate.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use baton_pool::activation::{Activating, Limits, Parked, Program, Start, StartFailure};
use baton_pool::daemon::sweep::{RunLock, sweep};
use baton_pool::protocol::{self, FromDaemon, Question, SandboxId, Step, ToDaemon};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

pub(crate) const LIMITS: Limits = Limits { memory: 64 << 20, cpu: 1.0, pids: 16, descriptors: 128 };

/// A daemon with a state directory and a control group of its own. [`Daemon::end`] it; a test that fails before has all
/// of it removed.
pub(crate) struct Daemon {
    pub(crate) run: Run,
    pub(crate) host: OwnedFd,
    pub(crate) supervisor: OwnedFd,
    pub(crate) process: Child,
    _leftovers: Leftovers,
}

/// Removes what a test leaves that fails: its daemon, the sandboxes and their groups.
pub(crate) struct Leftovers {
    run: Run,
    daemon: OwnedFd,
}

impl Leftovers {
    pub(crate) fn of(run: &Run, daemon: &Child) -> Leftovers {
        let pidfd = pidfd_open(Pid::from_child(daemon), PidfdFlags::empty()).unwrap();
        Leftovers { run: run.clone(), daemon: pidfd }
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // It may have ended, and been waited for, before the test failed.
            let _ = pidfd_send_signal(&self.daemon, Signal::KILL);
            let _ = waitid(WaitId::PidFd(self.daemon.as_fd()), WaitIdOptions::EXITED);
            // Whatever fails here, the test has failed for another reason already.
            let _ = sweep(&self.run.state_root, &self.run.cgroup_root);
            let _ = fs::remove_dir_all(&self.run.state_root);
        }
    }
}

/// What outlives a daemon: its names.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) state_root: PathBuf,
    pub(crate) cgroup_root: String,
}

impl Run {
    pub(crate) fn new() -> Run {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let state_root = std::env::temp_dir().join(format!("baton-test-{id}"));
        drop(RunLock::claim(&state_root, "run").unwrap());
        Run { cgroup_root: format!("baton/pool-{id}"), state_root }
    }

    pub(crate) fn cgroup(&self) -> String {
        format!("{}/run", self.cgroup_root)
    }

    /// A directory of this run in some v1 hierarchy or the v2 one that exists.
    pub(crate) fn cgroup_directories(&self) -> Vec<PathBuf> {
        let roots = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        let roots = roots.chain([PathBuf::from("/sys/fs/cgroup")]);
        roots.map(|root| root.join(&self.cgroup_root)).filter(|path| path.exists()).collect()
    }

    /// Nothing is left of any sandbox or of the daemon's own group.
    pub(crate) fn check_empty(&self) {
        let left: Vec<_> = self
            .cgroup_directories()
            .into_iter()
            .filter(|directory| directory.join("run").exists())
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.state_root.to_str().unwrap()));
        let files: Vec<_> = fs::read_dir(self.state_root.join("run"))
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(files, ["lock"], "the daemon writes nothing to the directory itself");
    }

    pub(crate) fn clean(&self) {
        let (_, failed) = sweep(&self.state_root, &self.cgroup_root);
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(self.cgroup_directories(), <[PathBuf; 0]>::default());
        let _ = fs::remove_dir_all(&self.state_root);
    }
}

impl Daemon {
    pub(crate) fn start() -> Daemon {
        Daemon::start_in(Run::new(), 2)
    }

    pub(crate) fn start_in(run: Run, workers: u32) -> Daemon {
        let (daemon, host) = protocol::channel().unwrap();
        let (daemons, supervisor) = protocol::channel().unwrap();
        let process = Command::new(example())
            .arg(run.state_root.join("run"))
            .args([run.cgroup(), workers.to_string(), "2000000".to_owned(), "2004096".to_owned()])
            .env_clear()
            .stdin(Stdio::from(daemon))
            .stdout(Stdio::from(daemons))
            .spawn()
            .unwrap();
        let _leftovers = Leftovers::of(&run, &process);
        let mut started = Daemon { run, host, supervisor, process, _leftovers };
        assert!(matches!(started.hear().0, FromDaemon::Ready { .. }));
        started
    }

    pub(crate) fn tell(&self, message: &ToDaemon) {
        protocol::send(&self.host, message, &[]).unwrap();
    }

    /// Has the daemon do something in a sandbox.
    pub(crate) fn ask(
        &mut self,
        id: SandboxId,
        question: Question,
    ) -> Result<Vec<OwnedFd>, String> {
        self.tell(&ToDaemon::Ask { id, question });
        match self.hear() {
            (FromDaemon::Answer { id: answered, done }, descriptors) if answered == id => {
                done.map(|()| descriptors)
            }
            (other, _) => panic!("{other:?}"),
        }
    }

    pub(crate) fn hear(&mut self) -> (FromDaemon, Vec<OwnedFd>) {
        protocol::receive(&self.host).unwrap().expect("the daemon lives")
    }

    pub(crate) fn park(&mut self, id: u64) -> Sandbox {
        self.tell(&ToDaemon::Create { id: SandboxId(id), scratch: 0, egress: None });
        self.parked()
    }

    /// The next message, which has to be of a parked sandbox.
    pub(crate) fn parked(&mut self) -> Sandbox {
        match self.hear() {
            (FromDaemon::Parked { id, pid, files, egress, steps }, descriptors) => Sandbox {
                id,
                pid,
                steps,
                parked: Parked::new(&files, egress, descriptors).unwrap(),
            },
            (other, _) => panic!("{other:?}"),
        }
    }

    /// Removes it and answers the daemon's last word on it.
    pub(crate) fn remove(&mut self, id: SandboxId) -> FromDaemon {
        self.tell(&ToDaemon::Remove { id });
        self.hear().0
    }

    /// Children of the daemon that make sandboxes, when there is no sandbox.
    pub(crate) fn workers(&self) -> Vec<i32> {
        let pid = self.process.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Kills it without a chance to remove anything.
    pub(crate) fn kill(mut self) -> Run {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.run
    }

    /// Lets the daemon end and checks that it left nothing.
    pub(crate) fn end(mut self) {
        drop(self.host);
        assert!(self.process.wait().unwrap().success());
        assert!(
            !self.run.cgroup_directories().iter().any(|directory| directory.join("run").exists())
        );
        self.run.clean();
    }
}

pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    pub(crate) pid: u32,
    pub(crate) steps: Vec<Step>,
    pub(crate) parked: Parked,
}

/// A function that runs, and the socket to reach it.
pub(crate) struct Function {
    pub(crate) id: SandboxId,
    pub(crate) pid: u32,
    pub(crate) socket: PathBuf,
    pub(crate) output: UnixStream,
    pub(crate) activating: Activating,
}

impl Sandbox {
    pub(crate) fn activate(self, run: &Run, limits: Limits) -> Function {
        self.execute(run, limits, &File::open(server()).unwrap()).expect("the server starts")
    }

    pub(crate) fn execute(
        self,
        run: &Run,
        limits: Limits,
        executable: &File,
    ) -> Result<Function, StartFailure> {
        let program = Program::Executable(executable.try_clone().unwrap().into());
        self.start(run, limits, &program)
    }

    pub(crate) fn start(
        self,
        run: &Run,
        limits: Limits,
        program: &Program,
    ) -> Result<Function, StartFailure> {
        let socket = run.state_root.join(format!("{}.sock", self.id));
        let listener = UnixListener::bind(&socket).unwrap();
        let (output, inside) = UnixStream::pair().unwrap();
        let start = Start {
            program,
            listener: Some(listener.as_fd()),
            stdout: inside.as_fd(),
            stderr: inside.as_fd(),
            argv: &[c"server".to_owned(), c"--flag".to_owned()],
            env: &[CString::new("GREETING=hello").unwrap()],
            limits,
        };
        let activating = self.parked.activate(&start).unwrap();
        poll(&mut [PollFd::new(&activating, PollFlags::IN)], None).unwrap();
        activating.outcome().unwrap()?;
        Ok(Function { id: self.id, pid: self.pid, socket, output, activating })
    }
}

impl Function {
    pub(crate) fn get(&self, path: &str) -> io::Result<String> {
        get(&self.socket, path)
    }
}

/// A field of `/proc/PID/status`.
pub(crate) fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{field}")).trim().to_owned()
}

/// A file of a sandbox's group, by its v1 controller.
pub(crate) fn cgroup_file(run: &Run, id: SandboxId, controller: &str, name: &str) -> String {
    let root = Path::new("/sys/fs/cgroup");
    let root = if is_v2() { root.to_owned() } else { root.join(controller) };
    fs::read_to_string(root.join(run.cgroup()).join(id.to_string()).join(name))
        .unwrap()
        .trim()
        .to_owned()
}

pub(crate) fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The body of an answer with status 200.
pub(crate) fn get(socket: &Path, path: &str) -> io::Result<String> {
    let mut connection = UnixStream::connect(socket)?;
    connection.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, answer)),
    }
}

/// The daemon's program, which cargo builds beside the tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples/pool-daemon")
}

/// The well-behaved function's static executable.
pub(crate) fn server() -> &'static Path {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    SERVER.get_or_init(|| program("server"))
}

/// The static executable of a function in `tests/programs`, compiled when its source has changed.
pub(crate) fn program(name: &str) -> PathBuf {
    compiled(name, name, "-Ctarget-feature=+crt-static")
}

/// The same, for a root that has its libraries.
pub(crate) fn dynamic_program(name: &str) -> PathBuf {
    compiled(name, &format!("{name}-dynamic"), "-Ctarget-feature=-crt-static")
}

fn compiled(source: &str, name: &str, linkage: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (executable, fresh) =
        (directory.join(name), directory.join(format!("{name}-{}", std::process::id())));
    let source = &Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/programs/{source}.rs"));
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    if modified(&executable) < modified(source) {
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let status = Command::new("rustc")
            .args(["--edition=2024", "-O", linkage, "--target"])
            .args([&target, "-o"])
            .args([&fresh, source])
            .status()
            .unwrap();
        assert!(status.success());
        fs::rename(&fresh, &executable).unwrap();
    }
    executable
}
