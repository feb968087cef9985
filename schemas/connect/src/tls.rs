//! TLS: trusted authorities and client certificates. Host names are always verified.

use std::path::{Path, PathBuf};

use native_tls::{Certificate, Identity, Protocol, TlsConnector};
use serde::Serialize;

use crate::Secret;

/// TLS settings of a connection. The default trusts the system's authorities and has no client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// File with the certificates (PEM) of the trusted authorities; `None` for those of the system.
    pub ca_file: Option<PathBuf>,
    /// Client certificate, for a server that requests one.
    pub client: Option<ClientCertificate>,
}

/// Client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClientCertificate {
    /// File with the certificate chain (PEM).
    pub certificate_file: PathBuf,
    /// File with the private key (PEM). For HTTP it must be PKCS #8 and not encrypted.
    pub key_file: PathBuf,
    /// Password of the private key; empty if the key is not encrypted. Only for Kafka.
    pub key_password: Secret,
}

/// Error in the TLS settings. It names the file, and contains nothing of its content.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", file.display())]
pub struct TlsError {
    /// Path of the file.
    pub file: PathBuf,
    /// Expected and actual content.
    pub message: String,
}

impl Tls {
    /// Creates a connector for HTTP clients.
    ///
    /// # Errors
    /// If a file is missing or has invalid content.
    pub fn connector(&self) -> Result<TlsConnector, TlsError> {
        let mut builder = TlsConnector::builder();
        builder.min_protocol_version(Some(Protocol::Tlsv12));
        if let Some(file) = &self.ca_file {
            builder.disable_built_in_roots(true);
            for certificate in authorities(file)? {
                builder.add_root_certificate(certificate);
            }
        }
        if let Some(client) = &self.client {
            let identity = Identity::from_pkcs8(&read(&client.certificate_file)?, &read(&client.key_file)?)
                .map_err(|e| {
                wrong(
                    &client.key_file,
                    format!(
                        "expected the key of {} in PKCS #8, not encrypted, as PEM, found none ({e})",
                        client.certificate_file.display()
                    ),
                )
            })?;
            builder.identity(identity);
        }
        // Without a configured file, the error is about the system's authorities.
        let file = self.ca_file.clone().unwrap_or_else(|| "the system's certificates".into());
        builder.build().map_err(|e| wrong(&file, e.to_string()))
    }
}

/// Returns the certificates of a file, at least one.
pub(crate) fn authorities(file: &Path) -> Result<Vec<Certificate>, TlsError> {
    let found = Certificate::stack_from_pem(&read(file)?).map_err(|e| wrong(file, e.to_string()))?;
    if found.is_empty() {
        return Err(wrong(file, "expected certificates as PEM, found none".to_owned()));
    }
    Ok(found)
}

pub(crate) fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|e| wrong(file, e.to_string()))
}

fn wrong(file: &Path, message: String) -> TlsError {
    TlsError { file: file.to_path_buf(), message }
}
