//! Table `actions`. Absent fields are empty, 0 or NULL.

use agentgov_runtime::sink::native::{
    Bytes, Flag, Int32, Int64, List, LoggedAt, Nullable, OccurredAt, Sha256, Text,
};
use agentgov_schemas::Digest;
use agentgov_schemas::event::{ActionEvent, Evaluation, Payload, Through};
use agentgov_schemas::verdict::{TablePosition, Violation};

use super::NO_DIGEST;

fn message_text<'a>(e: &ActionEvent<'a>) -> Option<Payload<'a>> {
    e.message.and_then(|message| message.content)
}

fn evaluation<'e, 'a>(e: &'e ActionEvent<'a>) -> Option<&'e Evaluation<'a>> {
    e.decision.as_ref()?.evaluation.as_deref()
}

fn through(e: &ActionEvent<'_>) -> Option<Through> {
    evaluation(e)?.through
}

fn policies<'e, 'a>(e: &'e ActionEvent<'a>) -> &'e [&'a str] {
    evaluation(e).map_or(&[], |evaluation| &evaluation.determining_policies)
}

fn violations<'e, 'a>(e: &'e ActionEvent<'a>) -> &'e [Violation<'a>] {
    evaluation(e).map_or(&[], |evaluation| &evaluation.violations)
}

fn tables<'e, 'a>(e: &'e ActionEvent<'a>) -> &'e [TablePosition<'a>] {
    evaluation(e).map_or(&[], |evaluation| &evaluation.tables)
}

/// The arguments of the call. Those of a decision are not here: an event with arguments is a call.
fn arguments<'a>(e: &ActionEvent<'a>) -> Option<Payload<'a>> {
    e.tool.map(|tool| tool.arguments)
}

fn approval_arguments<'a>(e: &ActionEvent<'a>) -> Option<Payload<'a>> {
    e.approval.and_then(|approval| approval.arguments)
}

/// Returns the tool of the call, of its result, of the decision on it, or of its approval.
fn tool_name<'a>(e: &ActionEvent<'a>) -> &'a str {
    let named = e.tool.map(|tool| tool.name).or(e.result.and_then(|result| result.name));
    let decided = || evaluation(e).map(|evaluation| evaluation.tool);
    named.or_else(decided).or_else(|| e.approval?.tool).unwrap_or_default()
}

fn call_id<'a>(e: &ActionEvent<'a>) -> &'a str {
    let named = e.tool.map(|tool| tool.call_id).or(e.result.map(|result| result.call_id));
    named.or_else(|| evaluation(e)?.call_id).or_else(|| e.approval?.call_id).unwrap_or_default()
}

/// Returns the digest of the tool's definition that the call states, or the question about it.
fn tool_definition(e: &ActionEvent<'_>) -> Digest {
    let stated = e.tool.and_then(|tool| tool.definition);
    stated.or_else(|| evaluation(e)?.definition).unwrap_or(NO_DIGEST)
}

fn result<'a>(e: &ActionEvent<'a>) -> Option<Payload<'a>> {
    e.result.map(|result| result.content)
}

fn data<'a>(payload: Option<Payload<'a>>) -> &'a [u8] {
    payload.map_or(b"", |payload| payload.data)
}

fn sha256(payload: Option<Payload<'_>>) -> Digest {
    payload.map_or(NO_DIGEST, |payload| payload.sha256)
}

fn redacted(payload: Option<Payload<'_>>) -> bool {
    payload.is_some_and(|payload| payload.redacted)
}

