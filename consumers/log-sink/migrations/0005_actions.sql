-- Every action, as its producer told it: each offset of the topic is one row, also what cannot be decoded (decode_error).
CREATE TABLE IF NOT EXISTS actions
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
    event_id String,
    type LowCardinality(String),
    tenant_id LowCardinality(String),
    environment LowCardinality(String),
    session_id String,
    session_label String,
    source_id String,
    source_sequence Int64,
    -- The producer's clock, whatever it says: the first as near as a DateTime64 comes to it (1900 to 2299), the second as told.
    occurred_at DateTime64(6, 'UTC'),
    occurred_at_micros Int64,
    agent_id LowCardinality(String),
    agent_name LowCardinality(String),
    agent_version LowCardinality(String),
    actor_id String,
    actor_type LowCardinality(String),
    trace_id String,
    span_id String,
    message_id String,
    message_role LowCardinality(String),
    message_has_text Bool,
    message_tool_calls Int32,
    message_text String CODEC(ZSTD),
    message_sha256 FixedString(32),
    message_redacted Bool,
    tool_name LowCardinality(String),
    call_id String,
    arguments String CODEC(ZSTD),
    arguments_sha256 FixedString(32),
    arguments_redacted Bool,
    result String CODEC(ZSTD),
    result_sha256 FixedString(32),
    result_redacted Bool,
    result_is_error Nullable(Bool),
    llm_provider_name LowCardinality(String),
    llm_request_model LowCardinality(String),
    llm_response_model LowCardinality(String),
    llm_input_tokens Nullable(Int64),
    llm_output_tokens Nullable(Int64),
    llm_finish_reason LowCardinality(String),
    llm_error_type LowCardinality(String),
    decided_by LowCardinality(String),
    decision LowCardinality(String),
    decision_reason String,
    approval_id String,
    approver String,
    approval_granted Nullable(Bool),
    approval_comment String,
    closing_total Nullable(Int64),

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
