-- Offsets right before a row's that no record has: markers of transactions, and records of transactions that were aborted. So count()
-- and sum(skipped) together are the offsets. A projection of the table's end with it takes the place of the one without.
ALTER TABLE actions
    ADD COLUMN IF NOT EXISTS skipped UInt64 CODEC(ZSTD) AFTER claim,
    ADD PROJECTION IF NOT EXISTS tail_skipped
    (
        SELECT topic_partition, min(offset - skipped), max(offset), count(), sum(skipped), argMax(record_sha256, offset), argMax(logged_at, offset),
            maxIf(offset, skipped > 0), argMaxIf(skipped, offset, skipped > 0), maxIf(logged_at, skipped > 0)
        GROUP BY topic_partition
    ),
    DROP PROJECTION IF EXISTS tail
