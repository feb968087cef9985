-- Merges of parts of like size: together at least 64 times the largest of them, less the more parts there are (ClickHouse lowers it
-- to twice at 50). It begins at 5, and where 32 parts must be there it is some 3 then, so that large parts were merged again
-- and again with a few small ones. Sixteen at least, since the number decides little now.
ALTER TABLE actions MODIFY SETTING merge_selector_base = 64, min_parts_to_merge_at_once = 16
