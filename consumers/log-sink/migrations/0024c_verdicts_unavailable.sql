-- Code of the reason for which the decision before the call did not know the state of the session. Empty elsewhere and in rows from
-- before.
ALTER TABLE verdicts
    ADD COLUMN IF NOT EXISTS prior_decision_unavailable LowCardinality(String) AFTER prior_decision_required
