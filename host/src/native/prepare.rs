//! The trace of a sandbox's preparation, linked to the request that caused it.

use baton_otel::names::{attribute, span};
use baton_otel::{KeyValue, Span, SpanId, Status, Trace, TraceId};
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
    let now = std::time::SystemTime::now();
    let start = phases.iter().map(|phase| phase.start).min().unwrap_or(now);
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
    root.children = spans(phases);
    Trace {
        trace_id: baton_otel::context::new_trace_id(),
        parent: None,
        root,
        tracestate: None,
    }
}

/// Spans of a start's phases: `create/clone` inside `create`.
pub(crate) fn spans(phases: &[Phase]) -> Vec<Span> {
    let mut spans: Vec<(&str, Span)> = Vec::new();
    for phase in phases {
        match phase.name.split_once('/') {
            None => spans.push((&phase.name, Span::new(name(&phase.name), phase.start, phase.end))),
            Some((outer, inner)) => {
                let part =
                    Span::new(format!("{}.{inner}", name(outer)), phase.start, phase.end);
                match spans.iter_mut().find(|(found, _)| *found == outer) {
                    Some((_, span)) => span.children.push(part),
                    None => spans.push((outer, part)),
                }
            }
        }
    }
    spans.into_iter().map(|(_, span)| span).collect()
}

fn name(phase: &str) -> &'static str {
    match phase {
        "create" => span::SANDBOX_CREATE,
        "activate" => span::SANDBOX_ACTIVATE,
        _ => span::SANDBOX_READY,
    }
}
