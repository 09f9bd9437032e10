//! The right of one request to use a sandbox, and the way to it.

use crate::client::Shared;
use crate::ice::Ice;
use crate::meter::Meter;
use crate::protocol::SandboxId;
use crate::reason::Reason;
use crate::schedule::Event;
use crate::way::{Stream, Way};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, SetOnce};
use tokio::time::timeout;

/// How long the daemon's word about a sandbox that it has removed may be on its way.
const WORD_MAX: Duration = Duration::from_secs(1);

/// How long after the connections of a sandbox its end may be heard of.
const BREAK_MAX: Duration = Duration::from_millis(100);

/// One phase of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// `create`, `activate` or `ready`, or a part of one as in `create/clone`.
    pub name: String,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
}

/// How to reach the function in one sandbox. `C` is the host's idea of a connection kept alive.
#[derive(Debug)]
pub(crate) struct Endpoint<C> {
    pub(crate) id: SandboxId,
    pub(crate) pid: u32,
    pub(crate) meter: Meter,
    pub(crate) way: Way,
    /// What was connected first, before the function started where it inherits its listener.
    pub(crate) first: Mutex<Option<Stream>>,
    /// At most as many as it may have requests at once.
    pub(crate) idle: Mutex<Vec<C>>,
    pub(crate) idle_max: usize,
    pub(crate) phases: Vec<Phase>,
    pub(crate) ice: Ice,
    /// A request was answered.
    pub(crate) answered: Notify,
    /// Why it ended, once nothing is left of it.
    pub(crate) end: SetOnce<Reason>,
}

impl<C> Endpoint<C> {
    /// Closes the connections that earlier requests left.
    pub(crate) fn drop_idle(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        drop(idle);
    }

    pub(crate) fn first_is_taken(&self) -> bool {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    pub(crate) fn take_first(&self) -> Option<Stream> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A sandbox for one request. [`Lease::release`] it in order; dropped otherwise, the sandbox counts
/// as tainted: it finishes its other requests and is removed.
pub struct Lease<C: Send + 'static> {
    shared: Arc<Shared<C>>,
    endpoint: Arc<Endpoint<C>>,
    cold: bool,
    thawed: Option<Phase>,
    in_order: bool,
}

impl<C: Send + 'static> Lease<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>, endpoint: Arc<Endpoint<C>>, cold: bool) -> Lease<C> {
        let thawed = endpoint.ice.thaw().unwrap_or_else(|error| {
            // Then it is gone, which whoever connects will see.
            tracing::debug!(%error, sandbox = %endpoint.id, "cannot thaw a sandbox");
            None
        });
        Lease { shared, endpoint, cold, thawed, in_order: false }
    }

    /// Which sandbox.
    pub fn id(&self) -> SandboxId {
        self.endpoint.id
    }

    /// Its init, as the daemon sees it.
    pub fn pid(&self) -> u32 {
        self.endpoint.pid
    }

    /// A new connection to the function; the first caller gets the one by which it
    /// was seen to accept.
    ///
    /// # Errors
    /// When nobody listens there any more.
    pub async fn connect(&self) -> io::Result<Stream> {
        match self.endpoint.take_first() {
            Some(stream) => Ok(stream),
            None => self.endpoint.way.connect(&self.shared, self.endpoint.id).await,
        }
    }

    /// Waits until the function has accepted `stream`, to which nothing was written yet. A TCP
    /// connection is the kernel's until then, who does not say; it counts as accepted.
    ///
    /// # Errors
    /// When it never will, since the function is gone.
    pub async fn accepted(&self, stream: &Stream) -> io::Result<()> {
        match stream {
            Stream::Unix(stream) => match crate::warm::accepted(stream).await {
                Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
                    tracing::warn!(%error, sandbox = %self.id(), "cannot see whether a function accepts");
                    Ok(())
                }
                seen => seen,
            },
            Stream::Tcp(_) => Ok(()),
        }
    }

    /// A connection that an earlier request left, the last one left first.
    pub fn take_idle(&self) -> Option<C> {
        self.idle().pop()
    }

    /// Leaves a connection to the next request; one more than could be used at once is dropped.
    pub fn put_idle(&self, connection: C) {
        let mut idle = self.idle();
        if idle.len() < self.endpoint.idle_max {
            idle.push(connection);
        }
    }

    /// This request waited for the function to start.
    pub fn was_cold(&self) -> bool {
        self.cold
    }

    /// The sandbox was frozen and had to be thawed for this request.
    pub fn thawed(&self) -> Option<&Phase> {
        self.thawed.as_ref()
    }

    /// Why the sandbox ends or has ended, waited for a moment: its connections break before the pool hears of it.
    pub async fn ended(&self) -> Option<Reason> {
        if self.ending().is_none() {
            // What it waits for is the last that becomes known.
            let _ = timeout(BREAK_MAX, self.endpoint.end.wait()).await;
        }
        self.ending()
    }

    /// Reads what the sandbox uses.
    pub fn meter(&self) -> Meter {
        self.endpoint.meter.clone()
    }

    /// Why the sandbox ends, if the pool has decided so by now, or why it has ended.
    pub fn ending(&self) -> Option<Reason> {
        self.shared.ending(self.endpoint.id).or_else(|| self.endpoint.end.get().cloned())
    }

    /// Whether the kernel killed a process of the sandbox for want of memory: to be asked when a request
    /// has failed in it. Its control group says so before the request can know that anything happened; once
    /// that is removed, the daemon's word is on its way, which is waited for.
    pub async fn ran_out_of_memory(&self) -> bool {
        if let Some(kills) = self.shared.oom_kills(self.endpoint.id) {
            return kills > 0;
        }
        let told = timeout(WORD_MAX, self.endpoint.end.wait()).await;
        told.is_ok_and(|reason| *reason == Reason::OutOfMemory)
    }

    /// How the sandbox came to be, up to the handing over of the function.
    pub fn phases(&self) -> &[Phase] {
        &self.endpoint.phases
    }

    /// Gives the sandbox back, fit for the next request.
    pub fn release(mut self) {
        self.in_order = true;
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<C>> {
        self.endpoint.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Send + 'static> Drop for Lease<C> {
    fn drop(&mut self) {
        let id = self.endpoint.id;
        self.shared.tell(if self.in_order { Event::Release(id) } else { Event::Taint(id) });
        self.endpoint.answered.notify_one();
    }
}

impl<C: Send + 'static> fmt::Debug for Lease<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Lease")
            .field("id", &self.endpoint.id)
            .field("pid", &self.endpoint.pid)
            .field("cold", &self.cold)
            .finish_non_exhaustive()
    }
}
