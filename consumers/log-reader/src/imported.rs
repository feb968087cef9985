//! Results of one import: of the sessions that its source wrote.

use agentgov_schemas::Vocabulary as _;
use agentgov_schemas::alert::REFUSED_POLICY;
use agentgov_schemas::catalogue::{CATALOGUE, SOURCE_CLOSED, TOOL_INVOKED};
use agentgov_schemas::verdict::{ApprovalFinding, Decision, DecisionCause, DecisionFinding, Mode, Reason};
use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::{LogReader, ReadError, logged};

/// Progress of the pipeline with the events of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct Progress {
    /// Number of distinct events of the source in the log.
    pub logged: u64,
    /// Number of rows with judged types, including repeats.
    pub judged: u64,
    /// Number of verdicts on these rows.
    pub verdicts: u64,
    /// Number of rejects of these rows.
    pub rejects: u64,
    /// Number of findings in the verdicts, each of which must have an alert.
    pub findings: u64,
    /// Number of alerts that findings of verdicts require, including revisions.
    pub alerts: u64,
}

impl Progress {
    /// Returns true if all `events` are logged, each judged row has a verdict or reject, and each finding has an alert.
    pub const fn is_complete(&self, events: u64) -> bool {
        self.logged >= events && self.verdicts + self.rejects >= self.judged && self.alerts >= self.findings
    }

    /// Returns completed and total steps, for a progress bar.
    pub const fn steps(&self, events: u64) -> (u64, u64) {
        (self.logged + self.verdicts + self.rejects + self.alerts, events + self.judged + self.findings)
    }
}

/// Counts of a source's rows and verdicts.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Counts {
    /// Number of sessions.
    pub sessions: u64,
    /// Number of distinct events.
    pub events: u64,
    /// Number of rows, which exceeds `events` if events were sent twice.
    pub rows: u64,
    /// Number of distinct tool calls.
    pub tool_calls: u64,
    /// Number of rows that did not decode.
    pub undecodable: u64,
    /// Number of verdicts with decision allow.
    pub allowed: u64,
    /// Number of verdicts with decision deny.
    pub denied: u64,
    /// Number of verdicts with decision ask.
    pub asked: u64,
    /// Number of verdicts with decision indeterminate.
    pub indeterminate: u64,
    /// Number of verdicts with reason no_grant.
    pub without_grant: u64,
}

/// Policy that an action violates.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Violation {
    /// Id of the session.
    #[serde(deserialize_with = "logged::text")]
    pub session_id: String,
    /// Label of the session; its id if it has no label.
    #[serde(deserialize_with = "logged::text")]
    pub session: String,
    /// Index of the tool call in its session, from 0.
    pub call: i32,
    /// Name of the tool.
    #[serde(deserialize_with = "logged::text")]
    pub tool: String,
    /// @id of the policy.
    #[serde(deserialize_with = "logged::text")]
    pub policy: String,
    /// Severity: low, medium, high or critical.
    #[serde(deserialize_with = "logged::text")]
    pub severity: String,
    /// Mode: enforce or observe.
    #[serde(deserialize_with = "logged::text")]
    pub mode: String,
    /// True if there is an alert for the same session, call and policy.
    pub alerted: bool,
}

/// Time from the logged_at of an event to that of its verdict or alert, in milliseconds; `None` if there is none.
#[derive(Clone, Copy, Debug, PartialEq, Row, Serialize, Deserialize)]
pub struct Latency {
    /// Median for verdicts.
    pub verdict_p50: Option<f64>,
    /// 99th percentile for verdicts.
    pub verdict_p99: Option<f64>,
    /// Median for alerts.
    pub alert_p50: Option<f64>,
    /// 99th percentile for alerts.
    pub alert_p99: Option<f64>,
}

