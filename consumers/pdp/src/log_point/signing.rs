//! Checks whether the signing key may sign: a token of a key that is not published, revoked, or of another kind or tenant
//! is invalid, so it must not be issued.

use agentgov_schemas::governance::KeyKind;
use agentgov_token::{KeySet, SigningKey};

/// Returns the reason why `key` must not sign decisions, if there is one. `tenant_id` is the tenant of the decision.
pub(super) fn check_key(keys: &KeySet, key: &SigningKey, tenant_id: Option<&str>) -> Result<(), String> {
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
    match (published.tenant_id.as_deref(), tenant_id) {
        (Some(signs_for), Some(tenant_id)) if signs_for != tenant_id => Err(format!(
            "key {kid}: expected a key for tenant `{tenant_id}`, found one for tenant `{signs_for}` only; make one with `agentgov \
             registry key new --kind pdp`"
        )),
        _ => Ok(()),
    }
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
            let found = check_key(&keys, &key, tenant_id);
            match expected {
                None => assert_eq!(found, Ok(()), "{records:?}"),
                Some(expected) => {
                    let reason = found.unwrap_err();
                    assert!(reason.contains(expected) && reason.contains(key.kid()), "{records:?}: {reason}");
                }
            }
        }
    }
}
