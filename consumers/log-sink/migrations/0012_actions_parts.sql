-- One file for all columns of a part, until it is large: an insert would else write two files a column from 10 MB on.
ALTER TABLE actions MODIFY SETTING min_bytes_for_wide_part = 1073741824
