//! Sockets of a sandbox's network, used from outside it.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use baton_pool::protocol::{Question, SandboxId, ToDaemon};
use rustix::event::{PollFd, PollFlags, poll};

use crate::support::{Daemon, LIMITS};

/// A port that nobody on this machine needs to have; each sandbox has its own.
const PORT: u16 = 3128;

fn clients(daemon: &mut Daemon, id: u64, count: u8) -> Result<Vec<OwnedFd>, String> {
    daemon.ask(SandboxId(id), Question::Clients { count })
}

/// Connects a socket that does not wait.
fn connect(socket: OwnedFd) -> std::io::Result<TcpStream> {
    match rustix::net::connect(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))) {
        Err(rustix::io::Errno::INPROGRESS) => {
            poll(&mut [PollFd::new(&socket, PollFlags::OUT)], None)?;
        }
        connected => connected?,
    }
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.take_error()?.map_or(Ok(stream), Err)
}

#[test]
fn the_host_accepts_what_a_function_connects_to_on_its_loopback() {
    let mut daemon = Daemon::start();
    daemon.tell(&ToDaemon::Create { id: SandboxId(1), scratch: 0, egress: Some(PORT) });
    let mut sandbox = daemon.parked();
    let egress = TcpListener::from(sandbox.parked.take_egress().unwrap());
    let function = sandbox.activate(&daemon.run, LIMITS);
    assert_eq!(function.get(&format!("/connect/127.0.0.1:{PORT}")).unwrap(), "connected");
    let mut said = String::new();
    egress.accept().unwrap().0.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello");
    daemon.end();
}

#[test]
fn without_a_listener_a_function_reaches_nothing() {
    let mut daemon = Daemon::start();
    let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = outside.local_addr().unwrap();
    let function = daemon.park(1).activate(&daemon.run, LIMITS);
    assert_eq!(
        function.get(&format!("/connect/{address}")).unwrap(),
        "Network is unreachable (os error 101)"
    );
    clients(&mut daemon, 1, 1).unwrap();
    assert_eq!(
        function.get(&format!("/connect/{address}")).unwrap(),
        "Connection refused (os error 111)",
        "its loopback is up now, and it is its own"
    );
    daemon.end();
}

#[test]
fn the_host_connects_to_a_function_that_listens_on_its_loopback() {
    let mut daemon = Daemon::start();
    let function = daemon.park(1).activate(&daemon.run, LIMITS);
    let mut sockets = clients(&mut daemon, 1, 3).unwrap();
    assert_eq!(sockets.len(), 3);
    let refused = connect(sockets.pop().unwrap()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(function.get(&format!("/listen/127.0.0.1:{PORT}")).unwrap(), "listening");
    let mut said = String::new();
    connect(sockets.pop().unwrap()).unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello");
    daemon.end();
}

#[test]
fn the_networks_of_two_sandboxes_are_not_connected() {
    let mut daemon = Daemon::start();
    let listening = daemon.park(1).activate(&daemon.run, LIMITS);
    let _other = daemon.park(2);
    clients(&mut daemon, 1, 1).unwrap();
    assert_eq!(listening.get(&format!("/listen/0.0.0.0:{PORT}")).unwrap(), "listening");
    let other = clients(&mut daemon, 2, 1).unwrap().pop().unwrap();
    assert_eq!(connect(other).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    daemon.end();
}

#[test]
fn what_is_asked_of_a_sandbox_that_is_not_there_is_answered() {
    let mut daemon = Daemon::start();
    assert_eq!(clients(&mut daemon, 7, 1).unwrap_err(), "no such sandbox lives");
    daemon.end();
}
