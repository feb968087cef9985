//! `POST /hooks/NAME`: the hooks of coding agents.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Gateway;
use super::reply::HttpError;
use crate::hooks::agent::CodingAgent;
use crate::hooks::reply::{HOOK_REPLY_TYPE, HookOutcome, HookReply};
use crate::hooks::{HookError, Owner};

pub(super) async fn post(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, HttpError> {
    let caller = gateway.caller(&headers)?;
    let Some(agent) = CodingAgent::by_name(&name) else {
        let names = CodingAgent::ALL.map(CodingAgent::name).join(", ");
        let message = format!("expected the hooks of {names}, found another name");
        return Err(HttpError::text(StatusCode::NOT_FOUND, &message));
    };
    // A page in a browser cannot send this type without asking first.
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next()).map(str::trim);
    if !media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case("application/json")) {
        return Err(HttpError::bad_request(
            "`Content-Type`: expected application/json, found another or none",
        ));
    }
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let is_ours = accepts.is_some_and(|accepts| accepts.contains(HOOK_REPLY_TYPE));
    let answered = tokio::task::spawn_blocking(move || {
        let owner =
            Owner { tenant_id: &caller.tenant, environment: &caller.environment, agent_id: &caller.agent };
        gateway.hooks.answer(agent, &owner, &body, |server| gateway.connections.has_open(server, &owner))
    });
    let answered = answered.await.map_err(|_| {
        HttpError::text(StatusCode::INTERNAL_SERVER_ERROR, "a bug in agentgov: the request panicked")
    })?;
    let reply = answered.map_err(|error| {
        let status = match error {
            HookError::Malformed(_) => StatusCode::BAD_REQUEST,
            HookError::Forbidden(_) => StatusCode::FORBIDDEN,
            HookError::Failed(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        HttpError::text(status, &agentgov_schemas::escape::Escaped(error.to_string()).to_string())
    })?;
    Ok(if is_ours {
        ([(header::CONTENT_TYPE, HOOK_REPLY_TYPE)], Json(reply)).into_response()
    } else {
        of_agent(reply)
    })
}

/// Returns the answer for an agent that calls by itself. An agent that reads no decision from it must not go on.
fn of_agent(reply: HookReply) -> Response {
    let HookReply { outcome, reason, output } = reply;
    match (outcome, output) {
        (_, Some(output)) => Json(output).into_response(),
        (HookOutcome::Allow, None) => Json(serde_json::json!({})).into_response(),
        (HookOutcome::Deny, None) => HttpError::text(StatusCode::FORBIDDEN, &reason).into_response(),
    }
}
