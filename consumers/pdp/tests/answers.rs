//! Tests of responses, and of the server's behaviour around them.
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

fn request(subject: &str, action: &str, resource: &str) -> Value {
    json!({
        "subject": {"type": "user", "id": subject},
        "action": {"name": action},
        "resource": {"type": "record", "id": resource},
    })
}

#[test]
fn answer_names_outcome_reason_policies_bundle_and_that_nothing_is_recorded() {
    let bundle = example("certification");
    let digest = bundle.digest().to_string();
    let pdp = Pdp::start(on_loopback(), bundle);
    let answer = pdp.ask(EVALUATION, &request("alice", "write", "record-2"));
    let context = &answer["context"];
    assert_eq!(answer["decision"], false);
    assert_eq!((&context["outcome"], &context["reason"]), (&json!("deny"), &json!("policy")));
    assert_eq!(context["policies"][0]["id"], "archived-is-closed");
    assert_eq!(context["remediation"], json!(["Ask an administrator, or restore the record first."]));
    assert_eq!(
        (&context["bundle"]["name"], &context["bundle"]["digest"]),
        (&json!("authzen-certification"), &json!(digest))
    );
    assert_eq!(context["recorded"], false);
    let again = pdp.ask(EVALUATION, &request("alice", "write", "record-2"));
    assert_ne!(again["context"]["evaluation_id"], context["evaluation_id"]);
    let denied = pdp.ask(EVALUATION, &request("bob", "write", "record-1"));
    assert_eq!((&denied["decision"], &denied["context"]["reason"]), (&json!(false), &json!("no_grant")));
    let allowed = pdp.ask(EVALUATION, &request("alice", "read", "record-1"));
    assert_eq!(
        (&allowed["decision"], &allowed["context"]["policies"][0]["id"]),
        (&json!(true), &json!("staff-reads"))
    );
}

#[test]
fn batch_ends_as_its_semantic_says() {
    let pdp = Pdp::start(on_loopback(), example("certification"));
    // Denied, allowed, incomplete, allowed.
    let batch = |semantic: Option<&str>| {
        let mut batch = json!({
            "subject": {"type": "user", "id": "bob"},
            "action": {"name": "read"},
            "evaluations": [
                {"action": {"name": "write"}, "resource": {"type": "record", "id": "record-1"}},
                {"resource": {"type": "record", "id": "record-1"}},
                {},
                {"resource": {"type": "record", "id": "record-2"}},
            ],
        });
        if let Some(semantic) = semantic {
            batch["options"] = json!({"evaluations_semantic": semantic, "another": 1});
        }
        let answer = pdp.ask(EVALUATIONS, &batch);
        assert!(answer.get("decision").is_none());
        answer["evaluations"].as_array().unwrap().clone()
    };
    let decisions =
        |items: &[Value]| items.iter().map(|item| item["decision"].as_bool().unwrap()).collect::<Vec<_>>();
    let all = batch(None);
    assert_eq!(decisions(&all), [false, true, false, true]);
    assert_eq!(all[2]["context"]["error"]["status"], 400);
    assert!(all[2]["context"]["error"]["message"].as_str().unwrap().contains("`evaluations[2].resource`"));
    assert_eq!(decisions(&batch(Some("execute_all"))), decisions(&all));
    assert_eq!(decisions(&batch(Some("deny_on_first_deny"))), [false]);
    assert_eq!(decisions(&batch(Some("permit_on_first_permit"))), [false, true]);

    // An error denies.
    let incomplete = json!({
        "subject": {"type": "user", "id": "alice"},
        "action": {"name": "read"},
        "options": {"evaluations_semantic": "deny_on_first_deny"},
        "evaluations": [{"resource": {"type": "record", "id": "record-1"}}, {}, {}],
    });
    let answer = pdp.ask(EVALUATIONS, &incomplete);
    assert_eq!(decisions(answer["evaluations"].as_array().unwrap()), [true, false]);
}

