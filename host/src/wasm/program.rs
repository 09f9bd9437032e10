//! A component ready to be instantiated.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Body;
use wasmtime::component::Component;
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;

use super::engine::{Engine, Generation};
use super::guest::Invocation;
use super::idle::Idle;
use super::instance::{Call, Progress};
use super::output::LineSink;
use super::second::Second;
use super::shared::{Reuse, Shared};
use super::third::{Third, absolute};
use crate::egress::Egress;
use crate::manifest::Instances;
use crate::scratch::Scratch;

/// Where a component's machine code came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was loaded before the request came.
    Memory,
    /// Mapped from the cache on disk.
    Cache,
    /// Compiled.
    Compile,
}

impl Source {
    /// The value of `baton.component.source`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cache => "cache",
            Self::Compile => "compile",
        }
    }
}

/// How a function's instances are made and bounded.
#[derive(Clone)]
pub struct Settings {
    /// Bytes of linear memory of one instance.
    pub memory: usize,
    /// Time that one request may compute.
    pub cpu_time: Duration,
    /// Time of one request.
    pub timeout: Duration,
    /// Whether an instance serves one request or many.
    pub instances: Instances,
    /// Bytes of one header map made by the guest.
    pub headers: usize,
    /// Environment variables.
    pub env: Arc<[(String, String)]>,
    /// The same as `wasi:config` has them.
    pub config: Arc<WasiConfigVariables>,
    /// Places for its `/tmp`; without one nothing is preopened.
    pub scratch: Option<Arc<Scratch>>,
    /// What the guest may connect to.
    pub egress: Arc<Egress>,
    /// Where its output goes.
    pub sink: LineSink,
}

/// Why a component cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Wasmtime refuses it.
    #[error("the component cannot be compiled: {0}")]
    Compile(String),
    /// It is machine code of another Wasmtime or other settings.
    #[error("the precompiled component does not fit this Baton: {0}; compile it again")]
    Precompiled(String),
    /// It imports something that Baton does not offer, or exports no HTTP handler.
    #[error("the component cannot be linked: {0}")]
    Link(String),
    /// It needs more than the engine's pool gives.
    #[error("the component does not fit the pool of instances: {0}")]
    TooLarge(String),
    /// There is no engine for it.
    #[error("there is no engine for components of wasi:http 0.3: {0}")]
    Engine(String),
}

/// A component, compiled and linked, with the settings of its function.
pub struct Program {
    settings: Settings,
    way: Way,
}

/// How its instances serve.
enum Way {
    Second(Arc<Second>),
    Third(Arc<Third>),
    Shared(Shared),
}

impl Program {
    /// Links `component`, which was compiled by `engine`, whose generation is `generation`.
    ///
    /// # Errors
    /// When an import is unknown, the handler is missing, or the pool cannot hold an instance.
    pub fn new(
        engine: Arc<Engine>,
        generation: Generation,
        component: &Component,
        settings: Settings,
    ) -> Result<Self, LoadError> {
        engine.admits(component, settings.memory).map_err(LoadError::TooLarge)?;
        let own = settings.clone();
        let way = match (generation, settings.instances.clone()) {
            (Generation::Second, _) => {
                Second::new(engine, component, own).map(|second| Way::Second(Arc::new(second)))
            }
            (Generation::Third, Instances::Fresh) => {
                Third::new(engine, component, own).map(|third| Way::Third(Arc::new(third)))
            }
            (Generation::Third, Instances::Reuse { requests, concurrent, idle }) => {
                let reuse = Reuse { requests, concurrent, idle };
                Shared::new(engine, component, own, reuse).map(Way::Shared)
            }
        };
        let way = way.map_err(|error| LoadError::Link(format!("{error:#}")))?;
        Ok(Self { settings, way })
    }

    /// Begins to answer `request`, which came over TLS if `secure`; nothing runs until the call is
    /// polled.
    pub fn start<B>(&self, mut request: Request<B>, secure: bool, invocation: Invocation) -> Call
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Error>,
    {
        let Settings { memory, cpu_time, .. } = self.settings;
        let progress = Arc::new(Progress::new(memory));
        let guest = match &self.way {
            Way::Second(second) => {
                let scheme = if secure { Scheme::Https } else { Scheme::Http };
                second.start(request, scheme, invocation, &progress)
            }
            Way::Third(third) => {
                absolute(&mut request, secure);
                third.start(request, invocation, &progress)
            }
            Way::Shared(shared) => {
                absolute(&mut request, secure);
                shared.start(request, invocation, &progress)
            }
        };
        Call::new(guest, progress, cpu_time)
    }

    /// Ends idle instances in time; to be run for as long as the program lives, where it keeps any.
    pub fn reaper(&self) -> Option<impl Future<Output = ()> + Send + 'static> {
        match &self.way {
            Way::Second(second) => second.idle().map(|idle| Idle::reap(Arc::downgrade(idle))),
            // Instances of 0.3 end themselves.
            Way::Third(_) | Way::Shared(_) => None,
        }
    }
}
