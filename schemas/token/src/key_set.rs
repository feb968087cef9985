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
    /// The public key is none.
    #[error("public key: {0}")]
    Key(#[from] KeyError),
    /// The kid is not the thumbprint of the record's public key.
    #[error("expected the kid to be the thumbprint of the public key, found another one")]
    WrongKid,
    /// The kind is unknown to this build.
    #[error("expected kind pdp or approver, found another one")]
    UnknownKind,
    /// The state is unknown to this build.
    #[error("expected state active or revoked, found another one")]
    UnknownState,
    /// A revoked key never becomes active again.
    #[error("the key is revoked and stays so; make a new one with `agentgov registry key new`")]
    Revoked,
    /// Kind, name and tenant of a key are those of its first record.
    #[error(
        "the key is published with another kind, name or tenant; make a new one with `agentgov registry key new`"
    )]
    Changed,
}

/// The published keys as far as their topic was read.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: BTreeMap<String, PublishedKey>,
    /// First revocation by kid, also of keys that no record has published: such a key never becomes active.
    revocations: BTreeMap<String, Millis>,
    refused: u64,
    next_offset: i64,
}

impl KeySet {
    /// Takes in the record at `offset` of the governance topic, appended at `logged_at`.
    ///
    /// # Errors
    /// If the record changes no key. It is counted, and passed over.
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

    /// A revocation needs the kid only: nothing else in its record can keep it from taking effect.
    fn revoke(&mut self, kid: &str, logged_at: Millis) {
        let first = *self.revocations.entry(kid.to_owned()).or_insert(logged_at);
        if let Some(key) = self.keys.get_mut(kid) {
            key.revoked_at = Some(first);
        }
    }

    /// Passes over the record at `offset`, which could not be read.
    pub fn skip(&mut self, offset: i64) {
        self.next_offset = self.next_offset.max(offset.saturating_add(1));
    }

    /// The first offset not yet folded.
    pub const fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Number of records that [`fold`](Self::fold) has refused.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// The key with this id, revoked or not.
    pub fn get(&self, kid: &str) -> Option<&PublishedKey> {
        self.keys.get(kid)
    }

    /// All keys, revoked ones too, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &PublishedKey> {
        self.keys.values()
    }

    /// The keys of one kind that are not revoked, as a JSON Web Key Set: a JWKS does not say what a key may sign.
    pub fn jwks(&self, kind: KeyKind) -> Json {
        let valid = self.keys.values().filter(|key| key.kind == kind && key.revoked_at.is_none());
        serde_json::json!({ "keys": valid.map(|key| key.public.to_jwk()).collect::<Vec<_>>() })
    }
}
