-- SHA-256 of the definition of the tool that a call states, and on decision.made that of the call it is about. Empty, i.e. 32 zero bytes,
-- if none is stated, and in rows from before.
ALTER TABLE actions
    ADD COLUMN IF NOT EXISTS tool_definition FixedString(32) CODEC(ZSTD) AFTER tool_name
