//! Revisions of functions, and how they take each other's place while requests flow.
//!
//! ```text
//! at the start: deploy ─▶ served, its components loaded beside
//! later:        deploy ─▶ components loaded ─▶ swapped in, whole
//!                                └─ one cannot be served ─▶ nothing changes
//! ```
//! A revision is a function's settings and the digest of its artifacts. One that stays the same
//! keeps its component, counters and sandboxes; one that is replaced serves the requests that found
//! it in the table, and its sandboxes are retired when the last of them has let it go.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::task::TaskTracker;

use crate::egress::{Egress, system_resolver};
use crate::function::Function;
use crate::handover::{Artifact, Deployment, Handover};
use crate::host::Functions;
use crate::load::{Code, Loader};
use crate::manifest;
use crate::native::Sandboxing;
use crate::observer::Observer;
use crate::scratch::Scratch;
use crate::wasm::Slots;

/// Instances that an engine's pool holds at most, whatever the functions' limits add up to.
const INSTANCES_MAX: usize = 1_000;

/// Makes revisions of what the supervisor hands over.
pub struct Deployer {
    sandboxing: Option<Arc<Sandboxing>>,
    observer: Arc<Observer>,
    cache: Option<(OwnedFd, u64)>,
    headers: usize,
    tasks: TaskTracker,
    loader: Arc<Loader>,
    slots: Slots,
}

/// A function whose component is to be loaded, with the component.
type Loading = Vec<(Arc<Function>, Code)>;

/// A table of functions, some of whose components are yet to be loaded.
pub struct Plan {
    /// The table.
    pub functions: Functions,
    loader: Arc<Loader>,
    loading: Loading,
    changes: Changes,
}

/// What a new table is to the one before, in names of functions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New ones.
    pub added: Vec<String>,
    /// Those with another revision.
    pub replaced: Vec<String>,
    /// Those that are no more.
    pub removed: Vec<String>,
}

impl Deployer {
    /// A deployer whose engine holds the instances of the first functions.
    ///
    /// # Errors
    /// When the machine cannot reserve that much.
    pub fn new(
        handover: &Handover,
        sandboxing: Option<Arc<Sandboxing>>,
        observer: Arc<Observer>,
        tasks: &TaskTracker,
    ) -> anyhow::Result<Self> {
        let manifest::Host { cache, headers, .. } = &handover.manifest.host;
        let dir = handover.cache.as_ref().map(OwnedFd::try_clone).transpose()?;
        let cache = dir.map(|dir| (dir, cache.size.0));
        let headers = usize::try_from(headers.0)?;
        let slots = slots(&handover.functions)?;
        let loader = loader(slots, cache.as_ref(), headers, &observer)?;
        Ok(Self { sandboxing, observer, cache, headers, tasks: tasks.clone(), loader, slots })
    }

    /// The table of `deployments`, with the revisions of `current` that stay the same.
    ///
    /// # Errors
    /// When a native build cannot be deployed, or new bounds cannot be reserved.
    pub fn deploy(
        &mut self,
        deployments: &[Deployment],
        current: &Functions,
    ) -> anyhow::Result<Plan> {
        self.grow(slots(deployments)?)?;
        let mut loading = Vec::new();
        let mut list = Vec::new();
        for deployment in deployments {
            let same = |function: &&Arc<Function>| {
                function.spec == deployment.spec && *function.labels.digest == deployment.digest
            };
            if let Some(kept) = current.list().iter().find(same) {
                list.push(Arc::clone(kept));
                continue;
            }
            let (function, code) = self.revision(deployment)?;
            loading.extend(code.map(|code| (Arc::clone(&function), code)));
            list.push(function);
        }
        let changes = Changes::between(current.list(), &list);
        let loader = Arc::clone(&self.loader);
        Ok(Plan { functions: Functions::new(list), loader, loading, changes })
    }

    fn revision(&self, deployment: &Deployment) -> anyhow::Result<(Arc<Function>, Option<Code>)> {
        let spec = &deployment.spec;
        let egress =
            Egress::new(spec.egress.clone(), self.headers, system_resolver(), &self.tasks).into();
        let native = match (&self.sandboxing, &deployment.native) {
            (Some(sandboxing), Some(build)) => Some(
                sandboxing
                    .add(spec, &deployment.digest, build, &egress)
                    .with_context(|| format!("cannot deploy the native build of {}", spec.name))?,
            ),
            _ => None,
        };
        let scratch = (!deployment.scratch.is_empty()).then(|| {
            let places = deployment.scratch.iter().map(OwnedFd::try_clone);
            Scratch::new(places.collect::<Result<_, _>>()?, &self.tasks)
        });
        let scratch = scratch
            .transpose()
            .with_context(|| format!("cannot prepare the scratch of {}", spec.name))?;
        let artifact = deployment.component.as_ref().map(Artifact::try_clone).transpose()?;
        let form = if deployment.precompiled { Code::Machine } else { Code::Portable };
        let digest = deployment.digest.as_str().into();
        let counts = self.observer.metrics.of(&spec.name);
        let function = Function::new(spec.clone(), digest, native, egress, counts, scratch);
        Ok((Arc::new(function), artifact.map(form)))
    }