impl LogReader {
    /// Returns the progress of the pipeline with the events of `source_id`.
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
                    ifNull((SELECT sum(if(duplicate_of_sequence IS NULL, if(reason = '{approved}', arrayCount(mode -> mode != '{enforce}', violations.mode), length(violations.policy)) + (approval_finding IN ({suspect})) + (decision = '{deny}' AND reason != '{policy}') + (decision = '{indeterminate}')
                       + (prior_decision_finding IN ({decision_findings}) OR prior_decision_finding = '{undecided}' AND prior_decision_required)
                       + ((prior_decision_finding IN ('{matched}', '{differs}') OR prior_decision_cause = '{expired}') AND prior_decision_outcome = '{allow}' AND prior_decision_unavailable != ''), 0))
                     FROM {verdicts} WHERE (tenant_id, session_id) IN mine), 0) AS findings,
                    ifNull((SELECT count() FROM {alerts} WHERE (tenant_id, session_id) IN mine AND policy != '{REFUSED_POLICY}'), 0) AS alerts",
            actions = t.actions, verdicts = t.verdicts, rejects = t.rejects, alerts = t.alerts, judged = judged_types(),
            deny = Decision::Deny, policy = Reason::Policy, indeterminate = Decision::Indeterminate,
            matched = DecisionFinding::Matched, differs = DecisionFinding::Differs, allow = Decision::Allow,
            expired = DecisionCause::Expired,
            approved = Reason::Approved.as_str(), enforce = Mode::Enforce.as_str(),
            suspect = ApprovalFinding::SUSPECT.map(|finding| format!("'{}'", finding.as_str())).join(", "),
            undecided = DecisionFinding::Undecided, decision_findings = alerted_findings(),
        );
        self.row(&sql, &[source_id, source_id])
    }

    /// Returns the counts of `source_id`.
    pub fn counts(&self, source_id: &str) -> Result<Counts, ReadError> {
        let t = &self.tables;
        let sql = format!(
            "WITH mine AS (SELECT DISTINCT tenant_id, session_id FROM {actions} WHERE source_id = ? AND type != '{source_closed}'),
                  own_verdicts AS (SELECT decision, reason FROM {verdicts} WHERE (tenant_id, session_id) IN mine)
             SELECT ifNull((SELECT count() FROM mine), 0) AS sessions,
                    ifNull((SELECT uniqExact(source_sequence) FROM {actions} WHERE source_id = ?), 0) AS events,
                    ifNull((SELECT count() FROM {actions} WHERE source_id = ?), 0) AS rows,
                    ifNull((SELECT uniqExactIf(source_sequence, type = '{tool_invoked}') FROM {actions} WHERE source_id = ?), 0) AS tool_calls,
                    ifNull((SELECT countIf(decode_error != '') FROM {actions} WHERE source_id = ?), 0) AS undecodable,
                    ifNull((SELECT countIf(decision = '{allow}') FROM own_verdicts), 0) AS allowed,
                    ifNull((SELECT countIf(decision = '{deny}') FROM own_verdicts), 0) AS denied,
                    ifNull((SELECT countIf(decision = '{ask}') FROM own_verdicts), 0) AS asked,
                    ifNull((SELECT countIf(decision = '{indeterminate}') FROM own_verdicts), 0) AS indeterminate,
                    ifNull((SELECT countIf(reason = '{no_grant}') FROM own_verdicts), 0) AS without_grant",
            actions = t.actions, verdicts = t.verdicts, source_closed = SOURCE_CLOSED, tool_invoked = TOOL_INVOKED,
            allow = Decision::Allow, deny = Decision::Deny, ask = Decision::Ask,
            indeterminate = Decision::Indeterminate, no_grant = Reason::NoGrant,
        );
        self.row(&sql, &[source_id; 5])
    }

    /// Returns every violation in the sessions of `source_id`, in the order in which the source wrote the sessions, then by call
    /// and policy.
    pub fn violations(&self, source_id: &str) -> Result<Vec<Violation>, ReadError> {
        let t = &self.tables;
        let sql = format!(
            "WITH mine AS (SELECT tenant_id, session_id, min(source_sequence) AS first FROM {actions}
                           WHERE source_id = ? AND type != '{source_closed}' GROUP BY tenant_id, session_id)
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
            actions = t.actions, verdicts = t.verdicts, alerts = t.alerts, source_closed = SOURCE_CLOSED,
        );
        self.rows(&sql, &[source_id])
    }

    /// Returns the latency of verdicts and alerts in the sessions of `source_id`.
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

/// Returns the findings about a decision that always lead to an alert, as a list in SQL.
fn alerted_findings() -> String {
    let is_alerted = |finding: &&DecisionFinding| {
        !matches!(finding, DecisionFinding::Matched | DecisionFinding::Undecided)
    };
    let names = DecisionFinding::ALL.iter().filter(is_alerted).map(|finding| format!("'{finding}'"));
    names.collect::<Vec<_>>().join(", ")
}

/// Returns the judged types of the catalogue as a list in SQL.
fn judged_types() -> String {
    let judged = CATALOGUE.iter().filter(|t| t.judged);
    judged.map(|t| format!("'{}'", t.name)).collect::<Vec<_>>().join(", ")
}
