-- Reason for which an agent was suspended or resumed. Empty in rows from before, and where none is given.
ALTER TABLE agents
    ADD COLUMN IF NOT EXISTS reason String AFTER description
