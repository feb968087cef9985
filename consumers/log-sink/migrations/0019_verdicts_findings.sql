-- What is wrong with the record of the action itself, beside what the policies say: names of docs/errors. Empty in rows from before.
ALTER TABLE verdicts
    ADD COLUMN IF NOT EXISTS findings Array(LowCardinality(String)) AFTER state_limit
