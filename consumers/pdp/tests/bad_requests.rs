//! Tests that each kind of invalid request gets its status and a message with its member, and is never allowed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod support;

use serde_json::{Value, json};
use support::{Pdp, example, on_loopback};

const EVALUATION: &str = "/access/v1/evaluation";
const EVALUATIONS: &str = "/access/v1/evaluations";
const SUBJECT: &str = "/access/v1/search/subject";
const RESOURCE: &str = "/access/v1/search/resource";
const ACTION: &str = "/access/v1/search/action";

fn pdp() -> Pdp {
    Pdp::start(on_loopback(), example("certification"))
}

/// Returns a request that is allowed.
fn allowed() -> Value {
    json!({
        "subject": {"type": "user", "id": "alice"},
        "action": {"name": "read"},
        "resource": {"type": "record", "id": "record-1"},
    })
}

/// Returns the allowed request with another value at a path.
fn with(path: &str, value: Value) -> Value {
    let mut request = allowed();
    let pointer = format!("/{}", path.replace('.', "/"));
    match request.pointer_mut(&pointer) {
        Some(place) => *place = value,
        None => {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            request.pointer_mut(parent).unwrap()[key] = value;
        }
    }
    request
}

/// Returns the allowed request without a member.
fn without(path: &str) -> Value {
    let mut request = allowed();
    let pointer = format!("/{}", path.replace('.', "/"));
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    request.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
    request
}

/// Asserts that a body is rejected with 400 and a message that contains `named`.
fn refused(pdp: &Pdp, path: &str, body: &str, named: &str) {
    let (status, text) = pdp.post(path, body);
    assert_eq!(status, 400, "{path} {body}: {text}");
    assert!(text.contains(named), "{path} {body}: expected {named}, found {text}");
    assert!(!text.contains("decision"), "{text}");
}

#[test]
fn request_of_another_content_type_is_400() {
    let pdp = pdp();
    let url = format!("{}{EVALUATION}", pdp.url);
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/jsonx"),
        Some(""),
    ] {
        let mut request = pdp.client.post(&url).body(allowed().to_string());
        if let Some(content_type) = content_type {
            request = request.header("Content-Type", content_type);
        }
        let response = request.send().unwrap();
        assert_eq!(response.status(), 400, "{content_type:?}");
        assert!(response.text().unwrap().contains("Content-Type"));
    }
    for (first, second) in [
        ("application/json", "text/plain"),
        ("text/plain", "application/json"),
        ("application/json", "application/json"),
    ] {
        let request = pdp.client.post(&url).header("Content-Type", first).header("Content-Type", second);
        let response = request.body(allowed().to_string()).send().unwrap();
        assert_eq!(response.status(), 400, "{first}, {second}");
        assert!(response.text().unwrap().contains("Content-Type"));
    }
    let with_charset = pdp.client.post(&url).header("Content-Type", "Application/JSON; charset=utf-8");
    assert_eq!(with_charset.body(allowed().to_string()).send().unwrap().status(), 200);
}

