//! Instances of a component written by hand, so that it can do what no compiler would let it.
//!
//! It never answers: that it returned in peace is told by [`Failure::NoResponse`], and what it finds
//! out of order makes it trap.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use http_body_util::combinators::MapErr;
use tokio_util::task::TaskTracker;
use wasmtime::component::Component;

use super::{Engine, Failure, Generation, Invocation, LoadError, Program, Settings, Slots};
use crate::egress::{Caller, Egress, system_resolver};
use crate::manifest::{self, Instances};

const MEMORY: usize = 4 << 20;
const PAGE: usize = 64 << 10;

fn slots(instances: u32) -> Slots {
    Slots { instances, memory: MEMORY, queue: 1, queue_timeout: Duration::from_secs(60) }
}

/// A component whose `handle` is this.
fn component(handle: &str) -> String {
    format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "fields" (type $fields (sub resource)))
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))
                (export "[constructor]fields" (func (result (own $fields))))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $outparam))
            (alias export $types "[constructor]fields" (func $fields))
            (core func $fields (canon lower (func $fields)))
            (core module $other (memory 1)
                (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))
            (core instance $other (instantiate $other))
            (core module $own
                (import "host" "fields" (func $fields (result i32)))
                (import "other" "grow" (func $grow-other (param i32) (result i32)))
                (memory 1)
                (table $table 1 funcref)
                (global $global (mut i32) (i32.const 0))
                (func $deeper (param i32) (result i32)
                    (i32.add (local.get 0) (call $deeper (i32.add (local.get 0) (i32.const 1)))))
                (func (export "handle") (param i32 i32) {handle}))
            (core instance $own (instantiate $own
                (with "host" (instance (export "fields" (func $fields))))
                (with "other" (instance $other))))
            (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
                (canon lift (core func $own "handle")))
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    )
}

/// Traps unless memory, table and global are as the module begins, then changes all of them.
const LEAVE_TRACES: &str = r"
    (if (i32.or (global.get $global) (i32.load (i32.const 8))) (then (unreachable)))
    (if (i32.ne (table.size $table) (i32.const 1)) (then (unreachable)))
    (if (i32.ne (memory.size) (i32.const 1)) (then (unreachable)))
    (global.set $global (i32.const 1))
    (i32.store (i32.const 8) (i32.const 1))
    (drop (table.grow $table (ref.null func) (i32.const 5)))
    (drop (memory.grow (i32.const 1)))";

fn load(engine: &Arc<Engine>, handle: &str, instances: Instances) -> Result<Program, LoadError> {
    load_text(engine, &component(handle), instances)
}

fn load_text(engine: &Arc<Engine>, text: &str, instances: Instances) -> Result<Program, LoadError> {
    let tasks = TaskTracker::new();
    let egress = manifest::Egress::default();
    let settings = Settings {
        memory: MEMORY,
        cpu_time: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
        instances,
        headers: 8 << 10,
        env: Arc::default(),
        config: Arc::default(),
        scratch: None,
        egress: Egress::new(egress, 8 << 10, system_resolver(), &tasks).into(),
        sink: Arc::new(|_| {}),
    };
    let component = Component::new(engine.wasmtime(), wat::parse_str(text).unwrap()).unwrap();
    Program::new(Arc::clone(engine), Generation::Second, &component, settings)
}

fn engine(instances: u32) -> Arc<Engine> {
    Arc::new(Engine::new(Generation::Second, slots(instances)).unwrap())
}

fn program(handle: &str) -> Program {
    load(&engine(4), handle, Instances::Fresh).unwrap()
}

fn begin(program: &Program) -> super::Call {
    let body: MapErr<Full<Bytes>, fn(std::convert::Infallible) -> wasmtime_wasi_http::Error> =
        Full::new(Bytes::new()).map_err(|never| match never {});
    let request = Request::builder().uri("http://localhost/").body(body).unwrap();
    let parent = baton_otel::TraceParent {
        trace_id: baton_otel::TraceId::INVALID,
        span_id: baton_otel::SpanId::INVALID,
        sampled: false,
    };
    let caller = Caller { parent, tracestate: None, calls: crate::egress::Calls::default() };
    program.start(request, false, Invocation { id: baton_otel::SpanId::INVALID, caller })
}

