//! The object store that data-intensive functions fetch from and write to: an S3 server (`s3s-fs`) on
//! a temporary directory, so that retrieval can be told from computation.

use std::fs;
use std::io;
use std::net::SocketAddr;

use anyhow::Context as _;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// A running store; dropping it ends it, and removes its objects.
#[derive(Debug)]
pub struct Store {
    directory: TempDir,
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

const BUCKET: &str = "bucket";
/// Lumos's payload groups, in KiB.
const TEXTS: [usize; 3] = [512, 1024, 2048];

impl Store {
    /// Starts one on a free port of this machine. It holds the objects `text-512`, `text-1024` and
    /// `text-2048`, English text of so many KiB.
    ///
    /// # Errors
    /// When there is no port, no directory or no thread.
    pub fn start() -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        fs::create_dir(directory.path().join(BUCKET))?;
        let files =
            FileSystem::new(directory.path()).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let service = S3ServiceBuilder::new(files).build();
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("store".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = serve(listener, service) => served,
                    _ = stopped => Ok(()),
                }
            })
        })?;
        let store = Self { directory, address, _stop: stop };
        for kib in TEXTS {
            let words =
                "the quick brown fox jumps over the lazy dog and comes back in the morning\n";
            let text: Vec<u8> = words.bytes().cycle().take(kib << 10).collect();
            store.put(&format!("text-{kib}"), &text).context("a store that can be written to")?;
        }
        Ok(store)
    }

    /// What objects' URLs begin with, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/{BUCKET}", self.origin())
    }

    /// What an allow-list names it by.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    fn put(&self, name: &str, object: &[u8]) -> io::Result<()> {
        fs::write(self.directory.path().join(BUCKET).join(name), object)
    }
}

async fn serve(listener: std::net::TcpListener, service: S3Service) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut clients = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service.clone();
        clients.spawn(async move {
            // A client that leaves is none of our business.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while clients.try_join_next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Request, ask};
    use http::Method;

    #[test]
    fn what_was_put_can_be_read_and_nothing_else() {
        let store = Store::start().expect("a store");
        let target = store.address.into();
        let put = Request::new(&Method::PUT, "/bucket/a", &[], b"text");
        assert_eq!(ask(&target, &put).expect("an answer").status, 200);
        assert_eq!(ask(&target, &Request::get("/bucket/a")).expect("an answer").body, b"text");
        assert_eq!(ask(&target, &Request::get("/bucket/b")).expect("an answer").status, 404);
        let text = ask(&target, &Request::get("/bucket/text-512")).expect("an answer");
        assert_eq!(text.body.len(), 512 << 10);
    }
}
