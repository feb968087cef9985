//! Consumer configuration of a member of a stage's group. A caller adds its fetch sizes.

use agentgov_connect::KafkaEndpoint;
use agentgov_schemas::topology::Timing;
use rdkafka::config::ClientConfig;

/// Rebalances are eager: a member gives up all partitions before it takes any. Round robin spreads the many topics of
/// one partition.
pub(crate) fn member_config(kafka: &KafkaEndpoint, group: &str, timing: &Timing) -> ClientConfig {
    let mut config = kafka.positioned_config(group);
    config
        .set("isolation.level", "read_committed")
        .set("partition.assignment.strategy", "roundrobin")
        .set("session.timeout.ms", timing.session_timeout.0.as_millis().to_string())
        .set("heartbeat.interval.ms", timing.heartbeat.0.as_millis().to_string());
    config
}
