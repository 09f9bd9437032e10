//! W3C trace context: who called, in which trace, and whether it is to be recorded.
//!
//! [`RequestContext::accept`] reads `traceparent` and `tracestate` of a request strictly by the
//! recommendation: lower-case hexadecimal only, no zero ids, version `ff` refused, later versions
//! read by their first four fields, several `traceparent` headers refused. What is refused starts
//! a new trace, and then `tracestate` is ignored too. [`RequestContext::pass_on`] writes both
//! headers for the next hop with the span that the next hop is a child of.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

/// The header that carries trace id, parent id and flags.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header that carries what other vendors want to be passed on.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Length of a `traceparent` of version 00.
const TRACEPARENT_LEN: usize = 55;
/// List members that `tracestate` may have.
const TRACESTATE_MEMBERS_MAX: usize = 32;

/// A new random span id from the thread's generator (seeded once a thread from the system).
#[must_use]
pub fn new_span_id() -> SpanId {
    RandomIdGenerator::default().new_span_id()
}

/// A new random trace id from the thread's generator (seeded once a thread from the system).
#[must_use]
pub fn new_trace_id() -> TraceId {
    RandomIdGenerator::default().new_trace_id()
}

/// Ids for the spans inside of a span, drawn from its own, which is random: the same ones in the same
/// order each time, so that a trace can be made more than once.
///
/// The sequence is that of `SplitMix64` (Steele, Lea and Flood, OOPSLA '14).
#[derive(Clone, Debug)]
pub struct Inner(u64);

impl Inner {
    /// The ids inside of `span`.
    #[must_use]
    pub fn of(span: SpanId) -> Self {
        Self(u64::from_be_bytes(span.to_bytes()))
    }

    /// The next one.
    #[expect(clippy::should_implement_trait, reason = "there is always another")]
    pub fn next(&mut self) -> SpanId {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The sequence has each number once, so of two in a row at most one is no id.
        match z ^ (z >> 31) {
            0 => self.next(),
            id => SpanId::from(id),
        }
    }
}

/// The value of a `traceparent` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: TraceId,
    /// The span that is the parent of what the receiver does.
    pub span_id: SpanId,
    /// Whether the sender may have recorded the trace.
    pub sampled: bool,
}

impl TraceParent {
    /// Reads a header value; `None` when the recommendation says to start a new trace instead.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let [version, after_version] = split_field::<2>(value)?;
        let version = hex::<2>(version)?;
        let [trace_id, after_trace] = split_field::<32>(after_version.strip_prefix(b"-")?)?;
        let [span_id, after_span] = split_field::<16>(after_trace.strip_prefix(b"-")?)?;
        let [flags, rest] = split_field::<2>(after_span.strip_prefix(b"-")?)?;
        // A later version may add fields, set off by a dash; 00 has none, and ff is forbidden.
        let rest_is_fine = match version {
            0xff => false,
            0 => rest.is_empty(),
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let trace_id = TraceId::from(hex::<32>(trace_id)?);
        let span_id = SpanId::from(u64::try_from(hex::<16>(span_id)?).ok()?);
        let sampled = hex::<2>(flags)? & 1 == 1;
        (rest_is_fine && trace_id != TraceId::INVALID && span_id != SpanId::INVALID)
            .then_some(Self { trace_id, span_id, sampled })
    }

    /// The header value of version 00, on the stack.
    #[must_use]
    pub fn to_bytes(self) -> [u8; TRACEPARENT_LEN] {
        let mut bytes = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut bytes[3..35], &self.trace_id.to_bytes());
        write_hex(&mut bytes[36..52], &self.span_id.to_bytes());
        bytes[54] = b'0' + u8::from(self.sampled);
        bytes
    }

    /// The header value of version 00.
    #[must_use]
    pub fn to_header(self) -> HeaderValue {
        HeaderValue::from_bytes(&self.to_bytes())
            .expect("hexadecimal digits and dashes are a header value")
    }
}

/// Splits a field of `N` bytes from the front.
fn split_field<const N: usize>(value: &[u8]) -> Option<[&[u8]; 2]> {
    value.split_at_checked(N).map(|(field, rest)| [field, rest])
}

