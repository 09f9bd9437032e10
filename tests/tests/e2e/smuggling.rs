//! Requests whose framing, headers or target are meant to be read differently by two servers.
//! `docs/http.md` says what becomes of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use baton_tests::baton::{Baton, Setup};

/// Shows what it sees, in each tier.
fn both() -> [Baton; 2] {
    [Setup::new().wasm("misbehaving").start(), Setup::new().native("misbehaving").start()]
}

fn wasm() -> Baton {
    Setup::new().wasm("misbehaving").start()
}

/// Sends bytes and returns everything that comes back until the connection is closed.
#[track_caller]
fn exchange(baton: &Baton, bytes: impl AsRef<[u8]>) -> String {
    let mut raw = baton.raw();
    // It may be answered, and the connection closed, before all of it is written.
    let _ = raw.write(bytes);
    raw.rest()
}

/// The status of each answer.
fn statuses(answers: &str) -> Vec<u16> {
    let heads = answers.match_indices("HTTP/1.1 ");
    heads.filter_map(|(at, _)| answers.get(at + 9..at + 12)?.parse().ok()).collect()
}

/// A request that asks for what the function sees, with more lines in its head.
fn seen(lines: &str) -> String {
    format!("GET /misbehaving/headers HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n")
}

/// What follows a body that ends where it should not, if anything does.
const SMUGGLED: &str = "GET /misbehaving/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

#[track_caller]
fn is_refused(baton: &Baton, request: impl AsRef<[u8]>) {
    let text = String::from_utf8_lossy(request.as_ref()).into_owned();
    assert_eq!(statuses(&exchange(baton, request)), [400], "{text:?}");
}

#[test]
fn lengths_that_are_not_one_number_are_refused() {
    let baton = wasm();
    for length in ["3, 4", "+3", "-1", "0x3", "3_0", "three", "3 3", "99999999999999999999"] {
        is_refused(
            &baton,
            format!(
                "POST /misbehaving/hold HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nabc{SMUGGLED}"
            ),
        );
    }
}

#[test]
fn equal_lengths_are_passed_on_as_one() {
    for baton in both() {
        let request = "POST /misbehaving/headers HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\
                       Content-Length: 3\r\nConnection: close\r\n\r\nabc";
        let answer = exchange(&baton, request).to_lowercase();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(body.matches("content-length: 3\n").count(), 1, "{answer}");
    }
}

#[test]
fn of_a_length_and_chunks_the_function_sees_only_one() {
    for baton in both() {
        for headers in [
            "Content-Length: 30\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 30\r\n",
        ] {
            let request = format!(
                "POST /misbehaving/headers HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n\
                 3\r\nabc\r\n0\r\n\r\n"
            );
            let answer = exchange(&baton, request).to_lowercase();
            assert_eq!(statuses(&answer.replace("http", "HTTP")), [200], "{answer}");
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(!body.contains("content-length: 30"), "{answer}");
        }
    }
}

