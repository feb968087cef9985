-- Records that a stage could not process, with the reason. tenant_id and session_id are what the key of the record claims.
CREATE TABLE IF NOT EXISTS rejects
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

    -- What it says. Empty or 0 where it says nothing.
    tenant_id LowCardinality(String),
    session_id String,
    stage LowCardinality(String),
    reason LowCardinality(String),
    detail String,
    origin_topic LowCardinality(String),
    origin_partition Int32,
    origin_offset Int64,
    origin_logged_at DateTime64(3, 'UTC'),
    rejected_key String,
    rejected_size Int64,
    rejected_sha256 FixedString(32),
    rejected_head String CODEC(ZSTD),

    CONSTRAINT fence CHECK claim != 0 AND claim = joinGet('sink_claims', 'claim', toString(topic_partition)),
    PROJECTION tail
    (
        SELECT topic_partition, min(offset), max(offset), count(), argMax(record_sha256, offset), argMax(logged_at, offset)
        GROUP BY topic_partition
    )
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(logged_at)
ORDER BY (tenant_id, session_id, logged_at, topic, partition, offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
