-- Rules that applied to the call of a decision, as in `verdicts`. Empty elsewhere, and in rows from before.
ALTER TABLE actions
    ADD COLUMN IF NOT EXISTS decision_violations Nested(policy LowCardinality(String), severity LowCardinality(String), mode LowCardinality(String), effect LowCardinality(String)) AFTER decision_policies