#[test]
fn codings_other_than_chunked_are_refused() {
    let baton = wasm();
    for coding in [
        "gzip, chunked",
        "chunked, chunked",
        "identity",
        "xchunked",
        "chunked, identity",
        "chunked;q=0",
        "\"chunked\"",
        "chunked\x0b",
    ] {
        is_refused(
            &baton,
            format!(
                "POST /misbehaving/hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\
                 Connection: close\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
        );
    }
}

#[test]
fn header_names_that_hide_a_framing_are_refused() {
    let baton = wasm();
    for line in [
        "Transfer-Encoding : chunked",
        " Transfer-Encoding: chunked",
        "\tTransfer-Encoding: chunked",
        "Transfer\tEncoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "Transfer-Encoding\r\n : chunked",
        "Content-Length : 3",
        ": chunked",
    ] {
        is_refused(&baton, seen(&format!("{line}\r\n")));
    }
}

#[test]
fn control_bytes_in_a_header_are_refused() {
    let baton = wasm();
    for byte in ["\0", "\r", "\x01", "\x7f", "\r\r"] {
        is_refused(&baton, seen(&format!("X: a{byte}b\r\n")));
    }
}

#[test]
fn chunked_coding_in_http_1_0_is_refused() {
    let request = format!(
        "POST /misbehaving/hold HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
    );
    let answer = exchange(&wasm(), request).replace("HTTP/1.0", "HTTP/1.1");
    assert_eq!(statuses(&answer), [400], "{answer}");
}

#[test]
fn sizes_of_chunks_that_are_not_numbers_are_refused() {
    let baton = wasm();
    for size in ["-1", "+3", "0x3", "3 3", "ffffffffffffffffff", "", "3\u{b}", "g"] {
        is_refused(
            &baton,
            format!(
                "POST /misbehaving/hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {size}\r\nabc\r\n0\r\n\r\n{SMUGGLED}"
            ),
        );
    }
}

#[test]
fn extensions_of_chunks_are_bounded() {
    let extension = "x".repeat(64 << 10);
    is_refused(
        &wasm(),
        format!(
            "POST /misbehaving/hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
             3;{extension}\r\nabc\r\n0\r\n\r\n"
        ),
    );
}

#[test]
fn a_body_that_the_function_leaves_unread_is_never_a_request() {
    for baton in both() {
        let length = SMUGGLED.len();
        let request = format!(
            "POST /misbehaving HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{SMUGGLED}"
        );
        assert_eq!(statuses(&exchange(&baton, request)), [200]);
    }
}

#[test]
fn bare_line_feeds_end_lines_and_reach_the_function_as_whole_ones() {
    for baton in both() {
        let answer = exchange(
            &baton,
            "GET /misbehaving/headers HTTP/1.1\nHost: a\nX-Public: b\nConnection: close\n\n",
        );
        assert_eq!(statuses(&answer), [200], "{answer}");
        assert!(answer.contains("x-public: b\n"), "{answer}");
    }
}

#[test]
fn the_host_of_an_absolute_target_replaces_the_header() {
    for baton in both() {
        let answer = exchange(
            &baton,
            "GET http://real.example/misbehaving/headers HTTP/1.1\r\nHost: forged.example\r\n\
             Connection: close\r\n\r\n",
        );
        assert!(answer.contains("host: real.example\n"), "{answer}");
        assert!(answer.contains("x-forwarded-host: real.example\n"), "{answer}");
        assert!(!answer.contains("forged"), "{answer}");
    }
}

#[test]
fn connect_is_refused() {
    let baton = Setup::new().function("f", "wasm").component("misbehaving").start();
    for target in ["a:80", "127.0.0.1:22"] {
        is_refused(
            &baton,
            format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"),
        );
    }
}

#[test]
fn a_target_that_is_no_path_finds_no_function() {
    let baton = wasm();
    for (method, target) in
        [("OPTIONS", "*"), ("GET", "*"), ("GET", "a:80"), ("GET", "misbehaving")]
    {
        let answer = exchange(
            &baton,
            format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        );
        let statuses = statuses(&answer);
        assert!(statuses == [404] || statuses == [400], "{target}: {answer}");
    }
}

#[test]
fn a_path_is_never_taken_for_another() {
    let baton = Setup::new().wasm("misbehaving").wasm("hello").start();
    for target in [
        "//misbehaving",
        "/./misbehaving",
        "/x/../misbehaving",
        "/%6disbehaving",
        "/%2e/misbehaving",
        "/MISBEHAVING",
        "/misbehaving%2fheaders",
        "/misbehaving;x/headers",
        "/misbehaving%00",
        "/misbehavingheaders",
        "\\misbehaving",
    ] {
        let answer = exchange(
            &baton,
            format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        );
        let statuses = statuses(&answer);
        assert!(statuses == [404] || statuses == [400], "{target}: {answer}");
    }
}

#[test]
fn what_follows_a_route_reaches_its_function_as_it_was_sent() {
    for baton in both() {
        let rest = "/../hello/%2e%2e//%00?/../b%2f/headers";
        let answer = exchange(
            &baton,
            format!("GET /misbehaving{rest} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        );
        assert!(answer.contains(&format!("target: {rest}\n")), "{answer}");
    }
}

#[test]
fn headers_that_baton_sets_cannot_be_named_away() {
    for baton in both() {
        let answer = exchange(
            &baton,
            "GET /misbehaving/headers HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\
             Connection: close, host, x-forwarded-for, x-forwarded-host, forwarded, content-length\r\n\r\n",
        );
        for line in ["host: a\n", "x-forwarded-for: 127.0.0.1\n", "x-forwarded-host: a\n"] {
            assert!(answer.contains(line), "{line:?} in {answer}");
        }
    }
}

#[test]
fn a_header_with_an_underscore_is_another_header() {
    let answer = exchange(&wasm(), seen("X_Forwarded_For: forged\r\nContent_Length: 5\r\n"));
    assert!(answer.contains("x-forwarded-for: 127.0.0.1\n"), "{answer}");
    assert_eq!(statuses(&answer), [200], "{answer}");
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` in HPACK's static table.
const STATUS_200: u8 = 0x88;

/// Header fields as HPACK literals that are not indexed.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// Whether a request with these fields over HTTP/2, followed by `data`, is answered 200.
fn is_served(baton: &Baton, fields: &[(&str, &str)], data: Option<&[u8]>) -> bool {
    let mut stream = TcpStream::connect(baton.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let flags = END_HEADERS | if data.is_none() { END_STREAM } else { 0 };
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, b""));
    sent.extend(frame(HEADERS, flags, 1, &block(fields)));
    if let Some(data) = data {
        sent.extend(frame(DATA, END_STREAM, 1, data));
    }
    stream.write_all(&sent).unwrap();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return false;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).unwrap();
        match head[3] {
            HEADERS => return payload.first() == Some(&STATUS_200),
            RST_STREAM | GOAWAY => return false,
            _ => {}
        }
    }
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/misbehaving/headers"),
    (":authority", "a"),
];

#[test]
fn pseudo_headers_are_there_once_and_first() {
    let baton = wasm();
    assert!(is_served(&baton, &GET, None));
    for without in [0, 2] {
        let mut fields = GET.to_vec();
        fields.remove(without);
        assert!(!is_served(&baton, &fields, None), "{fields:?}");
    }
    for more in [
        (":path", "/misbehaving/other"),
        (":method", "POST"),
        (":authority", "b"),
        (":status", "200"),
        (":unknown", "x"),
        (":protocol", "websocket"),
    ] {
        let fields = [&GET[..], &[more]].concat();
        assert!(!is_served(&baton, &fields, None), "{fields:?}");
    }
    let late = [&GET[..2], &[("x-early", "y")], &GET[2..]].concat();
    assert!(!is_served(&baton, &late, None), "{late:?}");
}

#[test]
fn what_would_be_a_request_of_its_own_in_http_1_is_refused_in_http_2() {
    let baton = wasm();
    for field in [
        ("x", "a\r\nTransfer-Encoding: chunked"),
        ("x", "a\nb"),
        ("x", "a\0b"),
        ("x\r\ny", "a"),
        ("x: y", "a"),
        ("X-Upper", "a"),
        ("", "a"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("keep-alive", "1"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
    ] {
        let fields = [&GET[..], &[field]].concat();
        assert!(!is_served(&baton, &fields, None), "{field:?}");
    }
    for path in ["/misbehaving/headers HTTP/1.1\r\nHost: b\r\n\r\n", "", "misbehaving", "*"] {
        let mut fields = GET.to_vec();
        fields[2].1 = path;
        assert!(!is_served(&baton, &fields, None), "{path:?}");
    }
}

#[test]
fn a_body_that_differs_from_its_length_is_refused_in_http_2() {
    for baton in both() {
        let post = |length| {
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/misbehaving/hold"),
                (":authority", "a"),
                ("content-length", length),
            ]
        };
        assert!(is_served(&baton, &post("3"), Some(b"abc")));
        assert!(!is_served(&baton, &post("2"), Some(b"abc")));
        assert!(!is_served(&baton, &post("4"), Some(b"abc")));
    }
}
