//! TLS of the HTTP server: a certificate and its key, as PEM files.

use std::path::{Path, PathBuf};

use native_tls::{Identity, Protocol};
use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::x509::X509;

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
        self.check_pair(&certificate, &key)?;
        let acceptor = native_tls::TlsAcceptor::builder(identity)
            .min_protocol_version(Some(Protocol::Tlsv12))
            .build()
            .map_err(|e| format!("{}: {e}", self.certificate.display()))?;
        Ok(acceptor.into())
    }

    /// Checks that the certificate is about the key. OpenSSL accepts another pair, and then every handshake fails.
    fn check_pair(&self, certificate: &[u8], key: &[u8]) -> Result<(), String> {
        let failed = |file: &Path| {
            let file = file.display().to_string();
            move |e: ErrorStack| format!("{file}: {e}")
        };
        let certified = X509::from_pem(certificate).and_then(|first| first.public_key());
        let certified = certified.map_err(failed(&self.certificate))?;
        let private = PKey::private_key_from_pem(key).map_err(failed(&self.key))?;
        if certified.public_eq(&private) {
            return Ok(());
        }
        Err(format!(
            "{}: expected the private key of the first certificate in {}, found the key of another one; give the files of one pair",
            self.key.display(),
            self.certificate.display()
        ))
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))
}
