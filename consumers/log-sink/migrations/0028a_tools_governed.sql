-- Server, data classes, accepted definition and state of a tool. Empty in rows from before. `definition_digest` is 32 zero bytes where no
-- definition is accepted. `name` is empty in the entry of a server as a whole.
ALTER TABLE tools
    ADD COLUMN IF NOT EXISTS server LowCardinality(String) AFTER pushed_by,
    ADD COLUMN IF NOT EXISTS data_classes Array(LowCardinality(String)) AFTER server,
    ADD COLUMN IF NOT EXISTS definition String CODEC(ZSTD) AFTER data_classes,
    ADD COLUMN IF NOT EXISTS definition_digest FixedString(32) CODEC(ZSTD) AFTER definition,
    ADD COLUMN IF NOT EXISTS state LowCardinality(String) AFTER definition_digest,
    ADD COLUMN IF NOT EXISTS reason String AFTER state
