//! What the supervisor hands to the host process, and how.
//!
//! Only the supervisor names paths: it opens listeners, artifacts and the cache and sends their
//! descriptors over a `SEQPACKET` socket, each message with the descriptors that belong to it.
//! The first messages make up a [`Handover`]; what follows on the same socket changes the host
//! while it runs. End of file means that the supervisor is gone, and the host drains.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use baton_pool::protocol;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::manifest::{self, Manifest};

/// From the supervisor to the host.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// First. Descriptors: the listeners in the manifest's order, the administration's, the
    /// certificate and the key, the cache.
    Begin {
        manifest: Box<Manifest>,
        functions: usize,
        cache: bool,
        tls: bool,
        sandboxes: Option<Sandboxes>,
    },
    /// One for each function. Descriptors: the component, the native build.
    Function {
        spec: Box<manifest::Function>,
        digest: String,
        component: Option<String>,
        precompiled: bool,
        native: bool,
    },
    /// A pool daemon was started. Descriptor: the socket to it.
    Pool,
}

/// What the host needs to use sandboxes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sandboxes {
    /// A directory that only the host can enter, for the sockets of functions.
    pub sockets: PathBuf,
}

/// A function with its artifacts opened.
#[derive(Debug)]
pub struct Deployment {
    /// What the manifest says of it.
    pub spec: manifest::Function,
    /// Names the revision: the digest over its artifacts.
    pub digest: String,
    /// The component.
    pub component: Option<Artifact>,
    /// Whether the component is machine code already, which somebody vouched for.
    pub precompiled: bool,
    /// The static executable.
    pub native: Option<OwnedFd>,
}

impl Artifact {
    /// Another descriptor of the same bytes.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, digest: self.digest.clone() })
    }
}

/// A sealed, unchangeable copy of a file, and the SHA-256 of its bytes in hexadecimal.
#[derive(Debug)]
pub struct Artifact {
    /// The bytes.
    pub file: OwnedFd,
    /// Their digest.
    pub digest: String,
}

/// Sealed copies of a certificate chain and its key, both PEM.
#[derive(Debug)]
pub struct TlsFiles {
    /// The chain.
    pub certificate: OwnedFd,
    /// The key.
    pub key: OwnedFd,
}

/// The whole of a sealed file, whatever its offset.
///
/// # Errors
/// When it cannot be read.
pub fn read_sealed(file: &OwnedFd) -> io::Result<Vec<u8>> {
    use std::io::{Read as _, Seek as _};
    let mut file = std::fs::File::from(file.try_clone()?);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Everything that a host starts with.
#[derive(Debug)]
pub struct Handover {
    /// The manifest, without its functions.
    pub manifest: Manifest,
    /// The functions.
    pub functions: Vec<Deployment>,
    /// Listening sockets for functions' requests.
    pub listeners: Vec<OwnedFd>,
    /// The listening socket for administration.
    pub admin: OwnedFd,
    /// The certificate and its key.
    pub tls: Option<TlsFiles>,
    /// The directory of compiled components.
    pub cache: Option<OwnedFd>,
    /// Where sandboxes' sockets go, when there are sandboxes.
    pub sandboxes: Option<Sandboxes>,
}

/// What the supervisor sends, by reference, so that it can send it again to the next host.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The manifest; its functions are not sent with it.
    pub manifest: &'a Manifest,
    /// The functions.
    pub functions: &'a [Deployment],
    /// Listening sockets for functions' requests.
    pub listeners: &'a [OwnedFd],
    /// The listening socket for administration.
    pub admin: &'a OwnedFd,
    /// The certificate and its key.
    pub tls: Option<&'a TlsFiles>,
    /// The directory of compiled components.
    pub cache: Option<&'a OwnedFd>,
    /// Where sandboxes' sockets go.
    pub sandboxes: Option<&'a Sandboxes>,
}

impl Outgoing<'_> {
    /// Sends everything that a host starts with.
    ///
    /// # Errors
    /// When the host has ended.
    pub fn send(&self, socket: &OwnedFd) -> io::Result<()> {
        let mut fds: Vec<BorrowedFd<'_>> = self.listeners.iter().map(AsFd::as_fd).collect();
        fds.push(self.admin.as_fd());
        if let Some(tls) = self.tls {
            fds.extend([tls.certificate.as_fd(), tls.key.as_fd()]);
        }
        fds.extend(self.cache.map(AsFd::as_fd));
        let begin = Message::Begin {
            manifest: Box::new(Manifest { functions: Vec::new(), ..self.manifest.clone() }),
            functions: self.functions.len(),
            cache: self.cache.is_some(),
            tls: self.tls.is_some(),
            sandboxes: self.sandboxes.cloned(),
        };
        protocol::send(socket, &begin, &fds)?;
        self.functions.iter().try_for_each(|function| function.send(socket))
    }
}

