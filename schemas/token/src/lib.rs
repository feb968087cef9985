//! Decision tokens and approvals: compact JWS (RFC 7515) with EdDSA over Ed25519 (RFC 8037). No I/O, no clock, no randomness.
//!
//! ```text
//!  pdp:       Claims ── SigningKey::sign ──► token ──► the caller's `tool.invoked`
//!  evaluator: governance.keys ── KeySet::fold ──► KeySet ── verify(token, logged_at) ──► Claims ── first_difference
//! ```
//!
//! A token proves that the holder of a private key decided about one call with these arguments, in this session. It does
//! not prove that the call happened, nor that the decision was right.
//!
//! An approver signs [`ApprovalClaims`] about one call in the same way. `typ` and the kind of the key separate the two.
//!
//! The result of [`verify`] depends on its arguments alone: the token, the keys folded so far, and the `logged_at` of
//! the record that carries the token.

mod approval;
mod claims;
mod key;
mod key_set;
mod sign;
mod verify;

pub use approval::ApprovalClaims;
pub use claims::{Call, ClaimName, Claims, KnownThrough};
pub use key::{KeyError, MAX_JWK_BYTES, PublicKey, SigningKey};
pub use key_set::{KeyRefusal, KeySet, PublishedKey};
pub use sign::SignError;
pub use verify::{TokenError, verify, verify_approval};

/// `typ` of a decision token (RFC 8725, section 3.11): a token of another purpose is never taken for a decision.
pub const DECISION_TYPE: &str = "agentgov-decision+jwt";
/// `typ` of the signed decision of an approver.
pub const APPROVAL_TYPE: &str = "agentgov-approval+jwt";
/// Maximum length of a token that is verified, or returned by [`SigningKey::sign`].
pub const MAX_TOKEN_BYTES: usize = 8192;
