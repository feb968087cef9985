//! TLS of the HTTP server: a certificate and its key, as PEM files.

use std::path::{Path, PathBuf};

use native_tls::{Identity, Protocol};

/// The server's certificate.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, followed by those up to its authority (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM, PKCS #8, not encrypted).
    pub key: PathBuf,
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file, and quotes none of its content.
    pub(crate) fn acceptor(&self) -> Result<tokio_native_tls::TlsAcceptor, String> {
        let (certificate, key) = (read(&self.certificate)?, read(&self.key)?);
        let identity = Identity::from_pkcs8(&certificate, &key).map_err(|e| {
            format!(
                "{}: expected the private key of {} in PKCS #8, not encrypted, as PEM, found none ({e}); \
                 `openssl pkcs8 -topk8 -nocrypt` converts another key",
                self.key.display(),
                self.certificate.display()
            )
        })?;
        let acceptor = native_tls::TlsAcceptor::builder(identity)
            .min_protocol_version(Some(Protocol::Tlsv12))
            .build()
            .map_err(|e| format!("{}: {e}", self.certificate.display()))?;
        Ok(acceptor.into())
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))
}
