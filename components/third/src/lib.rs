//! `third`: a function of wasi:http 0.3, written directly on its bindings. A component only, for the
//! tests of its host. The path says what happens:
//!
//! | path | what it does |
//! |---|---|
//! | `/` | answers method and target, and echoes the request's body |
//! | `/headers` | answers the authority and headers that it sees |
//! | `/count` | answers how many requests this instance has counted |
//! | `/meet` | answers once two requests have met in this instance |
//! | `/fetch` | answers the status of a request to the URL in the body |
//! | `/print` | prints a line and answers |
//! | `/sleep` | answers after an hour |
//! | `/loop` | computes for ever |
//! | `/allocate` | allocates memory for ever |
//! | `/crash` | traps |
//! | `/crash-midway` | traps after a head and some of its body |
//! | `/short` | announces more than it sends |
//! | `/drip` | sends a body that never ends |
//! | `/error` | answers with an error code |
#![cfg(target_family = "wasm")]

use std::cell::Cell;
use std::io::Write as _;
use std::time::Duration;

use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response, Scheme};
use wasip3::wit_bindgen::{StreamReader, StreamResult, StreamWriter};
use wasip3::{http, wit_bindgen, wit_future, wit_stream};

wasip3::http::service::export!(Third);

const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);
const CHUNK: usize = 64 << 10;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static MEETING: Cell<u64> = const { Cell::new(0) };
}

struct Third;

impl wasip3::exports::http::handler::Guest for Third {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        match target.as_str() {
            "/headers" => Ok(text(describe(&request))),
            "/count" => {
                COUNT.set(COUNT.get() + 1);
                Ok(text(format!("{}\n", COUNT.get())))
            }
            "/meet" => {
                MEETING.set(MEETING.get() + 1);
                while MEETING.get() < 2 {
                    sleep(MILLISECOND).await;
                }
                Ok(text("met\n".into()))
            }
            "/fetch" => fetch(request).await,
            "/print" => {
                let _ = writeln!(std::io::stdout(), "a line of 0.3");
                Ok(text("printed\n".into()))
            }
            "/sleep" => {
                sleep(HOUR).await;
                Ok(text("awake\n".into()))
            }
            "/loop" => compute_for_ever(),
            "/allocate" => allocate_for_ever(),
            "/crash" => panic!("told to"),
            "/crash-midway" => Ok(stream(&[], async |mut body| {
                body.write_all(b"some of it\n".to_vec()).await;
                sleep(MILLISECOND).await;
                panic!("told to");
            })),
            "/short" => Ok(stream(&[("content-length", "1000")], async |mut body| {
                body.write_all(b"some of it\n".to_vec()).await;
            })),
            "/drip" => Ok(stream(&[], async |mut body| {
                while body.write_all(b"drop\n".to_vec()).await.is_empty() {
                    sleep(MILLISECOND).await;
                }
            })),
            "/error" => Err(ErrorCode::ConfigurationError),
            _ => Ok(echo(request, &target)),
        }
    }
}

async fn sleep(duration: Duration) {
    wait_for(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)).await;
}

fn describe(request: &Request) -> String {
    let mut text = format!("target: {}\n", request.get_path_with_query().unwrap_or_default());
    if let Some(authority) = request.get_authority() {
        text.push_str(&format!("host: {authority}\n"));
    }
    for (name, value) in request.get_headers().copy_all() {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(&value)));
    }
    text
}

fn echo(request: Request, target: &str) -> Response {
    let method = match request.get_method() {
        Method::Other(other) => other,
        known => format!("{known:?}").trim_start_matches("Method::").to_uppercase(),
    };
    let line = format!("{method} {target}\n");
    let (mut contents, _) = consume(request);
    stream(&[("content-type", "text/plain")], async move |mut body| {
        body.write_all(line.into_bytes()).await;
        loop {
            let (result, chunk) = contents.read(Vec::with_capacity(CHUNK)).await;
            if !chunk.is_empty() && !body.write_all(chunk).await.is_empty() {
                return;
            }
            if !matches!(result, StreamResult::Complete(_)) {
                return;
            }
        }
    })
}

async fn fetch(request: Request) -> Result<Response, ErrorCode> {
    let (contents, _) = consume(request);
    let url = String::from_utf8_lossy(&contents.collect().await).into_owned();
    let rest = url.strip_prefix("http://").ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (outgoing, _) = Request::new(Fields::new(), None, no_trailers, None);
    let _ = outgoing.set_scheme(Some(&Scheme::Http));
    let _ = outgoing.set_authority(Some(authority));
    let _ = outgoing.set_path_with_query(Some(&format!("/{path}")));
    let answer = http::client::send(outgoing).await?;
    Ok(text(format!("{}\n", answer.get_status_code())))
}

type Consumed = (StreamReader<u8>, wit_bindgen::FutureReader<Result<Option<Fields>, ErrorCode>>);

fn consume(request: Request) -> Consumed {
    let (done, is_done) = wit_future::new(|| Ok(()));
    drop(done);
    Request::consume_body(request, is_done)
}

fn text(text: String) -> Response {
    let length = text.len().to_string();
    let headers = [("content-type", "text/plain"), ("content-length", length.as_str())];
    stream(&headers, async |mut body| {
        body.write_all(text.into_bytes()).await;
    })
}

/// A response whose body `write` writes once its head is out.
fn stream<W>(headers: &[(&str, &str)], write: W) -> Response
where
    W: AsyncFnOnce(StreamWriter<u8>) + 'static,
{
    let fields = Fields::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).expect("a header that HTTP allows");
    }
    let (body, contents) = wit_stream::new();
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(fields, Some(contents), no_trailers);
    wit_bindgen::spawn_local(async move {
        write(body).await;
        drop(trailers);
    });
    response
}

fn compute_for_ever() -> ! {
    let mut x: u64 = 0;
    loop {
        x = std::hint::black_box(x.wrapping_mul(31).wrapping_add(7));
    }
}

fn allocate_for_ever() -> ! {
    let mut all = Vec::new();
    loop {
        all.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}
