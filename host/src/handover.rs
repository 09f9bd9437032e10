//! What the supervisor hands to the host process, and how.
//!
//! Only the supervisor names paths: it opens listeners, artifacts and the cache and sends their
//! descriptors over a `SEQPACKET` socket, each message with the descriptors that belong to it.
//! The first messages make up a [`Handover`]; what follows on the same socket changes the host
//! while it runs ([`Update`]). End of file means that the supervisor is gone, and the host drains.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use baton_pool::protocol::{self, Root};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::manifest::{self, Manifest};

/// From the supervisor to the host.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// First. Descriptors: the administration's listener, the certificate and the key, the cache.
    Begin {
        manifest: Box<Manifest>,
        listeners: usize,
        functions: usize,
        cache: bool,
        tls: bool,
        sandboxes: Option<Sandboxes>,
    },
    /// Until all are there. Descriptors: some of the listeners, in the manifest's order.
    Listeners,
    /// Before its function, as many as are needed. Descriptors: places for its instances' `/tmp`.
    Scratch,
    /// One for each function. Descriptors: the component, the native build's executable.
    Function {
        spec: Box<manifest::Function>,
        digest: String,
        component: Option<String>,
        precompiled: bool,
        native: Option<NativeForm>,
    },
    /// A pool daemon was started. Descriptor: the socket to it.
    Pool,
    /// The manifest or an artifact has changed: so many functions follow, all that there are now.
    Functions(usize),
    /// The certificate was renewed. Descriptors: the certificate and the key.
    Tls,
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
    /// The native build.
    pub native: Option<NativeBuild>,
    /// Places for the `/tmp` of the component's instances.
    pub scratch: Vec<OwnedFd>,
}

/// A native build, as it is started.
#[derive(Debug)]
pub struct NativeBuild {
    /// The static executable; `None` when the program is in the root.
    pub executable: Option<OwnedFd>,
    /// The root of its sandboxes; `None` for the empty one.
    pub root: Option<FunctionRoot>,
    /// The program in the root.
    pub command: Option<Command>,
}

/// A root that sandboxes get; the pool daemon knows it by its number.
#[derive(Debug)]
pub struct FunctionRoot {
    /// What the daemon is told.
    pub root: Root,
    /// The directory, which the supervisor keeps to itself; `None` for one that is empty but for a place for the
    /// function's socket.
    pub directory: Option<OwnedFd>,
}

/// A program in a root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Command {
    /// Where it is, absolute.
    pub path: String,
    /// Where it starts; empty for `/`.
    pub directory: String,
    /// Its arguments, its name first.
    pub arguments: Vec<String>,
    /// What an image sets in its environment; the manifest's wins.
    pub env: Vec<(String, String)>,
    /// The digest of the manifest of the image that it came with.
    pub image: Option<String>,
}

/// A [`NativeBuild`] but for its descriptor.
#[derive(Debug, Serialize, Deserialize)]
struct NativeForm {
    executable: bool,
    root: Option<Root>,
    command: Option<Command>,
}

impl Deployment {
    /// Whether another one is the same revision: the same settings and the same bytes.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.digest == other.digest
    }
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
        let mut fds = vec![self.admin.as_fd()];
        fds.extend(self.tls.iter().flat_map(|tls| tls.descriptors()));
        fds.extend(self.cache.map(AsFd::as_fd));
        let begin = Message::Begin {
            manifest: Box::new(Manifest { functions: Vec::new(), ..self.manifest.clone() }),
            listeners: self.listeners.len(),
            functions: self.functions.len(),
            cache: self.cache.is_some(),
            tls: self.tls.is_some(),
            sandboxes: self.sandboxes.cloned(),
        };
        protocol::send(socket, &begin, &fds)?;
        for listeners in self.listeners.chunks(protocol::DESCRIPTORS_MAX) {
            let fds: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
            protocol::send(socket, &Message::Listeners, &fds)?;
        }
        self.functions.iter().try_for_each(|function| function.send(socket))
    }
}

/// Sends all functions that there are now, in the place of those that were sent before.
///
/// # Errors
/// When the host has ended.
pub fn send_functions(socket: &OwnedFd, functions: &[Deployment]) -> io::Result<()> {
    protocol::send(socket, &Message::Functions(functions.len()), &[])?;
    functions.iter().try_for_each(|function| function.send(socket))
}

/// Sends a renewed certificate and its key.
///
/// # Errors
/// When the host has ended.
pub fn send_tls(socket: &OwnedFd, files: &TlsFiles) -> io::Result<()> {
    protocol::send(socket, &Message::Tls, &files.descriptors())
}

