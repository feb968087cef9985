//! A governed request, from its frame to the response: one thread runs it from start to end.

use std::borrow::Cow;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use agentgov_authzen_client::Decision;
use agentgov_schemas::Digest;
use agentgov_sdk::RecordError;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::Proxy;
use super::requests::{CallEvent, CallEvents};
use crate::call::{GovernedCall, RequestMeta};
use crate::envelope::{Envelope, INTERNAL_ERROR, INVALID_PARAMS, RequestId, ResponseOutcome};
use crate::json::{self, Members, quoted, splice};
use crate::methods::{self, Sender, Target, Treatment};
use crate::reply;
use crate::seal::SealedCall;
use crate::session::{Call, CallError, CallResult};

/// Time for which the response to a cancelled call is still recorded.
const CANCELLED_WAIT: Duration = Duration::from_secs(30);
/// Member of a call that is made again, and of a result that asks for input.
const REQUEST_STATE: &str = "requestState";
/// Member of a call that is made again.
const INPUT_RESPONSES: &str = "inputResponses";

/// Reason why a result is refused.
const TASK: &str = "expected a result, found a task: the gateway does not govern the tasks extension";

/// Reason why a governed request has no response of the server.
pub(super) enum NoResponse {
    /// The client does not wait any more.
    Cancelled,
    /// The client gets this error.
    Failed(String),
}

impl Proxy {
    /// Runs a governed request of the client, and returns the answer; `None` if the client does not wait for it. `frame` has been read
    /// before.
    pub(super) fn run_governed(&self, id: &RequestId, frame: &[u8], events: &CallEvents) -> Option<Vec<u8>> {
        let Ok(Envelope::Request { method, params, .. }) = Envelope::read(frame) else { return None };
        match methods::request(Sender::Client, &method) {
            Some(Treatment::Decide(target)) => self.run_call(id, frame, target, &params, events),
            Some(Treatment::ListTools) => self.run_listing(id, frame, &params, events),
            Some(Treatment::Pass) | None => None,
        }
    }

