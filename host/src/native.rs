//! The native tier: requests forwarded to sandboxes.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};

use crate::function::Function;
use crate::handover::Handover;
use crate::host::Host;
use crate::observer::Observer;
use crate::problem::Problem;
use crate::record::Record;
use crate::request_body::RequestBody;
use crate::tier::Reason;

/// A function's revision in the pool.
pub struct Native(Infallible);
impl Native {
    /// s
    pub fn statistics(&self) -> serde_json::Value {
        match self.0 {}
    }
}
/// s
pub struct Sandboxing(Infallible);
impl Sandboxing {
    /// s
    pub fn start(_: &Handover, _: &Arc<Observer>, _: &tokio_util::task::TaskTracker) -> anyhow::Result<Option<Arc<Self>>> {
        Ok(None)
    }
    /// s
    pub fn add(&self, _: &crate::manifest::Function, _: &OwnedFd) -> anyhow::Result<Native> {
        match self.0 {}
    }
    /// s
    pub async fn shutdown(&self) {}
    /// s
    pub fn connect(&self, _: OwnedFd) {}
}
/// s
pub fn sandboxes(_: &Host) -> serde_json::Value {
    serde_json::Value::Array(vec![])
}

/// The body of a native function's answer.
pub struct NativeBody(Infallible);

impl Body for NativeBody {
    type Data = Bytes;
    type Error = hyper::Error;
    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.0 {}
    }
}

/// What came of offering a request to the native tier.
pub enum Attempt {
    /// The function answered.
    Answered(Response<NativeBody>),
    /// It failed, and the request cannot be given to another.
    Failed(Problem),
    /// It did not take the request, for this reason.
    Declined(Request<RequestBody>, Reason),
}

/// Offers a request to the native tier.
pub async fn attempt(
    _host: &Host,
    _function: &Function,
    _record: &mut Record,
    request: Request<RequestBody>,
) -> Attempt {
    Attempt::Declined(request, Reason::Policy)
}
