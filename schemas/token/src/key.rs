//! Signing keys and their public halves, as JSON Web Keys (RFC 7517, RFC 8037).

use std::fmt;

use agentgov_schemas::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::VerifyingKey;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use zeroize::Zeroizing;

/// Maximum length of a JWK: four times a private one with names of ordinary length.
pub const MAX_JWK_BYTES: usize = 1024;

/// Reason why a text is not a key. It contains nothing of the text, which may be secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text exceeds the maximum length.
    #[error("expected a JWK of at most {MAX_JWK_BYTES} bytes, found a longer text")]
    TooLong,
    /// The text is not a JWK of this type, or a member is missing or repeated.
    #[error(
        "expected a JSON object with kty `OKP`, crv `Ed25519` and the members of such a key, each once; found another text"
    )]
    NotAnEd25519Jwk,
    /// `x` or `d` is not base64url of 32 bytes.
    #[error("expected x and d as 32 bytes in base64url without padding, found another text")]
    NotThirtyTwoBytes,
    /// A private key instead of a public one.
    #[error(
        "expected a public key, found one with its private part `d`; revoke that key if it was published"
    )]
    Private,
    /// A public key instead of a private one.
    #[error("expected a private key, found none of its private part `d`")]
    Public,
    /// The point is not on the curve or has a small order: anyone could forge signatures.
    #[error("expected a point of full order on Ed25519, found another value of x")]
    WeakPoint,
    /// `x` is not the public key of `d`.
    #[error("expected x to be the public key of d, found another one")]
    PartsDiffer,
    /// `kid` is not the key's thumbprint.
    #[error("expected kid to be the RFC 7638 thumbprint of the key, found another one")]
    WrongKid,
}

/// Members of an Ed25519 JWK that this crate reads; a JWK may have others. Not `Debug`: `d` is secret.
#[derive(Deserialize)]
struct OkpJwk<'a> {
    kty: &'a str,
    crv: &'a str,
    x: &'a str,
    #[serde(default)]
    d: Option<&'a str>,
    #[serde(default)]
    kid: Option<&'a str>,
}

impl<'a> OkpJwk<'a> {
    fn parse(text: &'a str) -> Result<Self, KeyError> {
        if text.len() > MAX_JWK_BYTES {
            return Err(KeyError::TooLong);
        }
        let jwk: Self = serde_json::from_str(text).map_err(|_| KeyError::NotAnEd25519Jwk)?;
        if jwk.kty == "OKP" && jwk.crv == "Ed25519" { Ok(jwk) } else { Err(KeyError::NotAnEd25519Jwk) }
    }

    fn public_key(&self) -> Result<PublicKey, KeyError> {
        let key = PublicKey::from_bytes(&*decode(self.x)?)?;
        match self.kid {
            Some(kid) if kid != key.kid => Err(KeyError::WrongKid),
            _ => Ok(key),
        }
    }
}

fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    // The decoder needs room for the last group of four characters.
    let mut bytes = Zeroizing::new([0; 33]);
    let length =
        URL_SAFE_NO_PAD.decode_slice(text, bytes.as_mut_slice()).map_err(|_| KeyError::NotThirtyTwoBytes)?;
    let decoded = bytes.get(..length).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    decoded.map(Zeroizing::new).ok_or(KeyError::NotThirtyTwoBytes)
}

/// Public half of a signing key: verifies tokens.
#[derive(Clone)]
pub struct PublicKey {
    kid: String,
    x: String,
    pub(crate) point: VerifyingKey,
}

impl PublicKey {
    /// Parses a public JWK. Unknown members are ignored.
    ///
    /// # Errors
    /// If the text is no public Ed25519 key, or its `kid` is not its thumbprint.
    pub fn from_jwk(text: &str) -> Result<Self, KeyError> {
        let jwk = OkpJwk::parse(text)?;
        if jwk.d.is_some() { Err(KeyError::Private) } else { jwk.public_key() }
    }

    fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        match VerifyingKey::from_bytes(bytes) {
            Ok(point) if !point.is_weak() => Ok(Self::from_point(&point)),
            _ => Err(KeyError::WeakPoint),
        }
    }

    fn from_point(point: &VerifyingKey) -> Self {
        let x = URL_SAFE_NO_PAD.encode(point.as_bytes());
        // RFC 7638: the required members in the order of their names, without white space.
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(Digest::of(members.as_bytes()).as_bytes());
        Self { kid, x, point: *point }
    }

    /// Returns the key id: the RFC 7638 thumbprint, SHA-256 in base64url.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Returns the key as a JWK of a JWKS, with `kid`, `alg` and `use`.
    pub fn to_jwk(&self) -> Json {
        json!({ "kty": "OKP", "crv": "Ed25519", "x": self.x, "kid": self.kid, "alg": "EdDSA", "use": "sig" })
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.x == other.x
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKey").field(&self.kid).finish()
    }
}

/// Private key of a pdp or an approver. It is overwritten when dropped, and `Debug` shows only its id.
#[derive(Clone)]
pub struct SigningKey {
    pub(crate) secret: ed25519_dalek::SigningKey,
    /// The protected header of each decision token: the same for all of a key.
    pub(crate) encoded_header: String,
    public: PublicKey,
}

impl SigningKey {
    /// Creates the key of a seed: 32 random bytes from the caller.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let secret = ed25519_dalek::SigningKey::from_bytes(seed);
        let public = PublicKey::from_point(&secret.verifying_key());
        let encoded_header = crate::sign::encode_header(public.kid(), crate::DECISION_TYPE);
        Self { secret, encoded_header, public }
    }

    /// Parses a private JWK. Unknown members are ignored.
    ///
    /// # Errors
    /// If the text is no private Ed25519 key, or its parts do not belong together.
    pub fn from_private_jwk(text: &str) -> Result<Self, KeyError> {
        let jwk = OkpJwk::parse(text)?;
        let public = jwk.public_key()?;
        let key = Self::from_seed(&*decode(jwk.d.ok_or(KeyError::Public)?)?);
        if key.public == public { Ok(key) } else { Err(KeyError::PartsDiffer) }
    }

    /// Returns the key as a private JWK, for a file that only its owner can read.
    pub fn to_private_jwk(&self) -> Zeroizing<String> {
        let d = Zeroizing::new(URL_SAFE_NO_PAD.encode(self.secret.as_bytes()));
        let PublicKey { kid, x, .. } = &self.public;
        Zeroizing::new(format!(
            r#"{{"kty":"OKP","crv":"Ed25519","d":"{}","x":"{x}","kid":"{kid}","alg":"EdDSA","use":"sig"}}"#,
            *d
        ))
    }

    /// Returns the public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Returns the key id: the thumbprint of the public half.
    pub fn kid(&self) -> &str {
        self.public.kid()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid()).finish_non_exhaustive()
    }
}