impl TlsFiles {
    fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.certificate.as_fd(), self.key.as_fd()]
    }

    /// Takes the two that [`TlsFiles::descriptors`] sent last.
    fn take(fds: &mut VecDeque<OwnedFd>) -> io::Result<Self> {
        let (key, certificate) = (take(fds)?, take(fds)?);
        Ok(Self { certificate, key })
    }
}

impl Deployment {
    fn send(&self, socket: &OwnedFd) -> io::Result<()> {
        for places in self.scratch.chunks(protocol::DESCRIPTORS_MAX) {
            let fds: Vec<_> = places.iter().map(AsFd::as_fd).collect();
            protocol::send(socket, &Message::Scratch, &fds)?;
        }
        let message = Message::Function {
            spec: Box::new(self.spec.clone()),
            digest: self.digest.clone(),
            component: self.component.as_ref().map(|component| component.digest.clone()),
            precompiled: self.precompiled,
            native: self.native.as_ref().map(|native| NativeForm {
                executable: native.executable.is_some(),
                root: native.root.as_ref().map(|own| own.root.clone()),
                command: native.command.clone(),
            }),
        };
        let component = self.component.as_ref().map(|component| component.file.as_fd());
        let native = self.native.as_ref().and_then(|native| native.executable.as_ref());
        let native = native.map(AsFd::as_fd);
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
        let Message::Begin { manifest, listeners: wanted, functions, cache, tls, sandboxes } =
            message
        else {
            return Err(unexpected(&message));
        };
        // `take` gives the last one: what was sent last comes first.
        let cache = cache.then(|| take(&mut fds)).transpose()?;
        let tls = tls.then(|| TlsFiles::take(&mut fds)).transpose()?;
        let admin = take(&mut fds)?;
        let mut listeners = Vec::with_capacity(wanted);
        while listeners.len() < wanted {
            match expect(socket)? {
                (Message::Listeners, fds) if !fds.is_empty() => listeners.extend(fds),
                (message, _) => return Err(unexpected(&message)),
            }
        }
        let functions = (0..functions).map(|_| {
            let mut scratch = Vec::new();
            loop {
                match expect(socket)? {
                    (Message::Scratch, fds) => scratch.extend(fds),
                    (message, fds) => return Deployment::of(message, fds, scratch),
                }
            }
        });
        let functions = functions.collect::<io::Result<_>>()?;
        Ok(Self { manifest: *manifest, functions, listeners, admin, tls, cache, sandboxes })
    }
}

impl Deployment {
    fn of(message: Message, mut fds: VecDeque<OwnedFd>, scratch: Vec<OwnedFd>) -> io::Result<Self> {
        let Message::Function { spec, digest, component, precompiled, native } = message else {
            return Err(unexpected(&message));
        };
        let native = match native {
            Some(NativeForm { executable, root, command }) => {
                let executable = executable.then(|| take(&mut fds)).transpose()?;
                let root = root.map(|root| FunctionRoot { root, directory: None });
                Some(NativeBuild { executable, root, command })
            }
            None => None,
        };
        let component = component
            .map(|digest| take(&mut fds).map(|file| Artifact { file, digest }))
            .transpose()?;
        Ok(Self { spec: *spec, digest, component, precompiled, native, scratch })
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
    /// All functions that there are now.
    Functions(Vec<Deployment>),
    /// The certificate and key for connections from now on.
    Tls(TlsFiles),
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

    /// The next update. An update of several messages is lost when this is dropped midway.
    ///
    /// # Errors
    /// When a message is not one.
    pub async fn next(&self) -> io::Result<Update> {
        let Some((message, mut fds)) = self.receive().await? else { return Ok(Update::Orphaned) };
        match message {
            Message::Pool => Ok(Update::Pool(take(&mut fds)?)),
            Message::Tls => Ok(Update::Tls(TlsFiles::take(&mut fds)?)),
            Message::Functions(count) => {
                let mut functions = Vec::with_capacity(count);
                let mut scratch = Vec::new();
                while functions.len() < count {
                    match self.receive().await? {
                        None => return Ok(Update::Orphaned),
                        Some((Message::Scratch, fds)) => scratch.extend(fds),
                        Some((message, fds)) => {
                            let scratch = std::mem::take(&mut scratch);
                            functions.push(Deployment::of(message, fds, scratch)?);
                        }
                    }
                }
                Ok(Update::Functions(functions))
            }
            message => Err(unexpected(&message)),
        }
    }

    async fn receive(&self) -> io::Result<Option<(Message, VecDeque<OwnedFd>)>> {
        let received = self.0.async_io(Interest::READABLE, |fd| protocol::receive(fd)).await?;
        Ok(received.map(|(message, fds): (_, Vec<_>)| (message, fds.into())))
    }
}
