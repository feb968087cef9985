//! Answers that the gateway gives in place of the server.

use agentgov_authzen_client::Decision;
use agentgov_schemas::escape::Escaped;
use serde_json::{Value, json};

use crate::envelope::RequestId;
use crate::json::{quoted, to_text};
use crate::methods::Target;

/// Member of `_meta` with the decision, for programs.
pub const DECISION_META: &str = "org.agentgov/decision";
/// Error code of a denied request that has no `isError` in its result.
pub const DENIED: i32 = -32003;

/// Returns an error response. `id` is absent if it could not be read.
pub fn error(id: Option<&RequestId>, code: i32, message: &str) -> Vec<u8> {
    error_with(id, code, message, None)
}

fn error_with(id: Option<&RequestId>, code: i32, message: &str, data: Option<&Value>) -> Vec<u8> {
    let id = id.map_or_else(|| "null".to_owned(), RequestId::to_json);
    let data = data.map(|data| format!(",\"data\":{}", to_text(data))).unwrap_or_default();
    // The message may quote what the peer sent.
    let message = quoted(&Escaped(message).to_string());
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message}{data}}}}}"#)
        .into_bytes()
}

/// Returns the response to a call that is not allowed: a result with `isError` for a tool, so that the model can correct itself,
/// and an error for other requests. `is_modern`: the request is of a version whose results have a type.
pub fn denied(id: &RequestId, target: Target, decision: &Decision, is_modern: bool) -> Vec<u8> {
    let text = denial_text(decision);
    let meta = json!({ DECISION_META: summary(decision) });
    if target != Target::Tool {
        return error_with(Some(id), DENIED, &text, Some(&meta));
    }
    let mut result = json!({ "content": [{ "type": "text", "text": text }], "isError": true, "_meta": meta });
    if let Some(result) = result.as_object_mut().filter(|_| is_modern) {
        result.insert("resultType".to_owned(), json!("complete"));
    }
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{}}}"#, id.to_json(), to_text(&result)).into_bytes()
}

/// Returns a notification of progress while the gateway waits for an approval.
pub fn progress(token: &str, step: u32, decision: &Decision) -> Vec<u8> {
    // The server's own progress begins at 0 or 1, and must not be less than this one.
    let progress = f64::from(step) / 1_000.0;
    let message = quoted(&format!("waiting for the approval of {}", approval_id(decision)));
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":{progress},"message":{message}}}}}"#
    )
    .into_bytes()
}

/// Returns the id under which a person approves the call.
fn approval_id(decision: &Decision) -> &str {
    let request = decision.context.access_request.as_ref();
    request.map_or(&decision.context.evaluation_id, |request| &request.evaluation_id)
}

/// Returns why a call is not allowed, for a model and for people.
pub fn denial_text(decision: &Decision) -> String {
    let context = &decision.context;
    let mut lines = vec![if let Some(request) = decision.refused_request() {
        format!("A person refused this call: {} ({}).", request.evaluation_id, request.message)
    } else if decision.is_ask() {
        format!("This call needs the approval of a person: {}.", approval_id(decision))
    } else {
        format!("This call is not allowed ({}: {}).", context.outcome, context.reason)
    }];
    for policy in &context.policies {
        lines.push(match &policy.title {
            Some(title) => format!("{title} ({})", policy.id),
            None => policy.id.clone(),
        });
    }
    lines.extend(context.remediation.iter().cloned());
    if decision.waits_for_approval() {
        lines.push("Once it is approved, make exactly the same call again.".to_owned());
    }
    if let Some(unavailable) = &context.unavailable {
        lines.push(format!("The state of the session is not known: {}", unavailable.code));
    }
    lines.join("\n")
}

