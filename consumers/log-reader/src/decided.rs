//! Calls with the decision that was made before them, and with their verdict.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::{LogReader, ReadError, logged};

/// Claims of the token that a call carries, as JSON, in SQL; empty without a token. The token is not verified.
pub(crate) const TOKEN_CLAIMS: &str = "tryBase64URLDecode(splitByChar('.', decision_token)[2])";
/// Id of the decision whose token a call carries, in SQL; empty without a token. The token is not verified.
pub(crate) const TOKEN_DECISION_ID: &str =
    "JSONExtractString(tryBase64URLDecode(splitByChar('.', decision_token)[2]), 'jti')";

/// Call of a source, with its decision and its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct DecidedCall {
    /// Label of the session; its id if it has no label.
    #[serde(deserialize_with = "logged::text")]
    pub session: String,
    /// Index of the tool call in its session; -1 without a verdict.
    pub call: i32,
    /// Name of the tool.
    #[serde(deserialize_with = "logged::text")]
    pub tool: String,
    /// Id of the decision whose token the call carries; empty without a token.
    #[serde(deserialize_with = "logged::text")]
    pub decision_id: String,
    /// Decision before the call; empty if the log does not have it.
    #[serde(deserialize_with = "logged::text")]
    pub decided: String,
    /// Reason of the decision.
    #[serde(deserialize_with = "logged::text")]
    pub decided_reason: String,
    /// Violations of the decision, each as policy, severity, mode and effect.
    #[serde(deserialize_with = "logged::texts")]
    pub decided_violations: Vec<String>,
    /// Digest of the inputs of the decision, in hex.
    #[serde(deserialize_with = "logged::text")]
    pub decided_known: String,
    /// Decision of the verdict; empty if the call has no verdict.
    #[serde(deserialize_with = "logged::text")]
    pub judged: String,
    /// Reason of the verdict.
    #[serde(deserialize_with = "logged::text")]
    pub judged_reason: String,
    /// Violations of the verdict, in the form of the decision's.
    #[serde(deserialize_with = "logged::texts")]
    pub judged_violations: Vec<String>,
    /// Digest of the inputs of the verdict, in hex.
    #[serde(deserialize_with = "logged::text")]
    pub judged_known: String,
}

impl DecidedCall {
    /// Returns the names of the parts in which decision and verdict differ. A missing one differs in its outcome.
    pub fn differences(&self) -> Vec<&'static str> {
        let is_missing = self.decided.is_empty() || self.judged.is_empty();
        let parts = [
            ("outcome", is_missing || self.decided != self.judged),
            ("reason", self.decided_reason != self.judged_reason),
            ("violations", self.decided_violations != self.judged_violations),
            ("known_digest", self.decided_known != self.judged_known),
        ];
        parts.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }
}

impl LogReader {
    /// Returns the number of decisions about calls in the sessions of `source_id`.
    pub fn decisions(&self, source_id: &str) -> Result<u64, ReadError> {
        let sql = format!(
            "SELECT uniqExact(decision_id) FROM {actions} WHERE decision_id != ''
                 AND (tenant_id, session_id) IN (SELECT DISTINCT tenant_id, session_id FROM {actions} WHERE source_id = ?)",
            actions = self.tables.actions
        );
        self.row(&sql, &[source_id])
    }

    /// Returns the calls of `source_id` in the order in which it recorded them.
    pub fn decided_calls(&self, source_id: &str) -> Result<Vec<DecidedCall>, ReadError> {
        let t = &self.tables;
        let violations = |of: &str| {
            format!(
                "arrayMap((policy, severity, mode, effect) -> toString(concat(policy, ' ', severity, ' ', mode, ' ', effect)),
                          {of}.policy, {of}.severity, {of}.mode, {of}.effect)"
            )
        };
        let sql = format!(
            "WITH mine AS (SELECT DISTINCT tenant_id, session_id FROM {actions} WHERE source_id = ?)
             SELECT if(c.session_label = '', c.session_id, c.session_label) AS session,
                    ifNull(v.call_index, -1) AS call,
                    toString(c.tool_name) AS tool,
                    c.token_decision_id AS decision_id,
                    toString(d.decision) AS decided,
                    d.decision_reason AS decided_reason,
                    d.rules AS decided_violations,
                    if(d.decision = '', '', lower(hex(d.decision_known_digest))) AS decided_known,
                    toString(v.decision) AS judged,
                    toString(v.reason) AS judged_reason,
                    v.rules AS judged_violations,
                    if(v.decision = '', '', lower(hex(v.known_digest))) AS judged_known
             FROM (SELECT topic, partition, offset, source_sequence, session_id, session_label, tool_name,
                          {decision_id} AS token_decision_id
                   FROM {actions} WHERE source_id = ? AND arguments_sha256 != toFixedString('', 32)
                   -- A call that was sent twice is one.
                   ORDER BY partition, offset LIMIT 1 BY source_sequence) AS c
             LEFT JOIN (SELECT origin_topic, origin_partition, origin_offset, call_index, decision, reason, known_digest,
                               {judged} AS rules
                        FROM {verdicts} WHERE (tenant_id, session_id) IN mine) AS v
                 ON v.origin_topic = c.topic AND v.origin_partition = c.partition AND v.origin_offset = c.offset
             LEFT JOIN (SELECT decision_id, decision, decision_reason, decision_known_digest, {decided} AS rules
                        FROM {actions} WHERE (tenant_id, session_id) IN mine AND decision_id != ''
                        ORDER BY partition, offset LIMIT 1 BY decision_id) AS d
                 ON d.decision_id = c.token_decision_id
             ORDER BY c.source_sequence, c.partition, c.offset",
            actions = t.actions,
            verdicts = t.verdicts,
            decision_id = TOKEN_DECISION_ID,
            judged = violations("violations"),
            decided = violations("decision_violations"),
        );
        self.rows(&sql, &[source_id, source_id])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> DecidedCall {
        let own = |text: &str| text.to_owned();
        DecidedCall {
            session: own("0/0"),
            call: 0,
            tool: own("think"),
            decision_id: own("id"),
            decided: own("deny"),
            decided_reason: own("policy"),
            decided_violations: vec![own("a high enforce deny")],
            decided_known: own("00"),
            judged: own("deny"),
            judged_reason: own("policy"),
            judged_violations: vec![own("a high enforce deny")],
            judged_known: own("00"),
        }
    }

    #[test]
    fn each_part_of_a_decision_is_compared_with_the_verdict() {
        let other = || "other".to_owned();
        assert!(call().differences().is_empty());
        for (changed, expected) in [
            (DecidedCall { judged: other(), ..call() }, vec!["outcome"]),
            (DecidedCall { decided_reason: other(), ..call() }, vec!["reason"]),
            (DecidedCall { judged_violations: vec![other()], ..call() }, vec!["violations"]),
            (DecidedCall { decided_violations: Vec::new(), ..call() }, vec!["violations"]),
            (DecidedCall { judged_known: other(), ..call() }, vec!["known_digest"]),
            (
                DecidedCall { decided: other(), decided_known: other(), ..call() },
                vec!["outcome", "known_digest"],
            ),
        ] {
            assert_eq!(changed.differences(), expected, "{changed:?}");
        }
        // Neither exists: nothing equals.
        let none = DecidedCall { decided: String::new(), judged: String::new(), ..call() };
        assert_eq!(none.differences(), ["outcome"]);
    }
}
