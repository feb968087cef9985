-- Approvals of calls: the request and the signed decision. Empty, 0 or NULL elsewhere, and in rows from before. `tool_name` and
-- `call_id` of approval.asked and approval.decided are those of the call. `decision_approval_id` is the approval that a decision
-- relies on.
ALTER TABLE actions
    ADD COLUMN IF NOT EXISTS decision_approval_id String AFTER decision_key_id,
    ADD COLUMN IF NOT EXISTS approval_arguments String CODEC(ZSTD) AFTER approval_comment,
    ADD COLUMN IF NOT EXISTS approval_arguments_sha256 FixedString(32) CODEC(ZSTD) AFTER approval_arguments,
    ADD COLUMN IF NOT EXISTS approval_expires_at Nullable(DateTime64(3, 'UTC')) AFTER approval_arguments_sha256,
    ADD COLUMN IF NOT EXISTS approval_token String CODEC(ZSTD) AFTER approval_expires_at
