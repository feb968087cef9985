//! One session, event by event.

use std::collections::BTreeMap;

use agentgov_schemas::verdict::DecisionFinding;
use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::decided::TOKEN_DECISION_ID;
use crate::disagreement::{CallDecisions, Disagreement};
use crate::{LogReader, LoggedBytes, ReadError, logged};

/// Session that matches a name.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct SessionMatch {
    /// Tenant of the session.
    #[serde(deserialize_with = "logged::text")]
    pub tenant_id: String,
    /// Id of the session.
    #[serde(deserialize_with = "logged::text")]
    pub session_id: String,
    /// Label of the session; empty if it has none.
    #[serde(deserialize_with = "logged::text")]
    pub session_label: String,
    /// Agent of the session's first event in the log. Other events may have other agents, see [`Event`].
    #[serde(deserialize_with = "logged::text")]
    pub agent_id: String,
    /// Person or service on whose behalf the agent acts; empty if unknown.
    #[serde(deserialize_with = "logged::text")]
    pub actor_id: String,
}

/// Event of a session, with the decision before it and its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The event.
    pub event: Event,
    /// The decision about the call, if the log has one: the decision of the call's token. For a call without a token, the latest
    /// decision before it about its id and tool.
    pub decision: Option<CallDecision>,
    /// The verdict, if the event is judged.
    pub verdict: Option<Verdict>,
    /// Differences between decision and verdict; `None` if they are equal, or if one is missing.
    pub disagreement: Option<Disagreement>,
}

/// Event in the log.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Event {
    /// Topic of the record.
    #[serde(deserialize_with = "logged::text")]
    pub topic: String,
    /// Partition of the record.
    pub partition: i32,
    /// Offset of the record.
    pub offset: i64,
    /// logged_at, in milliseconds since the epoch.
    pub logged_at: i64,
    /// occurred_at, as the producer claims it, in microseconds since the epoch.
    pub occurred_at: i64,
    /// Id of the source.
    #[serde(deserialize_with = "logged::text")]
    pub source_id: String,
    /// Sequence number at the source.
    pub source_sequence: i64,
    /// Id of the agent.
    #[serde(deserialize_with = "logged::text")]
    pub agent_id: String,
    /// Event type.
    #[serde(deserialize_with = "logged::text")]
    pub event_type: String,
    /// Role of the message's author; empty without a message.
    #[serde(deserialize_with = "logged::text")]
    pub role: String,
    /// Text of the message.
    pub text: LoggedBytes,
    /// Name of the tool, on a call or a result.
    #[serde(deserialize_with = "logged::text")]
    pub tool: String,
    /// Id of the tool call.
    #[serde(deserialize_with = "logged::text")]
    pub call_id: String,
    /// Arguments of the tool call.
    pub arguments: LoggedBytes,
    /// Result of the tool.
    pub result: LoggedBytes,
    /// Id of the decision whose token the call carries; empty without a token.
    #[serde(deserialize_with = "logged::text")]
    pub token_decision_id: String,
    /// Decision before the call, on decision.made; empty elsewhere.
    #[serde(deserialize_with = "logged::text")]
    pub decision: String,
    /// Reason of the decision.
    #[serde(deserialize_with = "logged::text")]
    pub decision_reason: String,
    /// Name of the decision point, or of another party that decided.
    #[serde(deserialize_with = "logged::text")]
    pub decided_by: String,
}

/// Decision of a decision point in the log.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct CallDecision {
    /// Partition of the decision's event.
    pub partition: i32,
    /// Offset of the decision's event.
    pub offset: i64,
    /// Id of the decision.
    #[serde(deserialize_with = "logged::text")]
    pub id: String,
    /// Name of the tool of the call.
    #[serde(deserialize_with = "logged::text")]
    pub tool: String,
    /// Id of the call; empty if the caller gave none.
    #[serde(deserialize_with = "logged::text")]
    pub call_id: String,
    /// The outcome.
    #[serde(deserialize_with = "logged::text")]
    pub outcome: String,
    /// Reason of the outcome.
    #[serde(deserialize_with = "logged::text")]
    pub reason: String,
    /// Name of the decision point.
    #[serde(deserialize_with = "logged::text")]
    pub decided_by: String,
    /// Name of the caller; empty without authentication.
    #[serde(deserialize_with = "logged::text")]
    pub caller: String,
    /// Policies of the rules that applied.
    #[serde(deserialize_with = "logged::texts")]
    pub violations: Vec<String>,
    /// Name and version of the bundle that decided; empty if the log does not have it.
    #[serde(deserialize_with = "logged::text")]
    pub bundle: String,
    /// Digest of that bundle, in hex; empty if no bundle was active.
    #[serde(deserialize_with = "logged::text")]
    pub bundle_digest: String,
    /// Digest of the inputs, in hex; empty if the state of the session was not available.
    #[serde(deserialize_with = "logged::text")]
    pub known_digest: String,
    /// Partition of the session; -1 if the state of the session was not available.
    pub known_partition: i32,
    /// Last offset of that partition that was known; -1 if there is none.
    pub known_through: i64,
    /// Reason for which the state of the session was not available; empty if it was.
    #[serde(deserialize_with = "logged::text")]
    pub unavailable: String,
}

