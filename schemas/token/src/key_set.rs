//! The published keys: governance.keys, folded.

use std::collections::BTreeMap;

use agentgov_schemas::governance::{KeyEntry, KeyKind, KeyState};
use agentgov_schemas::{Millis, OpenEnum};
use serde_json::Value as Json;

use crate::{KeyError, PublicKey};

/// Length of a thumbprint: SHA-256 in base64url.
const KID_BYTES: usize = 43;

/// A key that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedKey {
    /// The key itself.
    pub public: PublicKey,
    /// Purpose of its signatures.
    pub kind: KeyKind,
    /// Name of its holder.
    pub name: String,
    /// The only tenant that it signs for; `None` for all.
    pub tenant_id: Option<String>,
    /// `logged_at` of its first record: it is valid from then on.
    pub valid_from: Millis,
    /// `logged_at` of its revocation: it is invalid from then on.
    pub revoked_at: Option<Millis>,
}

/// Reason why a record of the topic changes no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// The kid has another form than a thumbprint.
    #[error("expected a kid of {KID_BYTES} characters, found {0}")]
    NoThumbprint(usize),
    /// The public key is invalid.
    #[error("public key: {0}")]
    Key(#[from] KeyError),
    /// The kid is not the thumbprint of the record's public key.
    #[error("expected the kid to be the thumbprint of the public key, found another one")]
    WrongKid,
    /// This build does not know the kind.
    #[error("expected kind pdp or approver, found another one")]
    UnknownKind,
    /// This build does not know the state.
    #[error("expected state active or revoked, found another one")]
    UnknownState,
    /// A revoked key never becomes active again.
    #[error("the key is revoked and stays so; make a new one with `agentgov registry key new`")]
    Revoked,
    /// Kind, name and tenant must equal those of the key's first record.
    #[error(
        "the key is published with another kind, name or tenant; make a new one with `agentgov registry key new`"
    )]
    Changed,
}

/// Keys folded from the records read so far.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: BTreeMap<String, PublishedKey>,
    /// First revocation by kid, also of keys that no record has published: such a key never becomes active.
    revocations: BTreeMap<String, Millis>,
    refused: u64,
    next_offset: i64,
}

impl KeySet {
    /// Creates a set without keys.
    pub const fn new() -> Self {
        Self { keys: BTreeMap::new(), revocations: BTreeMap::new(), refused: 0, next_offset: 0 }
    }

    /// Applies the record at `offset` of the governance topic, appended at `logged_at`.
    ///
    /// # Errors
    /// If the record changes no key. It is counted, and otherwise ignored.
    pub fn fold(&mut self, entry: &KeyEntry<'_>, offset: i64, logged_at: Millis) -> Result<(), KeyRefusal> {
        self.skip(offset);
        let folded = self.take(entry, logged_at);
        self.refused += u64::from(folded.is_err());
        folded
    }

    fn take(&mut self, entry: &KeyEntry<'_>, logged_at: Millis) -> Result<(), KeyRefusal> {
        if entry.kid.len() != KID_BYTES {
            return Err(KeyRefusal::NoThumbprint(entry.kid.len()));
        }
        match entry.state {
            OpenEnum::Known(KeyState::Active) => self.publish(entry, logged_at),
            OpenEnum::Known(KeyState::Revoked) => {
                self.revoke(entry.kid, logged_at);
                Ok(())
            }
            OpenEnum::Unknown(_) => Err(KeyRefusal::UnknownState),
        }
    }

    fn publish(&mut self, entry: &KeyEntry<'_>, logged_at: Millis) -> Result<(), KeyRefusal> {
        let public = PublicKey::from_jwk(entry.public_key)?;
        if public.kid() != entry.kid {
            return Err(KeyRefusal::WrongKid);
        }
        if self.revocations.contains_key(entry.kid) {
            return Err(KeyRefusal::Revoked);
        }
        let key = PublishedKey {
            public,
            kind: entry.kind.known().ok_or(KeyRefusal::UnknownKind)?,
            name: entry.name.to_owned(),
            tenant_id: entry.tenant_id.map(str::to_owned),
            valid_from: logged_at,
            revoked_at: None,
        };
        let first = self.keys.entry(entry.kid.to_owned()).or_insert_with(|| key.clone());
        let is_same = (first.kind, &first.name, &first.tenant_id) == (key.kind, &key.name, &key.tenant_id);
        if is_same { Ok(()) } else { Err(KeyRefusal::Changed) }
    }

    /// Revokes by `kid` alone, so that an error elsewhere in the record cannot prevent the revocation.
    fn revoke(&mut self, kid: &str, logged_at: Millis) {
        let first = *self.revocations.entry(kid.to_owned()).or_insert(logged_at);
        if let Some(key) = self.keys.get_mut(kid) {
            key.revoked_at = Some(first);
        }
    }

    /// Skips the record at `offset`, which could not be decoded.
    pub fn skip(&mut self, offset: i64) {
        self.next_offset = self.next_offset.max(offset.saturating_add(1));
    }

    /// Returns the offset of the next record to fold.
    pub const fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Returns the number of records that [`fold`](Self::fold) refused.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Returns the key with this id, revoked or not.
    pub fn get(&self, kid: &str) -> Option<&PublishedKey> {
        self.keys.get(kid)
    }

    /// Iterates over all keys, including revoked ones, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &PublishedKey> {
        self.keys.values()
    }

    /// Returns the keys of one kind that are not revoked, as a JSON Web Key Set. One kind only, since a JWKS does not
    /// state what a key may sign.
    pub fn jwks(&self, kind: KeyKind) -> Json {
        let valid = self.keys.values().filter(|key| key.kind == kind && key.revoked_at.is_none());
        serde_json::json!({ "keys": valid.map(|key| key.public.to_jwk()).collect::<Vec<_>>() })
    }
}
