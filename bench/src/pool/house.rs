//! A pool with a daemon, as the host has one.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use baton_pool::activation::{Limits, Program};
use baton_pool::client::{Pool, PoolConfig};
use baton_pool::daemon::sweep::{RunLock, sweep};
use baton_pool::lease::Lease;
use baton_pool::protocol::{self, Root};
use baton_pool::schedule::{Cause, Counts, FunctionId, KeepAlive, Statistics};
use baton_pool::spec::{FunctionSpec, Listen};
use baton_pool::way::Stream;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::mount::{OpenTreeFlags, open_tree};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::Start;
use super::place::Place;
use crate::baton::program;

/// What every function here may use.
pub(super) const LIMITS: Limits =
    Limits { memory: 64 << 20, cpu: 1.0, pids: 32, descriptors: 1024 };

const RUN: &str = "run";

/// Past this something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pool daemon; ended with all that it made when [`Daemon::end`] is called and its socket closed.
pub(super) struct Daemon {
    process: Pid,
    state: PathBuf,
    cgroup: String,
    lock: RunLock,
    supervisor: OwnedFd,
}

impl Daemon {
    /// One of `target/release/baton`, and the socket to it.
    pub(super) fn start(place: &Place, name: &str) -> anyhow::Result<(Self, OwnedFd)> {
        let (inside, host) = protocol::channel()?;
        let (control, supervisor) = protocol::channel()?;
        let (state, cgroup) = (place.path().join(name), format!("{}/{name}", place.cgroup));
        let lock = RunLock::claim(&state, RUN)?;
        let program = program();
        let (state_dir, group) = (state.join(RUN), format!("{cgroup}/{RUN}"));
        let arguments = format!("baton pool-daemon --host 3 --control 4 --cgroup {group} --state");
        let mut arguments: Vec<CString> =
            arguments.split(' ').map(CString::new).collect::<Result<_, _>>()?;
        arguments.push(CString::new(state_dir.as_os_str().as_bytes())?);
        let mut actions = PosixSpawnFileActions::init()?;
        // Both are past 4 by now; otherwise one could take the other's place.
        let above = |fd: OwnedFd| rustix::io::fcntl_dupfd_cloexec(&fd, 10);
        let (inside, control) = (above(inside)?, above(control)?);
        actions.add_dup2(inside.as_raw_fd(), 3)?;
        actions.add_dup2(control.as_raw_fd(), 4)?;
        let (attributes, environment) = (PosixSpawnAttr::init()?, [c"PATH=/usr/bin"]);
        let process =
            posix_spawn(program.as_path(), &actions, &attributes, &arguments, &environment)
                .with_context(|| format!("cannot start {}", program.display()))?;
        Ok((Self { process, state, cgroup, lock, supervisor }, host))
    }

    /// Waits for its end, and removes what it needed.
    pub(super) fn end(self) -> anyhow::Result<()> {
        let ended = waitpid(self.process, None)?;
        let well = matches!(ended, WaitStatus::Exited(_, 0));
        anyhow::ensure!(well, "the pool daemon ended with {ended:?}");
        drop(self.lock);
        let (_, failed) = sweep(&self.state, &self.cgroup);
        anyhow::ensure!(failed.is_empty(), "cannot remove {failed:?}");
        Ok(())
    }
}

pub(super) struct House {
    pub(super) pool: Pool<Stream>,
    daemon: Daemon,
    tasks: JoinSet<()>,
    parked: usize,
}

impl House {
    pub(super) async fn start(place: &Place, name: &str, parked: usize) -> anyhow::Result<Self> {
        let (daemon, socket) = Daemon::start(place, name)?;
        let sockets = daemon.state.join("sockets");
        fs::create_dir(&sockets)?;
        let config =
            PoolConfig { parked, memory: 1 << 33, creating_max: 4, waiters_max: 64, sockets };
        let (pool, driver) = Pool::start(config, Arc::new(|_| {}));
        let mut tasks = JoinSet::new();
        tasks.spawn(driver);
        pool.connect(socket);
        let house = Self { pool, daemon, tasks, parked };
        house.at_rest().await?;
        Ok(house)
    }

    /// The server as a function, of which an idle sandbox is frozen after so long.
    pub(super) fn add(&self, freeze_after: Duration) -> anyhow::Result<FunctionId> {
        let program = Program::Executable(File::open(Place::server())?.into());
        self.add_program(program, None, freeze_after)
    }

