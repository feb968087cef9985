//! TLS: whom to trust, and who we are. Host names are always verified.

use std::path::{Path, PathBuf};

use native_tls::{Certificate, Identity, Protocol, TlsConnector};
use serde::Serialize;

use crate::Secret;

/// How a connection is protected. The default trusts the system's authorities and shows no certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// Certificates (PEM) of the only authorities to trust; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// What we show of ourselves, if the server asks.
    pub client: Option<ClientCertificate>,
}

/// Who we are, by a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClientCertificate {
    /// The certificate and those up to its authority (PEM).
    pub certificate_file: PathBuf,
    /// Its private key (PEM). For HTTP: PKCS #8, not encrypted.
    pub key_file: PathBuf,
    /// What the key is encrypted with; empty: it is not. Kafka only.
    pub key_password: Secret,
}

/// Why there is no TLS. Says which file, and nothing of what it holds.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", file.display())]
pub struct TlsError {
    /// The file.
    pub file: PathBuf,
    /// What was expected, and what found.
    pub message: String,
}

impl Tls {
    /// A connector for HTTP clients.
    ///
    /// # Errors
    /// If a file is missing or does not hold what it should.
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
        // Without a file of ours it is the system's authorities that cannot be read.
        let file = self.ca_file.clone().unwrap_or_else(|| "the system's certificates".into());
        builder.build().map_err(|e| wrong(&file, e.to_string()))
    }
}

/// The certificates of a file; at least one.
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
