-- The projection for the rows that are there, in the background. Of the other tables, which are small, every row is looked at.
ALTER TABLE actions MATERIALIZE PROJECTION tail_skipped
