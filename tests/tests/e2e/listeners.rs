//! Where functions can be reached, and in which protocols.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use baton_tests::baton::{Baton, Setup};
use baton_tests::client::{Connection, request};
use baton_tests::functions::{Address, exchange, whole};
use http::Method;
use tempfile::TempDir;

/// A setup that also listens on a Unix socket.
fn on_unix(path: &Path) -> Setup {
    let listen = format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]", path.display());
    Setup::new().wasm("hello").host(&listen)
}

fn ask_unix(path: &Path) -> http::Response<bytes::Bytes> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = Address::Unix(path.to_owned());
    runtime.block_on(exchange(&address, request(Method::GET, "/hello", ""), whole)).unwrap()
}

#[test]
fn functions_are_served_on_a_unix_socket_that_goes_with_baton() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("http.sock");
    let mut baton = on_unix(&path).start();
    assert_eq!(ask_unix(&path).body(), "hello, world\n");
    assert!(baton.stop().success(), "{}", baton.log());
    assert!(!path.exists());
}

#[test]
fn a_socket_file_that_nobody_listens_on_is_replaced() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("http.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.symlink_metadata().unwrap().file_type().is_socket());
    let _baton = on_unix(&path).start();
    assert_eq!(ask_unix(&path).body(), "hello, world\n");
}

#[test]
fn a_socket_file_that_somebody_listens_on_is_left_alone() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("http.sock");
    let _other = UnixListener::bind(&path).unwrap();
    let output = on_unix(&path).output();
    assert_eq!(output.status.code(), Some(2));
    assert!(path.exists());
}

#[test]
fn a_file_that_is_no_socket_is_never_replaced() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("precious");
    fs::write(&path, "data").unwrap();
    assert_eq!(on_unix(&path).output().status.code(), Some(2));
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
}

/// Asks with curl; returns the version of HTTP that was spoken and the body.
#[track_caller]
fn curl(arguments: &[&str]) -> (String, String) {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--write-out", "%{stderr}%{http_version}"])
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (body, version) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{version}");
    (version, body)
}

#[test]
fn http_2_is_spoken_to_clients_that_know_it() {
    let baton = Setup::new().hybrid("hello").start();
    baton.until_native("/hello");
    let url = format!("http://{}/hello", baton.address);
    let (version, body) = curl(&["--http2-prior-knowledge", "--data-binary", "twice", &url]);
    assert_eq!((version.as_str(), body.as_str()), ("2", "twice"));
}

#[test]
fn http_2_is_spoken_on_unix_sockets_too() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("http.sock");
    let _baton = on_unix(&path).start();
    let socket = path.to_str().unwrap();
    for (protocol, wanted) in [("--http2-prior-knowledge", "2"), ("--http1.1", "1.1")] {
        let (version, body) = curl(&[protocol, "--unix-socket", socket, "http://a/hello"]);
        assert_eq!((version.as_str(), body.as_str()), (wanted, "hello, world\n"));
    }
}

#[test]
fn more_listeners_than_a_message_carries_are_all_served() {
    const LISTENERS: usize = 20;
    let place = TempDir::new().unwrap();
    let path = |number: usize| place.path().join(format!("{number}.sock"));
    let unix = (0..LISTENERS).map(|number| format!("\"unix:{}\"", path(number).display()));
    let all = unix.collect::<Vec<_>>().join(", ");
    let setup = Setup::new().wasm("hello").host(&format!("listen = [\"127.0.0.1:0\", {all}]"));
    let _baton = setup.start();
    for number in 0..LISTENERS {
        assert_eq!(ask_unix(&path(number)).body(), "hello, world\n");
    }
}

#[test]
fn an_inherited_listener_is_served() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let setup = Setup::new().wasm("hello").host(r#"listen = ["127.0.0.1:0", "fd:3"]"#);
    let baton = setup.inherit(listener.into()).start();
    assert_ne!(baton.address, address);
    let mut inherited = Connection::open(address).unwrap();
    let answer = inherited.send(request(Method::GET, "/hello", "")).unwrap();
    assert_eq!(answer.body(), "hello, world\n");
}

/// A certificate for `localhost`, signed by itself, as the manifest takes it.
pub(crate) fn certificate(place: &Path) -> String {
    let (certificate, key) = (place.join("cert.pem"), place.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    format!("tls = {{ certificate = \"{}\", key = \"{}\" }}", certificate.display(), key.display())
}

/// What a curl that trusts the certificate is answered.
#[track_caller]
pub(crate) fn curl_tls(baton: &Baton, place: &Path, protocol: &str) -> (String, String) {
    let authority = place.join("cert.pem");
    let port = baton.address.port();
    let resolve = format!("localhost:{port}:127.0.0.1");
    let url = format!("https://localhost:{port}/misbehaving/headers");
    curl(&["--cacert", authority.to_str().unwrap(), "--resolve", &resolve, protocol, &url])
}

#[test]
fn tls_is_spoken_in_both_versions_of_http_and_told_to_the_function() {
    let place = TempDir::new().unwrap();
    let baton = Setup::new().wasm("misbehaving").host(&certificate(place.path())).start();
    for (protocol, wanted) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let (version, body) = curl_tls(&baton, place.path(), protocol);
        assert_eq!(version, wanted);
        assert!(body.contains("x-forwarded-proto: https"), "{body}");
    }
}

#[test]
fn a_client_that_speaks_no_tls_harms_nobody() {
    let place = TempDir::new().unwrap();
    let baton = Setup::new().wasm("misbehaving").host(&certificate(place.path())).start();
    let mut raw = baton.raw();
    raw.write("GET /misbehaving HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(!raw.rest().contains("200"));
    assert_eq!(curl_tls(&baton, place.path(), "--http1.1").0, "1.1");
}
