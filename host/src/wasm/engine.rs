//! The tuned Wasmtime engines, one for each generation of wasi:http.
//!
//! The shape was measured: a 0.2-only engine (no concurrency support), the pooling allocator with
//! its memories and tables kept resident *together with* `PAGEMAP_SCAN`, and epoch interruption
//! took instantiate + call + drop of a 165 KB component from 31 µs to 12.6 µs in the prototype that was
//! measured; `just bench-inside` measures this code, with all limits on. Components of 0.3 need the
//! concurrency support that makes those of 0.2 slower, so they have an engine of their own.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, Store};

use super::clock::{Clock, Running};
use super::guest::Guest;
use super::idle::Idle;
use crate::gate::{Bounds, Gate, Refused};

/// Bytes of a page of linear memory, the unit in which components state their memory.
const WASM_PAGE: u64 = 64 << 10;

/// Resident bytes a pool slot keeps of its linear memory between two instances.
const MEMORY_KEEP_RESIDENT: usize = 2 << 20;

/// Resident bytes a pool slot keeps of its tables between two instances.
const TABLE_KEEP_RESIDENT: usize = 64 << 10;

/// Core instances, memories and tables that one component may have. Components linked from many
/// modules (Python's) use some forty core instances around one memory and one table.
const CORE_INSTANCES_PER_COMPONENT: u32 = 100;
const MEMORIES_PER_COMPONENT: u32 = 2;
const TABLES_PER_COMPONENT: u32 = 4;

/// Stacks for each instance: one of 0.3 may have several calls that wait.
const STACKS_PER_INSTANCE: u32 = 4;

/// Instances that may be dropped late, beside those that slots are counted for.
const RETIRING: u32 = 32;

/// Elements that the tables of an instance may have, summed.
pub(super) const TABLE_ELEMENTS: usize = 100_000;

/// Bytes of stack that a guest may use; past it, it traps.
const STACK: usize = 512 << 10;

/// Which generation of wasi:http, and so of the component model, a component was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// wasi:http 0.2: a call owns its instance until it returns.
    Second,
    /// wasi:http 0.3: an instance runs many calls at once.
    Third,
}

impl Generation {
    /// The part of the configuration that compiled code depends on.
    pub(crate) fn compiler(self) -> Config {
        let concurrent = self == Self::Third;
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            .concurrency_support(concurrent)
            .wasm_component_model_async(concurrent)
            .epoch_interruption(true)
            .max_wasm_stack(STACK)
            .memory_init_cow(true);
        config
    }
}

/// What the pool of instances must hold, and who may wait for it.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// Instances alive at once.
    pub instances: u32,
    /// Bytes of linear memory that the largest function may use.
    pub memory: usize,
    /// Requests that wait when all instances are taken.
    pub queue: usize,
    /// How long each of them waits.
    pub queue_timeout: Duration,
}

/// Why an engine could not be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot reserve {instances} WebAssembly instances of {memory} bytes each; lower the functions' \
     `limits.concurrency` or `limits.memory`, or raise the bound of this process's address space"
)]
pub struct EngineError {
    instances: u32,
    memory: usize,
    #[source]
    source: wasmtime::Error,
}

/// An engine, the linker of everything a component may import, the clock, and the pool's slots.
pub struct Engine {
    engine: wasmtime::Engine,
    linker: Linker<Guest>,
    clock: Clock,
    slots: Gate,
    /// Instances that wait for a next request; they give way when all slots are taken.
    idle: Mutex<Vec<Weak<Idle>>>,
    /// Places for instances that have served and are still to be dropped.
    retiring: Arc<Semaphore>,
    /// What drops them.
    tasks: TaskTracker,
}

impl Engine {
    /// Makes an engine whose pool holds `slots`.
    ///
    /// # Errors
    /// When the address space or the memory map cannot hold the pool.
    pub fn new(generation: Generation, slots: Slots) -> Result<Self, EngineError> {
        let fail =
            |source| EngineError { instances: slots.instances, memory: slots.memory, source };
        let engine = wasmtime::Engine::new(&config(generation, slots)).map_err(fail)?;
        let linker = linker(&engine, generation).map_err(fail)?;
        let clock = Clock::start(engine.clone());
        let gate = Gate::new(Bounds {
            concurrency: slots.instances as usize,
            queue: slots.queue,
            queue_timeout: slots.queue_timeout,
        });
        Ok(Self {
            engine,
            linker,
            clock,
            slots: gate,
            idle: Mutex::default(),
            retiring: Arc::new(Semaphore::new(RETIRING as usize)),
            tasks: TaskTracker::new(),
        })
    }

