-- Which of these files were applied, and what they said. Fenced like the log: only who holds the migration claim writes.
CREATE TABLE IF NOT EXISTS schema_migrations
(
    version UInt32,
    name String,
    sha256 FixedString(32),
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3),
    claim UInt64,
    CONSTRAINT fence CHECK claim != 0 AND claim = joinGet('sink_claims', 'claim', 'schema_migrations')
)
ENGINE = MergeTree
ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
