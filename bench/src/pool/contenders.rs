//! What a sandbox is compared with: the bare process, and runtimes that make a container for it.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::Start;
use super::house::get;
use super::place::Place;
use crate::cgroup::Cgroup;

/// Outside users of the containers, which are nobody's.
const FIRST_UID: u32 = 0x6fff_0000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    /// The same server as a process without any isolation.
    Spawn,
    /// The same with its socket and pipes made before the measurement begins, as a parked sandbox has them.
    SpawnAhead,
    /// As that, of the server that is linked dynamically.
    SpawnDynamic,
    /// libcontainer, called by a small command: this program.
    Libcontainer,
    Runc,
    Crun,
}

/// What every start has: a listener that will be descriptor 3, a connection in it, and the standard streams.
struct Fittings {
    listener: UnixListener,
    connection: UnixStream,
    stdin: io::PipeReader,
    output: [(io::PipeReader, io::PipeWriter); 2],
}

/// A contender before a start.
pub(super) struct Prepared<'a> {
    contender: Contender,
    place: &'a Place,
    id: String,
    bundle: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    fittings: Option<Fittings>,
}

/// A process that was started.
struct Started {
    pid: Pid,
    connection: UnixStream,
    _output: [io::PipeReader; 2],
}

impl Contender {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Spawn => "posix_spawn, no isolation",
            Self::SpawnAhead => "posix_spawn, its socket and pipes made ahead",
            Self::SpawnDynamic => "the same of the dynamic server",
            Self::Libcontainer => "libcontainer in full, a command",
            Self::Runc => "runc run",
            Self::Crun => "crun run",
        }
    }

    /// Why it cannot take part.
    pub(super) fn missing(self) -> Option<String> {
        let program = self.program();
        let there = program.is_absolute()
            || crate::machine::first_line(&[program.to_str()?, "--version"]).is_some();
        (!there).then(|| format!("{} is not installed", program.display()))
    }

    fn is_bare(self) -> bool {
        matches!(self, Self::Spawn | Self::SpawnAhead | Self::SpawnDynamic)
    }

    fn program(self) -> PathBuf {
        match self {
            Self::Spawn | Self::SpawnAhead => Place::server(),
            Self::SpawnDynamic => Place::dynamic_server(),
            Self::Libcontainer => std::env::current_exe().unwrap_or_default(),
            Self::Runc => "runc".into(),
            Self::Crun => "crun".into(),
        }
    }

    /// All that a start needs of the round before its time begins to run.
    pub(super) fn prepare(self, place: &Place, round: usize) -> anyhow::Result<Prepared<'_>> {
        let id = format!("{self:?}-{round}").to_lowercase();
        let bundle = place.path().join(&id);
        let program = match self.program() {
            path if path.is_absolute() => path,
            name => which(&name).context("it was there a moment ago")?,
        };
        let mut arguments = vec![program.display().to_string()];
        if !self.is_bare() {
            write_bundle(&bundle, &format!("/{}/{id}", place.cgroup))?;
            arguments.extend(self.arguments(&bundle, &id));
        }
        let ahead = self.is_bare() && self != Self::Spawn;
        let fittings = ahead.then(|| Fittings::make(&bundle)).transpose()?;
        Ok(Prepared { contender: self, place, id, bundle, program, arguments, fittings })
    }

    fn arguments(self, bundle: &Path, id: &str) -> Vec<String> {
        let (bundle, state) =
            (bundle.display(), bundle.with_extension("state").display().to_string());
        let text = match self {
            Self::Spawn | Self::SpawnAhead | Self::SpawnDynamic => return Vec::new(),
            Self::Libcontainer => format!("container --state {state} --bundle {bundle} {id}"),
            Self::Runc | Self::Crun => {
                format!("--root {state} run --detach --preserve-fds 1 --bundle {bundle} {id}")
            }
        };
        text.split(' ').map(str::to_owned).collect()
    }

    /// Ends it, and leaves nothing of it.
    fn end(self, place: &Place, bundle: &Path, id: &str, pid: Pid) -> anyhow::Result<()> {
        if self.is_bare() {
            kill(pid, Signal::SIGKILL)?;
            waitpid(pid, None)?;
            return Ok(fs::remove_file(place.path().join(id).with_extension("sock"))?);
        }
        // The command has ended or is about to.
        waitpid(pid, None)?;
        let state = bundle.with_extension("state");
        let group = Cgroup::new(format!("{}/{id}", place.cgroup));
        let inits = processes(&group);
        match self {
            Self::Runc | Self::Crun => {
                let deleted = Command::new(self.program())
                    .arg("--root")
                    .arg(&state)
                    .args(["delete", "--force", id])
                    .stdout(Stdio::null())
                    .status()?;
                anyhow::ensure!(deleted.success(), "{} cannot delete {id}", self.name());
            }
            Self::Libcontainer | Self::Spawn | Self::SpawnAhead | Self::SpawnDynamic => {
                for pid in &inits {
                    kill(*pid, Signal::SIGKILL)?;
                }
            }
        }
        for pid in inits {
            // We are its reaper, unless the command waited for it.
            let _ = waitpid(pid, None);
        }
        group.remove();
        fs::remove_dir_all(&state)?;
        fs::remove_dir_all(bundle)?;
        Ok(fs::remove_file(bundle.with_extension("sock"))?)
    }
}

