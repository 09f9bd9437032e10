//! The `baton` command. See `baton --help`.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use baton::artifact::{self, Precompiled};
use baton::cli::{Cli, Command, HostArguments};
use baton::handover::Handover;
use baton::log::{self, Writing};
use baton::manifest::LogFormat;
use baton::manifest::{Faults, Manifest};
use baton::supervisor::{self, PoolArguments};
use baton::verify::offline;
use baton::{ask, compile, doctor, explain, host, supported, top};
use clap::Parser as _;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use tikv_jemallocator::Jemalloc;
use tracing_appender::non_blocking::WorkerGuard;
use wasmtime::PoolingAllocationConfig;

/// For memory: of hyper's buffers, mostly empty, it leaves the second page untouched, where glibc's pieces share pages
/// with their neighbours (`just bench wasm --only memory`).
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Usage or configuration.
const MISUSE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let misuse = error.is::<Faults>() || error.is::<supervisor::Misuse>();
            say(&format!("baton: {error:#}"));
            if misuse { ExitCode::from(MISUSE) } else { ExitCode::FAILURE }
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(arguments) => {
            start_log(LogFormat::Text, Writing::Directly);
            let read = || Ok(arguments.manifest().map_err(supervisor::Misuse::Arguments)?);
            serve(&read, arguments.precompiled(), arguments.watch(), &arguments.places())
        }
        Command::Serve(arguments) => {
            let read = || {
                let manifest = Manifest::read(&arguments.config)?;
                start_log(manifest.host.log, Writing::Directly);
                Ok(manifest)
            };
            serve(&read, arguments.precompiled(), arguments.watch(), &arguments.places())
        }
        Command::Check(arguments) => {
            let manifest = Manifest::read(&arguments.config)?;
            inspect(&manifest, arguments.precompiled())?;
            let functions = match manifest.functions.len() {
                1 => "1 function".to_owned(),
                many => format!("{many} functions"),
            };
            answer(&format!("{}: {functions}, no faults", arguments.config.display()));
            Ok(())
        }
        Command::Compile(arguments) => compile::compile(&arguments, &answer),
        Command::Explain(arguments) => {
            let document = explain::ask(&arguments.admin, &arguments.function)?;
            match arguments.json {
                true => answer(&serde_json::to_string_pretty(&document)?),
                false => answer(explain::render(&document).trim_end()),
            }
            Ok(())
        }
        Command::Verify(arguments) => {
            let program = std::env::current_exe()?;
            let (function, within) = (arguments.function()?, std::env::temp_dir());
            let report = offline::verify(&program, &within, &function, &arguments.requests)?;
            answer(&report.text);
            anyhow::ensure!(report.differed == 0, "the two builds answer differently");
            Ok(())
        }
        Command::Doctor => {
            answer(&doctor::report());
            Ok(())
        }
        Command::Trace(arguments) => {
            answer(ask::trace(&arguments.admin, arguments.id.as_deref())?.trim_end());
            Ok(())
        }
        Command::Top(arguments) => top::run(&arguments.admin),
        Command::HostProcess(arguments) => host_process(&arguments),
        Command::PoolDaemon(arguments) => pool_daemon(arguments),
    }
}

fn serve(
    read: &dyn Fn() -> anyhow::Result<Manifest>,
    precompiled: Precompiled,
    watch: bool,
    places: &supervisor::Places,
) -> anyhow::Result<()> {
    let inspect = |manifest: &Manifest| inspect(manifest, precompiled);
    let origin = supervisor::Origin { read, inspect: &inspect, watch };
    supervisor::run(origin, places, &std::env::vars().collect())
}

/// Looks at everything that the manifest names, and answers all faults at once.
fn inspect(
    manifest: &Manifest,
    precompiled: Precompiled,
) -> Result<Vec<Option<artifact::Component>>, Faults> {
    let checked = artifact::check(manifest, precompiled);
    let mut faults = supported::check(manifest);
    if let Err(found) = &checked {
        faults.extend(found.iter().cloned());
    }
    match manifest.source.faults(faults) {
        Some(faults) => Err(faults),
        None => checked,
    }
}