async fn run(program: &Program) -> Failure {
    begin(program).head().await.map(drop).unwrap_err()
}

#[track_caller]
fn assert_returned(failure: &Failure) {
    assert!(matches!(failure, Failure::NoResponse), "{failure}");
}

#[track_caller]
fn assert_trapped(failure: &Failure, why: &str) {
    assert!(
        matches!(failure, Failure::Trapped(_)) && failure.to_string().contains(why),
        "{failure}"
    );
}

#[tokio::test]
async fn fresh_instances_share_neither_memory_nor_table_nor_globals() {
    let program = load(&engine(1), LEAVE_TRACES, Instances::Fresh).unwrap();
    // More often than the pool has slots, those for instances that are dropped late included.
    for _ in 0..100 {
        assert_returned(&run(&program).await);
    }
}

#[tokio::test]
async fn the_slot_of_an_instance_that_has_served_is_free_at_once() {
    let engine = engine(1);
    let program = load(&engine, LEAVE_TRACES, Instances::Fresh).unwrap();
    assert_returned(&run(&program).await);
    assert_eq!(engine.instances(), 0);
}

#[tokio::test]
async fn reused_instances_share_all_of_it() {
    let reuse = Instances::Reuse { requests: 2, concurrent: 1, idle: Duration::from_secs(60) };
    let program = load(&engine(1), LEAVE_TRACES, reuse).unwrap();
    assert_returned(&run(&program).await);
    assert_trapped(&run(&program).await, "unreachable");
    assert_returned(&run(&program).await);
}

#[tokio::test]
async fn memory_is_summed_over_the_instance() {
    let pages = MEMORY / PAGE / 2;
    let grow = |own: usize, other: usize| {
        format!(
            "(if (i32.eq (memory.grow (i32.const {own})) (i32.const -1)) (then (unreachable)))
             (if (i32.eq (call $grow-other (i32.const {other})) (i32.const -1)) (then (unreachable)))"
        )
    };
    assert_returned(&run(&program(&grow(pages - 1, pages - 1))).await);
    let failure = run(&program(&grow(pages - 1, pages))).await;
    assert!(matches!(failure, Failure::OutOfMemory { limit: MEMORY }), "{failure}");
}

#[tokio::test]
async fn guests_that_share_a_thread_say_how_long_they_waited_for_each_other() {
    let program = program(
        r"(local $left i64)
        (local.set $left (i64.const 30_000_000))
        (loop $again
            (local.set $left (i64.sub (local.get $left) (i64.const 1)))
            (br_if $again (i64.ne (local.get $left) (i64.const 0))))",
    );
    let (mut one, mut other) = (begin(&program), begin(&program));
    let ended = tokio::join!(one.head(), other.head());
    assert_returned(&ended.0.map(drop).unwrap_err());
    assert_returned(&ended.1.map(drop).unwrap_err());
    let (one, other) = (one.spent(), other.spent());
    // Each computed in turns, and while it had one the other waited.
    let shorter = one.computed.min(other.computed);
    assert!(one.waited + other.waited > shorter, "{one:?} {other:?}");
}

#[tokio::test]
async fn a_table_grows_to_its_bound_and_no_further() {
    let grow = |elements: usize| {
        format!(
            "(if (i32.eq (table.grow $table (ref.null func) (i32.const {elements}))
                 (i32.const -1)) (then (unreachable)))"
        )
    };
    assert_returned(&run(&program(&grow(super::engine::TABLE_ELEMENTS - 1))).await);
    assert_trapped(&run(&program(&grow(super::engine::TABLE_ELEMENTS))).await, "unreachable");
}

#[tokio::test]
async fn a_guest_that_calls_itself_without_end_traps() {
    let failure = run(&program("(drop (call $deeper (i32.const 0)))")).await;
    assert_trapped(&failure, "call stack exhausted");
}

#[tokio::test]
async fn a_guest_that_hoards_handles_traps() {
    let failure = run(&program("(loop $again (drop (call $fields)) (br $again))")).await;
    assert_trapped(&failure, "table");
}