#[test]
fn search_goes_on_page_by_page() {
    let pdp = Pdp::start(on_loopback(), example("certification"));
    let mut search = json!({
        "subject": {"type": "user", "id": "alice", "properties": {"role": "x"}},
        "action": {"name": "read"},
        "resource": {"type": "record", "id": "ignored"},
        "page": {"limit": 1},
    });
    let mut found = Vec::new();
    for _ in 0..9 {
        let answer = pdp.ask("/access/v1/search/resource", &search);
        assert!(answer["page"]["count"].as_u64().unwrap() <= 1);
        found.extend(answer["results"].as_array().unwrap().clone());
        let token = answer["page"]["next_token"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
        search["page"] = json!({"token": token});
    }
    assert_eq!(
        found,
        [json!({"type": "record", "id": "record-1"}), json!({"type": "record", "id": "record-2"})]
    );
    let (status, text) = pdp.post("/access/v1/search/subject", search.to_string());
    assert!(status == 400 && text.contains("`page.token`"), "{status} {text}");
}

#[test]
fn request_id_is_echoed_by_answers_and_errors() {
    let pdp = Pdp::start(on_loopback(), example("certification"));
    let body = request("alice", "read", "record-1").to_string();
    for (path, body) in [(EVALUATION, body.as_str()), (EVALUATION, "{"), ("/nowhere", "")] {
        let response = pdp.request(path, body).header("X-Request-ID", "id of the caller-7").send().unwrap();
        assert_eq!(response.headers()["x-request-id"], "id of the caller-7", "{path}");
    }
    assert!(pdp.request(EVALUATION, body).send().unwrap().headers().get("x-request-id").is_none());
}

#[test]
fn metadata_names_https_urls_of_the_host_that_was_asked() {
    let pdp = Pdp::start(on_loopback(), example("certification"));
    let response = pdp.get("/.well-known/authzen-configuration");
    assert_eq!(response.headers()["content-type"], "application/json");
    let metadata: Value = serde_json::from_str(&response.text().unwrap()).unwrap();
    let base = pdp.url.replace("http://", "https://");
    assert_eq!(metadata["policy_decision_point"], base);
    for (member, path) in [
        ("access_evaluation_endpoint", "evaluation"),
        ("access_evaluations_endpoint", "evaluations"),
        ("search_subject_endpoint", "search/subject"),
        ("search_resource_endpoint", "search/resource"),
        ("search_action_endpoint", "search/action"),
    ] {
        assert_eq!(metadata[member], format!("{base}/access/v1/{path}"));
    }
    let config =
        agentgov_pdp::ServerConfig { url: Some("https://pdp.example.com/a/".to_owned()), ..on_loopback() };
    let pdp = Pdp::start(config, example("certification"));
    let text = pdp.get("/.well-known/authzen-configuration/a").text().unwrap();
    let metadata: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(metadata["policy_decision_point"], "https://pdp.example.com/a");
}

#[test]
fn health_and_metrics_are_on_the_same_address() {
    let pdp = Pdp::start(on_loopback(), example("certification"));
    pdp.ask(EVALUATION, &request("alice", "read", "record-1"));
    pdp.post(EVALUATION, "{");
    assert_eq!(pdp.get("/readyz").text().unwrap(), "ready\n");
    assert_eq!(pdp.get("/livez").text().unwrap(), "live\n");
    let metrics = pdp.get("/metrics").text().unwrap();
    for line in [
        "agentgov_ready{stage=\"pdp\"} 1",
        "agentgov_decisions_total{outcome=\"allow\",reason=\"granted\"}",
        "agentgov_requests_refused_total{status=\"400\"}",
        "agentgov_decision_seconds_count",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[test]
fn requests_in_work_are_answered_when_it_stops() {
    use std::io::{Read as _, Write as _};
    let pdp = Pdp::start(on_loopback(), example("certification"));
    let body = request("alice", "read", "record-1").to_string();
    let address = pdp.url.trim_start_matches("http://").to_owned();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    let (first, second) = body.split_at(10);
    let head = format!(
        "POST {EVALUATION} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The server reads the body now: the request is in progress.
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert!(interim.starts_with(b"HTTP/1.1 100"));
    stream.write_all(first.as_bytes()).unwrap();
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| pdp.stop());
        // The server accepts no more connections.
        while std::net::TcpStream::connect(&address).is_ok() {
            std::thread::yield_now();
        }
        stream.write_all(second.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"decision\":true"), "{answer}");
        stopping.join().unwrap();
    });
}

/// Tests that docs/CONTROL.md shows a request by curl and its actual response.
#[test]
fn documented_request_has_the_documented_answer() {
    let text = std::fs::read_to_string(agentgov_test_support::root().join("docs/CONTROL.md")).unwrap();
    let asked = text.split("evaluation -H 'Content-Type: application/json' -d '").nth(1).unwrap();
    let request: Value = serde_json::from_str(asked.split('\'').next().unwrap()).unwrap();
    let shown = asked.split("```json\n").nth(1).unwrap();
    let mut shown: Value = serde_json::from_str(shown.split("```").next().unwrap()).unwrap();
    let pdp = Pdp::start(on_loopback(), example("certification"));
    let answer = pdp.ask(EVALUATION, &request);
    // These members differ from run to run, or from version to version of the example.
    for member in ["/context/evaluation_id", "/context/bundle/digest"] {
        *shown.pointer_mut(member).unwrap() = answer.pointer(member).unwrap().clone();
    }
    assert_eq!(answer, shown);
}
