//! Verification of tokens.

use agentgov_schemas::Millis;
use agentgov_schemas::governance::KeyKind;
use agentgov_schemas::verdict::Decision;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Verifier as _};
use jsonwebtoken::Algorithm;
use jsonwebtoken::errors::ErrorKind;
use uuid::Uuid;

use serde::de::DeserializeOwned;

use crate::{
    APPROVAL_TYPE, ApprovalClaims, Claims, DECISION_TYPE, KeySet, MAX_TOKEN_BYTES, PublicKey, PublishedKey,
};

/// Reason why a token is rejected. Quotes no part of the token that is not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Invalid length, format, header or claims.
    #[error("malformed token: expected {0}")]
    Malformed(&'static str),
    /// No key with its `kid` is published.
    #[error(
        "unknown key: expected the kid of a key on the topic of keys; publish it with `agentgov registry key new`"
    )]
    UnknownKey,
    /// Its key is for another purpose.
    #[error("wrong kind of key: expected {expected}, found {found}")]
    WrongKind {
        /// The kind of key that must sign the token.
        expected: KeyKind,
        /// The kind of its key.
        found: KeyKind,
    },
    /// Its key may sign for another tenant only.
    #[error("wrong tenant: the key signs for tenant `{key_tenant}` only")]
    WrongTenant {
        /// The tenant of the key.
        key_tenant: String,
    },
    /// Its key was revoked when the call was logged.
    #[error("revoked key: revoked at {revoked_at} ms, the call is logged at {logged_at} ms")]
    RevokedKey {
        /// `logged_at` of the revocation.
        revoked_at: i64,
        /// `logged_at` of the call.
        logged_at: i64,
    },
    /// Its key was published after the call was logged.
    #[error("not yet valid: the key is published at {valid_from} ms, the call is logged at {logged_at} ms")]
    NotYetValid {
        /// `logged_at` of the key.
        valid_from: i64,
        /// `logged_at` of the call.
        logged_at: i64,
    },
    /// It was expired when the call was logged.
    #[error("expired: exp is {} s, the call is logged at {logged_at} ms", claims.expires_at)]
    Expired {
        /// `logged_at` of the call.
        logged_at: i64,
        /// The claims, which satisfy every other condition.
        claims: Box<Claims>,
    },
    /// Another key signed the token, or the token was changed.
    #[error("bad signature: another key signed the token, or it was changed")]
    BadSignature,
}

/// Verifies a decision token of a call that was logged at `logged_at`, against the keys of one kind.
///
/// # Errors
/// The first reason for rejection, in this order: length, header, key, kind of the key, signature, validity of the key,
/// form of the claims, tenant, expiry.
pub fn verify(token: &str, keys: &KeySet, kind: KeyKind, logged_at: Millis) -> Result<Claims, TokenError> {
    let (claims, key) = verify_signed::<Claims>(token, &DECISION, keys, kind, logged_at)?;
    claims.check().map_err(TokenError::Malformed)?;
    check_tenant(key, &claims.tenant_id)?;
    if logged_at.0 >= claims.expires_at.saturating_mul(1000) {
        return Err(TokenError::Expired { logged_at: logged_at.0, claims: Box::new(claims) });
    }
    Ok(claims)
}

/// Verifies the signed decision of an approver, in a record that was logged at `logged_at`. Returns the claims and the id of
/// the key. Does not check their expiry: an approval must also be valid when a call uses it.
///
/// # Errors
/// The first reason for rejection, in the order of [`verify`].
pub fn verify_approval<'k>(
    token: &str,
    keys: &'k KeySet,
    logged_at: Millis,
) -> Result<(ApprovalClaims, &'k str), TokenError> {
    let (claims, key) =
        verify_signed::<ApprovalClaims>(token, &APPROVAL, keys, KeyKind::Approver, logged_at)?;
    claims.check().map_err(TokenError::Malformed)?;
    if claims.approver != key.name {
        return Err(TokenError::Malformed("iss as the name of the key"));
    }
    check_tenant(key, &claims.tenant_id)?;
    Ok((claims, key.public.kid()))
}

/// Kind of signed claims.
struct TokenForm {
    typ: &'static str,
    expected_typ: &'static str,
    expected_claims: &'static str,
}

