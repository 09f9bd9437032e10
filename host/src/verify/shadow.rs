//! The second answer to a sampled request.
//!
//! ```text
//! sampled: head kept ─▶ answer flows to the client, kept on the way ─▶ over ─▶ the other tier ─▶ compared
//!                         └─ client left, body too long to replay, a fallback ─▶ skipped
//! ```

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use baton_otel::names::{attribute, event, span};
use baton_otel::{Event, KeyValue, Span, Status, Trace};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio_util::task::TaskTracker;

use super::{Answer, Guard, differences};
use crate::answer::Source;
use crate::function::Function;
use crate::manifest::Shown;
use crate::observer::Observer;
use crate::problem::Kind;
use crate::record::Record;
use crate::request_body::{Intake, RequestBody};
use crate::tier::Tier;
use crate::{native, service};

/// A request that is to be compared.
pub struct Sample {
    function: Arc<Function>,
    head: Request<()>,
    answer: Option<Answer>,
    tasks: TaskTracker,
    observer: Arc<Observer>,
}

impl Sample {
    /// Decides by the function's guard whether `request` is one.
    #[must_use]
    pub fn of(
        function: &Arc<Function>,
        request: &Request<RequestBody>,
        tasks: &TaskTracker,
        observer: &Arc<Observer>,
    ) -> Option<Box<Self>> {
        let guard = function.guard.as_ref()?;
        let bytes = u64::from_be_bytes(baton_otel::context::new_span_id().to_bytes());
        if !guard.samples(request.method(), bytes as f64 / u64::MAX as f64) {
            return None;
        }
        Some(Box::new(Self {
            function: Arc::clone(function),
            head: native::head_of(request),
            answer: None,
            tasks: tasks.clone(),
            observer: Arc::clone(observer),
        }))
    }

    /// The head of the answer that the client gets; `problem` when it is the host's own.
    pub fn head<B>(&mut self, response: &Response<B>, problem: Option<Kind>) {
        self.answer = match problem {
            None => Some(self.seen(response)),
            Some(kind) if is_failure(kind) => Some(Answer::default()),
            Some(_) => None,
        };
    }

    /// The next bytes of its body.
    pub fn data(&mut self, data: &Bytes) {
        if let Some(answer) = &mut self.answer {
            answer.body.push(data);
        }
    }

