-- As for actions.
ALTER TABLE verdicts MODIFY SETTING merge_selector_base = 64, min_parts_to_merge_at_once = 16