/// The host process: drops its privileges, then takes over what the supervisor hands it.
fn host_process(arguments: &HostArguments) -> anyhow::Result<()> {
    take_signals()?;
    if let (Some(uid), Some(gid)) = (arguments.uid, arguments.gid) {
        drop_privileges(uid, gid)?;
    }
    let control = inherited(arguments.control)?;
    let handover = Handover::receive(&control)?;
    // Requests must not wait for whoever reads the log.
    let _flushes = start_log(handover.manifest.host.log, Writing::Aside);
    raise_descriptors()?;
    let environment = std::env::vars().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("baton-host")
        .build()?;
    let ended = runtime.block_on(host::run(handover, control, &environment));
    // A component that is still being compiled holds nobody up.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ended
}

/// The pool daemon; it must not have had a thread before.
fn pool_daemon(arguments: PoolArguments) -> anyhow::Result<()> {
    let format = if arguments.json_log { LogFormat::Json } else { LogFormat::Text };
    start_log(format, Writing::Directly);
    take_signals()?;
    let (host, supervisor) = (inherited(arguments.host)?, inherited(arguments.control)?);
    let config = baton_pool::daemon::Config {
        state: arguments.state,
        cgroup_parent: arguments.cgroup,
        workers: POOL_WORKERS,
        uids: sandbox_users(std::process::id()),
    };
    Ok(baton_pool::daemon::run(config, host, supervisor)?)
}

/// Sandboxes made at once.
const POOL_WORKERS: usize = 2;

/// Outside users for the sandboxes of one daemon, two each. The numbers from 0x7000_0000 belong to
/// nobody by systemd's map of users and groups; each daemon takes a slice of its own by its id, so
/// that two Batons share quotas only when their ids are a multiple of 4,096 apart.
fn sandbox_users(pid: u32) -> std::ops::Range<u32> {
    const FIRST: u32 = 0x7000_0000;
    const SLICE: u32 = 0x1_0000;
    const SLICES: u32 = 0x1000;
    let start = FIRST + (pid % SLICES) * SLICE;
    start..start + SLICE
}

/// A child inherits the signals that the supervisor blocks.
fn take_signals() -> nix::Result<()> {
    SigSet::all().thread_unblock()
}

fn drop_privileges(uid: u32, gid: u32) -> nix::Result<()> {
    nix::unistd::setgroups(&[])?;
    nix::unistd::setgid(gid.into())?;
    nix::unistd::setuid(uid.into())?;
    prctl::set_no_new_privs()?;
    find_pagemap()
}

/// Lets this process have as many descriptors as it may: clients, and for each sandbox up to twenty and
/// one for each connection. It starts no process that would inherit that.
fn raise_descriptors() -> nix::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
}

/// Has Wasmtime open `/proc/self/pagemap`, which tells it the pages that a guest has written, so that
/// a used instance is cleaned page by page instead of as a whole.
///
/// Whoever changed its user is not dumpable, and the file belongs to root then: so the process is for
/// as long as the opening takes.
fn find_pagemap() -> nix::Result<()> {
    let dumpable = prctl::get_dumpable()?;
    prctl::set_dumpable(true)?;
    // It stays open from the first look on; an old kernel has none.
    PoolingAllocationConfig::is_pagemap_scan_available();
    prctl::set_dumpable(dumpable)
}

fn inherited(fd: RawFd) -> anyhow::Result<OwnedFd> {
    anyhow::ensure!(fd > 2, "this command is only for Baton itself");
    #[expect(unsafe_code, reason = "a descriptor from the supervisor is only known by its number")]
    // SAFETY: the supervisor opened it for this process, and nothing else here uses it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

/// Only this program reads the environment.
fn start_log(format: LogFormat, writing: Writing) -> Option<WorkerGuard> {
    log::start(format, std::env::var("BATON_LOG").ok().as_deref(), writing)
}

#[expect(clippy::print_stdout, reason = "what a command answers belongs on standard output")]
fn answer(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "why a command failed belongs on standard error")]
fn say(text: &str) {
    eprintln!("{text}");
}
