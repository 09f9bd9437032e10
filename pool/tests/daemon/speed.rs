//! How long a start takes: printed, not judged. Each measured start follows a rest, so that neither kind finds the
//! machine busy with what came before.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};

use crate::support::{Daemon, LIMITS, Run, get, server};

#[test]
#[ignore = "prints times, which a busy machine spoils; run by just test-pool-slow"]
fn parked_to_200_beside_posix_spawn() {
    let mut daemon = Daemon::start();
    let executable = File::open(server()).unwrap();
    let (mut parked, mut spawned, mut created) = (Vec::new(), Vec::new(), Vec::new());
    let rest = || std::thread::sleep(Duration::from_millis(20));
    for round in 1..=200 {
        let begun = Instant::now();
        let sandbox = daemon.park(round);
        created.push(begun.elapsed());
        rest();
        let begun = Instant::now();
        let function = sandbox.execute(&daemon.run, LIMITS, &executable).unwrap();
        assert_eq!(function.get("/").unwrap(), "hello");
        parked.push(begun.elapsed());
        daemon.remove(function.id);
        rest();
        spawned.push(spawn(&daemon.run, round));
    }
    for (name, times) in
        [("create", created), ("parked to 200", parked), ("posix_spawn to 200", spawned)]
    {
        println!("{name}: {}", summary(times));
    }
    daemon.end();
}

fn spawn(run: &Run, round: u64) -> Duration {
    let begun = Instant::now();
    let socket = run.state_root.join(format!("spawned-{round}.sock"));
    let listener = UnixListener::bind(&socket).unwrap();
    let (_output, inside) = UnixStream::pair().unwrap();
    let mut actions = PosixSpawnFileActions::init().unwrap();
    actions.add_dup2(listener.as_raw_fd(), 3).unwrap();
    actions.add_dup2(inside.as_raw_fd(), 1).unwrap();
    let attributes = PosixSpawnAttr::init().unwrap();
    let pid =
        posix_spawn(server(), &actions, &attributes, &[c"server"], &[c"LISTEN_FDS=1"]).unwrap();
    assert_eq!(get(&socket, "/").unwrap(), "hello");
    let taken = begun.elapsed();
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(pid, None).unwrap();
    taken
}

fn summary(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    format!("p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100])
}