/// Verdict in the log.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Verdict {
    /// Partition of the action.
    pub partition: i32,
    /// Offset of the action.
    pub offset: i64,
    /// Index of the tool call in its session; -1 if the action is not a tool call.
    pub call_index: i32,
    /// The decision.
    #[serde(deserialize_with = "logged::text")]
    pub decision: String,
    /// Reason of the decision.
    #[serde(deserialize_with = "logged::text")]
    pub reason: String,
    /// Determining policies of the decision.
    #[serde(deserialize_with = "logged::texts")]
    pub determining: Vec<String>,
    /// Violated policies.
    #[serde(deserialize_with = "logged::texts")]
    pub violations: Vec<String>,
    /// Inputs of the decision, as JSON.
    #[serde(deserialize_with = "logged::text")]
    pub known: String,
    /// SHA-256 of the inputs, in hex.
    #[serde(deserialize_with = "logged::text")]
    pub known_digest: String,
    /// Errors, each as `code subject: message`.
    #[serde(deserialize_with = "logged::texts")]
    pub errors: Vec<String>,
    /// Name and version of the bundle that judged.
    #[serde(deserialize_with = "logged::text")]
    pub bundle: String,
    /// Digest of that bundle, in hex; empty if no bundle was active.
    #[serde(deserialize_with = "logged::text")]
    pub bundle_digest: String,
    /// Findings about the record itself; each has a page in docs/errors.
    #[serde(deserialize_with = "logged::texts")]
    pub findings: Vec<String>,
    /// Relation to the decision before the call; empty on a duplicate, and on verdicts of earlier versions.
    #[serde(deserialize_with = "logged::text")]
    pub prior_decision_finding: String,
    /// Claim, input or fault that the relation is about; empty if there is none.
    #[serde(deserialize_with = "logged::text")]
    pub prior_decision_cause: String,
    /// Id of the decision before the call; empty without a token that a valid key signed.
    #[serde(deserialize_with = "logged::text")]
    pub prior_decision_id: String,
    /// Outcome of the decision before the call; empty without a token that a valid key signed.
    #[serde(deserialize_with = "logged::text")]
    pub prior_decision_outcome: String,
}

#[derive(Row, Deserialize)]
struct File {
    #[serde(deserialize_with = "logged::text")]
    path: String,
    content: LoggedBytes,
}

impl LogReader {
    /// Returns the sessions whose id or label is `name`, of one tenant or of all, the most recent first.
    pub fn find_sessions(&self, name: &str, tenant: Option<&str>) -> Result<Vec<SessionMatch>, ReadError> {
        let sql = format!(
            "SELECT toString(a.tenant_id) AS tenant_id, a.session_id AS session_id, any(a.session_label) AS session_label,
                    toString(argMin(a.agent_id, (a.partition, a.offset))) AS agent_id, max(a.actor_id) AS actor_id
             FROM {} AS a WHERE (a.session_id = ? OR a.session_label = ?) AND (? = '' OR a.tenant_id = ?)
             GROUP BY a.tenant_id, a.session_id ORDER BY max(a.logged_at) DESC",
            self.tables.actions
        );
        let tenant = tenant.unwrap_or_default();
        self.rows(&sql, &[name, name, tenant, tenant])
    }