columns! {
    /// Columns of an action.
    e: ActionEvent<'a> {
        "event_id": Text = e.event_id,
        "type": Text = e.r#type,
        "tenant_id": Text = e.tenant_id,
        "environment": Text = e.environment,
        "session_id": Text = e.session_id,
        "session_label": Text = e.session_label.unwrap_or_default(),
        "source_id": Text = e.source.id,
        "source_sequence": Int64 = e.source.sequence,
        "occurred_at": OccurredAt = e.occurred_at,
        "occurred_at_micros": Int64 = e.occurred_at.0,
        "agent_id": Text = e.agent.id,
        "agent_name": Text = e.agent.name.unwrap_or_default(),
        "agent_version": Text = e.agent.version.unwrap_or_default(),
        "actor_id": Text = e.actor.map_or("", |actor| actor.id),
        "actor_type": Text = e.actor.map_or("", |actor| actor.r#type),
        "trace_id": Text = e.trace.map_or("", |trace| trace.trace_id),
        "span_id": Text = e.trace.map_or("", |trace| trace.span_id),
        "message_id": Text = e.message.map_or("", |message| message.id),
        "message_role": Text = e.message.map_or("", |message| message.role),
        "message_has_text": Flag = e.message.is_some_and(|message| message.has_text),
        "message_tool_calls": Int32 = e.message.map_or(0, |message| message.tool_calls),
        "message_text": Bytes = data(message_text(e)),
        "message_sha256": Sha256 = sha256(message_text(e)),
        "message_redacted": Flag = redacted(message_text(e)),
        "tool_name": Text = tool_name(e),
        "tool_definition": Sha256 = tool_definition(e),
        "call_id": Text = call_id(e),
        "arguments": Bytes = data(arguments(e)),
        "arguments_sha256": Sha256 = sha256(arguments(e)),
        "arguments_redacted": Flag = redacted(arguments(e)),
        "result": Bytes = data(result(e)),
        "result_sha256": Sha256 = sha256(result(e)),
        "result_redacted": Flag = redacted(result(e)),
        "result_is_error": Nullable<Flag> = e.result.and_then(|result| result.is_error),
        "llm_provider_name": Text = e.llm.map_or("", |llm| llm.provider_name),
        "llm_request_model": Text = e.llm.map_or("", |llm| llm.request_model),
        "llm_response_model": Text = e.llm.and_then(|llm| llm.response_model).unwrap_or_default(),
        "llm_input_tokens": Nullable<Int64> = e.llm.and_then(|llm| llm.input_tokens),
        "llm_output_tokens": Nullable<Int64> = e.llm.and_then(|llm| llm.output_tokens),
        "llm_finish_reason": Text = e.llm.and_then(|llm| llm.finish_reason).unwrap_or_default(),
        "llm_error_type": Text = e.llm.and_then(|llm| llm.error_type).unwrap_or_default(),
        "decided_by": Text = e.decision.as_ref().map_or("", |decision| decision.by),
        "decision": Text = e.decision.as_ref().map_or("", |decision| decision.decision),
        "decision_reason": Text = e.decision.as_ref().and_then(|decision| decision.reason).unwrap_or_default(),
        "decision_id": Text = evaluation(e).map_or("", |evaluation| evaluation.id),
        "decision_caller": Text = evaluation(e).and_then(|evaluation| evaluation.caller).unwrap_or_default(),
        "decision_policies": List<Text> = &mut policies(e).iter().copied(),
        "decision_violations.policy": List<Text> = &mut violations(e).iter().map(|violation| violation.policy),
        "decision_violations.severity": List<Text> = &mut violations(e).iter().map(|violation| violation.severity.as_str()),
        "decision_violations.mode": List<Text> = &mut violations(e).iter().map(|violation| violation.mode.as_str()),
        "decision_violations.effect": List<Text> = &mut violations(e).iter().map(|violation| violation.effect.as_str()),
        "decision_bundle_digest": Sha256 = evaluation(e).and_then(|evaluation| evaluation.bundle).map_or(NO_DIGEST, |bundle| bundle.digest),
        "decision_tables.topic": List<Text> = &mut tables(e).iter().map(|table| table.topic),
        "decision_tables.next_offset": List<Int64> = &mut tables(e).iter().map(|table| table.next_offset),
        "decision_known_digest": Sha256 = evaluation(e).and_then(|evaluation| evaluation.known_digest).unwrap_or(NO_DIGEST),
        "decision_known": Text = evaluation(e).and_then(|evaluation| evaluation.known).unwrap_or_default(),
        "decision_partition": Nullable<Int32> = through(e).map(|through| through.partition),
        "decision_next_offset": Nullable<Int64> = through(e).map(|through| through.next_offset),
        "decision_unavailable": Text = evaluation(e).and_then(|evaluation| evaluation.unavailable).unwrap_or_default(),
        "decision_key_id": Text = evaluation(e).and_then(|evaluation| evaluation.key_id).unwrap_or_default(),
        "decision_approval_id": Text = evaluation(e).and_then(|evaluation| evaluation.approval).unwrap_or_default(),
        "decision_token": Text = e.tool.and_then(|tool| tool.decision_token).unwrap_or_default(),
        "approval_id": Text = e.approval.map_or("", |approval| approval.id),
        "approver": Text = e.approval.and_then(|approval| approval.approver).unwrap_or_default(),
        "approval_granted": Nullable<Flag> = e.approval.and_then(|approval| approval.granted),
        "approval_comment": Text = e.approval.and_then(|approval| approval.comment).unwrap_or_default(),
        "approval_arguments": Bytes = data(approval_arguments(e)),
        "approval_arguments_sha256": Sha256 = sha256(approval_arguments(e)),
        "approval_expires_at": Nullable<LoggedAt> = e.approval.and_then(|approval| approval.expires_at),
        "approval_token": Text = e.approval.and_then(|approval| approval.token).unwrap_or_default(),
        "closing_total": Nullable<Int64> = e.closing.map(|closing| closing.total),
    }
}
