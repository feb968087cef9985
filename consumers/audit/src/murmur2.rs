//! Kafka's default partitioner, implemented independently of the SDK's.

/// Returns the partition of `key` among `partitions`. `None` if there are no partitions.
///
/// `Utils.toPositive(Utils.murmur2(key)) % partitions` of Kafka's Java client.
pub fn partition_of(key: &[u8], partitions: usize) -> Option<i32> {
    let positive = usize::try_from(murmur2(key) & 0x7fff_ffff).ok()?;
    i32::try_from(positive.checked_rem(partitions)?).ok()
}

/// MurmurHash2, 32 bits, with the seed of Kafka's `Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    // Kafka's length of a key is a Java int, which fits.
    let mut hash = SEED ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values are those of Kafka's `UtilsTest.testMurmur2`.
    #[test]
    fn hash_equals_kafkas() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn partition_is_the_positive_hash_modulo_the_count() {
        assert_eq!(partition_of(b"foobar", 12), Some(((-790_332_482_i32) & 0x7fff_ffff) % 12));
        assert_eq!(partition_of(b"", 1), Some(0));
        assert_eq!(partition_of(b"abc", 0), None);
    }
}
