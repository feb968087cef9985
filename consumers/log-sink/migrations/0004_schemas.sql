-- Every schema met in the log, under every id that it was met under, so that the log can be read without the registry.
-- The same line may stand here more than once: two sinks may meet a schema at the same time.
CREATE TABLE IF NOT EXISTS schemas
(
    schema_id UInt32,
    fingerprint FixedString(32),
    text String CODEC(ZSTD),
    met_in LowCardinality(String),
    met_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = MergeTree
ORDER BY (schema_id, fingerprint)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
