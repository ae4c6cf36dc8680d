//! Whom a replica trusts to say who a primary is.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, RootCertStore};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::error::{Error, Result};

/// The settings of a connection that trusts the authorities in `ca_file`, or else the system's.
pub(super) fn config(ca_file: Option<&Path>) -> Result<TlsConfig> {
    let certificates = match ca_file {
        Some(file) => authorities(file)?,
        None => system_authorities()?,
    };
    let certificates = certificates
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(certificates)))
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .build())
}

/// The certificates in a PEM file.
pub(super) fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = fs::read(file).map_err(|source| Error::File {
        action: "read ca_file",
        path: file.display().to_string(),
        source,
    })?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<std::result::Result<_, _>>()
        .unwrap_or_default();
    let (usable, _) = RootCertStore::empty().add_parsable_certificates(certificates.clone());
    match usable {
        0 => Err(Error::Misuse(format!(
            "ca_file {} holds no certificate in PEM form",
            file.display()
        ))),
        _ => Ok(certificates),
    }
}

fn system_authorities() -> Result<Vec<CertificateDer<'static>>> {
    // Single files that cannot be read are left out.
    let found = rustls_native_certs::load_native_certs().certs;
    match found.is_empty() {
        true => Err(Error::Misuse(
            "this system has no certificate authorities: name one with ca_file".to_owned(),
        )),
        false => Ok(found),
    }
}

/// What a failed handshake means to a user.
pub(super) fn failed(url: &str, error: &rustls::Error) -> Error {
    let reason = match error {
        rustls::Error::InvalidMessage(_) => {
            return Error::Protocol(format!("{url} does not speak TLS: is it http://?"));
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is from an authority that is not known: name it with ca_file"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(error) => format!("its certificate: {error}"),
        error => format!("TLS: {error}"),
    };
    Error::Untrusted {
        url: url.to_owned(),
        reason,
    }
}
