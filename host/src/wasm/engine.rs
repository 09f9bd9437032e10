//! The tuned Wasmtime engine and the clock that interrupts its guests.
//!
//! The shape was measured: a 0.2-only engine (no concurrency support), the pooling allocator with
//! its memories and tables kept resident *together with* `PAGEMAP_SCAN`, and epoch interruption
//! take instantiate + call + drop of a 165 KB component from 31 µs to 12.6 µs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::instance::Guest;

/// How long a guest may run before it yields to its neighbours.
///
/// With 1 ms another connection waits about 2 ms beside a guest that spins; with 10 ms it waited
/// 607 ms, because tokio polls its I/O only every few task polls.
pub const EPOCH: Duration = Duration::from_millis(1);

/// After this many ticks without a guest the clock sleeps until one arrives.
const IDLE_TICKS: u32 = 1_000;

/// Resident bytes a pool slot keeps of its linear memory between two instances.
const MEMORY_KEEP_RESIDENT: usize = 2 << 20;

/// Resident bytes a pool slot keeps of its tables between two instances.
const TABLE_KEEP_RESIDENT: usize = 64 << 10;

/// Core instances, memories and tables that one component may have. Components linked from many
/// modules (Python's) use some forty core instances around one memory and one table.
const CORE_INSTANCES_PER_COMPONENT: u32 = 100;
const MEMORIES_PER_COMPONENT: u32 = 2;
const TABLES_PER_COMPONENT: u32 = 4;

/// Elements that a table may grow to.
pub(super) const TABLE_ELEMENTS: usize = 100_000;

/// What the pool of instances must hold.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// Instances alive at once.
    pub instances: u32,
    /// Bytes of linear memory that the largest function may use.
    pub memory: usize,
}

/// Why an engine could not be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot reserve {instances} WebAssembly instances of {memory} bytes each; lower the functions' \
     `limits.concurrency` or `limits.memory`"
)]
pub struct EngineError {
    instances: u32,
    memory: usize,
    #[source]
    source: wasmtime::Error,
}

/// An engine, the linker of everything a component may import, and the epoch clock.
pub struct Engine {
    engine: wasmtime::Engine,
    linker: Linker<Guest>,
    clock: Clock,
    slots: Slots,
}

impl Engine {
    /// Makes an engine whose pool holds `slots`.
    ///
    /// # Errors
    /// When the address space or the memory map cannot hold the pool.
    pub fn new(slots: Slots) -> Result<Self, EngineError> {
        let fail =
            |source| EngineError { instances: slots.instances, memory: slots.memory, source };
        let engine = wasmtime::Engine::new(&config(slots)).map_err(fail)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)
            .and_then(|()| wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker))
            .map_err(fail)?;
        let clock = Clock::start(engine.clone());
        Ok(Self { engine, linker, clock, slots })
    }

    /// The Wasmtime engine itself.
    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.engine
    }

    /// Everything that a component may import.
    pub(super) fn linker(&self) -> &Linker<Guest> {
        &self.linker
    }

    /// What the pool holds.
    pub fn slots(&self) -> Slots {
        self.slots
    }

    /// Tells the clock that a guest runs until the answer is dropped.
    pub(super) fn running(&self) -> Running {
        self.clock.guest()
    }

    /// Whether the pool can hold an instance of `component`, else which bound it passes.
    pub(super) fn admits(&self, component: &Component) -> Result<(), String> {
        let Some(needs) = component.resources_required() else {
            return Err("it instantiates modules that it imports".into());
        };
        if needs.num_memories > MEMORIES_PER_COMPONENT {
            return Err(format!(
                "it has {} memories, at most {MEMORIES_PER_COMPONENT} are allowed",
                needs.num_memories
            ));
        }
        if needs.num_tables > TABLES_PER_COMPONENT {
            return Err(format!(
                "it has {} tables, at most {TABLES_PER_COMPONENT} are allowed",
                needs.num_tables
            ));
        }
        Ok(())
    }
}

fn config(slots: Slots) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots.instances)
        .total_core_instances(slots.instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .total_memories(slots.instances.saturating_mul(MEMORIES_PER_COMPONENT))
        .total_tables(slots.instances.saturating_mul(TABLES_PER_COMPONENT))
        .total_stacks(slots.instances)
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(slots.memory)
        .linear_memory_keep_resident(MEMORY_KEEP_RESIDENT)
        .table_keep_resident(TABLE_KEEP_RESIDENT)
        .pagemap_scan(Enabled::Auto);
    let mut config = compiler();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// The part of the configuration that compiled code depends on.
pub(crate) fn compiler() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .memory_init_cow(true);
    config
}

/// The thread that raises the engine's epoch every [`EPOCH`] while guests run.
struct Clock {
    shared: Arc<ClockState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct ClockState {
    guests: AtomicUsize,
    asleep: AtomicBool,
    stop: AtomicBool,
}

impl Clock {
    #[expect(clippy::expect_used, reason = "without a thread for the clock no guest is bounded")]
    fn start(engine: wasmtime::Engine) -> Self {
        let shared = Arc::new(ClockState::default());
        let state = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("baton-epoch".into())
            .spawn(move || state.run(&engine))
            .expect("a thread for the epoch clock");
        Self { shared, thread: Some(thread) }
    }

    fn guest(&self) -> Running {
        self.shared.guests.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst)
            && let Some(thread) = self.thread.as_ref().map(JoinHandle::thread)
        {
            wake(&self.shared, thread);
        }
        Running { shared: Arc::clone(&self.shared) }
    }
}

fn wake(state: &ClockState, thread: &Thread) {
    state.asleep.store(false, Ordering::SeqCst);
    thread.unpark();
}

impl ClockState {
    fn run(&self, engine: &wasmtime::Engine) {
        let mut idle = 0;
        while !self.stop.load(Ordering::SeqCst) {
            thread::sleep(EPOCH);
            engine.increment_epoch();
            idle = if self.guests.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
            if idle >= IDLE_TICKS {
                self.asleep.store(true, Ordering::SeqCst);
                // A guest that came before `asleep` was set did not wake us: look once more.
                while self.asleep.load(Ordering::SeqCst)
                    && self.guests.load(Ordering::SeqCst) == 0
                    && !self.stop.load(Ordering::SeqCst)
                {
                    thread::park();
                }
                self.asleep.store(false, Ordering::SeqCst);
                idle = 0;
            }
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread holds nothing that could panic; its end is all that is waited for.
            let _ = thread.join();
        }
    }
}

/// A guest that runs: the clock ticks at least as long as one of these lives.
pub(super) struct Running {
    shared: Arc<ClockState>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.guests.fetch_sub(1, Ordering::SeqCst);
    }
}
