-- Offsets behind the last row of a topic-partition in which a fresh reader found no record: markers of transactions, and what was
-- aborted. from_offset is the one behind the last row of then, to_offset the last stable offset of then. The last proof counts.
CREATE TABLE IF NOT EXISTS sink_empty_ranges
(
    topic_partition String,
    from_offset Int64,
    to_offset Int64,
    proven_at DateTime64(3, 'UTC') DEFAULT now64(3),
    claim UInt64,
    CONSTRAINT fence CHECK claim != 0 AND claim = joinGet('sink_claims', 'claim', topic_partition)
)
ENGINE = ReplacingMergeTree(to_offset)
ORDER BY topic_partition
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