    /// The Wasmtime engine itself.
    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.engine
    }

    /// Everything that a component may import.
    pub(super) fn linker(&self) -> &Linker<Guest> {
        &self.linker
    }

    /// Instances that are alive.
    #[must_use]
    pub fn instances(&self) -> usize {
        self.slots.in_flight()
    }

    /// Instances that there is room for.
    #[must_use]
    pub fn room(&self) -> usize {
        self.slots.concurrency()
    }

    /// Tells the clock that a guest runs until the answer is dropped.
    pub(super) fn running(&self) -> Running {
        self.clock.guest()
    }

    /// A slot of the pool, once there is one; an idle instance gives way for it.
    pub(super) async fn slot(&self) -> Result<OwnedSemaphorePermit, Refused> {
        if let Some(slot) = self.slots.try_enter() {
            return Ok(slot);
        }
        self.evict();
        self.slots.enter().await
    }

    /// Drops an instance that has served, once whoever is ready has had a turn: its answer is written before that, and
    /// several are dropped one after the other. Its slot is free at once, for the pool has some to spare.
    pub(super) fn retire(&self, mut store: Store<Guest>) {
        let Ok(place) = Arc::clone(&self.retiring).try_acquire_owned() else { return drop(store) };
        store.data_mut().leave_slot();
        self.tasks.spawn(async move {
            tokio::task::yield_now().await;
            drop(store);
            drop(place);
        });
    }

    /// Has the instances that `idle` holds give way when all slots are taken.
    pub(super) fn evictable(&self, idle: &Arc<Idle>) {
        let mut all = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|idle| idle.strong_count() > 0);
        all.push(Arc::downgrade(idle));
    }

    fn evict(&self) {
        let all = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let evicted = all.iter().filter_map(Weak::upgrade).find_map(|idle| idle.evict());
        drop(all);
        drop(evicted);
    }

    /// Whether the pool can hold an instance of `component` in `memory` bytes, else which bound it
    /// passes.
    pub(super) fn admits(&self, component: &Component, memory: usize) -> Result<(), String> {
        let Some(needs) = component.resources_required() else {
            return Err("it instantiates modules that it imports".into());
        };
        let bounds = [
            ("memories", needs.num_memories, MEMORIES_PER_COMPONENT),
            ("tables", needs.num_tables, TABLES_PER_COMPONENT),
        ];
        for (what, found, most) in bounds {
            if found > most {
                return Err(format!("it has {found} {what}, at most {most} are allowed"));
            }
        }
        let bytes = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(WASM_PAGE);
        if bytes > memory as u64 {
            return Err(format!(
                "it begins with {bytes} bytes of memory, and `limits.memory` is {memory} bytes"
            ));
        }
        let elements = needs.max_initial_table_size.unwrap_or(0);
        if elements > TABLE_ELEMENTS as u64 {
            return Err(format!(
                "it begins with a table of {elements} elements, at most {TABLE_ELEMENTS} are allowed"
            ));
        }
        Ok(())
    }
}

fn linker(engine: &wasmtime::Engine, generation: Generation) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    // A component of 0.3 may still use what its language's standard library links of 0.2.
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, Guest::config)?;
    if generation == Generation::Third {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    Ok(linker)
}

fn config(generation: Generation, slots: Slots) -> Config {
    let instances = slots.instances.saturating_add(RETIRING);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .total_memories(instances.saturating_mul(MEMORIES_PER_COMPONENT))
        .total_tables(instances.saturating_mul(TABLES_PER_COMPONENT))
        .total_stacks(instances.saturating_mul(STACKS_PER_INSTANCE))
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(slots.memory)
        .linear_memory_keep_resident(MEMORY_KEEP_RESIDENT)
        .table_keep_resident(TABLE_KEEP_RESIDENT)
        .pagemap_scan(Enabled::Auto);
    let mut config = generation.compiler();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}
