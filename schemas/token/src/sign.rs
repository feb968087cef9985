//! Signing of claims.
//!
//! The compact form is three base64url texts joined by dots. jsonwebtoken's `encode` would derive the public key for each
//! signature, which doubles the cost.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signer as _;

use serde::Serialize;

use crate::{APPROVAL_TYPE, ApprovalClaims, Claims, MAX_TOKEN_BYTES, SigningKey};

/// Reason why claims were not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The token would exceed the maximum length.
    #[error(
        "expected a token of at most {MAX_TOKEN_BYTES} bytes, found {0}; shorten the ids of session, agent, tool or call"
    )]
    TooLong(usize),
    /// Verification would reject the claims.
    #[error("claim {0}: expected a value that verification accepts, found another one")]
    Invalid(&'static str),
}

impl SigningKey {
    /// Signs claims: a compact JWS.
    ///
    /// # Errors
    /// If [`verify`](crate::verify) would reject the token whatever the keys.
    pub fn sign(&self, claims: &Claims) -> Result<String, SignError> {
        claims.check().map_err(SignError::Invalid)?;
        self.sign_json(&self.encoded_header, claims)
    }

    /// Signs the claims of an approval: a compact JWS.
    ///
    /// # Errors
    /// If [`verify_approval`](crate::verify_approval) would reject the text whatever the keys.
    pub fn sign_approval(&self, claims: &ApprovalClaims) -> Result<String, SignError> {
        claims.check().map_err(SignError::Invalid)?;
        self.sign_json(&encode_header(self.kid(), APPROVAL_TYPE), claims)
    }

    fn sign_json(&self, encoded_header: &str, claims: &impl Serialize) -> Result<String, SignError> {
        let json = serde_json::to_vec(claims).map_err(|_| SignError::Invalid("claims"))?;
        let mut token = String::with_capacity(encoded_header.len() + json.len() * 4 / 3 + 92);
        token.push_str(encoded_header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(json, &mut token);
        let signature = self.secret.sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.to_bytes(), &mut token);
        if token.len() > MAX_TOKEN_BYTES { Err(SignError::TooLong(token.len())) } else { Ok(token) }
    }
}

/// Encodes the protected header as base64url. A thumbprint has no character that JSON escapes.
pub(crate) fn encode_header(kid: &str, typ: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!(r#"{{"typ":"{typ}","alg":"EdDSA","kid":"{kid}"}}"#))
}
