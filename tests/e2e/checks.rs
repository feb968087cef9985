//! Checks of the log that must hold after every test.

use std::time::Duration;

use agentgov_schemas::catalogue::CATALOGUE;
use agentgov_schemas::subject;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::stack::Stack;

/// Findings of verdicts as alerts report them: violated policies, or the reason that replaces them. Duplicates have none.
const FINDINGS: &str = "arrayJoin(if(duplicate_of_sequence IS NULL, arrayConcat(arrayMap(p -> toString(p), if(reason = 'approved', arrayFilter((p, m) -> m = 'observe', violations.policy, violations.mode), violations.policy)), \
     if(approval_finding IN ('forged', 'altered', 'own', 'unknown'), ['agentgov:approval'], []), \
     if(decision = 'deny' AND reason != 'policy', [concat('agentgov:', replaceAll(toString(reason), '_', '-'))], []), \
     if(decision = 'indeterminate', ['agentgov:indeterminate'], []), \
     if(prior_decision_finding IN ('forged', 'altered', 'reused', 'differs') OR prior_decision_finding = 'undecided' AND prior_decision_required, \
     [concat('agentgov:', prior_decision_finding)], []), \
     if((prior_decision_finding IN ('matched', 'differs') OR prior_decision_cause = 'expired') AND prior_decision_outcome = 'allow' AND prior_decision_unavailable != '', \
     ['agentgov:unavailable'], [])), []))";

/// Runs all checks for a tenant with `rows` published events.
pub fn assert_complete(stack: &Stack, tenant_id: &str, rows: i64) {
    stack.eventually(&format!("{rows} rows of {tenant_id}"), || {
        stack.number(&format!("SELECT count() FROM actions WHERE tenant_id = '{tenant_id}'")) >= rows
    });
    assert_eq!(stack.number(&format!("SELECT count() FROM actions WHERE tenant_id = '{tenant_id}'")), rows);
    assert_every_offset_is_one_row(stack);
    assert_each_judged_action_has_one_verdict(stack, tenant_id);
    assert_sessions_are_in_order(stack, tenant_id);
    assert_alerts_match_findings(stack, tenant_id);
    assert_nothing_is_doubled(stack);
}

/// Checks for each partition of the topic of actions that its current offsets are exactly the table's rows.
pub fn assert_every_offset_is_one_row(stack: &Stack) {
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

/// Checks that each judged action has one verdict at its origin, and that no other verdict exists.
pub fn assert_each_judged_action_has_one_verdict(stack: &Stack, tenant_id: &str) {
    let judged_types = judged_types();
    let sql = format!(
        "SELECT countIf(a.found = 0), countIf(v.found != 1) FROM
           (SELECT topic, partition, offset, 1 AS found FROM actions WHERE tenant_id = '{tenant_id}' AND type IN ({judged_types})) AS a
         FULL OUTER JOIN
           (SELECT origin_topic, origin_partition, origin_offset, count() AS found FROM verdicts WHERE tenant_id = '{tenant_id}'
            GROUP BY origin_topic, origin_partition, origin_offset) AS v
         ON v.origin_topic = a.topic AND v.origin_partition = a.partition AND v.origin_offset = a.offset"
    );
    stack.eventually(&format!("one verdict on each judged action of {tenant_id}"), || {
        stack.sql(&sql).trim() == "0\t0"
    });
}

/// Checks that a source's events of a session are in one partition, in their order.
pub fn assert_sessions_are_in_order(stack: &Stack, tenant_id: &str) {
    let sql = format!(
        "SELECT count() FROM
           (SELECT uniqExact(partition) AS partitions,
                   arrayMap(record -> record.2, arraySort(groupArray((offset, source_sequence)))) AS sequences
            FROM actions WHERE tenant_id = '{tenant_id}' GROUP BY session_id, source_id)
         WHERE partitions != 1 OR sequences != arrayDistinct(arraySort(sequences))"
    );
    assert_eq!(stack.number(&sql), 0, "sessions of {tenant_id} out of order");
}

/// Checks that each finding of a verdict is one alert on that action, and that no other alert exists.
pub fn assert_alerts_match_findings(stack: &Stack, tenant_id: &str) {
    let findings = format!(
        "SELECT {FINDINGS} AS policy, origin_topic, origin_partition, origin_offset FROM verdicts
         WHERE tenant_id = '{tenant_id}' ORDER BY ALL"
    );
    let alerts = format!(
        "SELECT toString(policy), origin_topic, origin_partition, origin_offset FROM alerts
         WHERE tenant_id = '{tenant_id}' AND policy != 'agentgov:refused' ORDER BY ALL"
    );
    stack.eventually(&format!("the alerts of {tenant_id} to be its findings"), || {
        stack.sql(&findings) == stack.sql(&alerts)
    });
}

/// Checks that no (topic, partition, offset) occurs twice in any table of the log.
pub fn assert_nothing_is_doubled(stack: &Stack) {
    for store in stack.topology.stores.values() {
        for (table, fed) in store.value.tables.iter() {
            if fed.value.from.is_some() {
                let sql = format!("SELECT count() - uniqExact(topic, partition, offset) FROM {table}");
                assert_eq!(stack.number(&sql), 0, "rows that stand twice in {table}");
            }
        }
    }
}

/// Returns the judged event types as a list in SQL.
fn judged_types() -> String {
    let judged_types = CATALOGUE.iter().filter(|known| known.judged);
    judged_types.map(|known| format!("'{}'", known.name)).collect::<Vec<_>>().join(", ")
}
