-- Offsets that retention deleted from Kafka before they were read, and that someone accepted as lost. from_offset is the
-- first one lost, to_offset the first one that is there.
CREATE TABLE IF NOT EXISTS sink_gaps
(
    topic_partition String,
    from_offset Int64,
    to_offset Int64,
    accepted_at DateTime64(3, 'UTC') DEFAULT now64(3),
    claim UInt64,
    CONSTRAINT fence CHECK claim != 0 AND claim = joinGet('sink_claims', 'claim', topic_partition)
)
ENGINE = MergeTree
ORDER BY (topic_partition, from_offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
