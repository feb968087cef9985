-- What the policies say of each judged action. The action stands at (origin_topic, origin_partition, origin_offset).
CREATE TABLE IF NOT EXISTS verdicts
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

    -- What it says. Empty, 0 or NULL where it says nothing.
    tenant_id LowCardinality(String),
    environment LowCardinality(String),
    session_id String,
    session_label String,
    agent_id LowCardinality(String),
    event_id String,
    type LowCardinality(String),
    -- The producer's clock, whatever it says: the first as near as a DateTime64 comes to it (1900 to 2299), the second as told.
    occurred_at DateTime64(6, 'UTC'),
    occurred_at_micros Int64,
    origin_topic LowCardinality(String),
    origin_partition Int32,
    origin_offset Int64,
    origin_logged_at DateTime64(3, 'UTC'),
    tool_name LowCardinality(String),
    call_id String,
    call_index Nullable(Int32),
    decision LowCardinality(String),
    reason LowCardinality(String),
    determining_policies Array(LowCardinality(String)),
    violations Nested(policy LowCardinality(String), severity LowCardinality(String), mode LowCardinality(String), effect LowCardinality(String)),
    bundle_name LowCardinality(String),
    bundle_version LowCardinality(String),
    bundle_digest FixedString(32),
    tables Nested(topic LowCardinality(String), next_offset Int64),
    known_digest FixedString(32),
    known String CODEC(ZSTD),
    errors Nested(code LowCardinality(String), subject String, message String),
    duplicate_of_source String,
    duplicate_of_sequence Nullable(Int64),
    duplicate_of_last_sequence Nullable(Int64),
    state_limit Bool,

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
