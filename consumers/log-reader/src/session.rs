//! One session, event by event.

use std::collections::BTreeMap;

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::decided::{TOKEN_CLAIMS, TOKEN_DECISION_ID};
use crate::disagreement::Disagreement;
use crate::evidence::{CallDecisions, DecisionEvidence, FoundDecision, verified_claims};
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
    /// Evidence for [`decision`](Self::decision), or for the decision that the event states.
    pub evidence: Option<DecisionEvidence>,
    /// Number of different events with the id of [`decision`](Self::decision), beside the one that is shown.
    pub other_events: usize,
    /// The verdict, if the event is judged.
    pub verdict: Option<Verdict>,
    /// Rejects of the record.
    pub rejects: Vec<Reject>,
    /// Differences between decision and verdict; `None` if they are equal, or if one is missing.
    pub disagreement: Option<Disagreement>,
}

impl Entry {
    /// Creates an entry of an event without a decision, a verdict and a reject.
    pub const fn new(event: Event) -> Self {
        Self {
            event,
            decision: None,
            evidence: None,
            other_events: 0,
            verdict: None,
            rejects: Vec::new(),
            disagreement: None,
        }
    }
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Row, Serialize, Deserialize)]
pub struct CallDecision {
    /// Partition of the decision's event; -1 if no event agrees with the token that proves the decision.
    pub partition: i32,
    /// Offset of the decision's event; -1 if no event agrees with the token that proves the decision.
    pub offset: i64,
    /// Id of the decision.
    #[serde(deserialize_with = "logged::text")]
    pub id: String,
    /// Id of the agent.
    #[serde(deserialize_with = "logged::text")]
    pub agent_id: String,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Row, Serialize, Deserialize)]
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
    /// Mode of each of them: enforce or observe.
    #[serde(deserialize_with = "logged::texts")]
    pub modes: Vec<String>,
    /// Effect of each of them: deny or ask.
    #[serde(deserialize_with = "logged::texts")]
    pub effects: Vec<String>,
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
    /// True if the bundle requires a decision before each call.
    pub prior_decision_required: bool,
}

/// Reject of a record by a stage.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Reject {
    /// Partition of the record.
    pub partition: i32,
    /// Offset of the record.
    pub offset: i64,
    /// The stage.
    #[serde(deserialize_with = "logged::text")]
    pub stage: String,
    /// Reason; it has a page in docs/errors.
    #[serde(deserialize_with = "logged::text")]
    pub reason: String,
    /// Description of the fault.
    #[serde(deserialize_with = "logged::text")]
    pub detail: String,
}

/// Token of a call.
#[derive(Row, Deserialize)]
struct CallToken {
    partition: i32,
    offset: i64,
    claims: LoggedBytes,
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
             FROM {} AS a WHERE (a.session_id = ? OR a.session_label = ?) AND (? = 'any' OR a.tenant_id = ?)
             GROUP BY a.tenant_id, a.session_id ORDER BY max(a.logged_at) DESC",
            self.tables.actions
        );
        // An empty id is that of records without a tenant.
        let tenants = if tenant.is_some() { "one" } else { "any" };
        self.rows(&sql, &[name, name, tenants, tenant.unwrap_or_default()])
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
                        arrayMap(p -> toString(p), violations.policy) AS violations,
                        arrayMap(m -> toString(m), violations.mode) AS modes,
                        arrayMap(e -> toString(e), violations.effect) AS effects, known,
                        lower(hex(known_digest)) AS known_digest,
                        arrayMap((c, s, m) -> concat(toString(c), ' ', s, ': ', m), errors.code, errors.subject, errors.message) AS errors,
                        concat(toString(bundle_name), ' ', toString(bundle_version)) AS bundle,
                        if(bundle_name = '', '', lower(hex(bundle_digest))) AS bundle_digest,
                        arrayMap(f -> toString(f), findings) AS findings,
                        toString(prior_decision_finding) AS prior_decision_finding,
                        toString(prior_decision_cause) AS prior_decision_cause, prior_decision_id,
                        toString(prior_decision_outcome) AS prior_decision_outcome, prior_decision_required
                 FROM {} WHERE tenant_id = ? AND session_id = ?",
                self.tables.verdicts
            ),
            &[tenant_id, session_id],
        )?;
        let mut by_origin: BTreeMap<(i32, i64), Verdict> =
            verdicts.into_iter().map(|verdict| ((verdict.partition, verdict.offset), verdict)).collect();
        let tokens = self.call_tokens(tenant_id, session_id)?;
        let verified = tokens.iter().filter_map(|token| {
            verified_claims(&token.claims.0, by_origin.get(&(token.partition, token.offset))?)
        });
        let decisions = CallDecisions::new(self.call_decisions(tenant_id, session_id)?, verified);
        let mut rejects: BTreeMap<(i32, i64), Vec<Reject>> = BTreeMap::new();
        for reject in self.session_rejects(tenant_id, session_id)? {
            rejects.entry((reject.partition, reject.offset)).or_default().push(reject);
        }
        let entry = |event: Event| {
            let position = (event.partition, event.offset);
            let verdict = by_origin.remove(&position);
            let rejects = rejects.remove(&position).unwrap_or_default();
            if !event.decision.is_empty() {
                let evidence = Some(decisions.evidence(&event));
                return Entry { evidence, verdict, rejects, ..Entry::new(event) };
            }
            // An event without a verdict is no call.
            let found = verdict.as_ref().and_then(|verdict| decisions.about(&event, verdict));
            let both = found.as_ref().zip(verdict.as_ref());
            let disagreement =
                both.and_then(|(found, verdict)| Disagreement::between(&found.decision, verdict));
            let evidence = found.as_ref().map(|found| found.evidence);
            let other_events = found.as_ref().map_or(0, |found| found.other_events);
            let decision = found.map(|FoundDecision { decision, .. }| decision);
            Entry { event, decision, evidence, other_events, verdict, rejects, disagreement }
        };
        Ok(events.into_iter().map(entry).collect())
    }

    /// Returns the tokens of a session's calls, with their claims as JSON.
    fn call_tokens(&self, tenant_id: &str, session_id: &str) -> Result<Vec<CallToken>, ReadError> {
        let sql = format!(
            "SELECT partition, offset, {TOKEN_CLAIMS} AS claims FROM {}
             WHERE tenant_id = ? AND session_id = ? AND decision_token != ''",
            self.tables.actions
        );
        self.rows(&sql, &[tenant_id, session_id])
    }

    /// Returns the rejects of a session's records.
    fn session_rejects(&self, tenant_id: &str, session_id: &str) -> Result<Vec<Reject>, ReadError> {
        let sql = format!(
            "SELECT origin_partition AS partition, origin_offset AS offset, toString(stage) AS stage, toString(reason) AS reason,
                    detail
             FROM {} WHERE (origin_topic, origin_partition, origin_offset) IN
                 (SELECT toString(topic), partition, offset FROM {} WHERE tenant_id = ? AND session_id = ?)
             ORDER BY stage, reason",
            self.tables.rejects, self.tables.actions
        );
        self.rows(&sql, &[tenant_id, session_id])
    }

    /// Returns the decisions about calls of a session that events state, in the order of the log.
    fn call_decisions(&self, tenant_id: &str, session_id: &str) -> Result<Vec<CallDecision>, ReadError> {
        let sql = format!(
            "SELECT d.partition AS partition, d.offset AS offset, d.decision_id AS id, toString(d.agent_id) AS agent_id, toString(d.tool_name) AS tool, d.call_id AS call_id,
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
             ORDER BY d.partition, d.offset",
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
