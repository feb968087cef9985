//! Session keys and Kafka's default partitioner.

use std::fmt;

/// Key of a session: tenant and session id. A session id alone is not unique, since two tenants may use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey<'a> {
    /// The tenant.
    pub tenant_id: &'a str,
    /// The session.
    pub session_id: &'a str,
}

/// Error for a tenant id that cannot be part of a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("tenant id `{0}`: expected 1 to 128 of the characters a-z A-Z 0-9 . _ -")]
pub struct InvalidTenantId(pub String);

/// Checks that a tenant id can be part of a key: it contains neither the separator nor a character that quoting changes.
pub fn check_tenant_id(tenant_id: &str) -> Result<(), InvalidTenantId> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=128).contains(&tenant_id.len()) && tenant_id.chars().all(allowed) {
        Ok(())
    } else {
        Err(InvalidTenantId(tenant_id.to_owned()))
    }
}

impl SessionKey<'_> {
    /// Returns the Kafka key: `tenant_id/session_id` in UTF-8. Unambiguous, since a tenant id has no slash.
    pub fn to_bytes(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

/// Returns the partition of a key among `partitions`, as the SDK and Kafka's Java client choose it: murmur2, made positive,
/// modulo the number of partitions. `None` if there are no partitions.
pub fn partition_of(key: &[u8], partitions: i32) -> Option<i32> {
    let positive = (murmur2(key) & 0x7fff_ffff).cast_signed();
    positive.checked_rem(partitions.max(0))
}

/// MurmurHash2 with the seed that Kafka uses (`Utils.murmur2` of its clients).
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let (words, rest) = key.as_chunks::<4>();
    // Kafka accepts no key whose length exceeds a u32.
    let mut hash = 0x9747_b28c ^ u32::try_from(key.len()).unwrap_or(u32::MAX);
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |last, byte| last << 8 | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
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
    fn tenant_id_has_up_to_128_letters_digits_dots_underscores_and_hyphens() {
        for (id, ok) in
            [("acme", true), ("a.b_c-9", true), ("", false), ("a/b", false), ("ä", false), ("a b", false)]
        {
            assert_eq!(check_tenant_id(id).is_ok(), ok, "{id:?}");
        }
        assert!(check_tenant_id(&"x".repeat(129)).is_err());
    }

    /// The values are those of Kafka's test of `Utils.murmur2`.
    #[test]
    fn partition_is_the_one_that_kafka_chooses() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
            assert_eq!(partition_of(key.as_bytes(), 12), Some((hash & 0x7fff_ffff) % 12), "{key}");
        }
        assert_eq!((partition_of(b"21", 0), partition_of(b"21", -1)), (None, None));
    }

    #[test]
    fn key_is_tenant_slash_session() {
        let key = SessionKey { tenant_id: "acme", session_id: "7/1" };
        assert_eq!(key.to_bytes(), b"acme/7/1");
    }
}