/// Reads exactly `N` lower-case hexadecimal digits.
fn hex<const N: usize>(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |value, &digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

/// Writes two lower-case hexadecimal digits for every byte.
fn write_hex(digits: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
}

/// Which traces are recorded.
///
/// The ratio looks at the lower 63 random bits of the trace id as the OpenTelemetry SDKs do, so that
/// every service with the same ratio picks the same traces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether a caller's decision is followed; the ratio then only decides new traces.
    parent_based: bool,
    /// A trace whose lower bits, shifted right by one, are below this is recorded.
    bound: u64,
}

impl Sampler {
    /// Follows the caller's decision, and records this share of the traces that begin here.
    #[must_use]
    pub fn parent_based(ratio: f64) -> Self {
        Self { parent_based: true, ..Self::ratio(ratio) }
    }

    /// Records this share of the traces, whatever a caller decided.
    #[must_use]
    pub fn ratio(ratio: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to 0..=2^63 just before; a NaN becomes 0"
        )]
        let bound = (ratio.clamp(0.0, 1.0) * 2_f64.powi(63)) as u64;
        Self { parent_based: false, bound }
    }

    /// Whether a trace with this id is recorded, given the caller's decision if there was a caller.
    #[must_use]
    pub fn samples(&self, trace_id: TraceId, parent: Option<bool>) -> bool {
        match parent {
            Some(sampled) if self.parent_based => sampled,
            _ => {
                let [.., a, b, c, d, e, f, g, h] = trace_id.to_bytes();
                u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1 < self.bound
            }
        }
    }
}

/// What a request brings along and what it is told by: decided once when its head is read.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestContext {
    /// The trace that the request belongs to.
    pub trace_id: TraceId,
    /// Baton's own span for the request, the server span.
    pub span_id: SpanId,
    /// The caller's span.
    pub parent: Option<SpanId>,
    /// Whether spans are made of it.
    pub sampled: bool,
    /// The caller's `tracestate`, passed on as it came.
    pub tracestate: Option<HeaderValue>,
}

impl RequestContext {
    /// The context of a request with these headers, a new one when they bring no valid one.
    #[must_use]
    pub fn accept(headers: &HeaderMap, sampler: &Sampler) -> Self {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next().and_then(|value| TraceParent::parse(value.as_bytes())), values.next())
        {
            (Some(caller), None) => Self {
                trace_id: caller.trace_id,
                span_id: new_span_id(),
                parent: Some(caller.span_id),
                sampled: sampler.samples(caller.trace_id, Some(caller.sampled)),
                tracestate: tracestate(headers),
            },
            _ => Self::begin(sampler),
        }
    }

    /// The context of a trace that begins here.
    #[must_use]
    pub fn begin(sampler: &Sampler) -> Self {
        let trace_id = new_trace_id();
        Self {
            trace_id,
            span_id: new_span_id(),
            parent: None,
            sampled: sampler.samples(trace_id, None),
            tracestate: None,
        }
    }

    /// The `traceparent` that makes the next hop a child of `span` of this trace.
    #[must_use]
    pub fn traceparent(&self, span: SpanId) -> TraceParent {
        TraceParent { trace_id: self.trace_id, span_id: span, sampled: self.sampled }
    }

    /// Replaces the trace context in `headers` so that the next hop is a child of `span`.
    pub fn pass_on(&self, span: SpanId, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT, self.traceparent(span).to_header());
        match &self.tracestate {
            Some(state) => drop(headers.insert(TRACESTATE, state.clone())),
            None => drop(headers.remove(TRACESTATE)),
        }
    }
}

/// The `tracestate` of a request, several headers joined in order; `None` when it is empty or invalid.
fn tracestate(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(TRACESTATE).iter();
    let first = values.next()?;
    let joined = values.next().map(|second| {
        let all: Vec<&[u8]> =
            [first, second].into_iter().chain(values).map(HeaderValue::as_bytes).collect();
        all.join(&b',')
    });
    let value = match joined {
        None => first.clone(),
        Some(joined) => HeaderValue::from_bytes(&joined).ok()?,
    };
    is_tracestate(value.as_bytes()).then_some(value)
}

