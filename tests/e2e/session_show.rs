//! Tests of `session show`, as text and as JSON.

use serde_json::Value;

use crate::checks;
use crate::stack::{AGENT, ENVIRONMENT, describe, stack};

const TENANT: &str = "shown";

#[test]
fn session_is_shown_in_order_with_verdicts_and_known_values() {
    let stack = stack();
    let import = [
        "--json",
        "import",
        "chat-completions",
        "examples/airline/runs.jsonl",
        "--tenant",
        TENANT,
        "--agent",
        AGENT,
    ];
    let imported: Value =
        serde_json::from_str(&stack.run(&[&import[..], &["--environment", ENVIRONMENT]].concat())).unwrap();
    checks::assert_complete(stack, TENANT, imported["events"].as_i64().unwrap() + 1);

    // A session with a violation.
    let violated = format!(
        "SELECT session_id, session_label, violations.policy[1] FROM verdicts
         WHERE tenant_id = '{TENANT}' AND notEmpty(violations.policy) ORDER BY origin_partition, origin_offset LIMIT 1"
    );
    let [session, label, policy] = stack.rows(&violated).remove(0).try_into().unwrap();
    let show = ["session", "show", &label, "--tenant", TENANT];
    let story = stack.run(&show);

    let events = format!(
        "SELECT type, concat(topic, '/', toString(partition), '@', toString(offset), '  ', source_id, '#', toString(source_sequence))
         FROM actions
         WHERE tenant_id = '{TENANT}' AND session_id = '{session}' ORDER BY partition, offset"
    );
    let events = stack.rows(&events);
    let mut rest = story.as_str();
    for event in &events {
        let at = rest
            .find(&event[1])
            .unwrap_or_else(|| panic!("{event:?} is not shown, or out of order, in\n{story}"));
        assert!(rest[..at].lines().last().unwrap().contains(&event[0]), "{event:?}\n{story}");
        rest = &rest[at..];
    }
    assert!(
        story.starts_with(&format!("session {label}\n  id {session} · tenant {TENANT} · agent {AGENT}\n")),
        "{story}"
    );
    let verdicts =
        format!("SELECT count() FROM verdicts WHERE tenant_id = '{TENANT}' AND session_id = '{session}'");
    assert_eq!(story.matches("\n  verdict ").count(), usize::try_from(stack.number(&verdicts)).unwrap());
    let (_, violation) = story.split_once(&format!("violates {policy}\n")).unwrap();
    assert!(violation.trim_start().split_once('\n').unwrap().0.contains(".cedar:"), "{violation}");
    let text = [format!("@id(\"{policy}\")"), "forbid (".into()];
    assert!(
        text.iter().all(|part| violation.contains(part.as_str())),
        "the policy's text is missing in\n{story}"
    );
    let known = format!(
        "SELECT arrayJoin(JSONExtractKeys(known, 'derived')) FROM verdicts
         WHERE tenant_id = '{TENANT}' AND session_id = '{session}'"
    );
    let known = stack.rows(&known);
    assert!(!known.is_empty());
    for name in known {
        assert!(story.contains(&format!("known {} = ", name[0])), "{name:?} is missing in\n{story}");
    }

    // The id gives the same text, and the same content as JSON.
    assert_eq!(stack.run(&["session", "show", &session]), story);
    let json: Value = serde_json::from_str(&stack.run(&[&show[..], &["--json"]].concat())).unwrap();
    assert_eq!(
        (&json["session"]["session_id"], &json["session"]["tenant_id"]),
        (&session.into(), &TENANT.into())
    );
    let types: Vec<&str> = json["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["event"]["event_type"].as_str().unwrap())
        .collect();
    assert_eq!(types, events.iter().map(|event| event[0].as_str()).collect::<Vec<_>>());
    assert!(json["entries"].as_array().unwrap().iter().any(|e| e["verdict"]["violations"][0] == policy));
}

#[test]
fn missing_session_is_an_error() {
    let output = stack().command(&["session", "show", "no-such-session"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", describe(&output));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("expected a session with the id or label `no-such-session`"), "{message}");
}
