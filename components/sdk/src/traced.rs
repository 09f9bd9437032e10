//! A function's own spans in the trace of its request.
//!
//! [`traced`] wraps a service: what the function does in [`tracing`] spans while it answers a request
//! whose trace is recorded becomes spans of that trace, below the host's. A finished span is one line
//! of JSON on standard error, which Baton reads in both tiers; other hosts show a line of log. Events
//! are lines of log as they are, and an event of level ERROR marks its span as failed.

use std::fmt::{Debug, Write as _};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::Once;
use std::task::{Context as TaskContext, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use http::Request;
use serde_json::{Map, Value, json};
use tower::Service;
use tracing::field::{Field, Visit};
use tracing::instrument::Instrumented;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Instrument as _, Level, Span, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

/// Marks the span that stands for the host's.
const REQUEST: &str = "baton_function::request";

/// Wraps `service` so that its spans join the traces of its requests. The first call makes the
/// collector of spans this process's; one that the program has set before stays, and then nothing
/// joins.
pub fn traced<S>(service: S) -> Traced<S> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Told { out: io::stderr });
        // Whoever has set another one wants that.
        let _ = tracing::subscriber::set_global_default(subscriber);
    });
    Traced(service)
}

/// A service whose spans join the traces of its requests.
#[derive(Clone, Debug)]
pub struct Traced<S>(S);

impl<S, B> Service<Request<B>> for Traced<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Instrumented<S::Future>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let span = match request.headers().get("traceparent").and_then(|value| value.to_str().ok())
        {
            Some(parent) if is_recorded(parent) => {
                tracing::error_span!(target: REQUEST, "request", parent)
            }
            _ => Span::none(),
        };
        let answer = span.in_scope(|| self.0.call(request));
        answer.instrument(span)
    }
}

/// Whether a `traceparent` says that its trace is recorded; the host wrote it, in version 00.
fn is_recorded(parent: &str) -> bool {
    let flags = parent.get(53..55).and_then(|flags| u8::from_str_radix(flags, 16).ok());
    flags.is_some_and(|flags| flags & 1 == 1)
}

/// Where a span stands: its trace and its id, both in hexadecimal.
struct Place {
    trace: String,
    id: String,
}

/// A span that is not over.
struct Open {
    parent: String,
    start: u64,
    error: Option<String>,
    attributes: Map<String, Value>,
}

/// Writes spans that are over, and events.
struct Told<W> {
    out: W,
}

impl<W, O> Told<W>
where
    W: Fn() -> O,
    O: io::Write,
{
    fn write(&self, line: &str) {
        // There is nobody else to tell; the request matters more.
        let _ = (self.out)().write_all(format!("{line}\n").as_bytes());
    }
}

impl<S, W, O> Layer<S> for Told<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn() -> O + 'static,
    O: io::Write,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if span.metadata().target() == REQUEST {
            let parent = fields.0.get("parent").and_then(Value::as_str).unwrap_or_default();
            let part =
                |range: std::ops::Range<usize>| parent.get(range).unwrap_or_default().to_owned();
            span.extensions_mut().insert(Place { trace: part(3..35), id: part(36..52) });
            return;
        }
        let Some(above) = span.parent() else { return };
        let extensions = above.extensions();
        let Some(Place { trace, id: parent }) = extensions.get() else { return };
        let (trace, parent) = (trace.clone(), parent.clone());
        drop(extensions);
        let open = Open { parent, start: now(), error: None, attributes: fields.0 };
        span.extensions_mut().insert(Place { trace, id: new_id(id) });
        span.extensions_mut().insert(open);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            let mut fields = Fields::default();
            values.record(&mut fields);
            open.attributes.append(&mut fields.0);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let message = fields.0.remove("message").unwrap_or_default();
        let message = message.as_str().unwrap_or_default();
        if *metadata.level() == Level::ERROR
            && let Some(span) = context.event_span(event)
            && let Some(open) = span.extensions_mut().get_mut::<Open>()
        {
            open.error = Some(message.to_owned());
        }
        let mut line = format!("{} {}: {message}", metadata.level(), metadata.target());
        for (name, value) in &fields.0 {
            let _ = write!(line, " {name}={value}");
        }
        self.write(&line);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let mut extensions = span.extensions_mut();
        let Some(Open { parent, start, error, attributes }) = extensions.remove() else { return };
        let Some(Place { trace, id }) = extensions.remove() else { return };
        let mut told = json!({
            "trace": trace,
            "id": id,
            "parent": parent,
            "name": span.name(),
            "start": start,
            "end": now(),
        });
        if let Some(error) = error {
            told["error"] = error.into();
        }
        if !attributes.is_empty() {
            told["attributes"] = attributes.into();
        }
        self.write(&json!({ "baton.span": told }).to_string());
    }
}

/// Fields as JSON.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// 16 hexadecimal digits, not all zero; each hasher is seeded from the system's randomness.
fn new_id(span: &Id) -> String {
    let id = RandomState::new().hash_one((span.into_u64(), now()));
    format!("{:016x}", id.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a service writes that works in two spans, called with this `traceparent`.
    fn said(parent: &str) -> Vec<String> {
        let lines = Lines::default();
        let out = lines.clone();
        let told = Told { out: move || out.clone() };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(told), || {
            let mut service = Traced(tower::service_fn(|_: Request<()>| async {
                let outer = tracing::info_span!("outer", items = 3);
                outer.in_scope(|| {
                    tracing::info_span!("inner").in_scope(|| tracing::error!(code = 7, "broken"));
                });
                Ok::<_, std::convert::Infallible>(())
            }));
            let request = Request::builder().header("traceparent", parent).body(()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(service.call(request)).unwrap();
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn spans_nest_below_the_hosts_and_say_what_failed() {
        let lines = said(PARENT);
        assert!(lines[0].ends_with("broken code=7"), "{lines:?}");
        let span = |line: &str| serde_json::from_str::<Value>(line).unwrap()["baton.span"].clone();
        let (inner, outer) = (span(&lines[1]), span(&lines[2]));
        assert_eq!(outer["trace"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(outer["parent"], "b7ad6b7169203331");
        assert_eq!(outer["attributes"], json!({"items": 3}));
        assert_eq!((&inner["parent"], &inner["error"]), (&outer["id"], &json!("broken")));
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_trace_that_is_not_recorded_makes_no_lines_of_spans() {
        let lines = said(&PARENT.replace("-01", "-00"));
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
}
