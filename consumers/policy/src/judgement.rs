//! What the policies say of one action.

use std::sync::Arc;

use agentgov_enrichment::{Agent, CallContext, Finding, Session};
use agentgov_schemas::Digest;
use agentgov_schemas::bounds::MAX_ID_BYTES;
use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::verdict::{
    BundleRef, Decision, DuplicateOf, JudgeError, Origin, Reason, RecordFinding, TablePosition, Verdict,
    Violation,
};
use serde::Serialize;

use crate::bundle::Bundle;
use crate::internal::InternalError;
use crate::policy::{Policy, PolicyKind};

/// What the policies say of one action. [`Judgement::verdict`] gives the record.
#[derive(Clone, Debug)]
pub struct Judgement<'k> {
    /// What is decided.
    pub decision: Decision,
    /// Why.
    pub reason: Reason,
    /// Index of the tool call in its session, from 0; `None` of a duplicate.
    pub call_index: Option<i32>,
    /// Cedar's determining policies, in order of their ids.
    pub determining: Vec<Arc<Policy>>,
    /// Every rule that applied, enforced and observed, in order of their ids.
    pub violations: Vec<Arc<Policy>>,
    /// The bundle that judged.
    pub bundle: Option<Arc<Bundle>>,
    /// Every error met while judging.
    pub errors: Vec<Finding>,
    /// Governance topics, and the first offset of each that was not yet folded.
    pub tables: [(&'k str, i64); 2],
    /// What was known, as canonical JSON.
    pub known: String,
    /// Of a duplicate: the highest sequence of its source that was seen before it.
    pub last_sequence: Option<i64>,
    /// True if the session had reached its limit.
    pub state_limit: bool,
    /// What is wrong with the record itself, in the order of [`RecordFinding`].
    pub findings: Vec<RecordFinding>,
}

impl Judgement<'_> {
    /// The record of the judgement of `event`, which stands at `origin`.
    pub fn verdict<'v>(&'v self, event: &'v ActionEvent<'v>, origin: &'v Origin<'v>) -> Verdict<'v> {
        Verdict {
            tenant_id: event.tenant_id,
            environment: event.environment,
            session_id: event.session_id,
            // It is for people; no key and no policy has it.
            session_label: event.session_label.map(beginning),
            agent_id: event.agent.id,
            event_id: event.event_id,
            r#type: event.r#type,
            occurred_at: event.occurred_at,
            origin: *origin,
            tool: event.tool.as_ref().map(|tool| tool.name),
            call_id: event.tool.as_ref().map(|tool| tool.call_id),
            call_index: self.call_index,
            decision: self.decision.into(),
            reason: self.reason.into(),
            determining_policies: self.determining.iter().map(|policy| policy.id.as_str()).collect(),
            violations: self.violations.iter().filter_map(|policy| violation(policy)).collect(),
            bundle: self.bundle.as_ref().map(|bundle| BundleRef {
                name: bundle.name(),
                version: bundle.version(),
                digest: bundle.digest(),
            }),
            tables: self
                .tables
                .iter()
                .map(|(topic, next_offset)| TablePosition { topic, next_offset: *next_offset })
                .collect(),
            known_digest: Digest::of(self.known.as_bytes()),
            known: &self.known,
            errors: self
                .errors
                .iter()
                .map(|found| JudgeError {
                    code: found.code.into(),
                    subject: &found.subject,
                    message: &found.message,
                })
                .collect(),
            duplicate_of: self.last_sequence.map(|last_sequence| DuplicateOf {
                source_id: event.source.id,
                sequence: event.source.sequence,
                last_sequence,
            }),
            state_limit: self.state_limit,
            findings: self.findings.iter().map(|finding| (*finding).into()).collect(),
        }
    }
}

/// As much of a text as any name may have.
fn beginning(text: &str) -> &str {
    text.split_at(text.floor_char_boundary(MAX_ID_BYTES)).0
}

fn violation(policy: &Policy) -> Option<Violation<'_>> {
    match policy.kind {
        PolicyKind::Rule { severity, mode, effect, .. } => Some(Violation {
            policy: &policy.id,
            severity: severity.into(),
            mode: mode.into(),
            effect: effect.into(),
        }),
        PolicyKind::Grant => None,
    }
}

/// What was known, as verdicts carry it: no text of a payload but in derived values. The order of the fields is that of
/// their names: this is the canonical form, over which `known_digest` goes.
#[derive(Serialize)]
struct KnownRecord<'k> {
    agent: Option<KnownAgent<'k>>,
    derived: &'k std::collections::BTreeMap<String, agentgov_enrichment::Scalar>,
    /// There only if something did.
    #[serde(skip_serializing_if = "std::collections::BTreeSet::is_empty")]
    erred: &'k std::collections::BTreeSet<String>,
    facts: &'k [agentgov_enrichment::FactRef],
    session: KnownSession,
}

#[derive(Serialize)]
struct KnownAgent<'k> {
    owner: &'k str,
    roles: &'k [String],
    state: &'static str,
}

#[derive(Serialize)]
struct KnownSession {
    events: i64,
    /// Microseconds since the epoch; null before the first event.
    started_at: Option<i64>,
    tool_calls: i32,
}

/// The canonical JSON of what was known.
pub(crate) fn known_json(
    agent: Option<&Agent>,
    known: &CallContext,
    session: &Session,
) -> Result<String, InternalError> {
    let record = KnownRecord {
        agent: agent.map(|agent| KnownAgent {
            owner: &agent.owner,
            roles: &agent.roles,
            state: agent.state.as_str(),
        }),
        derived: &known.derived,
        erred: &known.erred,
        facts: &known.facts,
        session: KnownSession {
            events: session.events(),
            started_at: session.started_at().map(|time| time.0),
            tool_calls: session.tool_calls(),
        },
    };
    serde_json::to_string(&record).map_err(InternalError::new)
}
