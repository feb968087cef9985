//! Certificate authority of a test, and the certificates that it signs.

use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::symm::Cipher;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name};

/// Certificate authority.
pub struct Authority {
    folder: PathBuf,
    name: String,
    key: PKey<Private>,
    certificate: X509,
}

/// Certificate and key.
pub struct Signed {
    pub certificate_pem: Vec<u8>,
    /// Key in PKCS #8.
    pub key_pem: Vec<u8>,
    key: PKey<Private>,
}

impl Authority {
    /// Creates an authority and writes its certificate to `folder`.
    pub fn new(folder: &Path, name: &str) -> Self {
        let key = key();
        let mut builder = certificate(&[("CN", name)], &key);
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        let issuer = subject(&[("CN", name)]);
        builder.set_issuer_name(&issuer).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let authority =
            Self { folder: folder.to_path_buf(), name: name.to_owned(), key, certificate: builder.build() };
        std::fs::write(authority.file(), authority.pem()).unwrap();
        authority
    }

    /// Returns the file of its certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.name))
    }

    fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    /// Signs a certificate for 127.0.0.1 without a host name, so that clients that use a host name must reject it.
    pub fn sign(&self, names: &[(&str, &str)]) -> Signed {
        let key = key();
        let mut builder = certificate(names, &key);
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        let here = SubjectAlternativeName::new()
            .ip("127.0.0.1")
            .build(&builder.x509v3_context(Some(&self.certificate), None))
            .unwrap();
        builder.append_extension(here).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        Signed {
            certificate_pem: builder.build().to_pem().unwrap(),
            key_pem: key.private_key_to_pem_pkcs8().unwrap(),
            key,
        }
    }

    /// Returns a file with key and certificate, as Kafka's brokers require.
    pub fn keystore(&self) -> PathBuf {
        let signed = self.sign(&[("CN", "broker")]);
        let file = self.folder.join("broker.pem");
        std::fs::write(&file, [signed.key_pem, signed.certificate_pem, self.pem()].concat()).unwrap();
        file
    }

    /// Returns files of a client's certificate and of its key, encrypted with `password`.
    pub fn client(&self, names: &[(&str, &str)], password: &str) -> (PathBuf, PathBuf) {
        let signed = self.sign(names);
        let files = (self.folder.join("client.pem"), self.folder.join("client.key"));
        std::fs::write(&files.0, &signed.certificate_pem).unwrap();
        let locked =
            signed.key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), password.as_bytes());
        std::fs::write(&files.1, locked.unwrap()).unwrap();
        files
    }
}

fn key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn subject(names: &[(&str, &str)]) -> X509Name {
    let mut subject = X509Name::builder().unwrap();
    for (kind, value) in names {
        subject.append_entry_by_text(kind, value).unwrap();
    }
    subject.build()
}

fn certificate(names: &[(&str, &str)], key: &PKey<Private>) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::MAYBE_ZERO, false).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject(names)).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder
}
