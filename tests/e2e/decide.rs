//! Tests `agentgov pdp` with the state of the log: each call is decided before it is recorded, its verdict equals the
//! decision, and each decision is in the log.

use std::path::Path;

use agentgov_schemas::Micros;
use agentgov_schemas::catalogue;
use agentgov_schemas::event::Agent;
use agentgov_sdk::{Content, Event, Message, Receipt, Recorder, ToolCall, ToolResult};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bundles::Folder;
use crate::stack::{AGENT, DEADLINE, ENVIRONMENT, Stack, stack};
use crate::status::{Process, get};

const OCCURRED_AT: Micros = Micros(1_715_785_200_000_000);
const RESERVATION: &str = r#"{"reservation_id":"R1","user_id":"u1","cabin":"basic_economy","insurance":"no",
    "created_at":"2024-05-01T00:00:00","flights":[],"passengers":[{}],"total_baggages":2}"#;
pub const TOKEN: &str = "token-that-nobody-guesses";

/// A decision point, its folder, and its client's token.
pub struct Pdp {
    process: Process,
    folder: TempDir,
    client: reqwest::blocking::Client,
}

impl Pdp {
    /// Starts a decision point for `tenant` with a signing key.
    pub fn start(stack: &'static Stack, tenant: &str, environment: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key.json");
        stack.run(&[
            "registry",
            "key",
            "new",
            "--kind",
            "pdp",
            "--name",
            tenant,
            "--out",
            key.to_str().unwrap(),
        ]);
        let digest = agentgov_schemas::Digest::of(TOKEN.as_bytes());
        let callers = format!(
            "callers:\n  - name: gateway\n    token_sha256: \"{digest}\"\n    tenant: {tenant}\n    environment: {environment}\n"
        );
        std::fs::write(folder.path().join("callers.yaml"), callers).unwrap();
        let process = Self::process(stack, folder.path());
        Self { process, folder, client: reqwest::blocking::Client::new() }
    }

    fn process(stack: &'static Stack, folder: &Path) -> Process {
        let process = Self::spawn(stack, folder);
        stack.eventually("the decision point is ready", || get(&process.url("readyz")).0 == 200);
        process
    }

    fn spawn(stack: &'static Stack, folder: &Path) -> Process {
        let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let (key, callers, spool) = (file("key.json"), file("callers.yaml"), file("spool"));
        let options = ["--signing-key", &key, "--callers", &callers, "--spool", &spool];
        Process::start(stack.command(&[&["pdp", "--listen", "127.0.0.1:0"], &options[..]].concat()))
    }

    /// Kills the process, and starts another one on the same spool.
    pub fn restart(&mut self, stack: &'static Stack) {
        self.process.kill();
        self.process = Self::process(stack, self.folder.path());
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        self.process.address.clone()
    }

    /// Sends a question. Returns status and body.
    pub fn ask(&self, question: &Value, token: &str) -> (u16, Value) {
        self.post("access/v1/evaluation", question, token)
    }