/// Whether a value is a list of 1 to 32 `key=value` members by the recommendation's grammar.
fn is_tracestate(value: &[u8]) -> bool {
    let mut members = 0;
    let valid =
        value.split(|&b| b == b',').map(trim).filter(|member| !member.is_empty()).all(|member| {
            members += 1;
            let Some(equals) = member.iter().position(|&b| b == b'=') else { return false };
            is_tracestate_key(&member[..equals]) && is_tracestate_value(&member[equals + 1..])
        });
    valid && (1..=TRACESTATE_MEMBERS_MAX).contains(&members)
}

/// Without the optional white space around it, which is spaces and tabs only.
fn trim(mut member: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = member {
        member = rest;
    }
    member
}

/// `vendor`, or `tenant@system` where a tenant may begin with a digit.
fn is_tracestate_key(key: &[u8]) -> bool {
    let is_rest = |rest: &[u8]| {
        rest.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'))
    };
    let is_name = |name: &[u8], longest: usize| matches!(name, [b'a'..=b'z', rest @ ..] if rest.len() < longest && is_rest(rest));
    match key.iter().position(|&b| b == b'@') {
        None => is_name(key, 256),
        Some(at) => {
            let tenant = &key[..at];
            matches!(tenant, [b'a'..=b'z' | b'0'..=b'9', rest @ ..] if rest.len() <= 240 && is_rest(rest))
                && is_name(&key[at + 1..], 14)
        }
    }
}

