//! Table `verdicts`. Absent fields are empty, 0 or NULL.

use agentgov_runtime::sink::native::{
    Flag, Int32, Int64, List, LoggedAt, Nullable, OccurredAt, Sha256, Text,
};
use agentgov_schemas::verdict::Verdict;

use super::NO_DIGEST;

columns! {
    /// Columns of a verdict.
    v: Verdict<'a> {
        "tenant_id": Text = v.tenant_id,
        "environment": Text = v.environment,
        "session_id": Text = v.session_id,
        "session_label": Text = v.session_label.unwrap_or_default(),
        "agent_id": Text = v.agent_id,
        "event_id": Text = v.event_id,
        "type": Text = v.r#type,
        "occurred_at": OccurredAt = v.occurred_at,
        "occurred_at_micros": Int64 = v.occurred_at.0,
        "origin_topic": Text = v.origin.topic,
        "origin_partition": Int32 = v.origin.partition,
        "origin_offset": Int64 = v.origin.offset,
        "origin_logged_at": LoggedAt = v.origin.logged_at,
        "tool_name": Text = v.tool.unwrap_or_default(),
        "call_id": Text = v.call_id.unwrap_or_default(),
        "call_index": Nullable<Int32> = v.call_index,
        "decision": Text = v.decision.as_str(),
        "reason": Text = v.reason.as_str(),
        "determining_policies": List<Text> = &mut v.determining_policies.iter().copied(),
        "violations.policy": List<Text> = &mut v.violations.iter().map(|violation| violation.policy),
        "violations.severity": List<Text> = &mut v.violations.iter().map(|violation| violation.severity.as_str()),
        "violations.mode": List<Text> = &mut v.violations.iter().map(|violation| violation.mode.as_str()),
        "violations.effect": List<Text> = &mut v.violations.iter().map(|violation| violation.effect.as_str()),
        "bundle_name": Text = v.bundle.map_or("", |bundle| bundle.name),
        "bundle_version": Text = v.bundle.map_or("", |bundle| bundle.version),
        "bundle_digest": Sha256 = v.bundle.map_or(NO_DIGEST, |bundle| bundle.digest),
        "tables.topic": List<Text> = &mut v.tables.iter().map(|table| table.topic),
        "tables.next_offset": List<Int64> = &mut v.tables.iter().map(|table| table.next_offset),
        "known_digest": Sha256 = v.known_digest,
        "known": Text = v.known,
        "errors.code": List<Text> = &mut v.errors.iter().map(|error| error.code.as_str()),
        "errors.subject": List<Text> = &mut v.errors.iter().map(|error| error.subject),
        "errors.message": List<Text> = &mut v.errors.iter().map(|error| error.message),
        "duplicate_of_source": Text = v.duplicate_of.map_or("", |duplicate| duplicate.source_id),
        "duplicate_of_sequence": Nullable<Int64> = v.duplicate_of.map(|duplicate| duplicate.sequence),
        "duplicate_of_last_sequence": Nullable<Int64> = v.duplicate_of.map(|duplicate| duplicate.last_sequence),
        "state_limit": Flag = v.state_limit,
        "findings": List<Text> = &mut v.findings.iter().map(|finding| finding.as_str()),
        "prior_decision_finding": Text = v.prior_decision.map_or("", |prior| prior.finding.as_str()),
        "prior_decision_cause": Text = v.prior_decision.and_then(|prior| prior.cause).map_or("", |cause| cause.as_str()),
        "prior_decision_id": Text = v.prior_decision.and_then(|prior| prior.id).unwrap_or_default(),
        "prior_decision_outcome": Text = v.prior_decision.and_then(|prior| prior.outcome).map_or("", |outcome| outcome.as_str()),
        "prior_decision_required": Flag = v.prior_decision.is_some_and(|prior| prior.required),
        "prior_decision_unavailable": Text = v.prior_decision.and_then(|prior| prior.unavailable).unwrap_or_default(),
        "approval_id": Text = v.approval.map_or("", |approval| approval.id),
        "approval_finding": Text = v.approval.map_or("", |approval| approval.finding.as_str()),
        "approval_cause": Text = v.approval.and_then(|approval| approval.cause).map_or("", |cause| cause.as_str()),
        "approver": Text = v.approval.and_then(|approval| approval.approver).unwrap_or_default(),
    }
}
