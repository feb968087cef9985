//! What became of one import: of the sessions that its source wrote.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::{LogReader, ReadError, logged};

/// How far the pipeline has come with what a source wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct Progress {
    /// Distinct events of the source that are rows.
    pub logged: u64,
    /// Rows of judged types, each sending counted.
    pub judged: u64,
    /// Verdicts on them.
    pub verdicts: u64,
    /// Rejects of the evaluator on them.
    pub rejects: u64,
    /// What of the verdicts someone must see.
    pub findings: u64,
    /// Alerts and their revisions.
    pub alerts: u64,
}

impl Progress {
    /// True if all of `events` are logged, all that is judged has its verdict or reject, and all findings are alerts.
    pub const fn is_complete(&self, events: u64) -> bool {
        self.logged >= events && self.verdicts + self.rejects >= self.judged && self.alerts >= self.findings
    }

    /// Steps done and to do, for a progress bar.
    pub const fn steps(&self, events: u64) -> (u64, u64) {
        (self.logged + self.verdicts + self.rejects + self.alerts, events + self.judged + self.findings)
    }
}

/// What is in the log of a source.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Counts {
    /// Sessions.
    pub sessions: u64,
    /// Distinct events.
    pub events: u64,
    /// Rows: more than events if some were sent twice.
    pub rows: u64,
    /// Distinct tool calls.
    pub tool_calls: u64,
    /// Rows that could not be decoded.
    pub undecodable: u64,
    /// Verdicts that allow.
    pub allowed: u64,
    /// Verdicts that deny.
    pub denied: u64,
    /// Verdicts that ask for a person.
    pub asked: u64,
    /// Verdicts that could not decide.
    pub indeterminate: u64,
    /// Denied since no grant was there.
    pub without_grant: u64,
}

/// A policy that an action violates.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Violation {
    /// The session.
    #[serde(deserialize_with = "logged::text")]
    pub session_id: String,
    /// Its name for people; its id if it has none.
    #[serde(deserialize_with = "logged::text")]
    pub session: String,
    /// Index of the tool call in its session, from 0.
    pub call: i32,
    /// The tool.
    #[serde(deserialize_with = "logged::text")]
    pub tool: String,
    /// The policy's id.
    #[serde(deserialize_with = "logged::text")]
    pub policy: String,
    /// low, medium, high or critical.
    #[serde(deserialize_with = "logged::text")]
    pub severity: String,
    /// enforce or observe.
    #[serde(deserialize_with = "logged::text")]
    pub mode: String,
    /// True if an alert names the same session, call and policy.
    pub alerted: bool,
}

/// From an event's logged_at to that of what followed, in milliseconds; `None`: nothing followed.
#[derive(Clone, Copy, Debug, PartialEq, Row, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the verdicts came within this.
    pub verdict_p50: Option<f64>,
    /// 99 of 100 verdicts.
    pub verdict_p99: Option<f64>,
    /// Half of the alerts.
    pub alert_p50: Option<f64>,
    /// 99 of 100 alerts.
    pub alert_p99: Option<f64>,
}

impl LogReader {
    /// How far the pipeline has come with what `source_id` wrote.
    pub fn progress(&self, source_id: &str) -> Result<Progress, ReadError> {
        let t = &self.tables;
        let sql = format!(
            "WITH mine AS (SELECT DISTINCT tenant_id, session_id FROM {actions} WHERE source_id = ?),
                  acts AS (SELECT topic, partition, offset FROM {actions}
                             WHERE (tenant_id, session_id) IN mine AND type IN ({judged}))
             SELECT ifNull((SELECT uniqExact(source_sequence) FROM {actions} WHERE source_id = ?), 0) AS logged,
                    ifNull((SELECT count() FROM acts), 0) AS judged,
                    ifNull((SELECT count() FROM {verdicts} WHERE (origin_topic, origin_partition, origin_offset) IN acts), 0) AS verdicts,
                    ifNull((SELECT count() FROM {rejects} WHERE (origin_topic, origin_partition, origin_offset) IN acts), 0) AS rejects,
                    ifNull((SELECT sum(if(duplicate_of_sequence IS NULL, length(violations.policy) + (reason = 'no_grant') + (decision = 'indeterminate'), 0))
                     FROM {verdicts} WHERE (tenant_id, session_id) IN mine), 0) AS findings,
                    ifNull((SELECT count() FROM {alerts} WHERE (tenant_id, session_id) IN mine), 0) AS alerts",
            actions = t.actions, verdicts = t.verdicts, rejects = t.rejects, alerts = t.alerts, judged = judged_types(),
        );
        self.row(&sql, &[source_id, source_id])
    }

