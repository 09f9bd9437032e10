//! An object in an HTTP object store: GET reads it, PUT writes it, as S3 does by path or by
//! presigned URL.

use baton_function::{Client, Problem};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};

/// Objects are held in memory.
const LONGEST: usize = 16 << 20;

/// Where an object is, or is to be.
#[derive(Clone, Debug)]
pub struct Object(Uri);

impl Object {
    /// The object of an absolute URL; `field` is where the request names it.
    ///
    /// # Errors
    /// A problem of status 400 when the URL is none, or not of HTTP.
    pub fn at(field: &str, url: &str) -> Result<Self, Problem> {
        match url.parse::<Uri>() {
            Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) => Ok(Self(uri)),
            _ => Err(Problem::bad_request(format!(
                "{field} is {url:?}, expected an absolute http or https URL"
            ))),
        }
    }

    /// Its bytes.
    ///
    /// # Errors
    /// A problem of status 502 when the store does not give them, 413 when they are too many.
    pub async fn read(&self) -> Result<Bytes, Problem> {
        self.exchange(Method::GET, Bytes::new()).await
    }

    /// Its bytes from now on.
    ///
    /// # Errors
    /// A problem of status 502 when the store does not take them.
    pub async fn write(&self, bytes: Bytes) -> Result<(), Problem> {
        self.exchange(Method::PUT, bytes).await.map(drop)
    }

    /// Sends bytes to it, and returns what it answers.
    ///
    /// # Errors
    /// A problem of status 502 when it does not answer with success, 413 when that is too long.
    pub async fn ask(&self, message: Bytes) -> Result<Bytes, Problem> {
        self.exchange(Method::POST, message).await
    }

    async fn exchange(&self, method: Method, body: Bytes) -> Result<Bytes, Problem> {
        let Self(uri) = self;
        let failed = |how: String| Problem::new(StatusCode::BAD_GATEWAY, format!("{uri} {how}"));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        let response = Client::new().send(request).await;
        let response = response.map_err(|_| failed(String::from("cannot be reached")))?;
        let status = response.status();
        if !status.is_success() {
            return Err(failed(format!("answered {status}")));
        }
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| failed(String::from("broke off its answer")))?;
            bytes.extend(frame.into_data().unwrap_or_default());
            if bytes.len() > LONGEST {
                let detail = format!("{uri} has more than {LONGEST} bytes");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
            }
        }
        Ok(bytes.into())
    }
}