fn summary(decision: &Decision) -> Value {
    let context = &decision.context;
    let policies: Vec<Value> =
        context.policies.iter().map(|policy| json!({ "id": policy.id, "title": policy.title })).collect();
    let mut summary = json!({
        "outcome": context.outcome,
        "reason": context.reason,
        "policies": policies,
        "remediation": context.remediation,
        "evaluation_id": context.evaluation_id,
    });
    if let (Some(request), Some(summary)) = (&context.access_request, summary.as_object_mut()) {
        let request = json!({
            "evaluation_id": request.evaluation_id, "expires_at": request.expires_at, "endpoint": request.endpoint,
        });
        summary.insert("access_request".to_owned(), request);
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(outcome: &str, more: &str) -> Decision {
        Decision::parse(&format!(
            r#"{{"decision": false, "context": {{"outcome": "{outcome}", "reason": "policy", "recorded": true,
                "policies": [{{"id": "read-first", "title": "Read a file before it is written"}}],
                "remediation": ["Read the file."], "evaluation_id": "0192f0c1-0000-7c4d-9e5f-00000000000a"{more}}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn denied_tool_is_a_result_with_the_rule_and_its_remediation() {
        let id = RequestId::Text("a\"1".to_owned());
        let answer: Value =
            serde_json::from_slice(&denied(&id, Target::Tool, &decision("deny", ""), false)).unwrap();
        assert_eq!((&answer["id"], &answer["result"]["isError"]), (&json!("a\"1"), &json!(true)));
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert!(
            text.contains("Read a file before it is written") && text.contains("Read the file."),
            "{text}"
        );
        let meta = &answer["result"]["_meta"][DECISION_META];
        assert_eq!((&meta["outcome"], &meta["policies"][0]["id"]), (&json!("deny"), &json!("read-first")));
        assert!(answer["result"].get("resultType").is_none());
        let modern: Value =
            serde_json::from_slice(&denied(&id, Target::Tool, &decision("deny", ""), true)).unwrap();
        assert_eq!(modern["result"]["resultType"], "complete");
    }

    #[test]
    fn call_that_asks_has_the_id_of_its_approval() {
        let id = RequestId::Number("7".to_owned());
        let request = r#", "access_request": {"evaluation_id": "0192f0c1-0000-7c4d-9e5f-0000000000ff", "expires_at": 7}"#;
        for (more, expected) in [("", "00000000000a"), (request, "0000000000ff")] {
            let decision = decision("ask", more);
            let answer = String::from_utf8(denied(&id, Target::Tool, &decision, false)).unwrap();
            assert!(answer.contains(&format!("0192f0c1-0000-7c4d-9e5f-{expected}.")), "{answer}");
            let progress: Value = serde_json::from_slice(&progress("\"p\"", 2, &decision)).unwrap();
            assert_eq!(
                (&progress["params"]["progressToken"], &progress["params"]["progress"]),
                (&json!("p"), &json!(0.002))
            );
        }
    }

    #[test]
    fn refused_call_says_who_refused_and_is_not_to_be_made_again() {
        let request = r#", "access_request": {"evaluation_id": "0192f0c1-0000-7c4d-9e5f-0000000000ff", "expires_at": 7,
            "state": "refused", "message": "grace refused this call"}"#;
        let text = denial_text(&decision("ask", request));
        assert!(text.starts_with(
            "A person refused this call: 0192f0c1-0000-7c4d-9e5f-0000000000ff (grace refused this call)."
        ));
        assert!(!text.contains("again"), "{text}");
    }

    #[test]
    fn other_denied_request_is_an_error() {
        let id = RequestId::Number("7".to_owned());
        let answer: Value =
            serde_json::from_slice(&denied(&id, Target::Resource, &decision("deny", ""), true)).unwrap();
        assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(DENIED), &json!(7)));
        assert_eq!(answer["error"]["data"][DECISION_META]["outcome"], "deny");
    }

    #[test]
    fn error_escapes_what_it_quotes() {
        let answer: Value = serde_json::from_slice(&error(None, -32600, "found \u{1b}[2J")).unwrap();
        assert_eq!((&answer["id"], &answer["error"]["message"]), (&Value::Null, &json!(r"found \u{1b}[2J")));
    }
}
