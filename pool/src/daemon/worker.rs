//! A process that makes one sandbox and ends.
//!
//! libcontainer changes the working directory, the OOM score and more of the process that calls it, and can be
//! killed half way. So each sandbox is made by a process of its own, forked ahead of need by the single-threaded
//! daemon: nothing of one creation reaches the next. When it ends, the sandbox's init becomes the daemon's child
//! (the daemon is a subreaper), whether it ended well or was killed. The worker moves itself into the sandbox's control
//! group first, so that everything it forks is there from the beginning.
//!
//! ```text
//! daemon: Making ──▶ worker: group, libcontainer create, start, wait for the stub ──▶ Report ──▶ _exit
//! ```

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::fcntl::AtFlags;
use nix::unistd::execveat;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};

use super::cgroup::Hierarchies;
use super::chain;
use super::network::{self, NetworkError};
use super::priority::Priority;
use super::spec;
use super::state::{BUNDLES, CONTAINERS, ROOT, ROOT_WITH_TMP};
use crate::protocol::{self, CgroupFile, SandboxId, Step};

/// One sandbox to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Making {
    pub(super) id: SandboxId,
    /// Its group.
    pub(super) cgroup: String,
    /// The first of its outside users and groups.
    pub(super) uid: u32,
    pub(super) scratch: u64,
    pub(super) egress: Option<u16>,
}

/// What became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// With the descriptors of [`FromDaemon::Parked`](crate::protocol::FromDaemon::Parked).
    Parked { pid: i32, files: Vec<CgroupFile>, egress: bool, steps: Vec<Step> },
    /// The daemon has to clear up what there is of it.
    Failed { error: String },
}

/// What every sandbox is made with.
#[derive(Clone, Debug)]
pub(super) struct Workshop {
    pub(super) hierarchies: Hierarchies,
    /// The stub's executable, open for reading.
    pub(super) stub: Rc<OwnedFd>,
    /// Of system calls.
    pub(super) filter: Rc<BpfProgram>,
    /// Of what makes sandboxes.
    pub(super) priority: Priority,
}

