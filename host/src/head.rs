//! A request's head, out of the buffer that the connection reads into.
//!
//! What hyper gives of an HTTP/1 head are slices of that buffer, 8 KiB, and whoever keeps one of them keeps all of
//! it. The connection takes another one for what comes next, so a request that waits in a guest would hold two.

use std::mem;

use bytes::{Bytes, BytesMut};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Request, Uri, Version};

/// What keeps the buffer that a head was read into.
#[must_use = "dropping it gives the buffer back"]
pub struct Buffer {
    _slice: Option<HeaderValue>,
}

/// Has the target and the values of the headers share memory of their own, no larger than they are.
///
/// A head of HTTP/2 is left alone: its texts have been unpacked, each for itself.
pub fn detach<B>(request: &mut Request<B>) -> Buffer {
    let mut buffer = Buffer { _slice: None };
    if request.version() > Version::HTTP_11 {
        return buffer;
    }
    let values = request.headers().values().map(HeaderValue::len).sum::<usize>();
    let target = request.uri();
    let authority = target.authority().map_or("", Authority::as_str);
    let path = target.path_and_query().map_or("", PathAndQuery::as_str);
    let mut own = BytesMut::with_capacity(values + authority.len() + path.len());
    let mut copy = |text: &[u8]| {
        own.extend_from_slice(text);
        own.split().freeze()
    };
    if let Some(target) = uri(request.uri(), &mut copy) {
        *request.uri_mut() = target;
    }
    for value in request.headers_mut().values_mut() {
        // Both were valid a moment ago.
        if let Ok(mut owned) = HeaderValue::from_maybe_shared(copy(value.as_bytes())) {
            owned.set_sensitive(value.is_sensitive());
            buffer._slice = Some(mem::replace(value, owned));
        }
    }
    buffer
}

fn uri(uri: &Uri, copy: &mut impl FnMut(&[u8]) -> Bytes) -> Option<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = uri.scheme().cloned();
    if let Some(authority) = uri.authority() {
        parts.authority = Authority::from_maybe_shared(copy(authority.as_str().as_bytes())).ok();
    }
    if let Some(path) = uri.path_and_query() {
        parts.path_and_query = PathAndQuery::from_maybe_shared(copy(path.as_str().as_bytes())).ok();
    }
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    /// A GET whose texts are slices of what is returned beside it.
    fn read(target: &str) -> (Bytes, Request<()>) {
        let buffer = Bytes::from([target, "localhost"].concat());
        let (target, host) = (buffer.slice(..target.len()), buffer.slice(target.len()..));
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_maybe_shared(target).expect("a target");
        let host = HeaderValue::from_maybe_shared(host).expect("a value");
        request.headers_mut().insert(header::HOST, host);
        (buffer, request)
    }

    #[test]
    fn a_detached_head_holds_nothing_of_the_buffer_that_it_was_read_into() {
        let (buffer, mut request) = read("/a/path?and=query");
        let kept = detach(&mut request);
        assert!(!buffer.is_unique());
        drop(kept);
        assert!(buffer.is_unique());
    }

    #[test]
    fn a_detached_head_says_what_it_said() {
        for target in ["/", "/a?b", "*", "http://example.com:81/a?b", "example.com:443"] {
            let (_, mut request) = read(target);
            let (uri, headers) = (request.uri().clone(), request.headers().clone());
            drop(detach(&mut request));
            assert_eq!((request.uri(), request.headers()), (&uri, &headers));
        }
    }

    #[test]
    fn a_detached_head_keeps_secret_what_was_secret() {
        let (_, mut request) = read("/");
        request.headers_mut().values_mut().for_each(|value| value.set_sensitive(true));
        drop(detach(&mut request));
        assert!(request.headers().values().all(HeaderValue::is_sensitive));
    }
}
