//! A deployed revision of a function: what a request needs of it, and what it counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use crate::gate::{Bounds, Gate};
use crate::manifest;
use crate::tier::Tier;
use crate::wasm::{LoadError, Program, Source};

/// A function that is served.
pub struct Function {
    /// What the manifest says of it.
    pub spec: manifest::Function,
    /// Its route as text, `http.route`.
    pub route: String,
    /// The digest of its artifacts, which names the revision.
    pub digest: Arc<str>,
    /// Bounds its requests.
    pub gate: Gate,
    /// Its component, loaded or being loaded.
    pub component: Option<Component>,
    /// Its revision in the pool of sandboxes.
    pub native: Option<crate::native::Native>,
    /// What it has answered.
    pub counts: Counts,
}

impl Function {
    /// A revision whose component, if it has one, is yet to be loaded.
    #[must_use]
    pub fn new(
        spec: manifest::Function,
        digest: Arc<str>,
        native: Option<crate::native::Native>,
    ) -> Self {
        let limits = spec.limits;
        Self {
            route: spec.route.to_string(),
            digest,
            gate: Gate::new(Bounds {
                concurrency: limits.concurrency,
                queue: limits.queue,
                queue_timeout: limits.queue_timeout,
            }),
            component: (spec.component.is_some() && spec.policy.uses_wasm())
                .then(Component::default),
            native,
            counts: Counts::default(),
            spec,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }
}

/// A component on its way into memory.
#[derive(Default)]
pub struct Component {
    loaded: OnceLock<Result<Loaded, LoadError>>,
    arrived: Notify,
}

/// A component in memory.
pub struct Loaded {
    /// The component, ready to be instantiated.
    pub program: Program,
    /// Where its machine code came from.
    pub source: Source,
}

impl Component {
    /// Ends the loading.
    pub fn set(&self, loaded: Result<Loaded, LoadError>) {
        // The one loader sets it once; a second result could only be the same.
        let _ = self.loaded.set(loaded);
        self.arrived.notify_waiters();
    }

    /// The component if it is in memory already.
    pub fn get(&self) -> Option<&Result<Loaded, LoadError>> {
        self.loaded.get()
    }

    /// The component, once it is in memory.
    pub async fn wait(&self) -> &Result<Loaded, LoadError> {
        loop {
            let arrived = self.arrived.notified();
            if let Some(loaded) = self.loaded.get() {
                return loaded;
            }
            arrived.await;
        }
    }
}

/// Requests by the tier that answered them.
#[derive(Default)]
pub struct Counts {
    wasm: AtomicU64,
    native: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    /// Counts a request that ended.
    pub fn add(&self, tier: Option<Tier>, failed: bool) {
        let counter = match tier {
            Some(Tier::Wasm) => &self.wasm,
            Some(Tier::Native) => &self.native,
            None => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `(wasm, native, refused, failed)`.
    pub fn read(&self) -> (u64, u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.wasm), read(&self.native), read(&self.refused), read(&self.failed))
    }
}
