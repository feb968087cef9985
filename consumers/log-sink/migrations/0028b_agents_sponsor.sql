-- Sponsor, version and environments of an agent. Empty in rows from before.
ALTER TABLE agents
    ADD COLUMN IF NOT EXISTS sponsor LowCardinality(String) AFTER pushed_by,
    ADD COLUMN IF NOT EXISTS version String AFTER sponsor,
    ADD COLUMN IF NOT EXISTS environments Array(LowCardinality(String)) AFTER version
