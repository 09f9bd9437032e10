//! A deployed revision of a function: what a request needs of it, and what it counts.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::cohort::Cohort;
use crate::egress::Egress;
use crate::gate::{Bounds, Gate};
use crate::manifest;
use crate::metrics::Counts;
use crate::scratch::Scratch;
use crate::tier::Tier;
use crate::tier::adaptive::Outlook;
use crate::tier::chooser::{Bounds as Sandboxes, Chooser};
use crate::verify::Guard;
use crate::wasm::{LoadError, Program, Source};

/// A function that is served.
pub struct Function {
    /// What the manifest says of it.
    pub spec: manifest::Function,
    /// What its traces call it.
    pub labels: Arc<Labels>,
    /// Bounds its requests.
    pub gate: Gate,
    /// Its requests that compute.
    pub cohort: Cohort,
    /// Its component, loaded or being loaded.
    pub component: Option<Component>,
    /// Its revision in the pool of sandboxes.
    pub native: Option<crate::native::Native>,
    /// Its way out, in both tiers.
    pub egress: Arc<Egress>,
    /// Places for the `/tmp` of its component's instances, if it has one.
    pub scratch: Option<Arc<Scratch>>,
    /// Compares its builds, where the manifest asks for that.
    pub guard: Option<Guard>,
    /// What is known of its tiers.
    pub chooser: Arc<Chooser>,
    /// What it has answered.
    pub counts: Arc<Counts>,
}

/// What the traces of a function's requests call it; they outlive the revision.
#[derive(Debug)]
pub struct Labels {
    /// Its name.
    pub name: Arc<str>,
    /// Its route as text, `http.route`.
    pub route: Arc<str>,
    /// The digest of its artifacts, which names the revision.
    pub digest: Arc<str>,
    /// The digest of the manifest of the image that its native build is from, if it is from one.
    pub image: Option<Arc<str>>,
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
        let labels = Labels {
            name: spec.name.as_str().into(),
            route: spec.route.to_string().into(),
            digest,
            image: native.as_ref().and_then(|native| native.image().cloned()),
        };
        let chooser = match &native {
            Some(native) => Arc::clone(native.chooser()),
            None => Arc::new(Chooser::new(NO_SANDBOXES, Instant::now())),
        };
        Self {
            chooser,
            guard: guard(&spec, native.is_some()),
            labels: Arc::new(labels),
            cohort: Cohort::new(limits.concurrency),
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

    /// What there is for one more request now.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        let native = self.native.as_ref().map(crate::native::Native::outlook);
        let baton_pool::schedule::Outlook { warm, parked, busy, starting, waiting, sandboxes } =
            native.unwrap_or_default();
        Outlook {
            warm,
            parked,
            busy,
            starting,
            waiting,
            sandboxes,
            wasm: self.has_wasm(),
            ..Outlook::default()
        }
    }

    /// Whether the component can answer now.
    #[must_use]
    pub fn has_wasm(&self) -> bool {
        self.component.as_ref().is_some_and(|component| matches!(component.get(), Some(Ok(_))))
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

/// Both builds must be there, and calls that must not be doubled must not be possible.
fn guard(spec: &manifest::Function, native: bool) -> Option<Guard> {
    let verify = &spec.verify;
    let both = native && spec.component.is_some() && spec.policy.uses_wasm();
    let connects = !spec.egress.allow.is_empty() && !verify.outbound;
    (verify.sample > 0.0 && both && !connects).then(|| Guard::new(verify.clone()))
}

/// Where there is no native tier.
const NO_SANDBOXES: Sandboxes =
    Sandboxes { concurrency: 1, max: 0, idle_timeout: Duration::from_secs(60), cores: 1 };

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
