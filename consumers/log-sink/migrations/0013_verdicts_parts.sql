-- As for actions.
ALTER TABLE verdicts MODIFY SETTING min_bytes_for_wide_part = 1073741824