/// A component whose `handle` hands the host a list of so many values of a mebibyte in one call. All of
/// them are the same mebibyte of its memory; the host would have a copy of each.
fn copying(values: usize) -> String {
    let end = 8 * values;
    format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "fields" (type $fields (sub resource)))
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))
                (type $why (variant
                    (case "invalid-syntax") (case "forbidden") (case "immutable")))
                (export "header-error" (type $error (eq $why)))
                (export "[constructor]fields" (func (result (own $fields))))
                (export "[method]fields.set" (func
                    (param "self" (borrow $fields)) (param "name" string)
                    (param "value" (list (list u8))) (result (result (error $error)))))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $outparam))
            (alias export $types "[constructor]fields" (func $fields))
            (alias export $types "[method]fields.set" (func $set))
            (core module $other (memory (export "memory") 17))
            (core instance $other (instantiate $other))
            (alias core export $other "memory" (core memory $memory))
            (core func $fields (canon lower (func $fields)))
            (core func $set (canon lower (func $set) (memory $memory)))
            (core module $own
                (import "host" "fields" (func $fields (result i32)))
                (import "host" "set" (func $set (param i32 i32 i32 i32 i32 i32)))
                (import "other" "memory" (memory 17))
                (func (export "handle") (param i32 i32) (local $at i32)
                    (loop $next
                        (i32.store (local.get $at) (i32.const 65536))
                        (i32.store offset=4 (local.get $at) (i32.const 1048576))
                        (local.set $at (i32.add (local.get $at) (i32.const 8)))
                        (br_if $next (i32.lt_u (local.get $at) (i32.const {end}))))
                    ;; The name is a zero, which no header has: with a small list it is an error.
                    (call $set (call $fields) (i32.const 60000) (i32.const 1)
                        (i32.const 0) (i32.const {values}) (i32.const 60008))))
            (core instance $own (instantiate $own
                (with "host" (instance
                    (export "fields" (func $fields)) (export "set" (func $set))))
                (with "other" (instance $other))))
            (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
                (canon lift (core func $own "handle")))
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    )
}

#[tokio::test]
async fn one_call_copies_no_more_out_of_a_guest_than_it_may() {
    let most = super::guest::HOSTCALL_BYTES >> 20;
    let engine = engine(1);
    let program = |values| load_text(&engine, &copying(values), Instances::Fresh).unwrap();
    assert_returned(&run(&program(most / 2)).await);
    assert_trapped(&run(&program(most + 1)).await, "hostcalls has been exhausted");
}

#[tokio::test]
async fn a_component_that_begins_with_more_than_its_limit_is_not_loaded() {
    let engine = engine(1);
    let bytes = wat::parse_str(component("")).unwrap();
    let component = Component::new(engine.wasmtime(), bytes).unwrap();
    engine.admits(&component, MEMORY).unwrap();
    let refused = engine.admits(&component, 1 << 10).unwrap_err();
    assert!(refused.contains("limits.memory"), "{refused}");
}

#[tokio::test]
async fn a_request_waits_for_a_slot_and_past_the_queue_is_refused() {
    let engine = engine(1);
    // It yields at the end of each of its turns.
    let busy = load(&engine, "(loop $again (br $again))", Instances::Fresh).unwrap();
    let program = load(&engine, "", Instances::Fresh).unwrap();
    let mut first = begin(&busy);
    let mut holds = Box::pin(first.head());
    assert!(futures_util::poll!(&mut holds).is_pending());
    let mut waits = Box::pin(run(&program));
    assert!(futures_util::poll!(&mut waits).is_pending());
    let refused = run(&program).await;
    assert!(matches!(refused, Failure::NoInstance(_)), "{refused}");
    drop(holds);
    drop(first);
    assert_returned(&waits.await);
}

#[tokio::test]
async fn an_idle_instance_gives_way_when_its_slot_is_needed() {
    let engine = engine(1);
    let reuse = Instances::Reuse { requests: 9, concurrent: 1, idle: Duration::from_secs(60) };
    let program = load(&engine, "", reuse).unwrap();
    assert_returned(&run(&program).await);
    let other = load(&engine, "", Instances::Fresh).unwrap();
    assert_returned(&run(&other).await);
}

#[test]
fn more_than_the_address_space_holds_is_an_error_that_says_what_to_lower() {
    let too_much = Slots { memory: 3 << 30, ..slots(1_000_000) };
    let Err(error) = Engine::new(Generation::Second, too_much) else { panic!("a petabyte") };
    assert!(error.to_string().contains("limits.concurrency"), "{error}");
}
