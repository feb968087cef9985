//! Reasons for which a stage is not ready.

use crate::vocabulary;

vocabulary! {
    /// Reason for which a stage is not ready, as `/readyz`, `agentgov status` and the metric `agentgov_not_ready` show it. The
    /// variants are sorted by name, as they are displayed. Each has a row in docs/errors/README.md.
    NotReadyReason {
        /// The newest bundle does not load; the stage judges with the last valid one.
        Bundle = "bundle",
        /// The stage reads the changelog to its end.
        Changelog = "changelog",
        /// ClickHouse is unavailable, or the outcome of an insert is unknown.
        Clickhouse = "clickhouse",
        /// ClickHouse does not answer a request.
        ClickhouseAnswer = "clickhouse_answer",
        /// A dependency that the processor needs to start or to restore its state is unavailable.
        Dependency = "dependency",
        /// The sink has no proof that it is a member of its consumer group.
        Group = "group",
        /// An open transaction of another producer holds back the records after its first one.
        HeldBack = "held_back",
        /// No broker is available.
        Kafka = "kafka",
        /// The schema registry is unavailable.
        Registry = "registry",
        /// The reject share is exceeded; a person must resume the stage.
        RejectShare = "reject_share",
        /// The schema registry no longer has a schema id.
        SchemaId = "schema_id",
        /// The key of a policy decision point may not sign: it is not published, revoked, or of another kind or tenant.
        SigningKey = "signing_key",
        /// A second reader confirms that skipped offsets have no record.
        Skipped = "skipped",
        /// A policy decision point cannot record its decisions, e.g. because the disk of its spool is full.
        Spool = "spool",
        /// A policy decision point does not know the state of sessions, or knows only an old one.
        Stale = "stale",
        /// The stage waits for tables, partitions, the end of a rebalance or its restored state.
        Starting = "starting",
        /// The process shuts down.
        Stopping = "stopping",
        /// The stage reads the governance topics to their end.
        Tables = "tables",
        /// The stage waits for a broker to begin or to end a transaction.
        Transaction = "transaction",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Vocabulary as _;

    #[test]
    fn reasons_are_sorted_by_name() {
        assert!(NotReadyReason::ALL.is_sorted());
        assert!(NotReadyReason::names().is_sorted());
    }
}
