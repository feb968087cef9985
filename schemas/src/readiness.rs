//! Why a stage is not ready.

use crate::vocabulary;

vocabulary! {
    /// Name of what a stage waits for, as `/readyz`, `agentgov status` and the metric `agentgov_not_ready` have it. In the order
    /// of the names, which is the order in which they are listed. Each has a row in docs/errors/README.md.
    NotReadyReason {
        /// A bundle that loads; judging goes on with the last good one.
        Bundle = "bundle",
        /// The changelog, to be read to its end.
        Changelog = "changelog",
        /// ClickHouse, or the outcome of an insert to be settled.
        Clickhouse = "clickhouse",
        /// ClickHouse, which has a request and does not answer.
        ClickhouseAnswer = "clickhouse_answer",
        /// Whatever a processor needs to start, or to restore its state.
        Dependency = "dependency",
        /// Proof that the sink is a member of its consumer group.
        Group = "group",
        /// An open transaction of another producer, behind whose first record no stage gets.
        HeldBack = "held_back",
        /// A broker.
        Kafka = "kafka",
        /// The schema registry.
        Registry = "registry",
        /// A person: too many of the last records were rejected.
        RejectShare = "reject_share",
        /// An id that the registry does not have any more.
        SchemaId = "schema_id",
        /// A second reader, to confirm that offsets that were passed over hold no record.
        Skipped = "skipped",
        /// Tables, partitions, the end of a rebalance, or state to be restored.
        Starting = "starting",
        /// Nothing: the process was asked to end.
        Stopping = "stopping",
        /// Governance topics, to be read to their end.
        Tables = "tables",
        /// A broker, to begin or to end a transaction.
        Transaction = "transaction",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Vocabulary as _;

    #[test]
    fn reasons_are_in_the_order_of_their_names() {
        assert!(NotReadyReason::ALL.is_sorted());
        assert!(NotReadyReason::names().is_sorted());
    }
}
