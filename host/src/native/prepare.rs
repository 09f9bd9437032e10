//! Traces of what becomes of sandboxes: their preparation, linked to the request that caused it, and what
//! befalls them between requests.

use std::time::SystemTime;

use baton_otel::context::Inner;
use baton_otel::names::{attribute, event, span};
use baton_otel::{Event, KeyValue, Span, SpanId, Status, Trace, TraceId};
use baton_pool::lease::Phase;
use baton_pool::protocol::SandboxId;
use baton_pool::reason::Reason;
use baton_pool::schedule::Cause;

/// The trace of one start: a root with `.create`, `.activate` and `.ready` inside, and inside
/// those the parts that the daemon saw.
pub(super) fn trace(
    function: &str,
    sandbox: SandboxId,
    pid: u32,
    cause: Cause,
    outcome: &Result<(), Reason>,
    phases: &[Phase],
) -> Trace {
    let now = SystemTime::now();
    let phases = since(cause.at.unwrap_or(now), phases);
    let start = cause.at.or_else(|| phases.iter().map(|phase| phase.start).min()).unwrap_or(now);
    let end = phases.iter().map(|phase| phase.end).max().unwrap_or(now);
    let mut root = Span::new(span::SANDBOX_PREPARE, start, end);
    root.attributes = vec![
        KeyValue::new(attribute::FAAS_NAME, function.to_owned()),
        KeyValue::new(attribute::CONTAINER_ID, sandbox.to_string()),
        KeyValue::new(attribute::PROCESS_PID, i64::from(pid)),
    ];
    if cause.trace_id != 0 {
        root.links.push((
            TraceId::from_bytes(cause.trace_id.to_be_bytes()),
            SpanId::from_bytes(cause.span_id.to_be_bytes()),
        ));
    }
    if let Err(reason) = outcome {
        root.status = Status::Error(reason.to_string().into());
        root.attributes.push(KeyValue::new(attribute::ERROR_TYPE, "start-failed"));
    }
    root.children = spans(phases, &mut Inner::of(root.span_id));
    Trace { trace_id: baton_otel::context::new_trace_id(), parent: None, root, tracestate: None }
}

/// The trace of what befell a sandbox between requests: `name` is that of its one span.
pub(super) fn befell(
    name: &'static str,
    function: Option<&str>,
    sandbox: SandboxId,
    reason: &str,
    phase: &Phase,
) -> Trace {
    let mut root = Span::new(name, phase.start, phase.end);
    root.attributes = vec![
        KeyValue::new(attribute::CONTAINER_ID, sandbox.to_string()),
        KeyValue::new(attribute::BATON_SANDBOX_REASON, reason.to_owned()),
    ];
    if let Some(function) = function {
        root.attributes.push(KeyValue::new(attribute::FAAS_NAME, function.to_owned()));
    }
    Trace { trace_id: baton_otel::context::new_trace_id(), parent: None, root, tracestate: None }
}

/// The trace of a removal. One that failed is linked to the work that it had last.
pub(super) fn removed(
    function: Option<&str>,
    sandbox: SandboxId,
    reason: &Reason,
    last: Option<(TraceId, SpanId)>,
    phase: &Phase,
) -> Trace {
    let mut trace = befell(span::SANDBOX_REMOVE, function, sandbox, &reason.to_string(), phase);
    if *reason == Reason::OutOfMemory {
        let name = event::OUT_OF_MEMORY.into();
        trace.root.events.push(Event { name, time: phase.start, attributes: Vec::new() });
    }
    if matches!(reason, Reason::OutOfMemory | Reason::Tainted | Reason::Died | Reason::Exit(_)) {
        trace.root.links.extend(last);
    }
    trace
}

/// The phases that a request waited for: a parked sandbox was created before it came.
pub(crate) fn since(at: SystemTime, phases: &[Phase]) -> &[Phase] {
    let before = phases.iter().take_while(|phase| phase.end <= at).count();
    phases.get(before..).unwrap_or_default()
}

/// Spans of a start's phases, with these ids: `create/clone` inside `create`.
pub(crate) fn spans(phases: &[Phase], ids: &mut Inner) -> Vec<Span> {
    let mut spans: Vec<(&str, Span)> = Vec::new();
    for phase in phases {
        match phase.name.split_once('/') {
            None => {
                let mut span = Span::with_id(ids.next(), name(&phase.name), phase.start, phase.end);
                if phase.name == "thaw" {
                    let reason = KeyValue::new(attribute::BATON_SANDBOX_REASON, "request");
                    span.attributes.push(reason);
                }
                spans.push((&phase.name, span));
            }
            Some((outer, inner)) => {
                let part = Span::with_id(ids.next(), part(inner), phase.start, phase.end);
                match spans.iter_mut().find(|(found, _)| *found == outer) {
                    Some((_, span)) => span.children.push(part),
                    None => spans.push((outer, part)),
                }
            }
        }
    }
    spans.into_iter().map(|(_, span)| span).collect()
}

/// The parts of a creation, as the daemon names them.
fn part(step: &str) -> &'static str {
    match step {
        "group" => span::SANDBOX_CREATE_GROUP,
        "configure" => span::SANDBOX_CREATE_CONFIGURE,
        "create" => span::SANDBOX_CREATE_CREATE,
        "start" => span::SANDBOX_CREATE_START,
        "park" => span::SANDBOX_CREATE_PARK,
        "listen for egress" => span::SANDBOX_CREATE_LISTEN,
        _ => span::SANDBOX_CREATE_OPEN_LIMITS,
    }
}

fn name(phase: &str) -> &'static str {
    match phase {
        "create" => span::SANDBOX_CREATE,
        "activate" => span::SANDBOX_ACTIVATE,
        "thaw" => span::SANDBOX_THAW,
        _ => span::SANDBOX_READY,
    }
}
