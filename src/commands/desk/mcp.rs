//! Scripted MCP client over the streams of a child process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use agentgov_gateway::DECISION_META;
use agentgov_service::ExitCode;
use serde_json::{Value, json};

use crate::failure::{Failure, OrExit as _};

/// Version of the protocol that the client speaks.
const PROTOCOL_VERSION: &str = "2025-11-25";
/// Time for the answer to a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for the child to end after its input has ended.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval at which the end of the child is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A client, with the child that it speaks to.
pub struct McpClient {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    next_id: u64,
}

/// Result of a call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolAnswer {
    /// True if the call failed or was denied.
    pub is_error: bool,
    /// The first text of the result.
    pub text: String,
    /// Outcome of the decision; empty for a result of the server.
    pub outcome: String,
    /// Reason of the decision; empty for a result of the server.
    pub reason: String,
    /// Ids of the policies of the decision.
    pub policies: Vec<String>,
    /// Id under which a person approves the call; empty without one.
    pub approval_id: String,
}

impl McpClient {
    /// Starts the child and shakes hands.
    pub fn start(mut command: Command) -> Result<Self, Failure> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().or_exit(ExitCode::Failed)?;
        let (sender, lines) = sync_channel(16);
        let stdin = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                let lines = BufReader::new(stdout).lines();
                // A dropped receiver ends the thread.
                lines.map_while(Result::ok).try_for_each(|line| sender.send(line))
            });
        }
        let mut client = Self { child, stdin, lines, next_id: 0 };
        let client_info = json!({ "name": "agentgov-demo", "version": env!("CARGO_PKG_VERSION") });
        client.request(
            "initialize",
            &json!({ "protocolVersion": PROTOCOL_VERSION, "capabilities": {}, "clientInfo": client_info }),
        )?;
        client.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))?;
        Ok(client)
    }

    /// Returns the names of the listed tools.
    pub fn tools(&mut self) -> Result<Vec<String>, Failure> {
        let result = self.request("tools/list", &json!({}))?;
        let tools = result.get("tools").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Ok(tools.iter().map(|tool| text(tool, "/name")).collect())
    }

    /// Calls a tool.
    pub fn call(&mut self, name: &str, arguments: &Value) -> Result<ToolAnswer, Failure> {
        let result = self.request("tools/call", &json!({ "name": name, "arguments": arguments }))?;
        Ok(ToolAnswer::read(&result))
    }

    fn request(&mut self, method: &str, params: &Value) -> Result<Value, Failure> {
        self.next_id += 1;
        self.send(&json!({ "jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params }))?;
        let until = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let line = self
                .lines
                .recv_timeout(until.saturating_duration_since(Instant::now()))
                .map_err(|error| no_answer(method, error))?;
            let message: Value = serde_json::from_str(&line).or_exit(ExitCode::Failed)?;
            if message.get("id") != Some(&json!(self.next_id)) || message.get("method").is_some() {
                continue;
            }
            return message.get("result").cloned().ok_or_else(|| {
                let error = message.get("error").unwrap_or(&Value::Null);
                Failure::new(
                    ExitCode::Failed,
                    format!("{method}: expected a result, found the error {error}"),
                )
            });
        }
    }

    fn send(&mut self, message: &Value) -> Result<(), Failure> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        writeln!(stdin, "{message}").and_then(|()| stdin.flush()).or_exit(ExitCode::Failed)
    }

    /// Ends the connection, and waits until the child has ended.
    pub fn close(mut self) -> Result<(), Failure> {
        drop(self.stdin.take());
        let until = Instant::now() + END_TIMEOUT;
        loop {
            match self.child.try_wait().or_exit(ExitCode::Failed)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(Failure::new(
                        ExitCode::Failed,
                        format!("expected the gateway to end with success, found {status}"),
                    ));
                }
                None if Instant::now() > until => {
                    let seconds = END_TIMEOUT.as_secs();
                    let message = format!("expected the gateway to end within {seconds} s, found it running");
                    return Err(Failure::new(ExitCode::Failed, message));
                }
                None => std::thread::sleep(POLL_INTERVAL),
            }
        }
    }
}

impl Drop for McpClient {
    fn drop(&mut self) {
        // Both fail for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl ToolAnswer {
    fn read(result: &Value) -> Self {
        let decision = result.get("_meta").and_then(|meta| meta.get(DECISION_META)).unwrap_or(&Value::Null);
        let policies =
            decision.get("policies").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Self {
            is_error: result.get("isError") == Some(&Value::Bool(true)),
            text: text(result, "/content/0/text"),
            outcome: text(decision, "/outcome"),
            reason: text(decision, "/reason"),
            policies: policies.iter().map(|policy| text(policy, "/id")).collect(),
            approval_id: text(decision, "/access_request/evaluation_id"),
        }
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn no_answer(method: &str, error: RecvTimeoutError) -> Failure {
    let found = match error {
        RecvTimeoutError::Timeout => format!("none within {} s", ANSWER_TIMEOUT.as_secs()),
        RecvTimeoutError::Disconnected => "the end of its output".to_owned(),
    };
    Failure::new(ExitCode::Failed, format!("{method}: expected an answer of the gateway, found {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_of_the_gateway_has_the_decision_and_one_of_the_server_has_none() {
        let result = json!({
            "content": [{ "type": "text", "text": "needs an approval" }],
            "isError": true,
            "_meta": { DECISION_META: {
                "outcome": "ask", "reason": "policy", "policies": [{ "id": "moving-asks", "title": "T" }],
                "access_request": { "evaluation_id": "an-id" },
            } },
        });
        let own = |text: &str| text.to_owned();
        let expected = ToolAnswer {
            is_error: true,
            text: own("needs an approval"),
            outcome: own("ask"),
            reason: own("policy"),
            policies: vec![own("moving-asks")],
            approval_id: own("an-id"),
        };
        assert_eq!(ToolAnswer::read(&result), expected);
        let of_server = json!({ "content": [{ "type": "text", "text": "done" }] });
        assert_eq!(ToolAnswer::read(&of_server), ToolAnswer { text: own("done"), ..ToolAnswer::default() });
        assert_eq!(ToolAnswer::read(&Value::Null), ToolAnswer::default());
    }

    #[test]
    fn child_that_ends_early_is_an_error() {
        let mut command = Command::new("sh");
        command.args(["-c", "read line"]);
        let Err(failure) = McpClient::start(command) else { panic!("no answer") };
        assert!(failure.to_string().contains("initialize: expected an answer"), "{failure}");
    }
}
