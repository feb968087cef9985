-- One file for all columns of a part, until it is large: an insert would else write two files a column from 10 MB on. And no
-- merge of fewer than eight parts: each row would else be compressed anew every few seconds.
ALTER TABLE actions MODIFY SETTING min_bytes_for_wide_part = 1073741824, min_parts_to_merge_at_once = 8