    /// Returns the events of a session in the order of the log, each with the decision before it and its verdict.
    pub fn session(&self, tenant_id: &str, session_id: &str) -> Result<Vec<Entry>, ReadError> {
        let events: Vec<Event> = self.rows(
            &format!(
                "SELECT toString(topic) AS topic, partition, offset, toUnixTimestamp64Milli(logged_at) AS logged_at,
                        occurred_at_micros AS occurred_at, source_id, source_sequence, toString(agent_id) AS agent_id,
                        toString(type) AS event_type, toString(message_role) AS role,
                        message_text AS text, toString(tool_name) AS tool, call_id, arguments, result,
                        {} AS token_decision_id,
                        toString(decision) AS decision, decision_reason, toString(decided_by) AS decided_by
                 FROM {} WHERE tenant_id = ? AND session_id = ? ORDER BY partition, offset",
                TOKEN_DECISION_ID, self.tables.actions
            ),
            &[tenant_id, session_id],
        )?;
        let verdicts: Vec<Verdict> = self.rows(
            &format!(
                "SELECT origin_partition AS partition, origin_offset AS offset, ifNull(call_index, -1) AS call_index,
                        toString(decision) AS decision, toString(reason) AS reason,
                        arrayMap(p -> toString(p), determining_policies) AS determining,
                        arrayMap(p -> toString(p), violations.policy) AS violations, known,
                        lower(hex(known_digest)) AS known_digest,
                        arrayMap((c, s, m) -> concat(toString(c), ' ', s, ': ', m), errors.code, errors.subject, errors.message) AS errors,
                        concat(toString(bundle_name), ' ', toString(bundle_version)) AS bundle,
                        if(bundle_name = '', '', lower(hex(bundle_digest))) AS bundle_digest,
                        arrayMap(f -> toString(f), findings) AS findings,
                        toString(prior_decision_finding) AS prior_decision_finding,
                        toString(prior_decision_cause) AS prior_decision_cause, prior_decision_id,
                        toString(prior_decision_outcome) AS prior_decision_outcome
                 FROM {} WHERE tenant_id = ? AND session_id = ?",
                self.tables.verdicts
            ),
            &[tenant_id, session_id],
        )?;
        let decisions = CallDecisions(self.call_decisions(tenant_id, session_id)?);
        let mut by_origin: BTreeMap<(i32, i64), Verdict> =
            verdicts.into_iter().map(|verdict| ((verdict.partition, verdict.offset), verdict)).collect();
        let entry = |event: Event| {
            let verdict = by_origin.remove(&(event.partition, event.offset));
            // An event without a verdict is no call. A forged token may name the decision about another call.
            let is_bound =
                |verdict: &&Verdict| verdict.prior_decision_finding != DecisionFinding::Forged.as_str();
            let decision = verdict.as_ref().filter(is_bound).and_then(|_| decisions.about(&event)).cloned();
            let both = decision.as_ref().zip(verdict.as_ref());
            let disagreement = both.and_then(|(decision, verdict)| Disagreement::between(decision, verdict));
            Entry { event, decision, verdict, disagreement }
        };
        Ok(events.into_iter().map(entry).collect())
    }

    /// Returns the decisions about calls of a session, in the order of the log. A decision that was sent twice is one.
    fn call_decisions(&self, tenant_id: &str, session_id: &str) -> Result<Vec<CallDecision>, ReadError> {
        let sql = format!(
            "SELECT d.partition AS partition, d.offset AS offset, d.decision_id AS id, toString(d.tool_name) AS tool, d.call_id AS call_id,
                    toString(d.decision) AS outcome, d.decision_reason AS reason, toString(d.decided_by) AS decided_by,
                    toString(d.decision_caller) AS caller,
                    arrayMap(p -> toString(p), d.decision_violations.policy) AS violations,
                    trim(concat(b.name, ' ', b.version)) AS bundle,
                    if(d.decision_bundle_digest = toFixedString('', 32), '', lower(hex(d.decision_bundle_digest))) AS bundle_digest,
                    if(d.decision_known_digest = toFixedString('', 32), '', lower(hex(d.decision_known_digest))) AS known_digest,
                    ifNull(d.decision_partition, -1) AS known_partition, ifNull(d.decision_next_offset, 0) - 1 AS known_through,
                    toString(d.decision_unavailable) AS unavailable
             FROM {} AS d
             LEFT JOIN (SELECT digest, toString(any(name)) AS name, toString(any(version)) AS version FROM {} GROUP BY digest) AS b
                 ON b.digest = d.decision_bundle_digest
             WHERE d.tenant_id = ? AND d.session_id = ? AND d.decision_id != ''
             ORDER BY d.partition, d.offset LIMIT 1 BY d.decision_id",
            self.tables.actions, self.tables.bundles
        );
        self.rows(&sql, &[tenant_id, session_id])
    }

    /// Returns the files of the bundle with this digest, in hex.
    pub fn bundle_files(&self, digest: &str) -> Result<BTreeMap<String, Vec<u8>>, ReadError> {
        let sql = format!(
            "SELECT file.1 AS path, file.2 AS content FROM
               (SELECT arrayZip(files.path, files.content) AS all FROM {} WHERE digest = unhex(?) LIMIT 1)
             ARRAY JOIN all AS file",
            self.tables.bundles
        );
        let files: Vec<File> = self.rows(&sql, &[digest])?;
        Ok(files.into_iter().map(|file| (file.path, file.content.0)).collect())
    }
}
