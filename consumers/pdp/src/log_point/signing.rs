//! Checks whether the signing key may sign: a token of a key that is not published, revoked, or of another kind or tenant
//! is invalid, so it must not be issued. Neither must the token of a key that evaluators may not have read yet.

use std::time::{Duration, Instant};

use agentgov_schemas::Millis;
use agentgov_schemas::governance::KeyKind;
use agentgov_token::{KeySet, PublishedKey, SigningKey};

/// Minimum age of a key that signs. Evaluators poll the topic of keys between batches, a fraction of a second apart; a
/// token of a key that they do not know yet is `forged`.
pub(super) const MIN_KEY_AGE: Duration = Duration::from_secs(2);

/// Times by which a decision point knows the age of its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyAge {
    /// Wall clock of the decision point.
    pub now: Millis,
    /// Time since this process first found the key published.
    pub known_for: Duration,
}

impl KeyAge {
    /// Returns the age of a key that this process knows since `known_since`.
    pub fn new(now: Millis, known_since: Instant) -> Self {
        Self { now, known_for: known_since.elapsed() }
    }

    /// Returns true if evaluators know the key. The clock spares a restarted process the wait for an old key; a clock that is
    /// behind Kafka's delays a key by [`MIN_KEY_AGE`] at most.
    fn is_known_everywhere(self, published: &PublishedKey) -> bool {
        let age = self.now.0.saturating_sub(published.valid_from.0);
        u64::try_from(age).is_ok_and(|age| Duration::from_millis(age) >= MIN_KEY_AGE)
            || self.known_for >= MIN_KEY_AGE
    }
}

/// Returns the reason why `key` must not sign decisions, if there is one. `tenant_id` is the tenant of the decision.
pub(super) fn check_key(
    keys: &KeySet,
    key: &SigningKey,
    tenant_id: Option<&str>,
    age: KeyAge,
) -> Result<(), String> {
    let kid = key.kid();
    let Some(published) = keys.get(kid) else {
        return Err(format!(
            "key {kid}: expected a key that is published, found it on no record of the topic of keys; make one with `agentgov \
             registry key new --kind pdp`"
        ));
    };
    if published.kind != KeyKind::Pdp {
        return Err(format!(
            "key {kid}: expected kind {}, found {}; make one with `agentgov registry key new --kind pdp`",
            KeyKind::Pdp,
            published.kind
        ));
    }
    if let Some(revoked_at) = published.revoked_at {
        return Err(format!(
            "key {kid}: expected a valid key, found one that was revoked at {} ms; make another one with `agentgov registry key \
             new --kind pdp`, and restart with it",
            revoked_at.0
        ));
    }
    if let (Some(signs_for), Some(tenant_id)) = (published.tenant_id.as_deref(), tenant_id)
        && signs_for != tenant_id
    {
        return Err(format!(
            "key {kid}: expected a key for tenant `{tenant_id}`, found one for tenant `{signs_for}` only; make one with `agentgov \
             registry key new --kind pdp`"
        ));
    }
    if !age.is_known_everywhere(published) {
        return Err(format!(
            "key {kid}: expected a key that was published {} s ago, so that each evaluator knows it, found one of {} ms; wait",
            MIN_KEY_AGE.as_secs(),
            published.valid_from.0
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::Millis;
    use agentgov_schemas::governance::{KeyEntry, KeyState};

    use super::*;

    fn entry<'a>(kid: &'a str, public_key: &'a str) -> KeyEntry<'a> {
        KeyEntry {
            kid,
            kind: KeyKind::Pdp.into(),
            name: "pdp-1",
            tenant_id: None,
            public_key,
            state: KeyState::Active.into(),
            reason: "",
            pushed_by: "",
        }
    }

    #[test]
    fn key_signs_only_what_the_topic_of_keys_says() {
        let key = SigningKey::from_seed(&[7; 32]);
        let public = key.public_key().to_jwk().to_string();
        let published = entry(key.kid(), &public);
        let revoked = KeyEntry { state: KeyState::Revoked.into(), ..published };
        let approver = KeyEntry { kind: KeyKind::Approver.into(), ..published };
        let of_acme = KeyEntry { tenant_id: Some("acme"), ..published };
        for (records, tenant_id, expected) in [
            (vec![], Some("acme"), Some("is published")),
            (vec![published], Some("acme"), None),
            (vec![published], None, None),
            (vec![published, revoked], Some("acme"), Some("was revoked at 2 ms")),
            (vec![revoked], Some("acme"), Some("is published")),
            (vec![approver], Some("acme"), Some("expected kind pdp, found approver")),
            (vec![of_acme], Some("acme"), None),
            (vec![of_acme], None, None),
            (vec![of_acme], Some("other"), Some("found one for tenant `acme` only")),
        ] {
            let mut keys = KeySet::default();
            for (offset, record) in (0..).zip(&records) {
                keys.fold(record, offset, Millis(offset + 1)).unwrap();
            }
            let age = KeyAge { now: Millis(1), known_for: MIN_KEY_AGE };
            let found = check_key(&keys, &key, tenant_id, age);
            match expected {
                None => assert_eq!(found, Ok(()), "{records:?}"),
                Some(expected) => {
                    let reason = found.unwrap_err();
                    assert!(reason.contains(expected) && reason.contains(key.kid()), "{records:?}: {reason}");
                }
            }
        }
    }

    #[test]
    fn new_key_signs_once_evaluators_know_it() {
        let key = SigningKey::from_seed(&[7; 32]);
        let public = key.public_key().to_jwk().to_string();
        let mut keys = KeySet::default();
        keys.fold(&entry(key.kid(), &public), 0, Millis(10_000)).unwrap();
        let just_seen = Duration::ZERO;
        for (now, known_for, signs) in [
            (10_000, just_seen, false),
            (11_999, just_seen, false),
            (12_000, just_seen, true),
            // The clock is behind Kafka's.
            (0, just_seen, false),
            (i64::MIN, Duration::from_millis(1_999), false),
            (0, MIN_KEY_AGE, true),
        ] {
            let found = check_key(&keys, &key, None, KeyAge { now: Millis(now), known_for });
            assert_eq!(found.is_ok(), signs, "{now} {known_for:?}: {found:?}");
            assert!(signs || found.unwrap_err().contains("published 2 s ago"));
        }
    }
}
