//! `gateway serve` as clients see it: the server is a process, the decision point and the log are the tests'.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing loudly"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use agentgov_gateway::http::{HttpGateway, ServeConfig, ServeParts};
use agentgov_gateway::proxy::ProxyConfig;
use agentgov_gateway::session::Journal;
use agentgov_gateway::sessions::{Journals, Sessions};
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use support::{AllowAll, Types, script};

struct OneLog(Types);

impl Journals for OneLog {
    fn open(&self, _: &str, _: &str) -> Result<Arc<dyn Journal>, String> {
        Ok(Arc::new(self.0.clone()))
    }
}

/// Tokens of two agents.
const TOKENS: [&str; 2] = ["token-of-one", "token-of-two"];

struct Running {
    url: String,
    http: Client,
    types: Types,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    gateway: Option<HttpGateway>,
    _folder: tempfile::TempDir,
}

impl Running {
    fn start(session: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut text = "listen: 127.0.0.1:0\ncallers:\n".to_owned();
        for (agent, token) in ["one", "two"].iter().zip(TOKENS) {
            let digest = agentgov_schemas::Digest::of(token.as_bytes());
            text += &format!(
                "  - {{ name: {agent}, token_sha256: \"{digest}\", tenant: acme, environment: test, agent: {agent} }}\n"
            );
        }
        let seen = folder.path().join("seen");
        text += &format!(
            "servers:\n  files: {{ command: [python3, {:?}, {seen:?}], session: {session} }}\n",
            script()
        );
        let config = ServeConfig::parse("gateway.yaml", &text).unwrap();
        let types = Types::default();
        let sessions = Arc::new(Sessions::new(Arc::new(AllowAll), Box::new(OneLog(types.clone()))));
        let parts = ServeParts { sessions, proxy: ProxyConfig::default(), print_log: Arc::new(|_| {}) };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let gateway = HttpGateway::start(config, parts, async move { drop(stopped.await) }).unwrap();
        let url = format!("http://{}", gateway.address());
        let http = Client::builder().timeout(Duration::from_secs(60)).no_proxy().build().unwrap();
        Self { url, http, types, stop: Some(stop), gateway: Some(gateway), _folder: folder }
    }

    fn request(&self, token: &str, body: &Value) -> RequestBuilder {
        let request = self.http.post(format!("{}/mcp/files", self.url)).bearer_auth(token);
        request.header("Accept", "application/json, text/event-stream").body(body.to_string())
    }

    fn initialize(&self, token: &str) -> String {
        let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": { "protocolVersion": "2025-11-25" } });
        let response = self.request(token, &body).send().unwrap();
        assert_eq!(response.status(), 200);
        response.headers()["mcp-session-id"].to_str().unwrap().to_owned()
    }

    fn types(&self) -> Vec<String> {
        self.types.0.lock().unwrap().clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(gateway) = self.gateway.take() {
            gateway.join().unwrap();
        }
    }
}

fn call(id: u32, more: &Value) -> Value {
    let mut call = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": "read_file", "arguments": { "path": "a" } } });
    if let Some(more) = more.as_object() {
        call["params"].as_object_mut().unwrap().extend(more.clone());
    }
    call
}

fn status_and_json(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[test]
fn session_of_initialize_is_that_of_its_agent_until_it_is_deleted() {
    let running = Running::start("required");
    let session = running.initialize(TOKENS[0]);
    let with = |token: &str, session: &str| {
        running.request(token, &call(1, &json!(null))).header("Mcp-Session-Id", session).send().unwrap()
    };
    let (status, answer) = status_and_json(with(TOKENS[0], &session));
    assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("read_file")));
    assert_eq!(running.types(), ["session.started", "tool.invoked", "tool.response_received"]);
    // Another agent, and another session.
    assert_eq!(with(TOKENS[1], &session).status(), 404);
    assert_eq!(with(TOKENS[0], "made-up").status(), 404);
    let notification = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let sent = running.request(TOKENS[0], &notification).header("Mcp-Session-Id", &session).send().unwrap();
    assert_eq!(sent.status(), 202);
    let delete = running.http.delete(format!("{}/mcp/files", running.url)).bearer_auth(TOKENS[0]);
    assert_eq!(delete.header("Mcp-Session-Id", &session).send().unwrap().status(), 200);
    assert_eq!(running.types().last().unwrap(), "session.ended");
    assert_eq!(with(TOKENS[0], &session).status(), 404);
}

#[test]
fn named_session_of_another_agent_is_refused() {
    let running = Running::start("required");
    let with = |token: &str| {
        running.request(token, &call(1, &json!(null))).header("Agentgov-Session", "s").send().unwrap()
    };
    assert_eq!(with(TOKENS[0]).status(), 200);
    assert_eq!(with(TOKENS[1]).status(), 403);
}

#[test]
fn request_without_a_session_is_refused_unless_the_server_says_otherwise() {
    let running = Running::start("required");
    let (status, answer) =
        status_and_json(running.request(TOKENS[0], &call(1, &json!(null))).send().unwrap());
    assert_eq!((status, &answer["error"]["code"], &answer["id"]), (400, &json!(-32600), &json!(1)));
    let baggage = json!({ "_meta": { "baggage": "a=b, session.id=s-17;p=1" } });
    assert_eq!(running.request(TOKENS[0], &call(1, &baggage)).send().unwrap().status(), 200);
    drop(running);
    let running = Running::start("agent");
    assert_eq!(running.request(TOKENS[0], &call(1, &json!(null))).send().unwrap().status(), 200);
    assert_eq!(running.request(TOKENS[1], &call(1, &json!(null))).send().unwrap().status(), 200);
}

