//! `misbehaving`: a function that fails as its caller says, for the tests of its host.
//!
//! It uses no SDK, because an SDK keeps a function from most of this. The path says what happens:
//!
//! | path | what the component does | what the native build does |
//! |---|---|---|
//! | `/` | answers `fine` | the same |
//! | `/headers`, or a path that ends so | answers the request line and headers that it sees | the same |
//! | `/count` | answers how many requests this instance has counted | – |
//! | `/hold` | answers `held` once the request's body has ended | the same |
//! | `/config` | answers what `wasi:config` says | – |
//! | `/files` | answers the names in `/tmp`, and leaves a file and a directory there | the same |
//! | `/fill` | writes to `/tmp` until it is refused, answers how much that was, and why | the same |
//! | `/shout` | writes ten thousand lines and one of a mebibyte to standard error, answers `shouted` | the same |
//! | `/sleep` | answers after an hour | the same |
//! | `/loop` | computes for ever | the same |
//! | `/allocate` | allocates memory for ever | the same |
//! | `/allocate-natively` | answers `fine` | allocates memory for ever |
//! | `/allocate-midway` | answers `fine` | the same, after a head and some of its body |
//! | `/crash` | traps | ends its process |
//! | `/crash-midway` | the same, after a head and some of its body | the same |
//! | `/crash-after-head` | traps at once after a head and some of its body | – |
//! | `/short` | announces more than it sends | the same, and closes the connection |
//! | `/drip` | sends a body that never ends | the same |
//! | `/divergent` | answers `wasm` | answers `native` |
//! | `/trailers` | answers the trailers of the request, and the trailer `x-last: word` | the same |
//! | `/upgrade` | answers `fine` | changes the protocol, then sends back what it gets |
//! | `/silent` | returns without an answer | closes the connection |
//! | `/error` | answers with an error code | – |
//! | `/large-headers` | makes a header map of a megabyte, unwrapping | – |
//! | `/invalid-header` | sets a header that HTTP forbids, unwrapping | answers one |
//! | `/tcp/ADDRESS` | – | sends the request's body to that address, answers what comes back |
//! | `/garbage` | – | answers what is not HTTP |
//!
//! The native build also looks at `MISBEHAVE` when it starts: `exit` ends it at once, `deaf` lets
//! it live without ever accepting.

#[cfg(target_family = "wasm")]
mod component;
#[cfg(not(target_family = "wasm"))]
mod native;

#[cfg(target_family = "wasm")]
fn main() {}

#[cfg(not(target_family = "wasm"))]
fn main() -> std::io::Result<()> {
    native::serve()
}

/// Longer than any test waits.
const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

fn compute_for_ever() -> ! {
    let mut x: u64 = 0;
    loop {
        x = std::hint::black_box(x.wrapping_mul(31).wrapping_add(7));
    }
}

fn files() -> String {
    use std::fs;
    let listed = fs::read_dir("/tmp").and_then(|entries| {
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect::<std::io::Result<Vec<_>>>()
    });
    let left = fs::create_dir_all("/tmp/directory/inside")
        .and_then(|()| fs::write("/tmp/directory/inside/file", "left"))
        .and_then(|()| fs::read_to_string("/tmp/directory/inside/file"));
    format!("{:?} {:?}\n", listed.map_err(|error| error.kind()), left.map_err(|error| error.kind()))
}

fn fill() -> String {
    use std::io::{self, Write};
    let mut written = 0;
    let chunk = [1; 4096];
    let mut fill = || -> io::Result<()> {
        let mut file = std::fs::File::create("/tmp/fill")?;
        loop {
            file.write_all(&chunk)?;
            written += chunk.len();
        }
    };
    let refused = fill().map_err(|error| error.kind());
    format!("{written} {refused:?}\n")
}

fn shout() -> String {
    use std::io::Write;
    // A line at a time, as a function would; who stopped listening is not its business.
    let mut log = std::io::stderr().lock();
    for line in 0..10_000 {
        let _ = log.write_all(format!("shouted {line}\n").as_bytes());
    }
    let _ = log.write_all(&[b'x'; 1 << 20]);
    let _ = log.write_all(b"\n");
    String::from("shouted\n")
}

fn allocate_for_ever() -> ! {
    let mut all = Vec::new();
    loop {
        // Touched, or the memory would not count natively.
        all.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}