    /// The client has its whole answer: has the other tier answer too, behind.
    pub fn compare(self: Box<Self>, record: &Record, intake: Option<&Intake>) {
        let Some(guard) = &self.function.guard else { return };
        let body = intake.filter(|intake| intake.is_whole()).and_then(Intake::reader);
        let (Some((tier, _)), Some(body), true, None) =
            (record.tier, body, self.answer.is_some(), record.fell_back)
        else {
            return guard.skip();
        };
        let Some(place) = guard.enter() else { return };
        let mut shadow = record.shadow(&self.head);
        shadow.function = Some(Arc::clone(&self.function));
        let link = record.context.clone();
        let intake = intake.cloned();
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
            self.run(tier, shadow, body, intake, &link).await;
            drop(place);
        });
    }

    async fn run(
        self: Box<Self>,
        first: Tier,
        mut record: Record,
        body: RequestBody,
        intake: Option<Intake>,
        request: &baton_otel::RequestContext,
    ) {
        let (Some(guard), Some(intake), Some(answer)) =
            (&self.function.guard, intake, &self.answer)
        else {
            return;
        };
        let (began, start) = (SystemTime::now(), Instant::now());
        let other = match first {
            Tier::Wasm => Tier::Native,
            Tier::Native => Tier::Wasm,
        };
        let asked = self.head.clone().map(|()| body);
        let limit = self.function.spec.limits.timeout;
        let shadow = self.shadow(other, &mut record, &intake, Box::new(asked));
        let Ok(Some(second)) = tokio::time::timeout(limit, shadow).await else {
            return guard.skip();
        };
        if !record.cold && second.status.is_some() {
            self.function.chooser.shadowed(other, start.elapsed());
        }
        let (wasm, native) = match first {
            Tier::Wasm => (answer, &second),
            Tier::Native => (&second, answer),
        };
        let found = differences(wasm, native);
        if found.is_empty() {
            return guard.agree();
        }
        let pair = self.pair(&found, wasm, native, request, guard.config.keep);
        let demoted = guard.differ(pair);
        self.tell(&found, demoted, guard, request);
        if request.sampled {
            self.observer.trace(self.trace(&found, demoted, other, request, began));
        }
    }

    /// The other tier's answer; `None` when it did not get to answer.
    async fn shadow(
        &self,
        tier: Tier,
        record: &mut Record,
        intake: &Intake,
        request: Box<Request<RequestBody>>,
    ) -> Option<Answer> {
        let answered = match tier {
            Tier::Wasm => {
                let component = self.function.component.as_ref()?;
                let member = self.function.cohort.join().await;
                // Nobody waits for it, so it keeps no seat from those that somebody waits for.
                member.leave();
                service::run_component(component, record, request, &member).await
            }
            Tier::Native => native::shadow(&self.function, record, intake, request)
                .await?
                .map(|response| response.map(Source::Native)),
        };
        let response = match answered {
            Ok(response) => response,
            Err(problem) => return is_failure(problem.kind).then(Answer::default),
        };
        let mut answer = self.seen(&response);
        let whole = match response.into_body() {
            Source::Host(_) => true,
            Source::Guest(body) => drain(body, &mut answer).await,
            Source::Native(body) => drain(body, &mut answer).await,
        };
        Some(if whole { answer } else { Answer::default() })
    }

    fn seen<B>(&self, response: &Response<B>) -> Answer {
        let compared = self.function.guard.as_ref().map(|guard| guard.config.headers.as_slice());
        Answer::new(response.status(), response.headers(), compared.unwrap_or_default())
    }

    fn pair(
        &self,
        found: &[String],
        wasm: &Answer,
        native: &Answer,
        request: &baton_otel::RequestContext,
        keep: Shown,
    ) -> serde_json::Value {
        let uri = self.head.uri();
        let target = match keep {
            Shown::Digests => uri.path().to_owned(),
            Shown::Bodies => uri.to_string(),
        };
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        json!({
            "at_unix_ms": u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            "trace_id": request.trace_id.to_string(),
            "method": self.head.method().as_str(),
            "path": target,
            "differs": found,
            "wasm": wasm.shown(keep),
            "native": native.shown(keep),
        })
    }

    fn tell(
        &self,
        found: &[String],
        demoted: bool,
        guard: &Guard,
        request: &baton_otel::RequestContext,
    ) {
        let (function, differs) = (self.function.name(), found.join(", "));
        let trace_id = request.trace_id.to_string();
        tracing::warn!(function, trace_id, differs, "the two builds answered differently");
        if demoted {
            let threshold = guard.config.threshold;
            tracing::error!(
                function,
                threshold,
                "the native build is not believed any more: Wasm answers until the function is \
                 promoted by POST /v1/functions/{function}/promote"
            );
        }
    }

    fn trace(
        &self,
        found: &[String],
        demoted: bool,
        tier: Tier,
        request: &baton_otel::RequestContext,
        began: SystemTime,
    ) -> Trace {
        let now = SystemTime::now();
        let mut root = Span::new(span::VERIFY, began, now);
        root.attributes = vec![
            KeyValue::new(attribute::FAAS_NAME, self.function.name().to_owned()),
            KeyValue::new(attribute::BATON_TIER, tier.name()),
            KeyValue::new(attribute::ERROR_TYPE, "differed"),
        ];
        root.links.push((request.trace_id, request.span_id));
        root.status = Status::Error(found.join(", ").into());
        let mut happened = |name: &'static str| {
            root.events.push(Event { name: name.into(), time: now, attributes: Vec::new() });
        };
        happened(event::VERIFY_DIFFERED);
        if demoted {
            happened(event::DEMOTED);
        }
        let trace_id = baton_otel::context::new_trace_id();
        Trace { trace_id, parent: None, root, tracestate: None }
    }
}

/// Whether a problem is the function's own failure, which the other build should share. A sandbox
/// that ended may have been killed: that says nothing about the build.
fn is_failure(kind: Kind) -> bool {
    matches!(kind, Kind::Trapped | Kind::OutOfMemory | Kind::InvalidResponse)
}

/// Reads a body to its end; whether it came whole.
async fn drain<B: Body<Data = Bytes> + Unpin>(mut body: B, answer: &mut Answer) -> bool {
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                if let Some(data) = frame.data_ref() {
                    answer.body.push(data);
                }
            }
            Err(_) => return false,
        }
    }
    true
}
