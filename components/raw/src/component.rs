//! The component: bindings generated from `wit/`, and the handler.

#[expect(unsafe_code, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "baton:function/function", generate_all });
    use super::Raw;
    export!(Raw);
}

use bindings::exports::wasi::http::incoming_handler::Guest;
use bindings::wasi::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use bindings::wasi::io::streams::StreamError;

const CHUNK: u64 = 64 * 1024;
/// What `blocking-write-and-flush` takes at most.
const WRITE_MAX: usize = 4096;

struct Raw;

impl Guest for Raw {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let method = name(&request.method());
        let path = request.path_with_query().unwrap_or_default();
        let length = body_length(request);
        respond(out, &format!("{method} {path} with {length} bytes\n"));
    }
}

fn name(method: &Method) -> String {
    match method {
        Method::Other(other) => other.clone(),
        known => format!("{known:?}").trim_start_matches("Method::").to_uppercase(),
    }
}

fn body_length(request: IncomingRequest) -> usize {
    let body = request.consume().expect("nobody has taken the body");
    let stream = body.stream().expect("nobody has taken the stream");
    let mut length = 0;
    loop {
        match stream.blocking_read(CHUNK) {
            Ok(bytes) => length += bytes.len(),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => panic!("{}", error.to_debug_string()),
        }
    }
    drop(stream);
    IncomingBody::finish(body);
    length
}

fn respond(out: ResponseOutparam, text: &str) {
    let headers = Fields::new();
    headers
        .set("content-type", &[b"text/plain; charset=utf-8".to_vec()])
        .and_then(|()| headers.set("content-length", &[text.len().to_string().into_bytes()]))
        .expect("a response may have a content type and a length");
    let response = OutgoingResponse::new(headers);
    let body = response.body().expect("nobody has taken the body");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("nobody has taken the stream");
    for chunk in text.as_bytes().chunks(WRITE_MAX) {
        // Fails when the client has gone; there is nobody left to tell.
        if stream.blocking_write_and_flush(chunk).is_err() {
            return;
        }
    }
    drop(stream);
    OutgoingBody::finish(body, None).expect("all of it was written");
}
