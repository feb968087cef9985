//! The key that every keyed record, every state entry and every alert is filed under.

use std::fmt;

/// A session of a tenant. Never the session id alone: two tenants may choose the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey<'a> {
    /// The tenant.
    pub tenant_id: &'a str,
    /// The session.
    pub session_id: &'a str,
}

/// Why a tenant id cannot be part of a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("tenant id `{0}`: expected 1 to 128 of the characters a-z A-Z 0-9 . _ -")]
pub struct InvalidTenantId(pub String);

/// Checks that a tenant id can stand in a key: it must not contain the separator, nor anything that quoting could change.
pub fn check_tenant_id(tenant_id: &str) -> Result<(), InvalidTenantId> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=128).contains(&tenant_id.len()) && tenant_id.chars().all(allowed) {
        Ok(())
    } else {
        Err(InvalidTenantId(tenant_id.to_owned()))
    }
}

impl SessionKey<'_> {
    /// The Kafka key: `tenant_id/session_id` in UTF-8. Unambiguous, since a tenant id has no slash.
    pub fn to_bytes(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl fmt::Display for SessionKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant_id, self.session_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_ids() {
        for (id, ok) in
            [("acme", true), ("a.b_c-9", true), ("", false), ("a/b", false), ("ä", false), ("a b", false)]
        {
            assert_eq!(check_tenant_id(id).is_ok(), ok, "{id:?}");
        }
        assert!(check_tenant_id(&"x".repeat(129)).is_err());
    }

    #[test]
    fn key_is_tenant_slash_session() {
        let key = SessionKey { tenant_id: "acme", session_id: "7/1" };
        assert_eq!(key.to_bytes(), b"acme/7/1");
    }
}
