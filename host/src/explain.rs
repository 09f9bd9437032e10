//! Why requests go where they go: `GET /v1/functions/{name}/explain`, and `baton explain`, which
//! shows the same document to people.

mod ask;
mod render;

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::function::Function;
use crate::manifest::Policy;
use crate::tier::adaptive::{Measured, Outlook, Place};
use crate::tier::chooser::{Decision, Explanation, Kind, Summary};
use crate::tier::{Reason, Tier};
use crate::verify::Guard;
pub use ask::{AskError, ask};
pub use render::render;

/// The document.
#[must_use]
pub fn document(function: &Function) -> Value {
    let now = Instant::now();
    let outlook = function.outlook();
    let explanation = function.chooser.explain(now, function.gate.in_flight() + 1, outlook);
    json!({
        "function": function.name(),
        "policy": function.spec.policy,
        "estimates": estimates(&explanation.summaries),
        "break_even": break_even(&explanation),
        "next": next(function, outlook, &explanation),
        "sandboxes": {
            "warm": outlook.warm,
            "parked": outlook.parked,
            "busy": outlook.busy,
            "starting": outlook.starting,
            "waiting": outlook.waiting,
            "all": function.native.as_ref().map(crate::native::Native::statistics),
        },
        "demoted": function.guard.as_ref().is_some_and(Guard::is_demoted),
        "burst": explanation.burst,
        "reasons": explanation
            .counts
            .iter()
            .map(|((tier, reason), count)| json!({"tier": tier, "reason": reason, "requests": count}))
            .collect::<Vec<_>>(),
        "decisions": explanation.decisions.iter().map(decision).collect::<Vec<_>>(),
    })
}

/// What was measured, by kind, in milliseconds.
#[must_use]
pub fn service_times(function: &Function) -> Value {
    let measured = Kind::ALL.map(|kind| Some((kind, function.chooser.summary(kind)?)));
    estimates(&measured.into_iter().flatten().collect::<Vec<_>>())
}

fn estimates(summaries: &[(Kind, Summary)]) -> Value {
    let find = |kind: Kind| summaries.iter().find(|(found, _)| *found == kind);
    let describe = |kind: Kind| {
        let value = find(kind).map(|(_, summary)| {
            json!({
                "samples": summary.samples,
                "expected_ms": ms(summary.expected),
                "p50_ms": ms(summary.p50),
                "p90_ms": ms(summary.p90),
                "p99_ms": ms(summary.p99),
            })
        });
        (kind.name().to_owned(), value.unwrap_or_default())
    };
    Value::Object(Kind::ALL.into_iter().map(describe).collect())
}

/// What a request loses in Wasm, what a sandbox costs, and how many requests that is.
fn break_even(explanation: &Explanation) -> Value {
    let measured = &explanation.measured;
    let Some(wasm) = measured.wasm() else { return Value::Null };
    let (excess, making) = (measured.excess_of_wasm(wasm), explanation.making);
    let requests = |share: f64| {
        let many = (making.as_secs_f64() * share / excess.as_secs_f64()).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a ratio of two durations, finite and not negative"
        )]
        many.is_finite().then_some(many as u64)
    };
    json!({
        "excess_ms": ms(excess),
        "sandbox_ms": ms(making),
        "requests": requests(1.0),
        "requests_left": requests(explanation.debt),
        "native_pays_when_activated_inline": pays_inline(measured),
    })
}

/// Whether even a parked sandbox, activated for the request, is faster than Wasm.
fn pays_inline(measured: &Measured) -> Option<bool> {
    Some(measured.activation() + measured.native()? < measured.wasm()?)
}

/// What the next request would do.
fn next(function: &Function, outlook: Outlook, explanation: &Explanation) -> Value {
    let measured = &explanation.measured;
    let plain = |tier: Tier, reason: Reason| {
        let expected = match tier {
            Tier::Wasm => measured.wasm(),
            Tier::Native => measured.native(),
        };
        said(tier, reason, expected, None)
    };
    match (function.spec.policy, &function.native) {
        (Policy::Wasm, _) => plain(Tier::Wasm, Reason::Policy),
        _ if function.guard.as_ref().is_some_and(Guard::is_demoted) => {
            plain(Tier::Wasm, Reason::Diverged)
        }
        (_, None) => plain(Tier::Wasm, Reason::NoSandboxes),
        (Policy::Native, _) => plain(Tier::Native, Reason::Policy),
        (Policy::Hybrid, _) if outlook.warm => plain(Tier::Native, Reason::Warm),
        (Policy::Hybrid, _) => plain(Tier::Wasm, Reason::NoWarmSandbox),
        (Policy::Adaptive, _) => {
            let plan = explanation.next;
            let tier = if plan.place == Place::Wasm { Tier::Wasm } else { Tier::Native };
            said(tier, plan.reason, plan.expected, plan.prepare)
        }
    }
}

fn said(tier: Tier, reason: Reason, expected: Option<Duration>, prepare: Option<usize>) -> Value {
    json!({
        "tier": tier.name(),
        "reason": reason.name(),
        "because": reason.meaning(),
        "expected_ms": expected.map(ms),
        "prepares_for": prepare,
    })
}

fn decision(decision: &Decision) -> Value {
    let at = decision.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    json!({
        "at_unix_ms": u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
        "tier": decision.tier.name(),
        "reason": decision.reason.name(),
        "in_flight": decision.in_flight,
        "expected_ms": decision.expected.map(ms),
        "took_ms": decision.took.map(|took| ms(took.elapsed)),
        "trace_id": decision.trace_id.to_string(),
    })
}

/// Milliseconds, to the nearest microsecond.
fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