/// Up to 256 printable characters without `=` (a comma has already ended the member).
fn is_tracestate_value(value: &[u8]) -> bool {
    (1..=256).contains(&value.len()) && value.iter().all(|&b| matches!(b, b' '..=b'~') && b != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(pairs: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn always() -> Sampler {
        Sampler::parent_based(1.0)
    }

    proptest! {
        #[test]
        fn a_written_traceparent_reads_back_the_same(trace in 1_u128.., span in 1_u64.., sampled: bool) {
            let parent = TraceParent { trace_id: trace.into(), span_id: span.into(), sampled };
            prop_assert_eq!(TraceParent::parse(&parent.to_bytes()), Some(parent));
            prop_assert_eq!(
                String::from_utf8(parent.to_bytes().to_vec()).unwrap(),
                format!("00-{trace:032x}-{span:016x}-0{}", u8::from(sampled))
            );
        }

        #[test]
        fn no_bytes_make_the_parser_panic_and_what_it_reads_is_valid(value: Vec<u8>) {
            if let Some(parent) = TraceParent::parse(&value) {
                prop_assert!(parent.trace_id != TraceId::INVALID && parent.span_id != SpanId::INVALID);
            }
            is_tracestate(&value);
        }

        #[test]
        fn one_wrong_byte_in_a_traceparent_never_reads_as_the_same_caller(at in 0..52_usize, byte: u8) {
            let mut value = CALLER.as_bytes().to_vec();
            prop_assume!(at > 2 && value[at] != byte);
            value[at] = byte;
            prop_assert_ne!(TraceParent::parse(&value), TraceParent::parse(CALLER.as_bytes()));
        }

        #[test]
        fn the_ids_inside_of_a_span_are_always_the_same_and_differ_from_each_other(span: u64) {
            let ids = |mut inner: Inner| [(); 100].map(|()| inner.next());
            let drawn = ids(Inner::of(span.into()));
            prop_assert_eq!(drawn, ids(Inner::of(span.into())));
            let different: std::collections::BTreeSet<[u8; 8]> =
                drawn.iter().map(|id| id.to_bytes()).collect();
            prop_assert_eq!(different.len(), drawn.len());
            prop_assert!(!drawn.contains(&SpanId::INVALID));
        }

        #[test]
        fn the_share_of_sampled_traces_is_the_ratio(ratio in 0.0..=1.0_f64) {
            let sampler = Sampler::parent_based(ratio);
            let sampled = (0..2_000).filter(|_| sampler.samples(new_trace_id(), None)).count();
            // 2,000 draws have a standard deviation of at most 1.1 %; seven of them never happen.
            prop_assert!((f64::from(u32::try_from(sampled).unwrap()) / 2_000.0 - ratio).abs() < 0.08);
        }
    }

    #[test]
    fn a_traceparent_is_read_strictly() {
        let caller = TraceParent::parse(CALLER.as_bytes()).unwrap();
        assert_eq!(caller.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(caller.span_id.to_string(), "00f067aa0ba902b7");
        assert!(caller.sampled);
        for refused in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(refused.as_bytes()), None, "{refused:?}");
        }
    }

    #[test]
    fn a_later_version_is_read_by_its_first_fields() {
        for later in [
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-brings",
        ] {
            assert_eq!(TraceParent::parse(later.as_bytes()), TraceParent::parse(CALLER.as_bytes()));
        }
    }

    #[test]
    fn unknown_flags_are_not_passed_on() {
        let caller = headers(&[(&TRACEPARENT, &CALLER.replace("-01", "-ff"))]);
        let context = RequestContext::accept(&caller, &always());
        let passed = String::from_utf8(context.traceparent(context.span_id).to_bytes().to_vec());
        assert!(passed.unwrap().ends_with("-01"));
    }

    #[test]
    fn a_callers_trace_is_continued_and_passed_on_with_our_span() {
        let request = headers(&[(&TRACEPARENT, CALLER), (&TRACESTATE, "a=1, b=2")]);
        let context = RequestContext::accept(&request, &Sampler::parent_based(0.0));
        assert_eq!(context.parent.unwrap().to_string(), "00f067aa0ba902b7");
        assert!(context.sampled, "the caller's decision is followed");
        let (mut next, forward) = (request.clone(), new_span_id());
        context.pass_on(forward, &mut next);
        assert_eq!(next.get_all(TRACEPARENT).iter().count(), 1);
        let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{forward}-01");
        assert_eq!(next[TRACEPARENT], expected);
        assert_eq!(next[TRACESTATE], "a=1, b=2");
    }

    #[test]
    fn an_invalid_or_repeated_traceparent_begins_a_new_trace_without_tracestate() {
        for request in [
            headers(&[(&TRACEPARENT, "00-0-0-0"), (&TRACESTATE, "a=1")]),
            headers(&[(&TRACEPARENT, CALLER), (&TRACEPARENT, CALLER), (&TRACESTATE, "a=1")]),
            headers(&[(&TRACESTATE, "a=1")]),
        ] {
            let context = RequestContext::accept(&request, &always());
            assert_eq!((context.parent, context.tracestate.clone()), (None, None));
            let mut next = request;
            context.pass_on(context.span_id, &mut next);
            assert!(!next.contains_key(TRACESTATE));
        }
    }

    #[test]
    fn several_tracestates_are_joined_in_order() {
        let request =
            headers(&[(&TRACEPARENT, CALLER), (&TRACESTATE, "a=1"), (&TRACESTATE, "b=2")]);
        assert_eq!(RequestContext::accept(&request, &always()).tracestate.unwrap(), "a=1,b=2");
    }

    #[test]
    fn a_tracestate_is_kept_only_when_it_is_valid() {
        let many = vec!["a=1"; 33].join(",");
        let long = format!("a={}", "x".repeat(257));
        for refused in
            ["", ",", "a", "A=1", "=1", "a=", "a=b=c", "1a=1", "a@1=1", "a@b@c=1", &many, &long]
        {
            assert!(!is_tracestate(refused.as_bytes()), "{refused:?}");
        }
        for kept in ["a=1", "a=1,,b=2", "\ta=1 , b=2", "0tenant@vendor=x y", "a_-*/=!"] {
            assert!(is_tracestate(kept.as_bytes()), "{kept:?}");
        }
    }

    #[test]
    fn a_sampler_that_is_not_parent_based_overrules_the_caller() {
        let id = new_trace_id();
        assert!(Sampler::ratio(1.0).samples(id, Some(false)));
        assert!(!Sampler::ratio(0.0).samples(id, Some(true)));
        assert!(!Sampler::parent_based(1.0).samples(id, Some(false)));
        assert!(!Sampler::ratio(f64::NAN).samples(id, None));
    }
}
