//! TLS towards clients: a certificate chain and its key, HTTP/2 or HTTP/1.1 by ALPN.

use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::handover::{TlsFiles, read_sealed};

/// The protocol's name in ALPN.
pub const H2: &[u8] = b"h2";
pub(crate) const HTTP_11: &[u8] = b"http/1.1";

/// Why a certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A sealed copy cannot be read.
    #[error("the copies of host.tls.certificate and host.tls.key cannot be read")]
    Read(#[source] std::io::Error),
    /// The certificate file holds no certificates in PEM.
    #[error("host.tls.certificate is not a chain of PEM certificates")]
    Certificate(#[source] pem::Error),
    /// The certificate file is empty of certificates.
    #[error("host.tls.certificate holds no certificate")]
    NoCertificate,
    /// The key file holds no key in PEM.
    #[error("host.tls.key is not a private key in PEM")]
    Key(#[source] pem::Error),
    /// They do not belong together, or the algorithm is unknown.
    #[error("host.tls.certificate and host.tls.key cannot be used together")]
    Mismatch(#[source] rustls::Error),
}

/// What TLS is accepted with: `files` are a PEM chain, the leaf first, and its key in PEM.
///
/// # Errors
/// When they cannot be read or do not belong together.
pub fn config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let certificate = read_sealed(&files.certificate).map_err(TlsError::Read)?;
    let key = read_sealed(&files.key).map_err(TlsError::Read)?;
    let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(TlsError::Certificate)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(TlsError::Key)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Mismatch)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Mismatch)?;
    config.alpn_protocols = vec![H2.to_vec(), HTTP_11.to_vec()];
    Ok(Arc::new(config))
}
