//! What must hold of the log, whatever happened while it was written.

use std::time::Duration;

use agentgov_schemas::catalogue::CATALOGUE;
use agentgov_schemas::subject;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::stack::Stack;

/// A finding of a verdict: a violated policy, or what stands in its place. None of a duplicate. As alerts tell them.
const FINDINGS: &str = "arrayJoin(if(duplicate_of_sequence IS NULL, arrayConcat(arrayMap(p -> toString(p), violations.policy), \
     if(reason = 'no_grant', ['agentgov:no-grant'], []), if(decision = 'indeterminate', ['agentgov:indeterminate'], [])), []))";

/// Everything below, of a tenant of which `rows` events were published.
pub fn complete(stack: &Stack, tenant_id: &str, rows: i64) {
    stack.eventually(&format!("{rows} rows of {tenant_id}"), || {
        stack.number(&format!("SELECT count() FROM actions WHERE tenant_id = '{tenant_id}'")) >= rows
    });
    assert_eq!(stack.number(&format!("SELECT count() FROM actions WHERE tenant_id = '{tenant_id}'")), rows);
    every_offset_is_one_row(stack);
    each_judged_action_has_one_verdict(stack, tenant_id);
    sessions_are_in_order(stack, tenant_id);
    alerts_are_the_findings(stack, tenant_id);
    nothing_is_doubled(stack);
}

/// Each partition of the topic of actions, as far as it reaches now: Kafka's count of offsets is the table's of rows.
pub fn every_offset_is_one_row(stack: &Stack) {
    let (topic, settings) = stack.topology.topic_of(subject::ACTION_EVENT).unwrap();
    let consumer: BaseConsumer = stack.endpoints.kafka.client_config().create().unwrap();
    for partition in 0..settings.partitions.value {
        let (low, high) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(30)).unwrap();
        assert_eq!(low, 0, "nothing of {topic}/{partition} has expired");
        let sql = format!(
            "SELECT count(), uniqExact(offset), ifNull(maxOrNull(offset) + 1, 0) FROM actions
             WHERE topic = '{topic}' AND partition = {partition} AND offset < {high}"
        );
        let expected = vec![vec![high.to_string(); 3]];
        stack.eventually(&format!("{high} rows of {topic}/{partition}"), || stack.rows(&sql) == expected);
    }
}

/// One verdict each, at its origin, and no verdict on anything else.
pub fn each_judged_action_has_one_verdict(stack: &Stack, tenant_id: &str) {
    let judged = judged();
    let sql = format!(
        "SELECT countIf(a.found = 0), countIf(v.found != 1) FROM
           (SELECT topic, partition, offset, 1 AS found FROM actions WHERE tenant_id = '{tenant_id}' AND type IN ({judged})) AS a
         FULL OUTER JOIN
           (SELECT origin_topic, origin_partition, origin_offset, count() AS found FROM verdicts WHERE tenant_id = '{tenant_id}'
            GROUP BY origin_topic, origin_partition, origin_offset) AS v
         ON v.origin_topic = a.topic AND v.origin_partition = a.partition AND v.origin_offset = a.offset"
    );
    stack.eventually(&format!("one verdict on each judged action of {tenant_id}"), || {
        stack.sql(&sql).trim() == "0\t0"
    });
}

/// What a source told of a session stands in one partition, in the order in which it told it.
pub fn sessions_are_in_order(stack: &Stack, tenant_id: &str) {
    let sql = format!(
        "SELECT count() FROM
           (SELECT uniqExact(partition) AS partitions,
                   arrayMap(record -> record.2, arraySort(groupArray((offset, source_sequence)))) AS told
            FROM actions WHERE tenant_id = '{tenant_id}' GROUP BY session_id, source_id)
         WHERE partitions != 1 OR told != arrayDistinct(arraySort(told))"
    );
    assert_eq!(stack.number(&sql), 0, "sessions of {tenant_id} out of order");
}

/// Each finding of a verdict is one alert on that action, and there is no other alert.
pub fn alerts_are_the_findings(stack: &Stack, tenant_id: &str) {
    let findings = format!(
        "SELECT {FINDINGS} AS policy, origin_topic, origin_partition, origin_offset FROM verdicts
         WHERE tenant_id = '{tenant_id}' ORDER BY ALL"
    );
    let alerts = format!(
        "SELECT toString(policy), origin_topic, origin_partition, origin_offset FROM alerts
         WHERE tenant_id = '{tenant_id}' ORDER BY ALL"
    );
    stack.eventually(&format!("the alerts of {tenant_id} to be its findings"), || {
        stack.sql(&findings) == stack.sql(&alerts)
    });
}

/// No (topic, partition, offset) stands twice in any table of the log.
pub fn nothing_is_doubled(stack: &Stack) {
    for store in stack.topology.stores.values() {
        for (table, fed) in store.value.tables.iter() {
            if fed.value.from.is_some() {
                let sql = format!("SELECT count() - uniqExact(topic, partition, offset) FROM {table}");
                assert_eq!(stack.number(&sql), 0, "rows that stand twice in {table}");
            }
        }
    }
}

/// The judged types, as a list in SQL.
fn judged() -> String {
    let judged = CATALOGUE.iter().filter(|known| known.judged);
    judged.map(|known| format!("'{}'", known.name)).collect::<Vec<_>>().join(", ")
}
