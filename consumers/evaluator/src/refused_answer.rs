//! Alerts about answers to calls that were refused: a valid token on the call says another outcome than allow, and a
//! result of the call was recorded nevertheless.
//!
//! The call has its verdict already when the result arrives, so the evaluator emits the alert itself, with the result.

use agentgov_enrichment::RefusedCall;
use agentgov_processor::{OutputError, Outputs};
use agentgov_schemas::Digest;
use agentgov_schemas::OpenEnum;
use agentgov_schemas::alert::{Alert, REFUSED_POLICY};
use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::verdict::{Mode, Origin, Severity};

/// Emits the alert about the result `event` of `call`.
pub(crate) fn emit_alert(
    key: &[u8],
    event: &ActionEvent<'_>,
    origin: &Origin<'_>,
    call: &RefusedCall,
    out: &mut Outputs,
) -> Result<(), OutputError> {
    let id = Digest::of_parts([
        event.tenant_id.as_bytes(),
        event.session_id.as_bytes(),
        REFUSED_POLICY.as_bytes(),
        origin.topic.as_bytes(),
        &origin.partition.to_be_bytes(),
        &origin.offset.to_be_bytes(),
    ]);
    let message = format!(
        "{} has a result of {}: its call was decided before, with the outcome {} {REFUSED_POLICY}",
        event.agent.id, call.tool, call.outcome
    );
    out.emit(
        key,
        &Alert {
            alert_id: &id.to_string(),
            revision: 0,
            tenant_id: event.tenant_id,
            environment: event.environment,
            session_id: event.session_id,
            session_label: None,
            agent_id: event.agent.id,
            event_id: event.event_id,
            policy: REFUSED_POLICY,
            severity: Severity::High.into(),
            mode: Mode::Enforce.into(),
            decision: OpenEnum::from_name(call.outcome.as_str()),
            tool: Some(&call.tool),
            call_index: call.call_index,
            message: &message,
            occurred_at: event.occurred_at,
            opened_at: origin.logged_at,
            origin: *origin,
            first_origin: *origin,
            bundle_digest: None,
            prevented: false,
        },
    )
}
