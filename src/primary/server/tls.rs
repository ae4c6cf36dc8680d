//! TLS of a server, by a certificate and its key in PEM files.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, Result};

/// What a server proves its name with.
#[derive(Clone)]
pub struct Tls {
    pub(super) acceptor: TlsAcceptor,
    /// Tells one certificate and key from another.
    digest: blake3::Hash,
}

impl Tls {
    /// Reads the certificate chain and the key.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self> {
        let chain = read(certificate)?;
        let secret = read(key)?;
        let certificates = CertificateDer::pem_slice_iter(&chain)
            .collect::<std::result::Result<Vec<_>, _>>()
            .ok()
            .filter(|certificates| !certificates.is_empty())
            .ok_or_else(|| unusable(certificate, "holds no certificate in PEM form"))?;
        let private = PrivateKeyDer::from_pem_slice(&secret)
            .map_err(|_| unusable(key, "holds no private key in PEM form"))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Internal(format!("TLS: {error}")))?
            .with_no_client_auth()
            .with_single_cert(certificates, private)
            .map_err(|error| {
                unusable(certificate, &format!("does not do with the key: {error}"))
            })?;
        let mut digest = blake3::Hasher::new();
        digest.update(blake3::hash(&chain).as_bytes());
        digest.update(blake3::hash(&secret).as_bytes());
        Ok(Self {
            acceptor: Arc::new(config).into(),
            digest: digest.finalize(),
        })
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::File {
        action: "read",
        path: path.display().to_string(),
        source,
    })
}

fn unusable(path: &Path, reason: &str) -> Error {
    Error::Misuse(format!("{} {reason}", path.display()))
}
