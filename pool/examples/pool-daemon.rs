//! The pool daemon as a program of its own, for this crate's tests: `pool-daemon STATE CGROUP WORKERS UID..UID`,
//! with the host's socket as standard input and the supervisor's as standard output.

use std::error::Error;
use std::fs::File;
use std::os::fd::AsFd;
use std::process::ExitCode;

use baton_pool::daemon::{Config, run};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut line = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                line = format!("{line}: {error}");
                cause = error.source();
            }
            // The test that started it shows this.
            let _ =
                std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Box<dyn Error>> {
    let [_, state, cgroup_parent, workers, first_uid, end_uid]: [String; 6] = std::env::args()
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| "usage: pool-daemon STATE CGROUP WORKERS UID UID")?;
    let host = std::io::stdin().as_fd().try_clone_to_owned()?;
    // Whoever is forked later must not hold this socket, or the daemon's death would not be seen.
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    let supervisor = std::io::stdout().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdout(File::open("/dev/null")?)?;
    let config = Config {
        state: state.into(),
        cgroup_parent,
        workers: workers.parse()?,
        uids: first_uid.parse()?..end_uid.parse()?,
    };
    Ok(run(config, host, supervisor)?)
}
