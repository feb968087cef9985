-- No merge of fewer than 32 parts: a row is compressed anew at each. What merges make is in files of its own for each column from
-- 128 MiB on, which is merged column by column, at four fifths of the cost, and an insert stays below.
ALTER TABLE actions MODIFY SETTING min_bytes_for_wide_part = 134217728, min_parts_to_merge_at_once = 32