const DECISION: TokenForm = TokenForm {
    typ: DECISION_TYPE,
    expected_typ: "typ agentgov-decision+jwt",
    expected_claims: "the claims of a decision as JSON, each once",
};
const APPROVAL: TokenForm = TokenForm {
    typ: APPROVAL_TYPE,
    expected_typ: "typ agentgov-approval+jwt",
    expected_claims: "the claims of an approval as JSON, each once",
};

/// Verifies form, key, signature and validity of the key.
fn verify_signed<'k, T: DeserializeOwned>(
    token: &str,
    form: &TokenForm,
    keys: &'k KeySet,
    kind: KeyKind,
    logged_at: Millis,
) -> Result<(T, &'k PublishedKey), TokenError> {
    let key = keys.get(&kid_of(token, form)?).ok_or(TokenError::UnknownKey)?;
    if key.kind != kind {
        return Err(TokenError::WrongKind { expected: kind, found: key.kind });
    }
    check_signature(token, &key.public)?;
    let claims = signed_claims(token, form)?;
    if let Some(revoked_at) = key.revoked_at.filter(|revoked_at| logged_at >= *revoked_at) {
        return Err(TokenError::RevokedKey { revoked_at: revoked_at.0, logged_at: logged_at.0 });
    }
    if logged_at < key.valid_from {
        return Err(TokenError::NotYetValid { valid_from: key.valid_from.0, logged_at: logged_at.0 });
    }
    Ok((claims, key))
}

fn check_tenant(key: &PublishedKey, tenant_id: &str) -> Result<(), TokenError> {
    match &key.tenant_id {
        Some(key_tenant) if key_tenant != tenant_id => {
            Err(TokenError::WrongTenant { key_tenant: key_tenant.clone() })
        }
        _ => Ok(()),
    }
}

/// Checks the length and the header of a token; returns its `kid`.
fn kid_of(token: &str, form: &TokenForm) -> Result<String, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Malformed("at most 8192 bytes"));
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| {
        TokenError::Malformed("a compact JWS with a header of JSON, each member once, and a known alg")
    })?;
    if header.alg != Algorithm::EdDSA {
        return Err(TokenError::Malformed("alg EdDSA"));
    }
    if header.typ.as_deref() != Some(form.typ) {
        return Err(TokenError::Malformed(form.expected_typ));
    }
    if header.crit.is_some() {
        return Err(TokenError::Malformed("no crit"));
    }
    header.kid.ok_or(TokenError::Malformed("a kid"))
}

/// Checks the signature over everything before the last dot.
fn check_signature(token: &str, key: &PublicKey) -> Result<(), TokenError> {
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed("three parts"))?;
    let signature =
        URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed("base64url without padding"))?;
    let signature = Signature::from_slice(&signature).map_err(|_| TokenError::BadSignature)?;
    key.point.verify(message.as_bytes(), &signature).map_err(|_| TokenError::BadSignature)
}

/// Parses the claims of a token whose signature is valid; the library calls any parsing without a check "insecure".
fn signed_claims<T: DeserializeOwned>(token: &str, form: &TokenForm) -> Result<T, TokenError> {
    jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|error| match error.kind() {
        ErrorKind::Base64(_) => TokenError::Malformed("base64url without padding"),
        _ => TokenError::Malformed(form.expected_claims),
    })
}

impl Claims {
    /// Checks the values that the types do not restrict. The error is the expectation.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        check_id_and_times(&self.decision_id, self.issued_at, self.expires_at)?;
        if self.through.partition < 0 || self.through.offset < -1 {
            return Err("through as a partition and an offset of at least -1");
        }
        Ok(())
    }
}

impl ApprovalClaims {
    /// Checks the values that the types do not restrict. The error is the expectation.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        check_id_and_times(&self.approval_id, self.issued_at, self.expires_at)?;
        match self.outcome {
            Decision::Allow | Decision::Deny => Ok(()),
            _ => Err("outcome as allow or deny"),
        }
    }
}

fn check_id_and_times(id: &str, issued_at: i64, expires_at: i64) -> Result<(), &'static str> {
    let is_uuid = Uuid::try_parse(id)
        .is_ok_and(|parsed| parsed.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == id);
    if !is_uuid {
        return Err("jti as the lower-case text of a UUID");
    }
    if expires_at <= issued_at {
        return Err("exp after iat");
    }
    Ok(())
}