    /// What is in the log of `source_id`.
    pub fn counts(&self, source_id: &str) -> Result<Counts, ReadError> {
        let t = &self.tables;
        let sql = format!(
            "WITH mine AS (SELECT DISTINCT tenant_id, session_id FROM {actions} WHERE source_id = ? AND type != 'source.closed'),
                  said AS (SELECT decision, reason FROM {verdicts} WHERE (tenant_id, session_id) IN mine)
             SELECT ifNull((SELECT count() FROM mine), 0) AS sessions,
                    ifNull((SELECT uniqExact(source_sequence) FROM {actions} WHERE source_id = ?), 0) AS events,
                    ifNull((SELECT count() FROM {actions} WHERE source_id = ?), 0) AS rows,
                    ifNull((SELECT uniqExactIf(source_sequence, type = 'tool.invoked') FROM {actions} WHERE source_id = ?), 0) AS tool_calls,
                    ifNull((SELECT countIf(decode_error != '') FROM {actions} WHERE source_id = ?), 0) AS undecodable,
                    ifNull((SELECT countIf(decision = 'allow') FROM said), 0) AS allowed,
                    ifNull((SELECT countIf(decision = 'deny') FROM said), 0) AS denied,
                    ifNull((SELECT countIf(decision = 'ask') FROM said), 0) AS asked,
                    ifNull((SELECT countIf(decision = 'indeterminate') FROM said), 0) AS indeterminate,
                    ifNull((SELECT countIf(reason = 'no_grant') FROM said), 0) AS without_grant",
            actions = t.actions, verdicts = t.verdicts,
        );
        self.row(&sql, &[source_id; 5])
    }

    /// Every violation in the sessions of `source_id`, in the order in which the source wrote the sessions, then by call
    /// and policy.
    pub fn violations(&self, source_id: &str) -> Result<Vec<Violation>, ReadError> {
        let t = &self.tables;
        let sql = format!(
            "WITH mine AS (SELECT tenant_id, session_id, min(source_sequence) AS first FROM {actions}
                           WHERE source_id = ? AND type != 'source.closed' GROUP BY tenant_id, session_id)
             SELECT v.session_id AS session_id,
                    if(v.session_label = '', v.session_id, v.session_label) AS session,
                    assumeNotNull(v.call_index) AS call,
                    toString(v.tool_name) AS tool,
                    toString(violation.1) AS policy,
                    toString(violation.2) AS severity,
                    toString(violation.3) AS mode,
                    (v.tenant_id, v.session_id, violation.1, v.origin_topic, v.origin_partition, v.origin_offset) IN
                        (SELECT tenant_id, session_id, policy, origin_topic, origin_partition, origin_offset FROM {alerts}) AS alerted
             FROM {verdicts} AS v
             INNER JOIN mine ON v.tenant_id = mine.tenant_id AND v.session_id = mine.session_id
             ARRAY JOIN arrayZip(v.violations.policy, v.violations.severity, v.violations.mode) AS violation
             ORDER BY mine.first, call, policy",
            actions = t.actions, verdicts = t.verdicts, alerts = t.alerts,
        );
        self.rows(&sql, &[source_id])
    }

    /// How quickly verdicts and alerts followed, in the sessions of `source_id`.
    pub fn latency(&self, source_id: &str) -> Result<Latency, ReadError> {
        let t = &self.tables;
        let quantiles = |table: &str| {
            format!(
                "(SELECT arrayMap(q -> if(isNaN(q), NULL, q), quantilesExact(0.5, 0.99)(
                    toFloat64(toUnixTimestamp64Milli(logged_at) - toUnixTimestamp64Milli(origin_logged_at))))
                  FROM {table} WHERE (tenant_id, session_id) IN mine)"
            )
        };
        let sql = format!(
            "WITH mine AS (SELECT DISTINCT tenant_id, session_id FROM {actions} WHERE source_id = ?),
                  {verdicts} AS of_verdicts, {alerts} AS of_alerts
             SELECT of_verdicts[1] AS verdict_p50, of_verdicts[2] AS verdict_p99, of_alerts[1] AS alert_p50, of_alerts[2] AS alert_p99",
            actions = t.actions, verdicts = quantiles(&t.verdicts), alerts = quantiles(&t.alerts),
        );
        self.row(&sql, &[source_id])
    }
}

/// The judged types of the catalogue, as a list in SQL.
fn judged_types() -> String {
    let judged = agentgov_schemas::catalogue::CATALOGUE.iter().filter(|t| t.judged);
    judged.map(|t| format!("'{}'", t.name)).collect::<Vec<_>>().join(", ")
}
