//! The two processes under the supervisor.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::unistd::{Pid, User};

use super::run_dir::RunDir;
use crate::manifest;

/// Seconds that the host may take to take a message.
const SEND_TIMEOUT: i64 = 10;

/// The hidden subcommand that is the host process.
pub const HOST_COMMAND: &str = "host-process";

/// The hidden subcommand that is the pool daemon.
pub const POOL_COMMAND: &str = "pool-daemon";

/// What the pool daemon is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct PoolArguments {
    /// Descriptor of the socket to the host.
    #[arg(long)]
    pub host: RawFd,
    /// Descriptor of the socket to the supervisor.
    #[arg(long)]
    pub control: RawFd,
    /// The run's directory.
    #[arg(long)]
    pub state: std::path::PathBuf,
    /// The run's cgroup.
    #[arg(long)]
    pub cgroup: String,
    /// Whether the log is JSON.
    #[arg(long)]
    pub json_log: bool,
}

/// A process that was started.
pub(super) struct Child {
    pub pid: Pid,
    /// The supervisor's end of its socket.
    pub control: OwnedFd,
}

impl Child {
    /// Starts the host; it drops to `user` before it does anything else.
    pub(super) fn host(
        ours: OwnedFd,
        theirs: OwnedFd,
        user: &manifest::User,
        run_dir: &RunDir,
    ) -> anyhow::Result<Self> {
        let mut command = baton(HOST_COMMAND);
        command.args(["--control", &theirs.as_raw_fd().to_string()]);
        if nix::unistd::geteuid().is_root() {
            let (uid, gid) = ids(user)?;
            command.args(["--uid", &uid.to_string(), "--gid", &gid.to_string()]);
        }
        // A host that is stuck must not get the supervisor stuck as well.
        setsockopt(&ours, sockopt::SendTimeout, &TimeVal::seconds(SEND_TIMEOUT))?;
        Ok(Self { pid: spawn(command, &[&theirs, &run_dir.hold()?])?, control: ours })
    }

    /// Starts the pool daemon on its end of the socket to the host.
    pub(super) fn pool(
        to_host: OwnedFd,
        run_dir: &RunDir,
        log: manifest::LogFormat,
    ) -> anyhow::Result<Self> {
        let (ours, theirs) = baton_pool::protocol::channel()?;
        let mut command = baton(POOL_COMMAND);
        // It needs nothing of the environment but the log's filter.
        command
            .env_clear()
            .envs(std::env::var_os("BATON_LOG").map(|filter| ("BATON_LOG", filter)))
            .args(["--host", &to_host.as_raw_fd().to_string()])
            .args(["--control", &theirs.as_raw_fd().to_string()])
            .arg("--state")
            .arg(run_dir.pool()?)
            .args(["--cgroup", run_dir.cgroup()])
            .args((log == manifest::LogFormat::Json).then_some("--json-log"));
        let pid = spawn(command, &[&to_host, &theirs])?;
        baton_pool::daemon::stand_behind(pid.as_raw());
        Ok(Self { pid, control: ours })
    }

    pub(super) fn terminate(&self) {
        // It may have ended by itself meanwhile.
        let _ = kill(self.pid, Signal::SIGTERM);
    }

    pub(super) fn kill(&self) {
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    pub(super) fn is_alive(&self) -> bool {
        kill(self.pid, None).is_ok()
    }
}

fn baton(subcommand: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    // Signals of the terminal reach the supervisor alone, which passes them on in order.
    command.arg0("baton").arg(subcommand).process_group(0);
    command
}

/// Starts `command` with `inherited` open in it.
fn spawn(mut command: Command, inherited: &[&OwnedFd]) -> anyhow::Result<Pid> {
    // The supervisor has one thread: nobody else starts a process while the flags are off.
    set_all(inherited, FdFlag::empty())?;
    let child = command.spawn();
    set_all(inherited, FdFlag::FD_CLOEXEC)?;
    let child = child.context("cannot start a Baton process")?;
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}

fn set_all(descriptors: &[&OwnedFd], flag: FdFlag) -> nix::Result<()> {
    descriptors.iter().try_for_each(|fd| fcntl(fd, FcntlArg::F_SETFD(flag)).map(drop))
}

/// A user that the system does not know.
#[derive(Debug, thiserror::Error)]
#[error("host.user: this machine has no user {0:?}")]
pub struct UnknownUser(String);

/// The ids that the host runs with: those of `user`, or our own where we may not choose.
pub(super) fn host_ids(user: &manifest::User) -> Result<(u32, u32), UnknownUser> {
    match nix::unistd::geteuid().is_root() {
        true => ids(user),
        false => Ok((nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())),
    }
}

/// The ids of a user; one given by number need not be known to the system.
///
/// The last answer is kept: name services look in many places, and the host's user stays who it is.
pub(super) fn ids(user: &manifest::User) -> Result<(u32, u32), UnknownUser> {
    static LAST: Mutex<Option<(manifest::User, (u32, u32))>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((known, ids)) = &*last
        && known == user
    {
        return Ok(*ids);
    }
    let ids = look_up(user)?;
    *last = Some((user.clone(), ids));
    Ok(ids)
}

fn look_up(user: &manifest::User) -> Result<(u32, u32), UnknownUser> {
    match user {
        // Name services would be asked in vain at each start, and some are far away.
        manifest::User::Id(manifest::NOBODYS) => Ok((manifest::NOBODYS, manifest::NOBODYS)),
        manifest::User::Id(id) => {
            let known = User::from_uid((*id).into()).ok().flatten();
            Ok((*id, known.map_or(*id, |user| user.gid.as_raw())))
        }
        manifest::User::Name(name) => {
            let user = User::from_name(name).ok().flatten();
            let user = user.ok_or_else(|| UnknownUser(name.clone()))?;
            Ok((user.uid.as_raw(), user.gid.as_raw()))
        }
    }
}
