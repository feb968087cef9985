-- True if the call of this revision was decided before it happened, and not allowed. False in rows from before.
ALTER TABLE alerts
    ADD COLUMN IF NOT EXISTS prevented Bool AFTER bundle_digest