/// Why a sandbox could not be made.
#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error("cannot write the sandbox's configuration")]
    Configuration(#[source] io::Error),
    #[error("cannot make descriptors for the sandbox")]
    Descriptors(#[source] io::Error),
    #[error("libcontainer cannot create the sandbox")]
    Create(#[source] libcontainer::error::LibcontainerError),
    #[error("libcontainer cannot start the sandbox's init")]
    Start(#[source] libcontainer::error::LibcontainerError),
    #[error("the sandbox has no init")]
    NoInit,
    #[error("the stub did not come up")]
    NotParked(#[source] io::Error),
    #[error("cannot make the sandbox's control group")]
    Group(#[source] io::Error),
    #[error("cannot open the control group's files")]
    Cgroup(#[source] io::Error),
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// A sandbox that was made.
struct Made {
    pid: i32,
    control: OwnedFd,
    pidfd: OwnedFd,
    files: Vec<(CgroupFile, File)>,
    egress: Option<OwnedFd>,
    steps: Vec<Step>,
}

/// A worker's life: waits for its job, does it, reports. End of file instead of a job ends it.
pub(super) fn work(socket: BorrowedFd<'_>, workshop: &Workshop) -> io::Result<()> {
    match protocol::receive::<Making>(socket)? {
        None => Ok(()),
        Some((making, _)) => make_and_report(socket, &making, workshop),
    }
}

fn make_and_report(socket: BorrowedFd<'_>, job: &Making, workshop: &Workshop) -> io::Result<()> {
    match make(job, workshop) {
        Ok(made) => {
            let files = made.files.iter().map(|(file, _)| *file).collect();
            let mut descriptors = vec![made.control.as_fd(), made.pidfd.as_fd()];
            descriptors.extend(made.files.iter().map(|(_, file)| file.as_fd()));
            descriptors.extend(made.egress.iter().map(AsFd::as_fd));
            let egress = made.egress.is_some();
            protocol::send(
                socket,
                &Report::Parked { pid: made.pid, files, egress, steps: made.steps },
                &descriptors,
            )?;
        }
        Err(error) => protocol::send(socket, &Report::Failed { error: chain(&error) }, &[])?,
    }
    // Parked: nothing of libcontainer's is needed any more. Failed: the daemon removes the rest.
    let _ = fs::remove_dir_all(format!("{BUNDLES}/{}", job.id));
    let _ = fs::remove_dir_all(format!("{CONTAINERS}/{}", job.id));
    Ok(())
}

fn make(job: &Making, workshop: &Workshop) -> Result<Made, MakeError> {
    let mut steps = Steps::begin();
    let group = workshop.hierarchies.group(&job.cgroup);
    group.found(spec::PARKED_MEMORY, spec::PARKED_PIDS).map_err(MakeError::Group)?;
    Priority::give_way();
    steps.end("group");

    let bundle = format!("{BUNDLES}/{}", job.id);
    write_bundle(&bundle, job).map_err(MakeError::Configuration)?;
    steps.end("configure");

    let (control, inside) = protocol::channel().map_err(MakeError::Descriptors)?;
    let null =
        || File::options().read(true).write(true).open("/dev/null").map_err(MakeError::Descriptors);
    let mut container = ContainerBuilder::new(job.id.to_string(), SyscallType::default())
        .with_root_path(CONTAINERS)
        .map_err(MakeError::Create)?
        .with_executor(ParkStub {
            stub: Rc::clone(&workshop.stub),
            filter: Rc::clone(&workshop.filter),
        })
        .with_stdin(inside)
        .with_stdout(null()?)
        .with_stderr(null()?)
        .validate_id()
        .map_err(MakeError::Create)?
        .as_init(&bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(MakeError::Create)?;
    steps.end("create");

    container.start().map_err(MakeError::Start)?;
    steps.end("start");

    wait_for_stub(&control).map_err(MakeError::NotParked)?;
    steps.end("park");

    let pid = container.pid().ok_or(MakeError::NoInit)?.as_raw();
    let init = Pid::from_raw(pid).ok_or(MakeError::NoInit)?;
    let pidfd = pidfd_open(init, PidfdFlags::empty())
        .map_err(|error| MakeError::Descriptors(error.into()))?;
    workshop.priority.give(init);
    Priority::give_way_no_more();
    group.leave().map_err(MakeError::Group)?;
    let files = group.limit_files().map_err(MakeError::Cgroup)?;
    steps.end("open limits");
    let egress = job.egress.map(|port| network::listener(init, port)).transpose()?;
    if egress.is_some() {
        steps.end("listen for egress");
    }
    Ok(Made { pid, control, pidfd, files, egress, steps: steps.done })
}

fn write_bundle(bundle: &str, job: &Making) -> io::Result<()> {
    let sandbox = spec::Sandbox {
        root: if job.scratch > 0 { ROOT_WITH_TMP } else { ROOT },
        uid: job.uid,
        scratch: job.scratch,
    };
    fs::create_dir(bundle)?;
    let configuration = serde_json::to_vec(&spec::runtime(&sandbox))?;
    fs::write(format!("{bundle}/config.json"), configuration)
}

/// The stub's first word says that it runs, under its filter, and listens.
fn wait_for_stub(control: &OwnedFd) -> io::Result<()> {
    let mut word = [0; 16];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(control, &mut word))?;
    match word.get(..length) {
        Some(b"parked") => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Runs in the sandbox's init, at the very end of its making: takes the filter and becomes the stub.
#[derive(Clone)]
struct ParkStub {
    stub: Rc<OwnedFd>,
    filter: Rc<BpfProgram>,
}

impl ParkStub {
    fn become_stub(&self) -> Result<Infallible, Box<dyn std::error::Error + Send + Sync>> {
        default_sigpipe();
        seccompiler::apply_filter(&self.filter)?;
        let nothing: [&CStr; 0] = [];
        Ok(execveat(self.stub.as_fd(), c"", &[c"stub"], &nothing, AtFlags::AT_EMPTY_PATH)?)
    }
}

impl Executor for ParkStub {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        match self.become_stub() {
            Ok(never) => match never {},
            Err(error) => Err(ExecutorError::Execution(error)),
        }
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The stub is executed with an empty environment.
        Ok(())
    }
}

/// Rust ignores SIGPIPE, and what is ignored stays ignored over exec: the function would inherit it.
#[expect(unsafe_code, reason = "signal dispositions have no safe interface")]
fn default_sigpipe() {
    // SAFETY: the default disposition runs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Steps that follow each other without a gap.
struct Steps {
    done: Vec<Step>,
    last: u64,
}

impl Steps {
    fn begin() -> Steps {
        Steps { done: Vec::with_capacity(6), last: unix_ns() }
    }

    fn end(&mut self, name: &str) {
        let now = unix_ns();
        self.done.push(Step { name: name.to_owned(), start_unix_ns: self.last, end_unix_ns: now });
        self.last = now;
    }
}

fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