impl Deployment {
    fn send(&self, socket: &OwnedFd) -> io::Result<()> {
        let message = Message::Function {
            spec: Box::new(self.spec.clone()),
            digest: self.digest.clone(),
            component: self.component.as_ref().map(|component| component.digest.clone()),
            precompiled: self.precompiled,
            native: self.native.is_some(),
        };
        let component = self.component.as_ref().map(|component| component.file.as_fd());
        let native = self.native.as_ref().map(AsFd::as_fd);
        let fds: Vec<_> = component.into_iter().chain(native).collect();
        protocol::send(socket, &message, &fds)
    }
}

/// Sends the socket to a pool daemon that was just started.
///
/// # Errors
/// When the host has ended.
pub fn send_pool(socket: &OwnedFd, daemon: &OwnedFd) -> io::Result<()> {
    protocol::send(socket, &Message::Pool, &[daemon.as_fd()])
}

impl Handover {
    /// Receives everything that a host starts with.
    ///
    /// # Errors
    /// When the supervisor has ended or speaks another version.
    pub fn receive(socket: &OwnedFd) -> io::Result<Self> {
        let (message, mut fds) = expect(socket)?;
        let Message::Begin { manifest, functions, cache, tls, sandboxes } = message else {
            return Err(unexpected(&message));
        };
        let cache = cache.then(|| take(&mut fds)).transpose()?;
        // `take` gives the last one: what was sent last comes first.
        let tls = match tls {
            true => Some((take(&mut fds)?, take(&mut fds)?)),
            false => None,
        };
        let tls = tls.map(|(key, certificate)| TlsFiles { certificate, key });
        let admin = take(&mut fds)?;
        let listeners = fds.into();
        let functions = (0..functions).map(|_| Deployment::receive(socket));
        let functions = functions.collect::<io::Result<_>>()?;
        Ok(Self { manifest: *manifest, functions, listeners, admin, tls, cache, sandboxes })
    }
}

impl Deployment {
    fn receive(socket: &OwnedFd) -> io::Result<Self> {
        let (message, mut fds) = expect(socket)?;
        let Message::Function { spec, digest, component, precompiled, native } = message else {
            return Err(unexpected(&message));
        };
        let native = native.then(|| take(&mut fds)).transpose()?;
        let component = component
            .map(|digest| take(&mut fds).map(|file| Artifact { file, digest }))
            .transpose()?;
        Ok(Self { spec: *spec, digest, component, precompiled, native })
    }
}

fn expect(socket: &OwnedFd) -> io::Result<(Message, VecDeque<OwnedFd>)> {
    let (message, fds) = protocol::receive(socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((message, fds.into()))
}

fn take(fds: &mut VecDeque<OwnedFd>) -> io::Result<OwnedFd> {
    fds.pop_back().ok_or_else(|| io::Error::other("a descriptor is missing from a message"))
}

fn unexpected(message: &Message) -> io::Error {
    io::Error::other(format!("unexpected message {message:?}"))
}

/// What the supervisor says to a host that runs.
#[derive(Debug)]
pub enum Update {
    /// A pool daemon was started; this is the socket to it.
    Pool(OwnedFd),
    /// The supervisor is gone.
    Orphaned,
}

/// The host's end of the socket once it runs.
#[derive(Debug)]
pub struct Updates(AsyncFd<OwnedFd>);

impl Updates {
    /// Listens on `socket`; call it inside the runtime.
    ///
    /// # Errors
    /// When the socket cannot be watched.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        #[expect(unsafe_code, reason = "tokio's registration trusts its argument to stay open")]
        // SAFETY: an `OwnedFd` keeps the same descriptor open for as long as it lives.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self(socket))
    }

    /// The next update.
    ///
    /// # Errors
    /// When a message is not one.
    pub async fn next(&self) -> io::Result<Update> {
        let message = self.0.async_io(Interest::READABLE, |fd| protocol::receive(fd)).await?;
        match message {
            None => Ok(Update::Orphaned),
            Some((Message::Pool, fds)) => Ok(Update::Pool(take(&mut fds.into())?)),
            Some((message, _)) => Err(unexpected(&message)),
        }
    }
}