    /// Makes another engine when functions to come need more than the present one holds. Programs
    /// hold the engine that they were made with, so the last of them takes it along.
    fn grow(&mut self, needed: Slots) -> anyhow::Result<()> {
        if needed.instances <= self.slots.instances && needed.memory <= self.slots.memory {
            return Ok(());
        }
        let slots = Slots {
            instances: needed.instances.max(self.slots.instances),
            memory: needed.memory.max(self.slots.memory),
            queue: needed.queue.max(self.slots.queue),
            queue_timeout: needed.queue_timeout.max(self.slots.queue_timeout),
        };
        self.loader = loader(slots, self.cache.as_ref(), self.headers, &self.observer)?;
        self.slots = slots;
        Ok(())
    }
}

impl Plan {
    /// Has the components loaded beside, for a table that is served already.
    pub fn load_beside(self, tasks: &TaskTracker) -> Functions {
        for (function, code) in self.loading {
            let loader = Arc::clone(&self.loader);
            let own = tasks.clone();
            tasks.spawn_blocking(move || load(&own, &loader, &function, &code));
        }
        self.functions
    }

    /// Loads the components, then answers the table; nothing when one of them cannot be served.
    pub async fn load(self, tasks: &TaskTracker) -> Option<(Functions, Changes)> {
        let load = |(function, code): (Arc<Function>, Code)| {
            let loader = Arc::clone(&self.loader);
            let own = tasks.clone();
            tasks.spawn_blocking(move || load(&own, &loader, &function, &code))
        };
        let mut served = true;
        for loading in self.loading.into_iter().map(load).collect::<Vec<_>>() {
            served &= loading.await.unwrap_or(false);
        }
        served.then_some((self.functions, self.changes))
    }
}

impl Changes {
    fn between(before: &[Arc<Function>], after: &[Arc<Function>]) -> Self {
        let find = |list: &[Arc<Function>], name: &str| {
            list.iter().find(|function| function.name() == name).cloned()
        };
        let mut changes = Self::default();
        for function in after {
            match find(before, function.name()) {
                None => changes.added.push(function.name().to_owned()),
                Some(old) if !Arc::ptr_eq(&old, function) => {
                    changes.replaced.push(function.name().to_owned());
                }
                Some(_) => {}
            }
        }
        let gone = before.iter().filter(|function| find(after, function.name()).is_none());
        changes.removed = gone.map(|function| function.name().to_owned()).collect();
        changes
    }
}

fn slots(deployments: &[Deployment]) -> anyhow::Result<Slots> {
    let limits = || deployments.iter().map(|deployment| &deployment.spec.limits);
    let instances: usize = limits().map(|limits| limits.concurrency).sum();
    let memory = limits().map(|limits| limits.memory.0).max().unwrap_or(0);
    Ok(Slots {
        instances: u32::try_from(instances.clamp(1, INSTANCES_MAX))?,
        memory: usize::try_from(memory)?.next_multiple_of(1 << 16),
        queue: limits().map(|limits| limits.queue).sum(),
        queue_timeout: limits().map(|limits| limits.queue_timeout).max().unwrap_or_default(),
    })
}

fn loader(
    slots: Slots,
    cache: Option<&(OwnedFd, u64)>,
    headers: usize,
    observer: &Arc<Observer>,
) -> anyhow::Result<Arc<Loader>> {
    let cache = cache.map(|(dir, size)| anyhow::Ok((dir.try_clone()?, *size))).transpose()?;
    Ok(Arc::new(Loader::new(slots, cache, headers, Arc::clone(observer))?))
}

/// Loads a function's component and says how that went; whether it can be served.
fn load(tasks: &TaskTracker, loader: &Loader, function: &Function, code: &Code) -> bool {
    let Some(component) = &function.component else { return true };
    let loaded = loader.load(function, code);
    match &loaded {
        Ok(loaded) => {
            if let Some(reaper) = loaded.program.reaper() {
                tasks.spawn(reaper);
            }
            tracing::info!(
                function = function.name(),
                source = loaded.source.name(),
                "component loaded"
            );
        }
        Err(error) => {
            let error = error as &dyn std::error::Error;
            tracing::error!(function = function.name(), error, "the component cannot be served");
        }
    }
    let served = loaded.is_ok();
    component.set(loaded);
    served
}