#[test]
fn header_that_differs_from_the_body_is_refused() {
    let running = Running::start("agent");
    let modern = json!({ "_meta": { "io.modelcontextprotocol/protocolVersion": "2026-07-28" } });
    for (more, method, name, status) in [
        (&json!(null), None, None, 200),
        (&json!(null), Some("tools/call"), Some("read_file"), 200),
        (&json!(null), Some("tools/call"), Some("=?base64?cmVhZF9maWxl?="), 200),
        (&json!(null), Some("tools/list"), None, 400),
        (&json!(null), Some("tools/call"), Some("write_file"), 400),
        (&modern, Some("tools/call"), Some("read_file"), 200),
        (&modern, Some("tools/call"), None, 400),
        (&modern, None, Some("read_file"), 400),
        (&modern, Some("TOOLS/CALL"), Some("read_file"), 400),
    ] {
        let mut request = running.request(TOKENS[0], &call(1, more));
        for (header, value) in [("Mcp-Method", method), ("Mcp-Name", name)] {
            if let Some(value) = value {
                request = request.header(header, value);
            }
        }
        let (found, answer) = status_and_json(request.send().unwrap());
        assert_eq!(found, status, "{method:?} {name:?}: {answer}");
        assert!(status == 200 || answer["error"]["code"] == -32020, "{answer}");
    }
}

#[test]
fn header_names_the_member_that_its_method_uses() {
    let running = Running::start("agent");
    let modern = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28" });
    let read = json!({
        "jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": { "name": "ok", "uri": "secret", "_meta": modern },
    });
    let request = running.request(TOKENS[0], &read).header("Mcp-Method", "resources/read");
    let (status, answer) = status_and_json(request.header("Mcp-Name", "ok").send().unwrap());
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32020)), "{answer}");
    for (version, expected) in [("2026-07-28", 200), ("2025-11-25", 400)] {
        let request = running.request(TOKENS[0], &call(1, &json!({ "_meta": modern })));
        let request = request.header("Mcp-Method", "tools/call").header("Mcp-Name", "read_file");
        let (status, answer) =
            status_and_json(request.header("MCP-Protocol-Version", version).send().unwrap());
        assert_eq!(status, expected, "{answer}");
    }
    let baggage = format!("session.id={}", "x".repeat(4097));
    let long = running.request(TOKENS[0], &call(1, &json!({ "_meta": { "baggage": baggage } })));
    let (status, answer) = status_and_json(long.send().unwrap());
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)), "{answer}");
}

#[test]
fn request_of_a_stranger_or_a_page_is_refused() {
    let running = Running::start("agent");
    let send = |token: &str| running.request(token, &call(1, &json!(null)));
    let response = send("another").send().unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["www-authenticate"]),
        (401, &"Bearer".parse().unwrap())
    );
    let nobody = running.http.post(format!("{}/mcp/files", running.url)).body("{}").send().unwrap();
    assert_eq!(nobody.status(), 401);
    assert_eq!(send(TOKENS[0]).header("Origin", "https://example.com").send().unwrap().status(), 403);
    let elsewhere = running.http.post(format!("{}/mcp/other", running.url)).bearer_auth(TOKENS[0]);
    assert_eq!(elsewhere.body("{}").send().unwrap().status(), 404);
    let (status, answer) = status_and_json(running.request(TOKENS[0], &json!([])).send().unwrap());
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)));
    assert!(running.types().is_empty());
    assert_eq!(running.http.get(format!("{}/readyz", running.url)).send().unwrap().status(), 200);
}

#[test]
fn hook_is_answered_and_calls_of_a_connected_server_are_left_to_the_gateway() {
    let running = Running::start("required");
    let post = |name: &str, token: &str, media_type: &str, body: &Value| {
        let request = running.http.post(format!("{}/hooks/{name}", running.url)).bearer_auth(token);
        request.header("Content-Type", media_type).body(body.to_string()).send().unwrap()
    };
    let session = |session: &str| json!({ "session_id": session, "hook_event_name": "SessionStart" });
    let json_type = "application/json";
    let (status, answer) = status_and_json(post("codex", TOKENS[0], json_type, &session("s")));
    assert_eq!((status, answer), (200, json!({})));
    assert_eq!(running.types(), ["session.started", "hooks.attached"]);
    for (name, token, media_type, body, status) in [
        ("codex", TOKENS[0], json_type, json!({ "session_id": "s", "hook_event_name": "Other" }), 400),
        ("codex", TOKENS[0], "text/plain", session("s"), 400),
        ("codex", "another", json_type, session("s"), 401),
        ("codex", TOKENS[1], json_type, session("s"), 403),
        ("emacs", TOKENS[0], json_type, session("s"), 404),
    ] {
        assert_eq!(
            post(name, token, media_type, &body).status(),
            status,
            "{name} {token} {media_type} {body}"
        );
    }
    let call = |token: &str| {
        let call = json!({
            "session_id": format!("s-{token}"), "hook_event_name": "PreToolUse", "tool_use_id": "c",
            "tool_name": "mcp__files__read_file", "tool_input": {},
        });
        assert_eq!(post("claude-code", token, json_type, &call).status(), 200);
        running.types().iter().filter(|r#type| *r#type == "tool.invoked").count()
    };
    assert_eq!(call(TOKENS[0]), 1, "nobody is connected");
    running.initialize(TOKENS[0]);
    assert_eq!(call(TOKENS[0]), 1, "the gateway decides it");
    assert_eq!(call(TOKENS[1]), 2, "another agent is connected");
}
