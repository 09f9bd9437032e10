//! Real sandboxes, made by a real daemon, as root.

mod support;

use baton_pool::protocol::FromDaemon;
use support::{Daemon, LIMITS};

#[test]
fn a_parked_sandbox_serves_after_activation() {
    let mut daemon = Daemon::start();
    let function = daemon.park(1).activate(&daemon.run, LIMITS);
    assert_eq!(function.get("/").unwrap(), "hello");
    let gone = daemon.remove(function.id);
    assert!(matches!(gone, FromDaemon::Gone { .. }), "{gone:?}");
    daemon.end();
}