#[test]
fn body_that_is_no_json_is_400() {
    let pdp = pdp();
    for (body, named) in [
        ("", "empty body"),
        (" \n", "empty body"),
        ("{", "expected JSON"),
        ("{} {}", "expected JSON"),
        ("{'subject': 1}", "expected JSON"),
        ("[]", "expected a JSON object"),
        ("null", "expected a JSON object"),
        ("\"x\"", "expected a JSON object"),
    ] {
        for path in [EVALUATION, EVALUATIONS, SUBJECT, RESOURCE, ACTION] {
            refused(&pdp, path, body, named);
        }
    }
    let deep = format!("{{\"a\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    refused(&pdp, EVALUATION, &deep, "expected JSON");
}

#[test]
fn arguments_within_arguments_without_end_are_400() {
    let pdp = pdp();
    let levels = 40_000;
    let nested = format!("{}1{}", r#"{"context":{"arguments":"#.repeat(levels), "}}".repeat(levels));
    for path in [EVALUATION, EVALUATIONS, SUBJECT, RESOURCE, ACTION] {
        refused(&pdp, path, &nested, "expected JSON");
    }
    assert_eq!(pdp.ask(EVALUATION, &allowed())["decision"], true);
}

#[test]
fn member_of_another_type_is_400_and_named() {
    let pdp = pdp();
    for path in [
        "subject",
        "action",
        "resource",
        "context",
        "subject.type",
        "subject.id",
        "action.name",
        "resource.type",
        "resource.id",
        "subject.properties",
        "action.properties",
        "resource.properties",
    ] {
        let is_text = path.ends_with("type") || path.ends_with("id") || path.ends_with("name");
        let wrong = [Value::Null, json!(true), json!(123), json!([]), json!({}), json!("text")];
        for value in
            wrong.iter().filter(|value| if is_text { !value.is_string() } else { !value.is_object() })
        {
            refused(&pdp, EVALUATION, &with(path, value.clone()).to_string(), &format!("`{path}`"));
            refused(&pdp, EVALUATIONS, &with(path, value.clone()).to_string(), &format!("`{path}`"));
        }
    }
    for (member, value, named) in [
        ("evaluations", json!({}), "`evaluations`"),
        ("evaluations", json!([{}, 7]), "`evaluations[1]`"),
        ("options", json!("execute_all"), "`options`"),
        ("options", json!({"evaluations_semantic": 1}), "`options.evaluations_semantic`"),
        ("options", json!({"evaluations_semantic": "first"}), "`options.evaluations_semantic`"),
    ] {
        refused(&pdp, EVALUATIONS, &with(member, value).to_string(), named);
    }
    for (value, named) in [
        (json!(1), "`page`"),
        (json!({"token": 1}), "`page.token`"),
        (json!({"token": "mine"}), "`page.token`"),
        (json!({"limit": 0}), "`page.limit`: expected a whole number, 1 or more, found 0"),
        (json!({"limit": -1}), "`page.limit`"),
        (json!({"limit": 1.5}), "`page.limit`"),
        (json!({"limit": "1"}), "`page.limit`"),
    ] {
        for path in [SUBJECT, RESOURCE, ACTION] {
            refused(&pdp, path, &with("page", value.clone()).to_string(), named);
        }
    }
}

#[test]
fn missing_member_is_400_and_named() {
    let pdp = pdp();
    for path in [
        "subject",
        "action",
        "resource",
        "subject.type",
        "subject.id",
        "action.name",
        "resource.type",
        "resource.id",
    ] {
        refused(&pdp, EVALUATION, &without(path).to_string(), &format!("`{path}`"));
        refused(&pdp, EVALUATIONS, &without(path).to_string(), &format!("`{path}`"));
    }
    for (path, member) in [
        (SUBJECT, "subject"),
        (SUBJECT, "subject.type"),
        (SUBJECT, "action"),
        (SUBJECT, "action.name"),
        (SUBJECT, "resource.id"),
        (RESOURCE, "subject.id"),
        (RESOURCE, "resource.type"),
        (RESOURCE, "action"),
        (ACTION, "subject.id"),
        (ACTION, "resource"),
        (ACTION, "resource.id"),
    ] {
        refused(&pdp, path, &without(member).to_string(), &format!("`{member}`"));
    }
}

#[test]
fn key_that_stands_twice_is_400_and_named() {
    let pdp = pdp();
    let body = allowed().to_string();
    for (from, to, named) in [
        (r#""id":"alice""#, r#""id":"bob","id":"alice""#, "`subject.id`"),
        (r#""subject":{"#, r#""subject":{},"subject":{"#, "`subject`"),
        (
            r#""name":"read""#,
            r#""name":"read","properties":{"a":[{"b":1,"b":1}]}"#,
            "`action.properties.a[0].b`",
        ),
        (r#""subject":{"#, r#""unknown":{"x":{"y":1,"y":2}},"subject":{"#, "`unknown.x.y`"),
        (
            r#""subject":{"#,
            r#""context":{"arguments":{"x":1,"\u0078":2}},"subject":{"#,
            "`context.arguments.x`",
        ),
    ] {
        assert!(body.contains(from), "{body}");
        let twice = body.replacen(from, to, 1);
        for path in [EVALUATION, EVALUATIONS, SUBJECT, RESOURCE, ACTION] {
            refused(&pdp, path, &twice, named);
        }
    }
    let twice =
        format!(r#"{{"evaluations": [{{}}, {{"resource": {{"id": "1", "id": "2"}}}}], {}"#, &body[1..]);
    refused(&pdp, EVALUATIONS, &twice, "`evaluations[1].resource.id`");
}

#[test]
fn body_beyond_the_limit_is_413() {
    let pdp = pdp();
    for megabytes in [2, 10] {
        let body = json!({"padding": "x".repeat(megabytes << 20)}).to_string();
        let (status, text) = pdp.post(EVALUATION, body);
        assert_eq!(status, 413, "{text}");
        assert!(text.contains(&agentgov_pdp::MAX_BODY_BYTES.to_string()), "{text}");
    }
    // Other requests on the same connection are answered.
    assert_eq!(pdp.ask(EVALUATION, &allowed())["decision"], true);
    let large = with("padding", json!("x".repeat(900 << 10)));
    assert_eq!(pdp.ask(EVALUATION, &large)["decision"], true);
}

#[test]
fn more_evaluations_than_the_limit_are_400() {
    let pdp = pdp();
    let batch = |count: usize| with("evaluations", json!(vec![json!({}); count])).to_string();
    refused(&pdp, EVALUATIONS, &batch(agentgov_pdp::MAX_EVALUATIONS + 1), "`evaluations`");
    assert_eq!(pdp.post(EVALUATIONS, batch(agentgov_pdp::MAX_EVALUATIONS)).0, 200);
}

#[test]
fn unknown_path_is_404_and_other_method_405() {
    let pdp = pdp();
    for path in ["/", "/access/v1", "/access/v1/evaluation/", "/access/v2/evaluation", "/access/v1/search"] {
        assert_eq!(pdp.post(path, allowed().to_string()).0, 404, "{path}");
    }
    for path in [EVALUATION, EVALUATIONS, SUBJECT, RESOURCE, ACTION] {
        let response = pdp.get(path);
        assert_eq!(
            (response.status().as_u16(), &response.headers()["allow"]),
            (405, &"POST".parse().unwrap())
        );
    }
    assert_eq!(pdp.post("/.well-known/authzen-configuration", "{}").0, 405);
}

#[test]
fn unknown_members_are_ignored() {
    let pdp = pdp();
    let mut request = allowed();
    for (pointer, key) in [("", "futureField"), ("/subject", "label"), ("/action", "x"), ("/resource", "y")] {
        request.pointer_mut(pointer).unwrap()[key] = json!({"nested": [true]});
    }
    assert_eq!(pdp.ask(EVALUATION, &request)["decision"], true);
}

#[test]
fn unknown_subject_action_resource_or_type_is_no_allow() {
    let pdp = pdp();
    for (path, value) in [
        ("subject.id", "mallory"),
        ("subject.id", "ALICE"),
        ("subject.id", ""),
        ("subject.type", "spaceship"),
        ("subject.type", "Action"),
        ("subject.type", "a b\u{0}"),
        ("resource.id", "record-9"),
        ("resource.type", "user"),
        ("action.name", "drop"),
        ("action.name", "read\" || true"),
    ] {
        let answer = pdp.ask(EVALUATION, &with(path, json!(value)));
        assert_eq!(answer["decision"], false, "{path} {value}: {answer}");
        assert_eq!(answer["context"]["outcome"], "deny");
    }
}

#[test]
fn declared_property_of_another_type_is_indeterminate() {
    let pdp = pdp();
    let archived = |status: Value| {
        let mut request = with("action.name", json!("write"));
        request["resource"]["properties"] = json!({"status": status});
        pdp.ask(EVALUATION, &request)
    };
    assert_eq!(archived(json!("active"))["decision"], true);
    for status in [json!(null), json!(7), json!(["archived"]), json!({"x": "archived"}), json!(true)] {
        let answer = archived(status.clone());
        assert_eq!(answer["decision"], false, "{status}: {answer}");
        assert_eq!(answer["context"]["outcome"], "indeterminate");
        assert_eq!(answer["context"]["errors"][0]["at"], "resource.properties.status", "{answer}");
    }
}
