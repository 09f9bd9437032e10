//! What each function is asked, and the status that both of its builds must answer with.

use std::borrow::Cow;

use bytes::Bytes;
use http::Method;

/// A request, and the status that both builds must answer it with.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) method: Method,
    pub(super) path: Cow<'static, str>,
    pub(super) body: Bytes,
    pub(super) status: u16,
}

pub(super) fn get(path: &'static str, status: u16) -> Case {
    Case { method: Method::GET, path: Cow::Borrowed(path), body: Bytes::new(), status }
}

pub(super) fn post(body: impl Into<Bytes>, status: u16) -> Case {
    Case { method: Method::POST, path: Cow::Borrowed("/"), body: body.into(), status }
}

/// What each function is asked, by the name of its builds.
pub(super) fn cases(function: &str) -> Vec<Case> {
    match function {
        "hello" => vec![
            get("/", 200),
            get("/Ada", 200),
            get("/J%C3%BCrgen", 200),
            get("/%ff", 400),
            get("/Ada/Lovelace", 404),
            Case { method: Method::HEAD, ..get("/", 200) },
            Case { method: Method::HEAD, ..get("/Ada/Lovelace", 404) },
            Case { method: Method::DELETE, ..get("/", 405) },
            post("", 200),
            post("echo", 200),
            post((0..=255).collect::<Vec<u8>>(), 200),
            post(vec![b'x'; 1 << 20], 200),
        ],
        "traced" => vec![get("/", 200), get("/broken", 200), get("/nowhere", 404)],
        "float-operation" => vec![
            post("", 200),
            post("{}", 200),
            post(r#"{"n": 100000, "value": 0}"#, 200),
            post(r#"{"n": 7, "value": 0.1}"#, 200),
            post(r#"{"n": 1000, "value": 1e15}"#, 200),
            post(r#"{"n": 0}"#, 400),
            post(r#"{"n": 100000001}"#, 400),
            post(r#"{"n": 4294967296}"#, 400),
            post(r#"{"n": -1}"#, 400),
            post(r#"{"value": -0.5}"#, 400),
            post(r#"{"value": 1e300}"#, 400),
            post(r#"{"value": 1e999}"#, 400),
            post(r#"{"m": 1}"#, 400),
            post("no JSON", 400),
            post([0xff, 0xfe].as_slice(), 400),
            get("/", 405),
            get("/other", 404),
        ],
        "matmul" => vec![
            post("", 200),
            post(r#"{"size": 1}"#, 200),
            post(r#"{"size": 17, "seed": 18446744073709551615}"#, 200),
            post(r#"{"size": 64, "seed": 0}"#, 200),
            post(r#"{"size": 0}"#, 400),
            post(r#"{"size": 1025}"#, 400),
            post(r#"{"size": 5000000000}"#, 400),
            post(r#"{"size": 2.5}"#, 400),
            post(r#"{"seed": 18446744073709551616}"#, 400),
            post("[", 400),
        ],
        "audio-sine-wave" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"size_kib": 512, "frequency": 261.63, "measure": false}"#, 200),
            post(r#"{"seconds": 0, "rate": 8000, "measure": false}"#, 200),
            post(r#"{"size_kib": 0}"#, 400),
            post(r#"{"seconds": 1e9}"#, 400),
            post(r#"{"rate": 0}"#, 400),
            post(r#"{"storage": "ftp://store.test/wave"}"#, 400),
            post(r#"{"storage": "wave"}"#, 400),
        ],
        "fuzzysearch" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"search": "jurney libary", "size_kib": 256, "measure": false}"#, 200),
            post(r#"{"search": "ähre", "text": "Ähren\nÄhre\nOhr", "measure": false}"#, 200),
            post(r#"{"search": "x", "text": "", "measure": false}"#, 200),
            post(r#"{"search": ""}"#, 400),
            post(r#"{"limit": 0}"#, 400),
            post(r#"{"size_kib": 8193}"#, 400),
        ],
        "n-body" => vec![
            post("", 200),
            post(r#"{"steps": 1, "dt": 0.1}"#, 200),
            post(r#"{"steps": 100000}"#, 200),
            post(r#"{"steps": 0}"#, 400),
            post(r#"{"dt": 0}"#, 400),
        ],
        "prime-numbers" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"limit": 10000, "measure": false}"#, 200),
            post(r#"{"n": 1, "measure": false}"#, 200),
            post(r#"{"limit": 1000000, "measure": false}"#, 200),
            post(r#"{"n": 0}"#, 400),
            post(r#"{"n": 1, "limit": 1}"#, 400),
        ],
        "language-detection" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"text": "Füchse springen über faule Hunde", "measure": false}"#, 200),
            post(r#"{"text": "a", "measure": false}"#, 200),
            post(r#"{"text": "1", "measure": false}"#, 200),
            post(r#"{"text": "吃葡萄不吐葡萄皮", "measure": false}"#, 200),
            post(r#"{"size_kib": 512, "measure": false}"#, 200),
            post(r#"{"size_kib": 0}"#, 400),
            post(r#"{"text": 1}"#, 400),
        ],
        "zip-compression" => vec![
            post("", 200),
            post(r#"{"files": 1, "size_kib": 1, "seed": 7}"#, 200),
            post(r#"{"files": 0}"#, 400),
            post(r#"{"files": 1000, "size_kib": 4096}"#, 400),
        ],
        "aes-encryption" => vec![
            post("", 200),
            post(r#"{"message": "", "iterations": 1}"#, 200),
            post(r#"{"message": "grüße", "key": "0123456789abcdef"}"#, 200),
            post(r#"{"key": "short"}"#, 400),
            post(r#"{"length": 1048576, "iterations": 100000}"#, 400),
        ],
        "checksum" => vec![
            post("", 200),
            post(r#"{"size_kib": 1, "seed": 2}"#, 200),
            post(r#"{"size_kib": 0}"#, 400),
            post(r#"{"size_kib": 32769}"#, 400),
        ],
        // What needs `/tmp` is asked under a manifest that grants it.
        "diskio" => vec![
            post(r#"{"lines": 0}"#, 400),
            post(r#"{"width": 1}"#, 400),
            post(r#"{"lines": 1000000, "width": 4096}"#, 400),
        ],
        "imageprocessing" => vec![
            post("", 200),
            post(r#"{"width": 333, "height": 777, "size": 100, "angle": -17.3}"#, 200),
            post(r#"{"width": 1, "height": 1, "size": 1, "seed": 3}"#, 200),
            post(r#"{"size": 2049}"#, 400),
            post(r#"{"angle": 361}"#, 400),
        ],
        "linear-equations" => vec![
            post("", 200),
            post(r#"{"size": 1}"#, 200),
            post(r#"{"size": 64, "seed": 18446744073709551615}"#, 200),
            post(r#"{"size": 1025}"#, 400),
        ],
        "encrypt-message" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"message": "grüße", "nonce": "abcdefghijkl", "measure": false}"#, 200),
            post(r#"{"key": "short"}"#, 400),
            post(r#"{"nonce": "thirteen byte"}"#, 400),
        ],
        "decrypt-message" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"key": "another 32-character key, a wrong"}"#, 400),
            post(r#"{"key": "another key of 32 characters yes"}"#, 400),
            post(r#"{"message": "not base64!"}"#, 400),
            post(r#"{"message": ""}"#, 400),
        ],
        "fibonacci" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"number": 0, "measure": false}"#, 200),
            post(r#"{"number": 93, "measure": false}"#, 200),
            post(r#"{"number": 187, "measure": false}"#, 200),
            post(r#"{"number": 100000, "measure": false}"#, 200),
            post(r#"{"number": 1000001}"#, 400),
            post(r#"{"number": -1}"#, 400),
        ],
        "mandelbrot-bitmap" => vec![
            post(r#"{"measure": false}"#, 200),
            post(r#"{"size": 8, "measure": false}"#, 200),
            post(r#"{"size": 9}"#, 400),
            post(r#"{"size": 4104}"#, 400),
        ],
        "sleep" => vec![
            post(r#"{"seconds": 0.01}"#, 200),
            post(r#"{"seconds": 0}"#, 200),
            post(r#"{"seconds": -1}"#, 400),
            post(r#"{"seconds": 601}"#, 400),
        ],
        // What these two ask is asked of a real server, below.
        "network-benchmark" => vec![
            post("", 400),
            post(r#"{"server": "http://a.test", "storage": "b"}"#, 400),
            post(r#"{"server": "http://a.test", "storage": "http://b.test", "requests": 0}"#, 400),
        ],
        "server-reply" => vec![post("", 400), post(r#"{"server": "a"}"#, 400)],
        other => panic!("{other} is built twice and has no row in this table"),
    }
}
