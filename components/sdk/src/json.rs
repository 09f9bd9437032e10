//! JSON in and out of an axum handler, with problems for answers to bad input.

use axum_core::extract::{FromRequest, Request};
use axum_core::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Problem;

/// As an argument of a handler the request's body read as JSON, as its result a JSON response.
///
/// An empty body reads as `{}`, so that a type whose fields all have defaults needs no body. The
/// `Content-Type` of the request is not looked at. What cannot be read is answered with a
/// [`Problem`]: 400, or 413 when the body is longer than axum's limit (`DefaultBodyLimit`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Json<T>(pub T);

impl<T, S> FromRequest<S> for Json<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
        let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(text).map(Self).map_err(|error| {
            Problem::bad_request(format!("the body is not the JSON expected here: {error}"))
        })
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => {
                ([(header::CONTENT_TYPE, "application/json")], Bytes::from(body)).into_response()
            }
            Err(error) => Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the answer cannot be written as JSON: {error}"),
            )
            .into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::post;
    use http_body_util::BodyExt;
    use serde::Deserialize;
    use tower::ServiceExt;

    use super::*;

    #[derive(Debug, Deserialize, Serialize)]
    #[serde(deny_unknown_fields)]
    struct Input {
        #[serde(default)]
        n: u32,
    }

    async fn post_to_echo(body: impl Into<Body>) -> (StatusCode, String, String) {
        let router = Router::new().route("/", post(async |Json(input): Json<Input>| Json(input)));
        let request = Request::post("/").body(body.into()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn empty_body_reads_as_defaults() {
        let answer = post_to_echo("").await;
        assert_eq!(answer, (StatusCode::OK, "application/json".into(), r#"{"n":0}"#.into()));
    }

    #[tokio::test]
    async fn unreadable_body_is_answered_with_a_problem_that_says_where() {
        let (status, kind, body) = post_to_echo(r#"{"m": 1}"#).await;
        assert_eq!((status.as_u16(), kind.as_str()), (400, "application/problem+json"));
        assert!(body.contains("unknown field `m`, expected `n` at line 1 column 4"), "{body}");
    }

    #[tokio::test]
    async fn body_over_the_limit_is_answered_with_a_problem() {
        let (status, kind, _) = post_to_echo(vec![b' '; 3 << 20]).await;
        assert_eq!((status.as_u16(), kind.as_str()), (413, "application/problem+json"));
    }
}
