-- Inputs of the verdicts besides the actions: a row holds for the actions of its partition from from_offset up to the
-- from_offset of the partition's next row.
CREATE TABLE IF NOT EXISTS evaluation_bases
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

    -- Its fields. Empty or 0 where it has none.
    actions_topic LowCardinality(String),
    actions_partition Int32,
    from_offset Int64,
    tables Nested(topic LowCardinality(String), next_offset Int64),
    rules_version Int32,
    build LowCardinality(String),
    actions_partitions Int32,
    session_ttl_ms Int64,
    max_facts Int64,
    max_bytes Int64,

    CONSTRAINT fence CHECK claim != 0 AND claim = joinGet('sink_claims', 'claim', toString(topic_partition)),
    PROJECTION tail
    (
        SELECT topic_partition, min(offset), max(offset), count(), argMax(record_sha256, offset), argMax(logged_at, offset)
        GROUP BY topic_partition
    )
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(logged_at)
ORDER BY (actions_topic, actions_partition, from_offset, logged_at, topic, partition, offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
