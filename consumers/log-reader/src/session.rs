//! One session, event by event.

use std::collections::BTreeMap;

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::{LogReader, LoggedBytes, ReadError, logged};

/// A session that a name may mean.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct SessionMatch {
    /// Its tenant.
    #[serde(deserialize_with = "logged::text")]
    pub tenant_id: String,
    /// Its id.
    #[serde(deserialize_with = "logged::text")]
    pub session_id: String,
    /// Its label; empty if it has none.
    #[serde(deserialize_with = "logged::text")]
    pub session_label: String,
    /// Agent of its first event in the log. Each [`Event`] names its own.
    #[serde(deserialize_with = "logged::text")]
    pub agent_id: String,
    /// On whose behalf; empty if nobody said.
    #[serde(deserialize_with = "logged::text")]
    pub actor_id: String,
}

/// An event of a session, and the verdict on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The event.
    pub event: Event,
    /// The verdict, on an event of a judged type.
    pub verdict: Option<Verdict>,
}

/// An event, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Event {
    /// Its topic.
    #[serde(deserialize_with = "logged::text")]
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// When it was logged, in milliseconds since the epoch.
    pub logged_at: i64,
    /// When it happened, as its producer claims, in microseconds since the epoch.
    pub occurred_at: i64,
    /// The source that numbered it.
    #[serde(deserialize_with = "logged::text")]
    pub source_id: String,
    /// Its number in that source.
    pub source_sequence: i64,
    /// The agent that acted.
    #[serde(deserialize_with = "logged::text")]
    pub agent_id: String,
    /// Its type.
    #[serde(deserialize_with = "logged::text")]
    pub event_type: String,
    /// Who spoke, if someone did.
    #[serde(deserialize_with = "logged::text")]
    pub role: String,
    /// What was said.
    pub text: LoggedBytes,
    /// The tool, of a call or an answer.
    #[serde(deserialize_with = "logged::text")]
    pub tool: String,
    /// The call's id.
    #[serde(deserialize_with = "logged::text")]
    pub call_id: String,
    /// The call's arguments.
    pub arguments: LoggedBytes,
    /// The tool's answer.
    pub result: LoggedBytes,
}

/// A verdict, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Verdict {
    /// The action's partition.
    pub partition: i32,
    /// The action's offset.
    pub offset: i64,
    /// Index of the tool call in its session; -1 if it is none.
    pub call_index: i32,
    /// The decision.
    #[serde(deserialize_with = "logged::text")]
    pub decision: String,
    /// Its reason.
    #[serde(deserialize_with = "logged::text")]
    pub reason: String,
    /// The policies that determined it.
    #[serde(deserialize_with = "logged::texts")]
    pub determining: Vec<String>,
    /// The policies that were violated.
    #[serde(deserialize_with = "logged::texts")]
    pub violations: Vec<String>,
    /// What was known, as JSON.
    #[serde(deserialize_with = "logged::text")]
    pub known: String,
    /// What could not be computed, each `code subject: message`.
    #[serde(deserialize_with = "logged::texts")]
    pub errors: Vec<String>,
    /// Name and version of the bundle that judged.
    #[serde(deserialize_with = "logged::text")]
    pub bundle: String,
    /// Digest of that bundle, in hex; empty if there was none.
    #[serde(deserialize_with = "logged::text")]
    pub bundle_digest: String,
    /// What is wrong with the record itself: names of docs/errors.
    #[serde(deserialize_with = "logged::texts")]
    pub findings: Vec<String>,
}

#[derive(Row, Deserialize)]
struct File {
    #[serde(deserialize_with = "logged::text")]
    path: String,
    content: LoggedBytes,
}

impl LogReader {
    /// The sessions that `name` may mean: by id or by label, of one tenant or of any. The one seen last comes first.
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

    /// The events of a session in the order of the log, each with its verdict.
    pub fn session(&self, tenant_id: &str, session_id: &str) -> Result<Vec<Entry>, ReadError> {
        let events: Vec<Event> = self.rows(
            &format!(
                "SELECT toString(topic) AS topic, partition, offset, toUnixTimestamp64Milli(logged_at) AS logged_at,
                        occurred_at_micros AS occurred_at, source_id, source_sequence, toString(agent_id) AS agent_id,
                        toString(type) AS event_type, toString(message_role) AS role,
                        message_text AS text, toString(tool_name) AS tool, call_id, arguments, result
                 FROM {} WHERE tenant_id = ? AND session_id = ? ORDER BY partition, offset",
                self.tables.actions
            ),
            &[tenant_id, session_id],
        )?;
        let verdicts: Vec<Verdict> = self.rows(
            &format!(
                "SELECT origin_partition AS partition, origin_offset AS offset, ifNull(call_index, -1) AS call_index,
                        toString(decision) AS decision, toString(reason) AS reason,
                        arrayMap(p -> toString(p), determining_policies) AS determining,
                        arrayMap(p -> toString(p), violations.policy) AS violations, known,
                        arrayMap((c, s, m) -> concat(toString(c), ' ', s, ': ', m), errors.code, errors.subject, errors.message) AS errors,
                        concat(toString(bundle_name), ' ', toString(bundle_version)) AS bundle,
                        if(bundle_name = '', '', lower(hex(bundle_digest))) AS bundle_digest,
                        arrayMap(f -> toString(f), findings) AS findings
                 FROM {} WHERE tenant_id = ? AND session_id = ?",
                self.tables.verdicts
            ),
            &[tenant_id, session_id],
        )?;
        let mut by_origin: BTreeMap<(i32, i64), Verdict> =
            verdicts.into_iter().map(|verdict| ((verdict.partition, verdict.offset), verdict)).collect();
        Ok(events
            .into_iter()
            .map(|event| Entry { verdict: by_origin.remove(&(event.partition, event.offset)), event })
            .collect())
    }

    /// The files of a bundle that was pushed, by its digest in hex.
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