impl Prepared<'_> {
    /// Starts it, asks it once and ends it.
    pub(super) async fn start(self) -> anyhow::Result<Start> {
        let Self { contender, place, id, bundle, program, arguments, fittings } = self;
        let mut held = None;
        let start = place.measure(async {
            let fittings = fittings.map_or_else(|| Fittings::make(&bundle), Ok)?;
            let started = held.insert(fittings.spawn(&program, &arguments)?);
            Ok(get(&mut started.connection).await?)
        });
        let start = start.await;
        if let Some(started) = held {
            contender.end(place, &bundle, &id, started.pid)?;
        }
        start
    }
}

/// Processes of a group, by any hierarchy.
fn processes(group: &Cgroup) -> Vec<Pid> {
    let lists = group.directories().into_iter();
    let lists = lists.filter_map(|it| fs::read_to_string(it.join("cgroup.procs")).ok());
    let mut pids: Vec<i32> = lists
        .flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().map(Pid::from_raw).collect()
}

fn which(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.exists())
}

impl Fittings {
    fn make(name: &Path) -> anyhow::Result<Self> {
        let socket = name.with_extension("sock");
        let listener = UnixListener::bind(&socket)?;
        let connection = std::os::unix::net::UnixStream::connect(&socket)?;
        connection.set_nonblocking(true)?;
        let connection = UnixStream::from_std(connection)?;
        // A runtime gives its standard streams to the container's user, `/dev/null` among them.
        let (stdin, _) = io::pipe()?;
        Ok(Self { listener, connection, stdin, output: [io::pipe()?, io::pipe()?] })
    }

    fn spawn(self, program: &Path, arguments: &[String]) -> anyhow::Result<Started> {
        let [(stdout, stdout_writer), (stderr, stderr_writer)] = self.output;
        let mut actions = PosixSpawnFileActions::init()?;
        actions.add_dup2(self.stdin.as_raw_fd(), 0)?;
        actions.add_dup2(stdout_writer.as_raw_fd(), 1)?;
        actions.add_dup2(stderr_writer.as_raw_fd(), 2)?;
        actions.add_dup2(self.listener.as_raw_fd(), 3)?;
        let arguments: Vec<CString> = arguments
            .iter()
            .map(|argument| CString::new(argument.as_str()))
            .collect::<Result<_, _>>()?;
        let environment: [&CStr; 3] =
            [c"LISTEN_FDS=1", c"PATH=/usr/sbin:/usr/bin:/sbin:/bin", c"HOME=/"];
        let program = CString::new(program.as_os_str().as_bytes())?;
        let attributes = PosixSpawnAttr::init()?;
        let pid = posix_spawn(program.as_c_str(), &actions, &attributes, &arguments, &environment)?;
        Ok(Started { pid, connection: self.connection, _output: [stdout, stderr] })
    }
}

/// A bundle for one container with the isolation of a sandbox, but for its system-call filter.
fn write_bundle(bundle: &Path, cgroup: &str) -> anyhow::Result<()> {
    let root = bundle.join("root");
    for directory in ["proc", "dev"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::set_permissions(bundle, fs::Permissions::from_mode(0o755))?;
    fs::create_dir(bundle.with_extension("state"))?;
    let server = root.join("server");
    fs::copy(Place::server(), &server)?;
    Ok(fs::write(bundle.join("config.json"), configuration(cgroup).to_string())?)
}

fn configuration(cgroup: &str) -> Value {
    let kinds = ["user", "mount", "pid", "network", "ipc", "uts", "cgroup"];
    let users = json!([{ "containerID": 0, "hostID": FIRST_UID, "size": 2 }]);
    let capabilities = ["bounding", "effective", "inheritable", "permitted", "ambient"];
    let none = capabilities.map(|set| (set.to_owned(), json!([])));
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": "root", "readonly": true },
        "hostname": "sandbox",
        "process": {
            "terminal": false,
            "user": { "uid": 1, "gid": 1 },
            "args": ["/server"],
            "env": ["HOME=/", "PATH=/", "LISTEN_FDS=1", "LISTEN_FDNAMES=http"],
            "cwd": "/",
            "capabilities": none.into_iter().collect::<serde_json::Map<_, _>>(),
            "noNewPrivileges": true,
        },
        "mounts": [
            {
                "destination": "/proc", "type": "proc", "source": "proc",
                "options": ["nosuid", "noexec", "nodev"],
            },
            {
                "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "noexec", "mode=755", "size=64k"],
            },
        ],
        "linux": {
            "namespaces": kinds.map(|kind| json!({ "type": kind })),
            "uidMappings": users,
            "gidMappings": users,
            "cgroupsPath": cgroup,
            "resources": {
                "memory": { "limit": 64 << 20 },
                "pids": { "limit": 32 },
                "cpu": { "quota": 100_000, "period": 100_000 },
            },
            "maskedPaths": [],
            "readonlyPaths": [],
        },
    })
}

/// The command that lets libcontainer run a bundle, as runc and crun do: it ends, the container stays.
///
/// # Errors
/// What libcontainer ends with.
pub fn container(state: &Path, bundle: &Path, id: &str) -> anyhow::Result<()> {
    use libcontainer::container::builder::ContainerBuilder;
    use libcontainer::syscall::syscall::SyscallType;
    let mut container = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(state)?
        .with_preserved_fds(1)
        .validate_id()?
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()?;
    Ok(container.start()?)
}
