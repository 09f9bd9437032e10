//! A deployed revision of a function: what a request needs of it, and what it counts.

use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use crate::egress::Egress;
use crate::gate::{Bounds, Gate};
use crate::manifest;
use crate::metrics::Counts;
use crate::scratch::Scratch;
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
    /// Its way out, in both tiers.
    pub egress: Arc<Egress>,
    /// Places for the `/tmp` of its component's instances, if it has one.
    pub scratch: Option<Arc<Scratch>>,
    /// What it has answered.
    pub counts: Arc<Counts>,
}

impl Function {
    /// A revision whose component, if it has one, is yet to be loaded.
    #[must_use]
    pub fn new(
        spec: manifest::Function,
        digest: Arc<str>,
        native: Option<crate::native::Native>,
        egress: Arc<Egress>,
        counts: Arc<Counts>,
        scratch: Option<Arc<Scratch>>,
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
            egress,
            counts,
            scratch,
            spec,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether a tier can answer its requests here.
    #[must_use]
    pub fn has(&self, tier: Tier) -> bool {
        match tier {
            Tier::Wasm => self.component.is_some(),
            Tier::Native => self.native.is_some(),
        }
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