    /// The same server, linked dynamically, out of a root file system with its libraries.
    pub(super) fn add_rooted(&self, place: &Place) -> anyhow::Result<FunctionId> {
        let directory = place.root()?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(rustix::fs::CWD, &directory, flags)?;
        let root = Root { number: 1, socket: None };
        protocol::send(&self.daemon.supervisor, &root, &[tree.as_fd()])?;
        let program = Program::Path { path: c"/server".to_owned(), directory: c"".to_owned() };
        self.add_program(program, Some(root.number), Duration::from_secs(86_400))
    }

    fn add_program(
        &self,
        program: Program,
        root: Option<u32>,
        freeze_after: Duration,
    ) -> anyhow::Result<FunctionId> {
        Ok(self.pool.add(FunctionSpec {
            name: "hello".into(),
            program,
            root,
            listen: Listen::Inherited,
            argv: vec![CString::new("hello")?],
            env: Vec::new(),
            limits: LIMITS,
            scratch: 0,
            egress: None,
            min: 0,
            max: 1,
            concurrency: 1,
            idle_timeout: Duration::from_secs(86_400),
            keep_alive: KeepAlive::Fixed,
            freeze_after,
            start_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(1),
        }))
    }

    async fn lease(&self, function: FunctionId) -> anyhow::Result<Lease<Stream>> {
        Ok(self.pool.lease(function, Cause::default()).await?)
    }

    /// Waits until all is made that is kept, and all removed that is not.
    async fn at_rest(&self) -> anyhow::Result<()> {
        let rests = |counts: &Counts| {
            let Counts { creating, parked, starting, draining, removing, .. } = *counts;
            creating + starting + draining + removing == 0 && parked == self.parked
        };
        let rested = self.pool.until(|it| it.ready && rests(&it.total));
        tokio::time::timeout(PATIENCE, rested).await.context("the pool comes to no rest")?;
        Ok(())
    }

    pub(super) async fn warm_up(&self, function: FunctionId) -> anyhow::Result<()> {
        let lease = self.lease(function).await?;
        get(&mut lease.connect().await?).await?;
        lease.release();
        self.at_rest().await
    }

    /// Starts the function in a sandbox that ends afterwards.
    pub(super) async fn fresh(&self, place: &Place, function: FunctionId) -> anyhow::Result<Start> {
        let mut held = None;
        let start = place.measure(async {
            let lease = held.insert(self.lease(function).await?);
            Ok(get(&mut lease.connect().await?).await?)
        });
        let start = start.await?;
        // Dropped without a release: its sandbox is removed.
        drop(held);
        self.at_rest().await?;
        Ok(start)
    }

    /// Asks a function whose sandbox is there.
    pub(super) async fn again(
        &self,
        place: &Place,
        function: FunctionId,
        frozen: bool,
    ) -> anyhow::Result<Start> {
        let there = |it: &Statistics| {
            it.functions.get(&function).is_some_and(|of| (of.frozen == 1) == frozen)
        };
        self.pool.until(there).await;
        place
            .measure(async {
                let lease = self.pool.try_lease(function).context("the sandbox is gone")?;
                anyhow::ensure!(lease.thawed().is_some() == frozen, "it was not as it should be");
                let mut connection = match lease.take_idle() {
                    Some(connection) => connection,
                    None => lease.connect().await?,
                };
                get(&mut connection).await?;
                lease.put_idle(connection);
                lease.release();
                Ok(())
            })
            .await
    }

    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        self.pool.shutdown().await;
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        drop(self.pool);
        self.daemon.end()
    }
}

/// Asks over a connection that stays usable, until the whole answer, a 200, is there.
pub(super) async fn get(connection: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    connection.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n").await?;
    let (mut answer, mut length) = ([0; 4096], 0);
    loop {
        match connection.read(&mut answer[length..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => length += read,
        }
        if is_whole(&answer[..length])? {
            return Ok(());
        }
    }
}

/// As [`get`] where nothing is to be kept and nobody else waits.
pub(super) fn get_once(socket: &Path) -> io::Result<()> {
    use std::io::{Read as _, Write as _};
    let mut connection = std::os::unix::net::UnixStream::connect(socket)?;
    connection.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    match is_whole(&answer)? {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn is_whole(answer: &[u8]) -> io::Result<bool> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(answer).map_err(io::Error::other)?;
    let httparse::Status::Complete(head) = parsed else { return Ok(false) };
    if response.code != Some(200) {
        return Err(io::Error::other(format!("answered {:?}", response.code)));
    }
    let length = response.headers.iter().find(|it| it.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|it| std::str::from_utf8(it.value).ok()?.parse::<usize>().ok());
    Ok(length.is_some_and(|length| answer.len() >= head + length))
}
