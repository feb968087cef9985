-- Relation of the call to the decision before it, according to its token. `prior_decision_id` is `decision_id` of the decision's
-- event. Empty on duplicates and in rows from before.
ALTER TABLE verdicts
    ADD COLUMN IF NOT EXISTS prior_decision_finding LowCardinality(String) AFTER findings,
    ADD COLUMN IF NOT EXISTS prior_decision_cause LowCardinality(String) AFTER prior_decision_finding,
    ADD COLUMN IF NOT EXISTS prior_decision_id String AFTER prior_decision_cause,
    ADD COLUMN IF NOT EXISTS prior_decision_outcome LowCardinality(String) AFTER prior_decision_id,
    ADD COLUMN IF NOT EXISTS prior_decision_required Bool AFTER prior_decision_outcome
