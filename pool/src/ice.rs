//! The freezer of one running sandbox, as whoever freezes and whoever needs it share it.
//!
//! The schedule decides, and later somebody acts; in between the sandbox may have been leased. So
//! freezing asks again under the lock whether it is still wanted, and thawing, which happens after
//! the schedule has said that the sandbox is in use, waits for the same lock: what is in use is
//! never left frozen.

use crate::activation::Freezer;
use crate::lease::Phase;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

#[derive(Debug)]
pub(crate) struct Ice(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// A kernel without a freezer has none; its sandboxes run on.
    freezer: Option<Freezer>,
    frozen: bool,
}

impl Ice {
    pub(crate) fn new(freezer: Option<Freezer>) -> Ice {
        Ice(Mutex::new(Inner { freezer, frozen: false }))
    }

    /// Stops the sandbox if it is not stopped and `wanted` says, at the last moment, that it should be.
    pub(crate) fn freeze(&self, wanted: impl FnOnce() -> bool) -> io::Result<Option<Phase>> {
        self.switch(true, "freeze", wanted)
    }

    /// Lets it continue if it was stopped.
    pub(crate) fn thaw(&self) -> io::Result<Option<Phase>> {
        self.switch(false, "thaw", || true)
    }

    fn switch(
        &self,
        frozen: bool,
        name: &str,
        wanted: impl FnOnce() -> bool,
    ) -> io::Result<Option<Phase>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.frozen == frozen || !wanted() {
            return Ok(None);
        }
        let Some(freezer) = &inner.freezer else { return Ok(None) };
        let start = SystemTime::now();
        if frozen { freezer.freeze() } else { freezer.thaw() }?;
        inner.frozen = frozen;
        Ok(Some(Phase { name: name.to_owned(), start, end: SystemTime::now() }))
    }
}
