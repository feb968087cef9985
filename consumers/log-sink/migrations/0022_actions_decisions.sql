-- Decisions of a policy decision point: the evaluation on decision.made, the token on the call. Empty, 0 or NULL elsewhere, and
-- in rows from before. `tool_name` and `call_id` of decision.made are those of the call that it is about. Its arguments are in `value` only.
ALTER TABLE actions
    ADD COLUMN IF NOT EXISTS decision_id String AFTER decision_reason,
    ADD COLUMN IF NOT EXISTS decision_caller LowCardinality(String) AFTER decision_id,
    ADD COLUMN IF NOT EXISTS decision_policies Array(LowCardinality(String)) AFTER decision_caller,
    ADD COLUMN IF NOT EXISTS decision_bundle_digest FixedString(32) CODEC(ZSTD) AFTER decision_policies,
    ADD COLUMN IF NOT EXISTS decision_tables Nested(topic LowCardinality(String), next_offset Int64) AFTER decision_bundle_digest,
    ADD COLUMN IF NOT EXISTS decision_known_digest FixedString(32) CODEC(ZSTD) AFTER decision_tables,
    ADD COLUMN IF NOT EXISTS decision_known String CODEC(ZSTD) AFTER decision_known_digest,
    ADD COLUMN IF NOT EXISTS decision_partition Nullable(Int32) AFTER decision_known,
    ADD COLUMN IF NOT EXISTS decision_next_offset Nullable(Int64) AFTER decision_partition,
    ADD COLUMN IF NOT EXISTS decision_unavailable LowCardinality(String) AFTER decision_next_offset,
    ADD COLUMN IF NOT EXISTS decision_key_id LowCardinality(String) AFTER decision_unavailable,
    ADD COLUMN IF NOT EXISTS decision_token String CODEC(ZSTD) AFTER decision_key_id
