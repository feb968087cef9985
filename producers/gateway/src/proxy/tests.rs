//! The proxy between a client and a server that the tests play, with decisions and a log of their own.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, Sender as Lines, channel};

use agentgov_authzen_client::{AskError, CallQuestion, Decision, PermittedTool};
use agentgov_schemas::Digest;
use agentgov_sdk::{Event, Receipt, RecordError};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::session::{
    DEFINITION_NOT_ACCEPTED, Decider, FRAME_REFUSED, INPUT_PROVIDED, INPUT_REQUIRED, Identity, Journal,
};

/// Exceeds every wait on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(20);
/// Largest event that the journal accepts.
const MAX_EVENT_BYTES: usize = 40_000;

/// What happened, in order: questions, events and frames.
type History = Arc<Mutex<Vec<Step>>>;

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Asked {
        tool: String,
        arguments: String,
        call_id: String,
        after: Option<i64>,
        definition: Option<Digest>,
    },
    Recorded {
        r#type: String,
        call_id: String,
        content: String,
        token: Option<String>,
        is_error: Option<bool>,
    },
    ToServer(String),
    ToClient(String),
}

/// Outcomes by tool; `Err` if the decision point is away.
#[derive(Clone, Default)]
struct Outcomes(Arc<Mutex<BTreeMap<String, Result<&'static str, AskError>>>>);

/// Returns the digest of a tool's accepted definition, which is its name alone.
fn accepted(name: &str) -> Digest {
    Digest::of(format!(r#"{{"name":"{name}"}}"#).as_bytes())
}

struct FakeDecider(Outcomes, History);

impl Decider for FakeDecider {
    fn decide(&self, question: &CallQuestion<'_>, _: Duration) -> Result<Decision, AskError> {
        self.1.lock().unwrap().push(Step::Asked {
            tool: question.tool.to_owned(),
            arguments: question.arguments.to_owned(),
            call_id: question.call_id.unwrap().to_owned(),
            after: question.after.map(|after| after.sequence),
            definition: question.definition,
        });
        let outcome = self.0.0.lock().unwrap().get(question.tool).cloned().unwrap_or(Ok("deny"))?;
        let answer = json!({
            "decision": outcome == "allow",
            "context": {
                "outcome": outcome, "reason": "policy", "evaluation_id": "0192f0c1-0000-7c4d-9e5f-00000000000a",
                "recorded": true, "token": format!("token-{}", question.tool),
                "policies": [{ "id": "rule", "title": "The rule" }], "remediation": ["Do it otherwise."],
            },
        });
        Ok(Decision::parse(&answer.to_string()).unwrap())
    }

    fn permitted_tools(&self, _: &CallQuestion<'_>) -> Result<Vec<PermittedTool>, AskError> {
        let outcomes = self.0.0.lock().unwrap();
        let tools = outcomes.iter().map(|(tool, outcome)| match outcome {
            Ok("allow" | "ask") => Ok(Some(PermittedTool {
                name: tool.clone(),
                definition: Some(accepted(tool.trim_start_matches("files/")).to_string()),
            })),
            Ok(_) => Ok(None),
            Err(error) => Err(error.clone()),
        });
        Ok(tools.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }
}

struct FakeJournal {
    history: History,
    is_full: Arc<Mutex<bool>>,
}

impl Journal for FakeJournal {
    fn record(&self, event: &Event<'_>) -> Result<Receipt, RecordError> {
        self.check(event)?;
        if *self.is_full.lock().unwrap() {
            return Err(RecordError::Full { events: 1, bytes: 1 });
        }
        let (tool, result) = (event.tool, event.result);
        let content = tool.map(|tool| tool.arguments).or(result.map(|result| result.content));
        let content = content.or(event.message.and_then(|message| message.content));
        let mut history = self.history.lock().unwrap();
        let recorded = history.iter().filter(|step| matches!(step, Step::Recorded { .. })).count();
        history.push(Step::Recorded {
            r#type: event.r#type.to_owned(),
            call_id: tool.map(|t| t.call_id).or(result.map(|r| r.call_id)).unwrap_or_default().to_owned(),
            content: content
                .map(|content| String::from_utf8(content.data.to_vec()).unwrap())
                .unwrap_or_default(),
            token: tool.and_then(|tool| tool.decision_token).map(str::to_owned),
            is_error: result.and_then(|result| result.is_error),
        });
        Ok(Receipt { sequence: recorded as i64, event_id: Uuid::nil() })
    }

    fn check(&self, event: &Event<'_>) -> Result<(), RecordError> {
        let found = event.tool.map_or(0, |tool| tool.arguments.data.len())
            + event.result.map_or(0, |result| result.content.data.len())
            + event.message.and_then(|message| message.content).map_or(0, |content| content.data.len());
        if found <= MAX_EVENT_BYTES {
            return Ok(());
        }
        Err(RecordError::TooLarge { session_id: String::new(), found, limit: MAX_EVENT_BYTES })
    }

    fn source_id(&self) -> &'static str {
        "source"
    }
}

/// Stream of the proxy to a peer.
struct Stream {
    lines: Lines<String>,
    history: History,
    step: fn(String) -> Step,
}

impl io::Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8(bytes.to_vec()).unwrap();
        let line = line.strip_suffix('\n').expect("a frame is one write").to_owned();
        self.history.lock().unwrap().push((self.step)(line.clone()));
        self.lines.send(line).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Bench {
    proxy: Arc<Proxy>,
    outcomes: Outcomes,
    history: History,
    is_full: Arc<Mutex<bool>>,
    server: Receiver<String>,
    client: Receiver<String>,
}

impl Bench {
    fn new(outcomes: &[(&str, &'static str)]) -> Self {
        let history = History::default();
        let is_full = Arc::new(Mutex::new(false));
        let set = Outcomes::default();
        set.0
            .lock()
            .unwrap()
            .extend(outcomes.iter().map(|(tool, outcome)| ((*tool).to_owned(), Ok(*outcome))));
        let identity = Identity {
            tenant_id: "acme".into(),
            environment: "test".into(),
            agent_id: "bot".into(),
            session_id: "s".into(),
        };
        let journal = FakeJournal { history: Arc::clone(&history), is_full: Arc::clone(&is_full) };
        let decider = FakeDecider(set.clone(), Arc::clone(&history));
        let session = Arc::new(Session::new(identity, Box::new(decider), Box::new(journal)));
        let ((to_client, client), (to_server, server)) = (channel(), channel());
        let stream = |lines, step| Box::new(Stream { lines, history: Arc::clone(&history), step });
        let streams: (Box<dyn Write + Send>, Box<dyn Write + Send>) =
            (stream(to_client, Step::ToClient), stream(to_server, Step::ToServer));
        let config = ProxyConfig {
            approval_wait: Duration::from_millis(200),
            approval_interval: Duration::from_millis(50),
        };
        let proxy = Proxy::new(session, "files", config, streams).unwrap();
        for name in ["read", "write", "list", "move", "slow", "fast"] {
            proxy.definitions.put(name, accepted(name), 0);
        }
        Self { proxy, outcomes: set, history, is_full, server, client }
    }

    fn client_sends(&self, frame: &str) {
        self.proxy.on_client_frame(frame.as_bytes().to_vec());
    }

    fn server_sends(&self, frame: &str) {
        self.proxy.on_server_frame(frame.as_bytes().to_vec());
    }

    fn at_server(&self) -> String {
        self.server.recv_timeout(DEADLINE).unwrap()
    }

    fn at_client(&self) -> String {
        self.client.recv_timeout(DEADLINE).unwrap()
    }

    fn json_at_client(&self) -> Value {
        serde_json::from_str(&self.at_client()).unwrap()
    }

    fn history(&self) -> Vec<Step> {
        self.history.lock().unwrap().clone()
    }

    /// Returns type and content of each event.
    fn recorded(&self) -> Vec<(String, String)> {
        let recorded = self.history().into_iter().filter_map(|step| match step {
            Step::Recorded { r#type, content, .. } => Some((r#type, content)),
            _ => None,
        });
        recorded.collect()
    }

    /// Waits until no call is open, and checks that neither peer got anything else.
    fn ends_quietly(&self) {
        assert!(self.proxy.wait_for_requests(DEADLINE));
        self.proxy.to_server.wait_until_written();
        assert_eq!((self.server.try_recv().ok(), self.client.try_recv().ok()), (None, None));
    }
}

fn call(id: u32, name: &str, more: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0", "id":{id},"method":"tools/call","params":{{"name":"{name}"{more}}}}}"#)
}

#[test]
fn allowed_call_is_asked_recorded_sent_and_its_result_recorded_before_it_is_handed_on() {
    let bench = Bench::new(&[("files/read", "allow")]);
    let frame = call(1, "read", r#","arguments":{ "n" : 12345678901234567890123, "z":1.0 },"unknown":[]"#);
    bench.client_sends(&frame);
    assert_eq!(bench.at_server(), frame, "byte for byte");
    let response = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[ ],"isError":false}}"#;
    bench.server_sends(response);
    assert_eq!(bench.at_client(), response, "byte for byte");
    let history = bench.history();
    let [Step::Asked { call_id, .. }, ..] = &history[..] else { panic!("{history:?}") };
    let arguments = r#"{ "n" : 12345678901234567890123, "z":1.0 }"#.to_owned();
    let recorded = |r#type: &str, content: &str, token: Option<&str>, is_error| Step::Recorded {
        r#type: r#type.to_owned(),
        call_id: call_id.clone(),
        content: content.to_owned(),
        token: token.map(str::to_owned),
        is_error,
    };
    let expected = [
        Step::Asked {
            tool: "files/read".into(),
            arguments: arguments.clone(),
            call_id: call_id.clone(),
            after: None,
            definition: Some(accepted("read")),
        },
        recorded("tool.invoked", &arguments, Some("token-files/read"), None),
        Step::ToServer(frame),
        recorded("tool.response_received", r#"{"content":[ ],"isError":false}"#, None, Some(false)),
        Step::ToClient(response.to_owned()),
    ];
    assert_eq!(history, expected);
    // The next question waits for the result.
    bench.client_sends(&call(2, "write", ""));
    bench.at_client();
    assert!(bench.history().iter().any(|step| matches!(step, Step::Asked { after: Some(1), .. })));
    bench.ends_quietly();
}

#[test]
fn denied_call_is_recorded_and_never_reaches_the_server() {
    let bench = Bench::new(&[
        ("files/write", "deny"),
        ("files/resources.read", "deny"),
        ("files/prompts.get", "indeterminate"),
    ]);
    bench.client_sends(&call(1, "write", ""));
    let answer = bench.json_at_client();
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("The rule") && text.contains("Do it otherwise."), "{text}");
    assert_eq!((&answer["id"], &answer["result"]["isError"]), (&json!(1), &json!(true)));
    assert_eq!(bench.recorded(), [("tool.invoked".to_owned(), "{}".to_owned())]);
    bench
        .client_sends(r#"{"jsonrpc":"2.0","id":"r","method":"resources/read","params":{"uri":"file:///x"}}"#);
    assert_eq!(bench.json_at_client()["error"]["code"], reply::DENIED);
    bench.client_sends(r#"{"jsonrpc":"2.0","id":"p","method":"prompts/get","params":{"name":"x"}}"#);
    assert_eq!(bench.json_at_client()["error"]["code"], reply::DENIED);
    bench.ends_quietly();
}

#[test]
fn call_without_a_decision_is_an_error_and_never_reaches_the_server() {
    let bench = Bench::new(&[("files/list", "allow")]);
    let away = AskError::Away { url: "http://pdp".into(), message: "refused".into() };
    for (error, code) in [
        (away, INTERNAL_ERROR),
        (AskError::Unreadable { url: "http://pdp".into(), message: "no decision".into() }, INTERNAL_ERROR),
        (
            AskError::Refused { url: "http://pdp".into(), status: 500, message: "a bug".into() },
            INTERNAL_ERROR,
        ),
        (AskError::Refused { url: "http://pdp".into(), status: 413, message: "too large".into() }, -32602),
    ] {
        bench.outcomes.0.lock().unwrap().insert("files/read".into(), Err(error));
        bench.client_sends(&call(1, "read", ""));
        assert_eq!(bench.json_at_client()["error"]["code"], code);
        bench.ends_quietly();
    }
    // A call that cannot be recorded is not sent either.
    *bench.is_full.lock().unwrap() = true;
    bench.client_sends(&call(2, "list", ""));
    assert_eq!(bench.json_at_client()["error"]["code"], INTERNAL_ERROR);
    bench.ends_quietly();
}

#[test]
fn arguments_that_no_event_can_hold_are_refused_before_they_are_asked() {
    let bench = Bench::new(&[("files/write", "allow")]);
    let arguments = format!(r#","arguments":{{"text":"{}"}}"#, "x".repeat(MAX_EVENT_BYTES));
    bench.client_sends(&call(1, "write", &arguments));
    assert_eq!(bench.json_at_client()["error"]["code"], -32602);
    assert!(bench.recorded()[0].1.contains("sha256"), "{:?}", bench.recorded());
    assert_eq!(bench.recorded()[0].0, FRAME_REFUSED);
    assert!(!bench.history().iter().any(|step| matches!(step, Step::Asked { .. })));
    bench.ends_quietly();
}

#[test]
fn result_that_no_event_can_hold_reaches_the_client_and_its_event_states_no_fact() {
    let bench = Bench::new(&[("files/read", "allow")]);
    bench.client_sends(&call(1, "read", ""));
    bench.at_server();
    let response =
        format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"x":"{}"}}}}"#, "é".repeat(MAX_EVENT_BYTES));
    bench.server_sends(&response);
    assert_eq!(bench.at_client(), response);
    let (r#type, content) = bench.recorded()[1].clone();
    assert_eq!(r#type, "tool.response_truncated");
    let content: Value = serde_json::from_str(&content).unwrap();
    assert_eq!(content["truncated"]["bytes"], 2 * MAX_EVENT_BYTES + r#"{"x":""}"#.len());
    assert!(content["truncated"]["beginning"].as_str().unwrap().starts_with("{\"x\":\"é"));
}

#[test]
fn result_that_cannot_be_recorded_is_not_handed_on() {
    let bench = Bench::new(&[("files/read", "allow")]);
    bench.client_sends(&call(1, "read", ""));
    bench.at_server();
    *bench.is_full.lock().unwrap() = true;
    bench.server_sends(r#"{"jsonrpc":"2.0","id":1,"result":{"secret":1}}"#);
    let answer = bench.json_at_client();
    assert_eq!((&answer["error"]["code"], answer.get("result")), (&json!(INTERNAL_ERROR), None));
}

#[test]
fn call_that_asks_waits_with_progress_for_an_approval() {
    let bench = Bench::new(&[("files/move", "ask")]);
    bench.client_sends(&call(1, "move", r#","_meta":{"progressToken":"t"}"#));
    let progress = bench.json_at_client();
    assert_eq!(
        (&progress["method"], &progress["params"]["progressToken"]),
        (&json!("notifications/progress"), &json!("t"))
    );
    bench.outcomes.0.lock().unwrap().insert("files/move".into(), Ok("allow"));
    assert!(bench.at_server().contains("\"move\""));
    assert_eq!(bench.recorded().len(), 1, "one call, with its last decision");
    bench.server_sends(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    while bench.json_at_client().get("result").is_none() {}
    // Without an approval it is a denied call with the id.
    bench.outcomes.0.lock().unwrap().insert("files/move".into(), Ok("ask"));
    bench.client_sends(&call(2, "move", ""));
    let answer = bench.json_at_client();
    assert!(
        answer["result"]["content"][0]["text"]
            .as_str()
            .unwrap()
            .contains("0192f0c1-0000-7c4d-9e5f-00000000000a")
    );
    assert_eq!(bench.recorded().len(), 3);
    bench.ends_quietly();
}

#[test]
fn call_that_is_cancelled_before_it_is_decided_never_reaches_the_server() {
    let bench = Bench::new(&[("files/move", "ask"), ("files/read", "allow")]);
    bench.client_sends(&call(1, "move", r#","_meta":{"progressToken":"t"}"#));
    bench.at_client();
    let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    bench.client_sends(cancelled);
    assert!(bench.proxy.wait_for_requests(DEADLINE));
    bench.outcomes.0.lock().unwrap().insert("files/move".into(), Ok("allow"));
    bench.proxy.to_server.wait_until_written();
    assert!(bench.server.try_recv().is_err());
    // The server learns of the cancellation of a call that it has.
    bench.client_sends(&call(1, "read", ""));
    bench.at_server();
    bench.client_sends(cancelled);
    assert_eq!(bench.at_server(), cancelled);
    bench.server_sends(r#"{"jsonrpc":"2.0","id":1,"error":{"code":0,"message":"cancelled"}}"#);
    assert!(bench.proxy.wait_for_requests(DEADLINE));
    assert_eq!(bench.recorded().last().unwrap().0, "tool.failed");
}

#[test]
fn calls_at_the_same_time_do_not_wait_for_each_other() {
    let bench = Bench::new(&[("files/slow", "allow"), ("files/fast", "allow"), ("files/move", "ask")]);
    bench.client_sends(&call(1, "slow", ""));
    bench.at_server();
    bench.client_sends(&call(2, "move", ""));
    bench.client_sends(&call(3, "fast", ""));
    assert!(bench.at_server().contains("fast"));
    bench.server_sends(r#"{"jsonrpc":"2.0","id":3,"result":{}}"#);
    assert_eq!(bench.json_at_client()["id"], 3);
    bench.server_sends(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    let ids = [bench.json_at_client()["id"].clone(), bench.json_at_client()["id"].clone()];
    assert_eq!(ids.iter().filter_map(Value::as_u64).sum::<u64>(), 3, "{ids:?}");
    bench.ends_quietly();
}

#[test]
fn refusal_that_quotes_a_long_method_is_recorded() {
    let bench = Bench::new(&[]);
    let frame = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "é".repeat(MAX_EVENT_BYTES));
    bench.client_sends(&frame);
    let [(r#type, content)] = bench.recorded().try_into().unwrap();
    assert_eq!(r#type, FRAME_REFUSED);
    assert!(content.contains(&format!(r#""bytes":{}"#, frame.len())), "{content}");
    bench.ends_quietly();
}

#[test]
fn hostile_client_is_refused_and_recorded() {
    for (frame, code) in [
        ("nonsense", -32700),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#, -32600),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"x":{"y":1,"y":2}}}}"#,
            -32600,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","Name":"write"}}"#, -32600),
        // A server that ignores case would read these names.
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","Arguments":{"path":"x"}}}"#,
            -32600,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"result":{},"Method":"tools/call","Params":{"name":"read"}}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"resources.read"}}"#, -32602),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","inputResponses":{}}}"#,
            -32602,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","requestState":"x"}}"#,
            -32602,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage"}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"made/up"}"#, -32601),
    ] {
        let bench = Bench::new(&[("files/read", "allow"), ("files/resources.read", "allow")]);
        bench.client_sends(frame);
        assert_eq!(bench.json_at_client()["error"]["code"], code, "{frame}");
        assert_eq!(
            bench.recorded().into_iter().map(|(r#type, _)| r#type).collect::<Vec<_>>(),
            [FRAME_REFUSED],
            "{frame}"
        );
        bench.ends_quietly();
    }
    // Nobody answers these.
    for frame in [
        r#"{"jsonrpc":"2.0","method":"notifications/made_up"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/message"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
    ] {
        let bench = Bench::new(&[]);
        bench.client_sends(frame);
        assert_eq!(bench.recorded().len(), 1, "{frame}");
        bench.ends_quietly();
    }
    let bench = Bench::new(&[]);
    bench.proxy.on_long_client_frame(7);
    assert_eq!(bench.json_at_client()["error"]["code"], -32600);
    assert_eq!(bench.recorded().len(), 1);
}

#[test]
fn id_of_an_open_request_is_refused() {
    let bench = Bench::new(&[("files/read", "allow")]);
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    bench.client_sends(ping);
    assert_eq!(bench.at_server(), ping);
    bench.client_sends(&call(1, "read", ""));
    assert_eq!(bench.json_at_client()["error"]["code"], -32600);
    // A server may not keep 1 and "1" apart.
    bench.client_sends(r#"{"jsonrpc":"2.0","id":"1","method":"ping"}"#);
    let answer = bench.json_at_client();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("1"), &json!(-32600)));
    bench.server_sends(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    bench.at_client();
    bench.client_sends(&call(1, "read", ""));
    assert!(bench.at_server().contains("tools/call"));
}

#[test]
fn hostile_server_is_contained_and_recorded() {
    let bench = Bench::new(&[("files/read", "allow")]);
    let dropped = [
        "log line of a server",
        "\u{1b}[2J{}",
        r#"{"jsonrpc":"2.0","id":9,"result":{}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/made_up"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
    ];
    for frame in dropped {
        bench.server_sends(frame);
    }
    assert_eq!(bench.recorded().len(), dropped.len());
    bench.ends_quietly();
    bench.server_sends(r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"x"}}"#);
    assert!(bench.at_server().contains("-32601"));
    // A response that is refused ends its call.
    bench.client_sends(&call(1, "read", ""));
    bench.at_server();
    bench.server_sends(r#"{"jsonrpc":"2.0","id":1,"result":{"a":1,"a":2}}"#);
    assert_eq!(bench.json_at_client()["error"]["code"], INTERNAL_ERROR);
    assert_eq!(bench.recorded().last().unwrap().0, "tool.failed");
    // A second response is none.
    bench.server_sends(r#"{"jsonrpc":"2.0","id":1,"result":{"a":1}}"#);
    bench.ends_quietly();
}

#[test]
fn request_of_the_server_passes_with_its_response() {
    let bench = Bench::new(&[]);
    let request = r#"{"jsonrpc":"2.0","id":"e1","method":"elicitation/create","params":{"message":"m"}}"#;
    bench.server_sends(request);
    assert_eq!(bench.at_client(), request);
    let response = r#"{"jsonrpc":"2.0","id":"e1","result":{"action":"accept"}}"#;
    bench.client_sends(response);
    assert_eq!(bench.at_server(), response);
    bench.client_sends(response);
    bench.ends_quietly();
    assert_eq!(bench.recorded().len(), 1, "the second response is dropped");
}

#[test]
fn death_of_the_server_ends_every_open_request() {
    let bench = Bench::new(&[("files/read", "allow"), ("files/move", "ask")]);
    bench.client_sends(r#"{"jsonrpc":"2.0","id":"ping","method":"ping"}"#);
    bench.client_sends(&call(1, "read", ""));
    let sent = [bench.at_server(), bench.at_server()];
    assert!(sent.iter().any(|frame| frame.contains("tools/call")));
    bench.client_sends(&call(2, "move", r#","_meta":{"progressToken":"t"}"#));
    while !bench.at_client().contains("notifications/progress") {}
    bench.proxy.on_server_end("the server has ended");
    let mut ended: Vec<Value> = Vec::new();
    while ended.len() < 3 {
        let answer = bench.json_at_client();
        if answer.get("error").is_some() {
            assert_eq!(answer["error"]["code"], INTERNAL_ERROR);
            ended.push(answer["id"].clone());
        }
    }
    assert!(
        ended.contains(&json!("ping")) && ended.contains(&json!(1)) && ended.contains(&json!(2)),
        "{ended:?}"
    );
    assert!(bench.recorded().iter().any(|(r#type, _)| r#type == "tool.failed"));
    // Later calls end at once.
    bench.client_sends(&call(3, "read", ""));
    assert_eq!(bench.json_at_client()["error"]["code"], INTERNAL_ERROR);
    bench.client_sends(r#"{"jsonrpc":"2.0","id":4,"method":"ping"}"#);
    assert_eq!(bench.json_at_client()["error"]["code"], INTERNAL_ERROR);
    bench.ends_quietly();
}

#[test]
fn call_that_is_made_again_with_answers_is_the_same_call() {
    let bench = Bench::new(&[("files/read", "allow"), ("files/write", "allow")]);
    let arguments = MODERN.to_owned() + r#","arguments":{"path": "a"}"#;
    let arguments = arguments.as_str();
    bench.client_sends(&call(1, "read", arguments));
    bench.at_server();
    bench.server_sends(
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"q":{"n":1.0}},"requestState":"of the server"}}"#,
    );
    let asked = bench.at_client();
    assert!(asked.contains(r#""inputRequests":{"q":{"n":1.0}}"#), "{asked}");
    let asked: Value = serde_json::from_str(&asked).unwrap();
    let state = asked["result"]["requestState"].as_str().unwrap().to_owned();
    let types: Vec<_> = bench.recorded().into_iter().map(|(r#type, _)| r#type).collect();
    assert_eq!(types, ["tool.invoked", INPUT_REQUIRED], "it is no result, and is recorded");
    let again = |name: &str, arguments: &str| {
        call(2, name, &format!(r#"{arguments},"inputResponses":{{"q":{{}}}},"requestState":"{state}""#))
    };
    let other = MODERN.to_owned() + r#","arguments":{"path": "b"}"#;
    for (name, arguments) in [("write", arguments), ("read", &other)] {
        bench.client_sends(&again(name, arguments));
        assert_eq!(bench.json_at_client()["error"]["code"], -32602, "another call");
    }
    bench.client_sends(&again("read", arguments));
    let sent = bench.at_server();
    assert!(
        sent.contains(r#""requestState":"of the server""#) && sent.contains(r#"{"path": "a"}"#),
        "{sent}"
    );
    let response = r#"{"jsonrpc":"2.0","id":2,"result":{"resultType":"complete"}}"#;
    bench.server_sends(response);
    assert_eq!(bench.at_client(), response);
    // A counter would not count a third call.
    bench.client_sends(&again("read", arguments));
    assert_eq!(bench.json_at_client()["error"]["code"], -32602, "used");
    let calls: Vec<(String, String)> = bench
        .history()
        .into_iter()
        .filter_map(|step| match step {
            Step::Recorded { r#type, call_id, .. } if !call_id.is_empty() => Some((r#type, call_id)),
            _ => None,
        })
        .collect();
    let types: Vec<&str> = calls.iter().map(|(r#type, _)| r#type.as_str()).collect();
    assert_eq!(types, ["tool.invoked", "tool.retried", "tool.response_received"]);
    assert!(calls.iter().all(|(_, id)| *id == calls[0].1), "{calls:?}");
    assert!(
        bench
            .recorded()
            .iter()
            .any(|(r#type, content)| r#type == INPUT_PROVIDED && content.contains("sha256"))
    );
    bench.ends_quietly();
}

/// Members of a call of the version without `initialize`.
const MODERN: &str = r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;

#[test]
fn result_that_claims_to_be_none_is_recorded_before_it_is_handed_on() {
    let question = r#""resultType":"input_required""#;
    for (era, result, recorded) in [
        ("", format!(r#"{{{question}}}"#), "tool.response_received"),
        (MODERN, format!(r#"{{{question},"content":[]}}"#), "tool.response_received"),
        (MODERN, format!(r#"{{{question},"structuredContent":{{}}}}"#), "tool.response_received"),
        (MODERN, format!("{{{question}}}"), INPUT_REQUIRED),
        (MODERN, r#"{"resultType":"task","taskId":"t"}"#.to_owned(), "tool.failed"),
        ("", r#"{"task":{"taskId":"t"}}"#.to_owned(), "tool.failed"),
    ] {
        let bench = Bench::new(&[("files/read", "allow")]);
        bench.client_sends(&call(1, "read", era));
        bench.at_server();
        bench.server_sends(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#));
        let answer = bench.json_at_client();
        assert_eq!(bench.recorded().last().unwrap().0, recorded, "{result}");
        assert_eq!(answer.get("error").is_some(), recorded == "tool.failed", "{answer}");
        let is_sealed = answer["result"]["requestState"].is_string();
        assert_eq!(is_sealed, recorded == INPUT_REQUIRED, "{answer}");
    }
    // A question that cannot be recorded is not handed on.
    let bench = Bench::new(&[("files/read", "allow")]);
    bench.client_sends(&call(1, "read", MODERN));
    bench.at_server();
    *bench.is_full.lock().unwrap() = true;
    bench.server_sends(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{{question}}}}}"#));
    assert_eq!(bench.json_at_client()["error"]["code"], INTERNAL_ERROR);
}

#[test]
fn list_has_only_the_permitted_tools_and_keeps_its_cursor() {
    let bench = Bench::new(&[("files/read", "allow"), ("files/move", "ask"), ("files/delete", "deny")]);
    let list = |id: u32| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list","params":{{}}}}"#);
    bench.client_sends(&list(1));
    assert_eq!(bench.at_server(), list(1));
    bench.server_sends(
        r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"read", "x":1.0},{"name":"delete"},{"name":"new"},{"name":"move"}],"nextCursor":"p2"}}"#,
    );
    assert_eq!(
        bench.at_client(),
        r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"read", "x":1.0},{"name":"move"}],"nextCursor":"p2"}}"#
    );
    bench.client_sends(&list(2));
    bench.at_server();
    let whole = r#"{"jsonrpc":"2.0","id":2,"result":{"tools":[ {"name":"move"} ]}}"#;
    bench.server_sends(whole);
    assert_eq!(bench.at_client(), whole, "byte for byte");
    // Of two tools of one name, none is shown.
    bench.client_sends(&list(3));
    bench.at_server();
    bench.server_sends(
        r#"{"jsonrpc":"2.0","id":3,"result":{"tools":[{"name":"read"},{"name":"read","evil":1}]}}"#,
    );
    assert_eq!(bench.json_at_client()["result"]["tools"], json!([]));
    assert_eq!(bench.recorded().len(), 1);
    // Without the decision point nothing is listed.
    let away = AskError::Away { url: "http://pdp".into(), message: "refused".into() };
    bench.outcomes.0.lock().unwrap().insert("files/read".into(), Err(away));
    bench.client_sends(&list(4));
    bench.at_server();
    bench.server_sends(r#"{"jsonrpc":"2.0","id":4,"result":{"tools":[{"name":"read"}]}}"#);
    assert_eq!(bench.json_at_client()["error"]["code"], INTERNAL_ERROR);
    bench.ends_quietly();
}

/// Returns the definitions that the calls stated.
fn stated(bench: &Bench) -> Vec<Option<Digest>> {
    let asked = bench.history().into_iter().filter_map(|step| match step {
        Step::Asked { definition, .. } => Some(definition),
        _ => None,
    });
    asked.collect()
}

#[test]
fn definition_of_a_call_is_that_which_the_server_listed_last() {
    let bench = Bench::new(&[("files/new", "allow"), ("files/resources.read", "deny")]);
    // The gateway lists the tools itself, all pages, in the version of the call.
    bench.client_sends(&call(1, "new", r#","_meta":{"progressToken":1,"v":"2026"}"#));
    let answer_page = |page: &str| {
        let request: Value = serde_json::from_str(&bench.at_server()).unwrap();
        assert_eq!(request["method"], "tools/list", "{request}");
        bench.server_sends(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{page}}}"#, request["id"]));
        request["params"].clone()
    };
    let first = answer_page(r#"{"tools":[{"name":"other"}],"nextCursor":"p2"}"#);
    assert_eq!(first, json!({ "_meta": { "v": "2026" } }));
    let second = answer_page(r#"{"tools":[{"name":"new","title":"N"}]}"#);
    assert_eq!(second, json!({ "cursor": "p2", "_meta": { "v": "2026" } }));
    assert!(bench.at_server().contains("tools/call"));
    bench.server_sends(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    bench.at_client();
    let listed = Digest::of(br#"{"name":"new","title":"N"}"#);
    assert_eq!(stated(&bench), [Some(listed)]);
    // It lists them again once they have changed. A tool that it does not list has a definition that nobody accepts.
    bench.server_sends(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
    bench.at_client();
    bench.client_sends(&call(2, "new", ""));
    answer_page(r#"{"tools":[]}"#);
    bench.at_server();
    assert_eq!(stated(&bench)[1], Some(Definitions::unknown()));
    // Other requests have no definition.
    bench.client_sends(r#"{"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":"x"}}"#);
    bench.at_client();
    assert_eq!(stated(&bench)[2], None);
}

#[test]
fn page_that_was_asked_for_before_a_change_leaves_no_definition() {
    let bench = Bench::new(&[("files/new", "allow")]);
    bench.client_sends(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    bench.at_server();
    bench.server_sends(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
    bench.at_client();
    bench.server_sends(r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"new"}]}}"#);
    assert_eq!(bench.json_at_client()["result"]["tools"], json!([{ "name": "new" }]));
    // A call asks for the tools again.
    bench.client_sends(&call(2, "new", ""));
    assert!(bench.at_server().contains("tools/list"));
}

#[test]
fn server_that_dies_or_errs_while_the_gateway_lists_its_tools_leaves_no_definition() {
    let bench = Bench::new(&[("files/new", "deny")]);
    bench.client_sends(&call(1, "new", ""));
    let request: Value = serde_json::from_str(&bench.at_server()).unwrap();
    bench.server_sends(&format!(
        r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-32601,"message":"no tools"}}}}"#,
        request["id"]
    ));
    bench.at_client();
    bench.client_sends(&call(2, "new", ""));
    bench.at_server();
    bench.proxy.on_server_end("the server has ended");
    bench.at_client();
    assert_eq!(stated(&bench), [Some(Definitions::unknown()); 2]);
    bench.ends_quietly();
}

#[test]
fn tool_with_another_definition_than_the_accepted_one_is_not_listed_and_recorded_once() {
    let bench = Bench::new(&[("files/read", "allow"), ("files/move", "allow")]);
    for id in 1..3 {
        bench.client_sends(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#));
        bench.at_server();
        bench.server_sends(&format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"tools":[{{"name":"read"}},{{"name":"move","description":"evil"}}]}}}}"#
        ));
        assert_eq!(bench.json_at_client()["result"]["tools"], json!([{ "name": "read" }]));
    }
    let recorded = bench.recorded();
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert!(recorded[0].0 == DEFINITION_NOT_ACCEPTED && recorded[0].1.contains("files/move"), "{recorded:?}");
    // A call of it states what was listed.
    bench.client_sends(&call(9, "move", ""));
    bench.at_server();
    assert_eq!(stated(&bench), [Some(Digest::of(br#"{"description":"evil","name":"move"}"#))]);
}
