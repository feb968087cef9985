-- The agent registry, with its history: the last row of an agent counts.
CREATE TABLE IF NOT EXISTS agents
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

    -- What it says. Empty where it says nothing.
    tenant_id LowCardinality(String),
    agent_id String,
    name String,
    owner LowCardinality(String),
    roles Array(LowCardinality(String)),
    state LowCardinality(String),
    description String,
    pushed_by LowCardinality(String),

    CONSTRAINT fence CHECK claim != 0 AND claim = joinGet('sink_claims', 'claim', toString(topic_partition)),
    PROJECTION tail
    (
        SELECT topic_partition, min(offset), max(offset), count(), argMax(record_sha256, offset), argMax(logged_at, offset)
        GROUP BY topic_partition
    )
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(logged_at)
ORDER BY (tenant_id, agent_id, logged_at, topic, partition, offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
