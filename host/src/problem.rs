//! What the host itself answers: `application/problem+json` (RFC 9457).

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

/// The kinds of problem, one `urn:baton:problem:` type each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No function has this route.
    NotFound,
    /// The request is malformed.
    BadRequest,
    /// The client sent its request too slowly.
    SlowRequest,
    /// The body is longer than the function takes.
    BodyTooLarge,
    /// The header section is longer than the host takes.
    HeadersTooLarge,
    /// The component trapped.
    Trapped,
    /// The function needed more memory than its limit.
    OutOfMemory,
    /// The native function ended or closed its connection before it answered.
    Crashed,
    /// The function's answer is not HTTP.
    InvalidResponse,
    /// The function's queue is full, or the wait in it was too long.
    Saturated,
    /// The host is stopping.
    Draining,
    /// The function has no instance or sandbox yet.
    Starting,
    /// The function did not answer in time.
    Timeout,
    /// A function asked for what its `egress.allow` does not name; answered to the function.
    EgressDenied,
    /// What a function asked for gave no answer; answered to the function.
    EgressFailed,
}

impl Kind {
    /// The last part of the problem's type, also the span's `error.type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The status it is answered with.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.row().1
    }

    fn row(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "No function here"),
            Self::BadRequest => ("bad-request", StatusCode::BAD_REQUEST, "Malformed request"),
            Self::SlowRequest => {
                ("slow-request", StatusCode::REQUEST_TIMEOUT, "The request came too slowly")
            }
            Self::BodyTooLarge => {
                ("body-too-large", StatusCode::PAYLOAD_TOO_LARGE, "Request body too large")
            }
            Self::HeadersTooLarge => (
                "headers-too-large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "Request headers too large",
            ),
            Self::Trapped => ("trapped", StatusCode::INTERNAL_SERVER_ERROR, "The function trapped"),
            Self::OutOfMemory => (
                "out-of-memory",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The function ran out of memory",
            ),
            Self::Crashed => ("crashed", StatusCode::BAD_GATEWAY, "The function crashed"),
            Self::InvalidResponse => {
                ("invalid-response", StatusCode::BAD_GATEWAY, "The function gave no valid response")
            }
            Self::Saturated => {
                ("saturated", StatusCode::SERVICE_UNAVAILABLE, "The function is saturated")
            }
            Self::Draining => ("draining", StatusCode::SERVICE_UNAVAILABLE, "The host is stopping"),
            Self::Starting => {
                ("starting", StatusCode::SERVICE_UNAVAILABLE, "The function is starting")
            }
            Self::Timeout => {
                ("timeout", StatusCode::GATEWAY_TIMEOUT, "The function did not answer in time")
            }
            Self::EgressDenied => {
                ("egress-denied", StatusCode::FORBIDDEN, "The function may not connect there")
            }
            Self::EgressFailed => {
                ("egress-failed", StatusCode::BAD_GATEWAY, "No answer from there")
            }
        }
    }
}

/// One problem met by one request.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What kind it is.
    pub kind: Kind,
    /// What happened to this request, for the client.
    pub detail: Cow<'static, str>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<&'a str>,
    trace_id: &'a str,
}

/// Seconds a client is asked to wait before it tries again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Problem {
    /// A problem of `kind`.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// The answer: the document of RFC 9457, `Retry-After` with every 503.
    #[must_use]
    pub fn response(&self, function: Option<&str>, trace_id: &str) -> Response<Full<Bytes>> {
        let (name, status, title) = self.kind.row();
        let document = Document {
            r#type: format!("urn:baton:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            function,
            trace_id,
        };
        // A struct of strings and a number always serializes.
        let text = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER.as_secs()));
        }
        response
    }
}
