//! What a function answers to a request that it cannot serve: a problem (RFC 9457).

use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;

/// A response of type `application/problem+json` that says what was wrong with the request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    /// A problem of that status; `detail` says what is wrong and what was expected.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// Status 400: the request itself is wrong.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = Document {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Problem"),
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        let body = serde_json::to_vec(&document).expect("strings and a number always serialize");
        let headers = [(header::CONTENT_TYPE, "application/problem+json")];
        (self.status, headers, Body::from(body)).into_response()
    }
}
