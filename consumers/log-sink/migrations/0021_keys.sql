-- The keys that sign decisions and approvals, with their history: the first row of a key counts, and its first revocation.
CREATE TABLE IF NOT EXISTS keys
(
    -- The record as it was, and where.
    topic_partition LowCardinality(String),
    topic LowCardinality(String),
    partition Int32,
    offset Int64 CODEC(Delta, ZSTD),
    logged_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    key Nullable(String),
    headers Nested(name LowCardinality(String), value Nullable(String)),
    value Nullable(String) CODEC(ZSTD),
    record_sha256 FixedString(32),
    schema_id UInt32,
    schema_fingerprint FixedString(32) CODEC(ZSTD),
    decode_error String,
    claim UInt64 CODEC(ZSTD),
    skipped UInt64 CODEC(ZSTD),

    -- Its fields. Empty where it has none.
    kid String,
    kind LowCardinality(String),
    name LowCardinality(String),
    tenant_id LowCardinality(String),
    public_key String,
    state LowCardinality(String),
    reason String,
    pushed_by LowCardinality(String),

    CONSTRAINT fence CHECK claim != 0 AND claim = joinGet('sink_claims', 'claim', toString(topic_partition)),
    PROJECTION tail_skipped
    (
        SELECT topic_partition, min(offset - skipped), max(offset), count(), sum(skipped), argMax(record_sha256, offset), argMax(logged_at, offset),
            maxIf(offset, skipped > 0), argMaxIf(skipped, offset, skipped > 0), maxIf(logged_at, skipped > 0)
        GROUP BY topic_partition
    )
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(logged_at)
ORDER BY (kid, logged_at, topic, partition, offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