    /// Sends a request. Returns status and body.
    pub fn post(&self, path: &str, request: &Value, token: &str) -> (u16, Value) {
        let url = self.process.url(path);
        let answer = self.client.post(url).bearer_auth(token).json(request).send().unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Searches resources. Returns the page.
    pub fn search(&self, search: &Value) -> Value {
        let url = self.process.url("access/v1/search/resource");
        self.client.post(url).bearer_auth(TOKEN).json(search).send().unwrap().json().unwrap()
    }

    /// Waits until a call is judged with its decision: the evaluator may read the decision point's key later than its first
    /// calls. Records calls in sessions `probe-1` and so on.
    pub fn wait_until_key_is_known(&self, stack: &Stack, tenant: &str, recorder: &Recorder) {
        let mut probes = 0;
        stack.eventually("the evaluator knows the key", || {
            probes += 1;
            let session = format!("probe-{probes}");
            let (status, answer) = self.ask(&question(&session, "c1", "think", "{}", None), TOKEN);
            assert_eq!((status, &answer["decision"]), (200, &json!(true)), "{answer}");
            let arguments = Content { data: b"{}", media_type: "application/json" };
            let decision_token = answer["context"]["token"].as_str();
            let tool = ToolCall { decision_token, ..ToolCall::new("think", "c1", arguments) };
            let call = Event::new(catalogue::TOOL_INVOKED, &session, Agent::new(AGENT));
            recorder.record(&Event { tool: Some(tool), ..call }).unwrap();
            let findings = format!(
                "SELECT prior_decision_finding FROM verdicts WHERE tenant_id = '{tenant}' AND session_id = '{session}'"
            );
            let mut found = Vec::new();
            stack.eventually("the probe is judged", || {
                found = stack.rows(&findings);
                !found.is_empty()
            });
            found == [["matched"]]
        });
    }
}

/// Returns the question about a call of `tool` in a session.
pub fn question(
    session: &str,
    call_id: &str,
    tool: &str,
    arguments: &str,
    after: Option<(&str, i64)>,
) -> Value {
    let mut context = json!({
        "session": session,
        "call_id": call_id,
        "arguments": arguments,
        "message": { "id": call_id, "role": "assistant", "has_text": call_id == "c2", "tool_calls": 1 },
        "time": OCCURRED_AT.0,
    });
    if let Some((source, sequence)) = after {
        context["after"] = json!({ "source": source, "sequence": sequence });
    }
    json!({
        "subject": { "type": "agent", "id": AGENT, "properties": { "roles": ["administrator"] } },
        "action": { "name": "tools/call" },
        "resource": { "type": "tool", "id": tool },
        "context": context,
    })
}

/// Records a call with the token of its decision, and the call's result. Returns the receipt of the result.
fn record(recorder: &Recorder, session: &str, call: (&str, &str, &str, &str), token: &str) -> Receipt {
    let (call_id, tool, arguments, result) = call;
    let event =
        |r#type| Event { occurred_at: Some(OCCURRED_AT), ..Event::new(r#type, session, Agent::new(AGENT)) };
    let json = |text: &'static str| Content { data: text.as_bytes(), media_type: "application/json" };
    let arguments = Content { data: arguments.as_bytes(), media_type: "application/json" };
    let has_text = call_id == "c2";
    let message = Message { id: call_id, role: "assistant", has_text, tool_calls: 1, content: None };
    let tool = ToolCall { decision_token: Some(token), ..ToolCall::new(tool, call_id, arguments) };
    recorder
        .record(&Event { message: Some(message), tool: Some(tool), ..event(catalogue::TOOL_INVOKED) })
        .unwrap();
    let content = if result == "null" { json("null") } else { json(RESERVATION) };
    let result = ToolResult { call_id, name: None, is_error: None, content };
    recorder.record(&Event { result: Some(result), ..event(catalogue::TOOL_RESPONSE_RECEIVED) }).unwrap()
}

#[test]
fn each_call_is_decided_as_its_verdict_and_each_decision_is_logged() {
    const TENANT: &str = "inline";
    let stack = stack();
    stack.register(&[TENANT]);
    let mut pdp = Pdp::start(stack, TENANT, ENVIRONMENT);
    let recorder = stack.recorder(TENANT, ENVIRONMENT);
    pdp.wait_until_key_is_known(stack, TENANT, &recorder);
    let of_tenant = format!("tenant_id = '{TENANT}' AND NOT startsWith(session_id, 'probe-')");
    let (mut decided, mut asked) = (Vec::new(), 0);
    for session in ["one", "two"] {
        let started = Event::new(catalogue::SESSION_STARTED, session, Agent::new(AGENT));
        let mut last = recorder.record(&Event { occurred_at: Some(OCCURRED_AT), ..started }).unwrap();
        for call in [
            ("c1", "get_reservation_details", r#"{"reservation_id":"R1"}"#, RESERVATION),
            ("c2", "cancel_reservation", r#"{"reservation_id":"R1"}"#, "null"),
            ("c3", "cancel_reservation", r#"{"reservation_id":"R2"}"#, "null"),
            ("c4", "no_such_tool", "{", "null"),
        ] {
            let after = Some((recorder.source_id(), last.sequence));
            let question = question(session, call.0, call.1, call.2, after);
            // On a busy machine the last event may arrive too late: then the caller asks again.
            let mut answered = None;
            stack.eventually("the last event is known", || {
                asked += 1;
                let (status, answer) = pdp.ask(&question, TOKEN);
                let is_known = answer["context"]["reason"] != "unavailable";
                answered = Some((status, answer));
                is_known
            });
            let (status, answer) = answered.unwrap();
            let context = &answer["context"];
            assert_eq!((status, &context["recorded"]), (200, &json!(true)), "{answer}");
            assert_eq!(answer["decision"] == true, context["outcome"] == "allow");
            let token = context["token"].as_str().unwrap();
            assert_eq!(token.split('.').count(), 3, "{token}");
            let text = |name: &str| context[name].as_str().unwrap().to_owned();
            decided.push([text("outcome"), text("reason"), text("evaluation_id"), token.to_owned()]);
            last = record(&recorder, session, call, token);
            if call.0 == "c2" {
                pdp.restart(stack);
            }
        }
    }
    recorder.close(DEADLINE).unwrap();

    let verdicts = "SELECT decision, reason, lower(hex(known_digest)), prior_decision_finding, prior_decision_id, \
                    prior_decision_outcome FROM verdicts";
    let verdicts = format!("{verdicts} WHERE {of_tenant} ORDER BY session_id, call_index");
    let mut found = Vec::new();
    stack.eventually("every call has a verdict", || {
        found = stack.rows(&verdicts);
        found.len() == decided.len()
    });
    let outcomes: Vec<&[String]> = decided.iter().map(|decided| &decided[..2]).collect();
    assert_eq!(found.iter().map(|verdict| &verdict[..2]).collect::<Vec<_>>(), outcomes);
    for outcome in ["allow", "deny"] {
        assert!(outcomes.iter().any(|decided| decided[0] == outcome), "{outcomes:?}");
    }

    let decisions = "SELECT DISTINCT decision, decision_reason, decision_id, lower(hex(decision_known_digest)), decided_by, \
                     decision_caller, tool_name, agent_id, event_id FROM actions";
    let decisions = format!("{decisions} WHERE {of_tenant} AND type = 'decision.made'");
    let mut logged = Vec::new();
    stack.eventually("every decision is logged", || {
        logged = stack.rows(&decisions);
        logged.len() >= asked
    });
    // A killed process leaves events without an acknowledgement. They are sent again with the same ids.
    assert_eq!(logged.len(), asked);
    for ([outcome, reason, id, token], verdict) in decided.iter().zip(&found) {
        let row = logged.iter().find(|row| row[2] == *id).unwrap_or_else(|| panic!("no decision {id}"));
        assert_eq!((&row[0], &row[1]), (outcome, reason));
        assert_eq!(row[3], verdict[2], "what was known is what the evaluator knew");
        assert_eq!((verdict[3].as_str(), &verdict[4], &verdict[5]), ("matched", id, outcome));
        assert_eq!((row[4].as_str(), row[5].as_str(), row[7].as_str()), ("pdp", "gateway", AGENT));
        let calls = format!(
            "SELECT tool_name FROM actions WHERE tenant_id = '{TENANT}' AND decision_token = '{token}'"
        );
        assert_eq!(stack.rows(&calls), [[row[6].clone()]], "the call has the token of its decision");
    }

    // The results of refused calls are recorded nevertheless.
    let refused = outcomes.iter().filter(|decided| decided[0] != "allow").count();
    let alerts = format!(
        "SELECT uniqExactIf(alert_id, policy = 'agentgov:refused'), countIf(policy != 'agentgov:refused' AND NOT prevented) \
         FROM alerts WHERE {of_tenant}"
    );
    stack.eventually(
        "each answer to a refused call has an alert, and each other alert says prevented",
        || stack.rows(&alerts) == [[refused.to_string(), "0".to_owned()]],
    );
}

#[test]
fn what_is_not_known_is_never_allowed() {
    const TENANT: &str = "inline-unknown";
    let stack = stack();
    stack.register(&[TENANT]);
    let pdp = Pdp::start(stack, TENANT, ENVIRONMENT);
    let ask = |change: &dyn Fn(&mut Value)| {
        let mut question = question("s", "c1", "think", "{}", None);
        change(&mut question);
        pdp.ask(&question, TOKEN)
    };
    let (status, answer) = ask(&|_| ());
    assert_eq!((status, &answer["decision"]), (200, &json!(true)), "{answer}");

    let (_, answer) = ask(&|q| q["context"]["after"] = json!({ "source": "nobody", "sequence": 7 }));
    assert_eq!((&answer["decision"], &answer["context"]["reason"]), (&json!(false), &json!("unavailable")));
    assert_eq!(answer["context"]["unavailable"]["code"], "not_arrived");
    let (_, answer) = ask(&|q| q["subject"]["id"] = json!("nobody"));
    assert_eq!((&answer["decision"], &answer["context"]["reason"]), (&json!(false), &json!("no_grant")));
    let (_, answer) = ask(&|q| q["resource"]["id"] = json!("no_such_tool"));
    assert_eq!(answer["decision"], false, "{answer}");
    for (member, value) in [("subject", json!("agent")), ("action", json!({ "name": "read" }))] {
        assert_eq!(ask(&|q| q[member] = value.clone()).0, 400, "{member}");
    }
    assert_eq!(pdp.ask(&question("s", "c1", "think", "{}", None), "another-token").0, 401);

    // Without callers, the request names the tenant, and its source is opened by the first decision.
    let spool = pdp.folder.path().join("open");
    let args = ["pdp", "--listen", "127.0.0.1:0", "--spool", spool.to_str().unwrap()];
    let open = Process::start(stack.command(&args));
    stack.eventually("the open decision point is ready", || get(&open.url("readyz")).0 == 200);
    let mut question = question("s", "c1", "think", "{}", None);
    let ask = |question: &Value| {
        let answer = pdp.client.post(open.url("access/v1/evaluation")).json(question).send().unwrap();
        let text = answer.text().unwrap();
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    };
    assert_eq!(ask(&question), "`context.tenant`: expected a text, found none\n");
    question["context"]["tenant"] = json!(TENANT);
    question["context"]["environment"] = json!(ENVIRONMENT);
    let answer = ask(&question);
    assert_eq!(
        (&answer["decision"], &answer["context"]["recorded"]),
        (&json!(true), &json!(true)),
        "{answer}"
    );
}

/// A caller could else name a number that never comes, and have a forbid overlooked.
#[test]
fn number_that_never_comes_is_a_denial_whatever_the_bundle_says() {
    const TENANT: &str = "inline-unavailable";
    const PLACE: &str = "inline-unavailable";
    let stack = stack();
    stack.register(&[TENANT]);
    let folder = Folder::new("lenient", PLACE);
    let allowed = "unavailable: { read: allow, write: allow, external: allow, destructive: allow }";
    let manifest = format!("name: lenient\nversion: \"1\"\nenvironments: [{PLACE}]\n{allowed}\n");
    folder.write("bundle.yaml", &manifest);
    stack.run(&["policy", "push", folder.name()]);
    let pdp = Pdp::start(stack, TENANT, PLACE);
    let ask = |after| pdp.ask(&question("s", "c1", "think", "{}", after), TOKEN).1;
    assert_eq!(ask(None)["decision"], true);
    let answer = ask(Some(("nobody", 7)));
    assert_eq!((&answer["decision"], &answer["context"]["reason"]), (&json!(false), &json!("unavailable")));
}

/// Returns the kids that a decision point serves.
fn served_kids(process: &Process) -> Vec<String> {
    let (status, text) = get(&process.url(".well-known/jwks.json"));
    assert_eq!(status, 200, "{text}");
    let keys: Value = serde_json::from_str(&text).unwrap();
    keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn decision_point_serves_its_keys_and_metrics_and_status_shows_it() {
    const TENANT: &str = "inline-shown";
    let stack = stack();
    stack.register(&[TENANT]);
    let pdp = Pdp::start(stack, TENANT, ENVIRONMENT);
    assert_eq!(pdp.ask(&question("s", "c1", "think", "{}", None), TOKEN).1["decision"], true);
    let key = std::fs::read_to_string(pdp.folder.path().join("key.json")).unwrap();
    let key: Value = serde_json::from_str(&key).unwrap();
    assert!(served_kids(&pdp.process).iter().any(|kid| *kid == key["kid"]));
    let (_, keys) = get(&pdp.process.url(".well-known/jwks.json"));
    assert!(!keys.contains(key["d"].as_str().unwrap()), "a private part");

    let mut metrics = String::new();
    let is_there = |metrics: &str, name: &str| metrics.lines().any(|line| line.starts_with(name));
    stack.eventually("the metrics of the copy are recorded", || {
        metrics = get(&pdp.process.url("metrics")).1;
        is_there(&metrics, "agentgov_copy_known{partition=\"11\"} 1")
    });
    for name in agentgov_service::metrics::DECISION_POINT_ONLY {
        // Nothing was refused.
        assert!(name == "agentgov_requests_refused_total" || is_there(&metrics, name), "{name}: {metrics}");
    }
    assert!(
        metrics.contains("agentgov_decisions_total{outcome=\"allow\",reason=\"granted\"} 1"),
        "{metrics}"
    );

    let address = pdp.process.url("");
    let status = |variable: &str, args: &[&str]| {
        let mut command = stack.command(&[&["status", "--json"], args].concat());
        let output = command.env("AGENTGOV_PDP", variable).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["decision_points"].clone()
    };
    for shown in [status("", &["--pdp", &address]), status(&format!("{address},http://127.0.0.1:1"), &[])] {
        assert_eq!(shown[0]["stages"][0]["stage"], "pdp", "{shown}");
        assert_eq!(shown[0]["stages"][0]["not_ready"], json!({}), "{shown}");
        assert!(shown[1].is_null() || shown[1]["away"].is_string(), "{shown}");
    }
}

#[test]
fn key_that_may_not_sign_makes_the_process_not_ready_and_an_allow_a_denial() {
    const TENANT: &str = "inline-keys";
    let stack = stack();
    stack.register(&[TENANT]);
    let mut pdp = Pdp::start(stack, TENANT, ENVIRONMENT);
    let file = pdp.folder.path().join("key.json");
    let denied = |pdp: &Pdp, reason: &str| {
        stack.eventually("readiness names the key", || {
            let (status, text) = get(&pdp.process.url("readyz"));
            status == 503 && text.contains("signing_key") && text.contains(reason)
        });
        stack.eventually("nothing but the key keeps it from deciding", || {
            let answer = pdp.ask(&question("s", "c1", "think", "{}", None), TOKEN).1;
            assert_eq!((&answer["decision"], &answer["context"]["token"]), (&json!(false), &Value::Null));
            assert_eq!(answer["context"]["recorded"], true, "{answer}");
            answer["context"]["reason"] == "not_signed"
        });
    };
    assert_eq!(pdp.ask(&question("s", "c1", "think", "{}", None), TOKEN).1["decision"], true);
    let key: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let kid = key["kid"].as_str().unwrap();
    stack.run(&["registry", "key", "revoke", kid, "--reason", "a test"]);
    stack
        .eventually("the key is not served any more", || !served_kids(&pdp.process).iter().any(|k| k == kid));
    denied(&pdp, "was revoked");

    let out = file.to_str().unwrap();
    for (options, reason) in [
        (None, "is published"),
        (Some(["--kind", "approver", "--name", "ada"].as_slice()), "expected kind pdp, found approver"),
        (
            Some(["--kind", "pdp", "--name", "p", "--tenant", "another"].as_slice()),
            "one for tenant `another` only",
        ),
    ] {
        pdp.process.kill();
        std::fs::remove_file(&file).unwrap();
        match options {
            None => std::fs::write(&file, &*agentgov_token::SigningKey::from_seed(&[9; 32]).to_private_jwk())
                .unwrap(),
            Some(options) => {
                stack.run(&[&["registry", "key", "new", "--out", out], options].concat());
            }
        }
        pdp.process = Pdp::spawn(stack, pdp.folder.path());
        denied(&pdp, reason);
    }
}
