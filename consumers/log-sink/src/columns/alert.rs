//! Table `alerts`.

use agentgov_runtime::sink::native::{Flag, Int32, Int64, LoggedAt, Nullable, OccurredAt, Sha256, Text};
use agentgov_schemas::alert::Alert;

use super::NO_DIGEST;

columns! {
    /// Columns of an alert.
    a: Alert<'a> {
        "alert_id": Text = a.alert_id,
        "revision": Int32 = a.revision,
        "tenant_id": Text = a.tenant_id,
        "environment": Text = a.environment,
        "session_id": Text = a.session_id,
        "session_label": Text = a.session_label.unwrap_or_default(),
        "agent_id": Text = a.agent_id,
        "event_id": Text = a.event_id,
        "policy": Text = a.policy,
        "severity": Text = a.severity.as_str(),
        "mode": Text = a.mode.as_str(),
        "decision": Text = a.decision.as_str(),
        "tool_name": Text = a.tool.unwrap_or_default(),
        "call_index": Nullable<Int32> = a.call_index,
        "message": Text = a.message,
        "occurred_at": OccurredAt = a.occurred_at,
        "occurred_at_micros": Int64 = a.occurred_at.0,
        "opened_at": LoggedAt = a.opened_at,
        "origin_topic": Text = a.origin.topic,
        "origin_partition": Int32 = a.origin.partition,
        "origin_offset": Int64 = a.origin.offset,
        "origin_logged_at": LoggedAt = a.origin.logged_at,
        "first_origin_topic": Text = a.first_origin.topic,
        "first_origin_partition": Int32 = a.first_origin.partition,
        "first_origin_offset": Int64 = a.first_origin.offset,
        "first_origin_logged_at": LoggedAt = a.first_origin.logged_at,
        "bundle_digest": Sha256 = a.bundle_digest.unwrap_or(NO_DIGEST),
        "prevented": Flag = a.prevented,
    }
}
