-- Approval that concerns the call: the one that its token names, or one for the same call in its session. Empty if there is none,
-- and in rows from before.
ALTER TABLE verdicts
    ADD COLUMN IF NOT EXISTS approval_id String AFTER prior_decision_unavailable,
    ADD COLUMN IF NOT EXISTS approval_finding LowCardinality(String) AFTER approval_id,
    ADD COLUMN IF NOT EXISTS approval_cause LowCardinality(String) AFTER approval_finding,
    ADD COLUMN IF NOT EXISTS approver String AFTER approval_cause