    fn run_call(
        &self,
        id: &RequestId,
        frame: &[u8],
        target: Target,
        params: &Members<'_>,
        events: &CallEvents,
    ) -> Option<Vec<u8>> {
        let refuse = |message: &str| {
            self.refuse(Sender::Client, message, frame);
            Some(reply::error(Some(id), INVALID_PARAMS, message))
        };
        let fail = |message: &str| Some(reply::error(Some(id), INTERNAL_ERROR, message));
        let governed = match GovernedCall::read(&self.server, target, params) {
            Ok(governed) => governed,
            Err(message) => return refuse(&message),
        };
        let retried = match self.retried(&governed, params) {
            Ok(retried) => retried,
            Err(message) => return refuse(message),
        };
        let meta = RequestMeta::read(params);
        let call_id =
            retried.as_ref().map_or_else(|| Uuid::now_v7().to_string(), |call| call.call_id.clone());
        let call = Call {
            tool: &governed.tool,
            call_id: &call_id,
            arguments: &governed.arguments,
            is_retry: retried.is_some(),
            definition: governed.name.as_ref().map(|name| self.definition(name, params)),
            trace: meta.trace(),
        };
        if let (true, Some(input)) = (call.is_retry, params.get(INPUT_RESPONSES))
            && let Err(error) = self.session.record_input(&call_id, input.get())
        {
            return fail(&CallError::NotRecorded(error.to_string()).to_string());
        }
        let decision = match self.decide_or_wait(&call, &meta, events)? {
            Ok(decision) => decision,
            Err(error @ CallError::TooLarge(_)) => return refuse(&error.to_string()),
            Err(error) => {
                tracing::warn!(tool = call.tool, %error, "gateway: a call is not sent on");
                return fail(&error.to_string());
            }
        };
        if !decision.is_allowed() {
            return Some(reply::denied(id, target, &decision, meta.is_modern));
        }
        let sent: Cow<'_, [u8]> = match &retried {
            None => frame.into(),
            Some(retried) => match unsealed_frame(frame, retried) {
                Some(frame) => frame.into(),
                None => return refuse("expected the parameters of a call, found others"),
            },
        };
        if retried.as_ref().is_some_and(|retried| !self.seal.take(retried)) {
            let message = "`requestState`: expected one that is not used, found one that was used meanwhile";
            self.record_failure(&call, message);
            return refuse(message);
        }
        match self.exchange(id, &sent, events) {
            Ok(response) => self.on_response(id, &call, meta.is_modern, response),
            Err(NoResponse::Cancelled) => {
                self.record_failure(&call, "the client cancelled the call, and no response came");
                None
            }
            Err(NoResponse::Failed(reason)) => {
                self.record_failure(&call, &reason);
                fail(&reason)
            }
        }
    }

    /// Returns the first call, if the request makes it again with answers to the server's questions.
    fn retried(
        &self,
        governed: &GovernedCall<'_>,
        params: &Members<'_>,
    ) -> Result<Option<SealedCall>, &'static str> {
        let Some(state) = params.get(REQUEST_STATE) else {
            return match params.get(INPUT_RESPONSES) {
                None => Ok(None),
                Some(_) => Err("expected `requestState` beside `inputResponses`, found none"),
            };
        };
        let sealed = json::string(state).and_then(|text| self.seal.open(&text));
        let sealed = sealed.ok_or(
            "`requestState`: expected one of this gateway that is neither used nor expired, found another",
        )?;
        if !sealed.is_call(&governed.tool, &governed.arguments) {
            return Err("expected the call that `requestState` is of, found another tool or other arguments");
        }
        Ok(Some(sealed))
    }

    /// Decides a call. If a person may approve it, waits, and decides it again. Returns `None` if the client does not wait any more.
    fn decide_or_wait(
        &self,
        call: &Call<'_>,
        meta: &RequestMeta<'_>,
        events: &CallEvents,
    ) -> Option<Result<Decision, CallError>> {
        let until = Instant::now() + self.config.approval_wait;
        for step in 1.. {
            let is_final = Instant::now() >= until;
            let decision = match self.session.decide(call, is_final) {
                Ok(decision) if decision.waits_for_approval() && !is_final => decision,
                decided => return Some(decided),
            };
            if let Some(token) = meta.progress_token {
                self.send_to_client(&reply::progress(token, step, &decision));
            }
            let left = until.saturating_duration_since(Instant::now());
            match events.recv_timeout(self.config.approval_interval.min(left)) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(CallEvent::Failed(reason)) => return Some(Err(CallError::NotDecided(reason))),
                Ok(CallEvent::Cancelled | CallEvent::Response(_)) | Err(RecvTimeoutError::Disconnected) => {
                    return None;
                }
            }
        }
        None
    }

    /// Sends a request to the server, and returns the response.
    pub(super) fn exchange(
        &self,
        id: &RequestId,
        frame: &[u8],
        events: &CallEvents,
    ) -> Result<Vec<u8>, NoResponse> {
        if !self.requests.mark_sent(id) {
            return Err(match events.try_recv() {
                Ok(CallEvent::Failed(reason)) => NoResponse::Failed(reason),
                _ => NoResponse::Cancelled,
            });
        }
        if let Err(reason) = self.to_server.send(Some(id), frame) {
            return Err(NoResponse::Failed(reason.to_owned()));
        }
        match events.recv() {
            Ok(CallEvent::Response(response)) => return Ok(response),
            Ok(CallEvent::Failed(reason)) => return Err(NoResponse::Failed(reason)),
            Ok(CallEvent::Cancelled) => {}
            Err(_) => return Err(NoResponse::Failed("the server has ended".to_owned())),
        }
        let until = Instant::now() + CANCELLED_WAIT;
        loop {
            match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(CallEvent::Response(response)) => return Ok(response),
                Ok(CallEvent::Cancelled) => {}
                Ok(CallEvent::Failed(_)) | Err(_) => return Err(NoResponse::Cancelled),
            }
        }
    }

    /// Records the result of a call, and returns the answer.
    fn on_response(
        &self,
        id: &RequestId,
        call: &Call<'_>,
        is_modern: bool,
        response: Vec<u8>,
    ) -> Option<Vec<u8>> {
        let Ok(Envelope::Response { outcome, .. }) = Envelope::read(&response) else { return None };
        let result = match outcome {
            ResponseOutcome::Result(result) => {
                let members = Members::read(result.get()).unwrap_or_default();
                if is_modern && is_question(&members) {
                    // It is no result, but the client must see nothing that is not recorded.
                    if let Err(error) = self.session.record_question(call.call_id, result.get()) {
                        return Some(reply::error(Some(id), INTERNAL_ERROR, &not_recorded(&error)));
                    }
                    return Some(self.sealed_response(call, &response, result, &members));
                }
                if is_task(&members) {
                    self.refuse(Sender::Server, TASK, &response);
                    self.record_failure(call, TASK);
                    return Some(reply::error(Some(id), INTERNAL_ERROR, TASK));
                }
                let is_error = members.get("isError").is_some_and(|flag| flag.get() == "true");
                CallResult { content: result.get(), is_error, is_failure: false }
            }
            ResponseOutcome::Error(error) => {
                CallResult { content: error.get(), is_error: true, is_failure: true }
            }
        };
        if let Err(error) = self.session.record_result(call.tool, call.call_id, &result) {
            tracing::error!(tool = call.tool, %error, "gateway: a result is not recorded");
            return Some(reply::error(Some(id), INTERNAL_ERROR, &not_recorded(&error)));
        }
        Some(response)
    }

    /// Returns the response of a server that asks for input, with the sealed call as its `requestState`. It is no result of the call.
    fn sealed_response(
        &self,
        call: &Call<'_>,
        response: &[u8],
        result: &RawValue,
        members: &Members<'_>,
    ) -> Vec<u8> {
        let sealed = self.seal.seal(&SealedCall {
            serial: self.seal.begin(),
            call_id: call.call_id.to_owned(),
            tool: call.tool.to_owned(),
            arguments: Digest::of(call.arguments.as_bytes()).to_string(),
            inner: members.get(REQUEST_STATE).map(|state| state.get().to_owned()),
        });
        let result_with = members.with(REQUEST_STATE, Some(&quoted(&sealed)));
        let text = std::str::from_utf8(response).unwrap_or_default();
        splice(text, result.get(), &result_with).unwrap_or_default().into_bytes()
    }

    fn record_failure(&self, call: &Call<'_>, reason: &str) {
        let content = serde_json::json!({ "message": reason }).to_string();
        let result = CallResult { content: &content, is_error: true, is_failure: true };
        if let Err(error) = self.session.record_result(call.tool, call.call_id, &result) {
            tracing::error!(tool = call.tool, %error, "gateway: a failed call is not recorded");
        }
    }
}

/// Returns true for a result that asks for input, and for nothing else.
fn is_question(result: &Members<'_>) -> bool {
    result.text("resultType").as_deref() == Some("input_required")
        && result.get("content").is_none()
        && result.get("structuredContent").is_none()
}

/// Returns true for a result that comes later, in the answer to another request.
fn is_task(result: &Members<'_>) -> bool {
    result.text("resultType").as_deref() == Some("task")
        || (result.get("task").is_some() && result.get("content").is_none())
}

fn not_recorded(error: &RecordError) -> String {
    format!("the call was made, but its result is not recorded: {error}")
}

/// Returns the frame of a call that is made again, with the server's own `requestState`.
fn unsealed_frame(frame: &[u8], call: &SealedCall) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(frame).ok()?;
    let params = Members::read(text).ok()?.get("params")?.get();
    let own = Members::read(params).ok()?.with(REQUEST_STATE, call.inner.as_deref());
    splice(text, params, &own).map(String::into_bytes)
}
