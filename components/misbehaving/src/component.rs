//! The component, written directly on the world in `wit/`.

#[expect(unsafe_code, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "baton:function/function", generate_all });
    use super::Misbehaving;
    export!(Misbehaving);
}

use bindings::exports::wasi::http::incoming_handler::Guest;
use bindings::wasi::config::store;
use bindings::wasi::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse,
    ResponseOutparam,
};
use bindings::wasi::io::streams::{OutputStream, StreamError};

use std::sync::atomic::{AtomicU64, Ordering};

const CHUNK: u64 = 64 * 1024;

/// Requests that this instance has been asked to count.
static COUNT: AtomicU64 = AtomicU64::new(0);

struct Misbehaving;

impl Guest for Misbehaving {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        match target.as_str() {
            headers if headers.ends_with("/headers") => respond(out, &describe(&request)),
            "/count" => {
                let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
                respond(out, &format!("{count}\n"));
            }
            "/config" => {
                let all = store::get_all().expect("what the manifest says");
                let lines = all.into_iter().map(|(name, value)| format!("{name}={value}\n"));
                respond(out, &lines.collect::<String>());
            }
            "/files" => respond(out, &crate::files()),
            "/fill" => respond(out, &crate::fill()),
            "/shout" => respond(out, &crate::shout()),
            "/hold" => {
                read_to_the_end(request);
                respond(out, "held\n");
            }
            "/sleep" => std::thread::sleep(crate::HOUR),
            "/loop" => crate::compute_for_ever(),
            "/allocate" => crate::allocate_for_ever(),
            "/crash" => panic!("told to"),
            "/crash-midway" => {
                let _unfinished = begin(out, &[], b"some of it\n");
                // The host has its turn, and what is written goes out.
                std::thread::sleep(std::time::Duration::from_millis(10));
                panic!("told to");
            }
            "/crash-after-head" => {
                let _unfinished = begin(out, &[], b"some of it\n");
                panic!("told to");
            }
            "/short" => {
                let (body, stream) = begin(out, &[("content-length", "1000")], b"some of it\n");
                drop(stream);
                // That fewer bytes were written than announced is the host's to notice.
                let _ = OutgoingBody::finish(body, None);
            }
            "/drip" => drip(out),
            "/divergent" => respond(out, "wasm\n"),
            "/trailers" => trailers(request, out),
            "/silent" => {}
            "/error" => ResponseOutparam::set(out, Err(ErrorCode::ConfigurationError)),
            "/large-headers" => {
                let fields = Fields::new();
                for _ in 0..1000 {
                    fields.append("x", &[b'x'; 1024]).expect("room for another header");
                }
                respond(out, "they fit\n");
            }
            "/invalid-header" => {
                Fields::new().set("x y", &[b"z".to_vec()]).expect("a header that HTTP allows");
            }
            _ => respond(out, "fine\n"),
        }
    }
}

fn describe(request: &IncomingRequest) -> String {
    let mut text = format!("target: {}\n", request.path_with_query().unwrap_or_default());
    if let Some(authority) = request.authority() {
        text.push_str(&format!("host: {authority}\n"));
    }
    for (name, value) in request.headers().entries() {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(&value)));
    }
    text
}

fn read_to_the_end(request: IncomingRequest) {
    let body = request.consume().expect("nobody has taken the body");
    let stream = body.stream().expect("nobody has taken the stream");
    loop {
        match stream.blocking_read(CHUNK) {
            Ok(_) => {}
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => panic!("{}", error.to_debug_string()),
        }
    }
    drop(stream);
    IncomingBody::finish(body);
}

/// What the request's trailers were, and one of its own.
fn trailers(request: IncomingRequest, out: ResponseOutparam) {
    let body = request.consume().expect("nobody has taken the body");
    let stream = body.stream().expect("nobody has taken the stream");
    while stream.blocking_read(CHUNK).is_ok() {}
    drop(stream);
    let trailers = IncomingBody::finish(body);
    trailers.subscribe().block();
    let came = trailers.get().expect("they are there").expect("nobody has taken them");
    let came = came.expect("the body is whole").map(|came| came.entries()).unwrap_or_default();
    let text: String = came
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value)))
        .collect();
    let (body, stream) = begin(out, &[("trailer", "x-last")], text.as_bytes());
    drop(stream);
    let last = Fields::new();
    last.set("x-last", &[b"word".to_vec()]).expect("a header that HTTP allows");
    OutgoingBody::finish(body, Some(last)).expect("no length was announced");
}

fn begin(
    out: ResponseOutparam,
    headers: &[(&str, &str)],
    first: &[u8],
) -> (OutgoingBody, OutputStream) {
    let fields = Fields::new();
    for (name, value) in headers {
        fields.set(name, &[value.as_bytes().to_vec()]).expect("a header that HTTP allows");
    }
    let response = OutgoingResponse::new(fields);
    let body = response.body().expect("nobody has taken the body");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("nobody has taken the stream");
    stream.blocking_write_and_flush(first).expect("the client is there");
    (body, stream)
}

fn respond(out: ResponseOutparam, text: &str) {
    let (body, stream) = begin(out, &[("content-type", "text/plain")], text.as_bytes());
    drop(stream);
    OutgoingBody::finish(body, None).expect("no length was announced");
}

fn drip(out: ResponseOutparam) {
    let (_body, stream) = begin(out, &[], b"drop\n");
    while stream.blocking_write_and_flush(b"drop\n").is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
