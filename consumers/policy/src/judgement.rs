//! Judgement of one action.

use std::sync::Arc;

use agentgov_enrichment::{Agent, CallContext, Finding, RegisteredTool, Session};
use agentgov_schemas::Digest;
use agentgov_schemas::bounds::MAX_ID_BYTES;
use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::governance::{ToolEffect, ToolState};
use agentgov_schemas::verdict::{
    ApprovalFinding, Decision, DuplicateOf, Origin, Reason, RecordFinding, TablePosition, Verdict,
};
use serde::Serialize;

use crate::approvals::JudgedApproval;
use crate::bundle::Bundle;
use crate::internal::InternalError;
use crate::kernel::ToolInRegistry;
use crate::policy::Policy;

/// Judgement of one action. [`Judgement::verdict`] converts it to a record.
#[derive(Clone, Debug)]
pub struct Judgement<'k> {
    /// Decision.
    pub decision: Decision,
    /// Reason of the decision.
    pub reason: Reason,
    /// Index of the tool call in its session, from 0; `None` for a duplicate.
    pub call_index: Option<i32>,
    /// Determining policies, as Cedar defines them, in order of their ids.
    pub determining: Vec<Arc<Policy>>,
    /// Every rule that applied, enforced and observed, in order of their ids.
    pub violations: Vec<Arc<Policy>>,
    /// Bundle that judged; `None` if no bundle was active.
    pub bundle: Option<Arc<Bundle>>,
    /// Errors of expressions and policies.
    pub errors: Vec<Finding>,
    /// Governance topics with the next offset to fold of each.
    pub tables: [(&'k str, i64); 3],
    /// Inputs of the judgement as canonical JSON: the field `known` of the verdict.
    pub known: String,
    /// For a duplicate: the highest sequence number seen from its source before.
    pub last_sequence: Option<i64>,
    /// True if the session had reached its limit.
    pub state_limit: bool,
    /// Faults of the record itself, in the order of [`RecordFinding`].
    pub findings: Vec<RecordFinding>,
    /// Approval that concerns the call.
    pub approval: Option<JudgedApproval>,
}

impl Judgement<'_> {
    /// Returns the verdict record for `event` at `origin`, without a prior decision.
    pub fn verdict<'v>(&'v self, event: &'v ActionEvent<'v>, origin: &'v Origin<'v>) -> Verdict<'v> {
        Verdict {
            tenant_id: event.tenant_id,
            environment: event.environment,
            session_id: event.session_id,
            // Truncated, since it is only displayed: no key and no policy contains it.
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
            violations: self.violations.iter().filter_map(|policy| policy.violation()).collect(),
            bundle: self.bundle.as_ref().map(|bundle| bundle.reference()),
            tables: self
                .tables
                .iter()
                .map(|(topic, next_offset)| TablePosition { topic, next_offset: *next_offset })
                .collect(),
            known_digest: Digest::of(self.known.as_bytes()),
            known: &self.known,
            errors: self.errors.iter().map(Finding::as_error).collect(),
            duplicate_of: self.last_sequence.map(|last_sequence| DuplicateOf {
                source_id: event.source.id,
                sequence: event.source.sequence,
                last_sequence,
            }),
            state_limit: self.state_limit,
            findings: self.findings.iter().map(|finding| (*finding).into()).collect(),
            prior_decision: None,
            approval: self.approval.as_ref().map(JudgedApproval::as_use),
        }
    }
}

/// Truncates a text to the maximum length of an id.
fn beginning(text: &str) -> &str {
    text.split_at(text.floor_char_boundary(MAX_ID_BYTES)).0
}

/// Inputs of a judgement in a verdict, without text of payloads except in derived values. The fields are in alphabetical order: this
/// is the canonical form that `known_digest` hashes.
#[derive(Serialize)]
struct KnownRecord<'k> {
    agent: Option<KnownAgent<'k>>,
    /// The approval that the decision relies on; omitted if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<KnownApproval<'k>>,
    derived: &'k std::collections::BTreeMap<String, agentgov_enrichment::Scalar>,
    /// Omitted if empty.
    #[serde(skip_serializing_if = "std::collections::BTreeSet::is_empty")]
    erred: &'k std::collections::BTreeSet<String>,
    facts: &'k [agentgov_enrichment::FactRef],
    session: KnownSession,
    /// Omitted if the tool is not registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<KnownTool>,
    /// Omitted if the server is not suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_server: Option<&'static str>,
}

#[derive(Serialize)]
struct KnownTool {
    /// SHA-256 of the accepted definition, in hex.
    definition: Option<String>,
    effect: Option<&'static str>,
    state: &'static str,
}

impl From<RegisteredTool> for KnownTool {
    fn from(tool: RegisteredTool) -> Self {
        Self {
            definition: tool.definition.map(|definition| definition.to_string()),
            effect: tool.effect.map(ToolEffect::as_str),
            state: tool.state.as_str(),
        }
    }
}

#[derive(Serialize)]
struct KnownAgent<'k> {
    /// Omitted if the agent has grants in each environment.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    environments: &'k [String],
    owner: &'k str,
    roles: &'k [String],
    state: &'static str,
}

#[derive(Serialize)]
struct KnownApproval<'k> {
    approver: Option<&'k str>,
    id: &'k str,
}

#[derive(Serialize)]
struct KnownSession {
    events: i64,
    /// Microseconds since the epoch; null before the first event.
    started_at: Option<i64>,
    tool_calls: i32,
}

/// Serialises the inputs of a judgement as canonical JSON.
pub(crate) fn known_json(
    agent: Option<&Agent>,
    tool: &ToolInRegistry,
    known: &CallContext,
    session: &Session,
    approval: Option<&JudgedApproval>,
) -> Result<String, InternalError> {
    let approval = approval.filter(|approval| approval.finding == ApprovalFinding::Granted);
    let record = KnownRecord {
        agent: agent.map(|agent| KnownAgent {
            environments: &agent.environments,
            owner: &agent.owner,
            roles: &agent.roles,
            state: agent.state.as_str(),
        }),
        approval: approval
            .map(|approval| KnownApproval { approver: approval.approver.as_deref(), id: &approval.id }),
        derived: &known.derived,
        erred: &known.erred,
        facts: &known.facts,
        session: KnownSession {
            events: session.events(),
            started_at: session.started_at().map(|time| time.0),
            tool_calls: session.tool_calls(),
        },
        tool: tool.entry.map(KnownTool::from),
        tool_server: tool.is_server_suspended.then_some(ToolState::Suspended.as_str()),
    };
    serde_json::to_string(&record).map_err(InternalError::new)
}
