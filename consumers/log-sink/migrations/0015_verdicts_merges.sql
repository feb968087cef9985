-- As for actions.
ALTER TABLE verdicts MODIFY SETTING min_bytes_for_wide_part = 134217728, min_parts_to_merge_at_once = 32
