-- Who may write the rows of a topic-partition: the latest claim counts. Not persistent: after a restart of the server
-- nothing is claimed, so everyone has to claim anew and look what is there.
CREATE TABLE IF NOT EXISTS sink_claims
(
    topic_partition String,
    claim UInt64
)
ENGINE = Join(ANY, LEFT, topic_partition)
SETTINGS join_any_take_last_row = 1, persistent = 0
