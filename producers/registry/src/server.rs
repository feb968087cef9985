//! Reads the tools that an MCP server lists, over stdio. The server is not trusted: its output is bounded in time, size and
//! pages, and nothing of it is printed here.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentgov_schemas::definition::{DefinitionError, ToolDefinition};
use agentgov_schemas::governance::RESERVED_TOOL_NAMES;
use agentgov_schemas::is_configuration;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Protocol version of the handshake, which servers of earlier versions answer with theirs.
const VERSION: &str = "2025-11-25";
/// First protocol version without a handshake.
const STATELESS_VERSION: &str = "2026-07-28";
/// Time for the server to end after its input is closed.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of lines that wait to be parsed.
const MAX_WAITING_LINES: usize = 4;
/// Number of messages that wait for the server to read them.
const MAX_WAITING_MESSAGES: usize = 64;
/// Bytes of the server's stderr that an error repeats.
const MAX_STDERR: usize = 2 << 10;

/// Bounds of a server's output.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Time until the last page of tools.
    pub timeout: Duration,
    /// Maximum bytes of a line.
    pub max_line: usize,
    /// Maximum bytes of all lines.
    pub max_bytes: usize,
    /// Maximum pages of tools.
    pub max_pages: usize,
    /// Maximum tools.
    pub max_tools: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            max_line: 8 << 20,
            max_bytes: 64 << 20,
            max_pages: 1_000,
            max_tools: 10_000,
        }
    }
}

/// Reason for which the tools of a server are not known.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The command is empty.
    #[error("expected the command that starts the server after `--`, found none")]
    NoCommand,
    /// The command cannot be started.
    #[error("{program}: expected a program that starts: {source}")]
    Start {
        /// The program.
        program: String,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The server ended, or closed its output.
    #[error("the server ended before it answered `{method}`{}", stderr_note(stderr))]
    Ended {
        /// The request.
        method: &'static str,
        /// End of its stderr.
        stderr: String,
    },
    /// The server does not answer.
    #[error("expected the server's answer to `{method}` within {} s, found none{}", timeout.as_secs(), stderr_note(stderr))]
    TimedOut {
        /// The request.
        method: &'static str,
        /// The limit.
        timeout: Duration,
        /// End of its stderr.
        stderr: String,
    },
    /// The server sends requests, and does not read the answers.
    #[error("expected a server that reads its input, found {MAX_WAITING_MESSAGES} messages waiting for it")]
    DoesNotRead,
    /// The output exceeds a bound.
    #[error("expected at most {limit} {what} of the server, found more")]
    TooMuch {
        /// The bound.
        limit: usize,
        /// Its unit.
        what: &'static str,
    },
    /// A line is no message.
    #[error("expected each line of the server to be a JSON-RPC message: {0}")]
    NotAMessage(String),
    /// The server answers with an error.
    #[error("expected a result of `{method}`, found an error of the server: {error}")]
    Refused {
        /// The request.
        method: &'static str,
        /// The error, as JSON.
        error: String,
    },
    /// The result is not one of `tools/list`.
    #[error("expected a result of `tools/list` with `tools`, and `nextCursor` as a text: {0}")]
    NotAPage(String),
    /// The server gives a cursor again, so its list does not end.
    #[error("expected a new `nextCursor` on each page of tools, found one again")]
    RepeatedCursor,
    /// A tool has no definition.
    #[error("tool {number} of the server: {source}")]
    Definition {
        /// Number of the tool, from 1.
        number: usize,
        /// Reason.
        source: DefinitionError,
    },
    /// Two tools have one name.
    #[error("expected each tool's name once, found `{0}` twice; nobody knows which of them a call means")]
    TwoTools(String),
    /// A tool has the name that stands for a method of the server.
    #[error("expected no tool of the reserved name `{0}`")]
    Reserved(String),
}

fn stderr_note(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; its stderr ends with: {stderr}") }
}

/// Starts a server and returns the tools of all pages that it lists. The server gets no variable of agentgov's own
/// configuration, which has logins. The server has ended when this returns.
///
/// # Errors
/// If the server does not list its tools within the limits, or one of them has no definition.
pub fn list_server_tools(
    command: &[OsString],
    limits: &ServerLimits,
) -> Result<Vec<ToolDefinition>, ServerError> {
    let mut server = Server::start(command, *limits)?;
    let tools = server.list_tools();
    server.end();
    tools
}

/// A JSON-RPC message. A member that stands twice is an error.
#[derive(Deserialize)]
struct Message<'m> {
    #[serde(borrow, default)]
    id: Option<&'m RawValue>,
    #[serde(default)]
    method: Option<String>,
    #[serde(borrow, default)]
    result: Option<&'m RawValue>,
    #[serde(borrow, default)]
    error: Option<&'m RawValue>,
}

impl<'m> Message<'m> {
    fn parse(line: &'m [u8]) -> Result<Self, ServerError> {
        // A list of members would be read as a message, too.
        if !line.trim_ascii_start().starts_with(b"{") {
            return Err(ServerError::NotAMessage("expected an object, found another value".to_owned()));
        }
        serde_json::from_slice(line).map_err(|error| ServerError::NotAMessage(error.to_string()))
    }
}

/// Result of `tools/list`.
#[derive(Deserialize)]
struct ToolsPage<'m> {
    #[serde(borrow)]
    tools: Vec<&'m RawValue>,
    #[serde(default, rename = "nextCursor")]
    next_cursor: Option<String>,
}

impl<'m> ToolsPage<'m> {
    fn parse(result: &'m str) -> Result<Self, ServerError> {
        // As for a message.
        if !result.starts_with('{') {
            return Err(ServerError::NotAPage("expected an object, found another value".to_owned()));
        }
        serde_json::from_str(result).map_err(|error| ServerError::NotAPage(error.to_string()))
    }
}

struct Server {
    child: Child,
    /// Messages to the server, written by a thread of their own: a server that does not read must not block this one.
    messages: Option<SyncSender<String>>,
    lines: Receiver<Result<Vec<u8>, ServerError>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    limits: ServerLimits,
    deadline: Instant,
    next_id: u64,
    /// True if the server takes no handshake, so that each request carries the version.
    is_stateless: bool,
}

impl Server {
    fn start(command: &[OsString], limits: ServerLimits) -> Result<Self, ServerError> {
        let [program, arguments @ ..] = command else { return Err(ServerError::NoCommand) };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A launcher, such as npx, starts processes of its own: all of them end with the group.
            .process_group(0);
        for (name, _) in std::env::vars_os() {
            if is_configuration(&name) {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().map_err(|source| ServerError::Start {
            program: program.to_string_lossy().into_owned(),
            source,
        })?;
        let (sender, lines) = sync_channel(MAX_WAITING_LINES);
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || read_lines(BufReader::new(stdout), &limits, &sender));
        }
        let stderr = Arc::new(Mutex::new(Vec::new()));
        if let Some(output) = child.stderr.take() {
            let stderr = Arc::clone(&stderr);
            std::thread::spawn(move || keep_end(output, &stderr));
        }
        let (messages, to_write) = sync_channel::<String>(MAX_WAITING_MESSAGES);
        if let Some(mut stdin) = child.stdin.take() {
            std::thread::spawn(move || {
                while let Ok(message) = to_write.recv() {
                    if stdin.write_all(message.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
        let (messages, deadline) = (Some(messages), Instant::now() + limits.timeout);
        Ok(Self { child, messages, lines, stderr, limits, deadline, next_id: 0, is_stateless: false })
    }

    fn list_tools(&mut self) -> Result<Vec<ToolDefinition>, ServerError> {
        self.initialize()?;
        let (mut tools, mut names, mut cursors) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let mut cursor: Option<String> = None;
        for _ in 0..self.limits.max_pages {
            let params = cursor.as_ref().map_or_else(|| json!({}), |cursor| json!({ "cursor": cursor }));
            let method = "tools/list";
            let result =
                self.request(method, params)?.map_err(|error| ServerError::Refused { method, error })?;
            let page = ToolsPage::parse(result.get())?;
            for item in page.tools {
                let number = tools.len().saturating_add(1);
                if number > self.limits.max_tools {
                    return Err(ServerError::TooMuch { limit: self.limits.max_tools, what: "tools" });
                }
                let tool = ToolDefinition::parse(item.get())
                    .map_err(|source| ServerError::Definition { number, source })?;
                if RESERVED_TOOL_NAMES.contains(&tool.name.as_str()) {
                    return Err(ServerError::Reserved(tool.name));
                }
                if !names.insert(tool.name.clone()) {
                    return Err(ServerError::TwoTools(tool.name));
                }
                tools.push(tool);
            }
            match page.next_cursor {
                None => return Ok(tools),
                Some(next) if !cursors.insert(next.clone()) => return Err(ServerError::RepeatedCursor),
                next => cursor = next,
            }
        }
        Err(ServerError::TooMuch { limit: self.limits.max_pages, what: "pages of tools" })
    }

    /// Shakes hands. A server that refuses the handshake is asked without one, as version 2026-07-28 has it.
    fn initialize(&mut self) -> Result<(), ServerError> {
        let params = json!({
            "protocolVersion": VERSION,
            // Some servers list more tools to a client that has these.
            "capabilities": { "roots": {}, "sampling": {}, "elicitation": { "form": {}, "url": {} } },
            "clientInfo": { "name": "agentgov", "version": env!("CARGO_PKG_VERSION") },
        });
        if self.request("initialize", params)?.is_ok() {
            return self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        }
        self.is_stateless = true;
        Ok(())
    }

    /// Sends a request and returns its result, or the error of the server as JSON.
    fn request(
        &mut self,
        method: &'static str,
        mut params: Value,
    ) -> Result<Result<Box<RawValue>, String>, ServerError> {
        if self.is_stateless
            && let Some(params) = params.as_object_mut()
        {
            let meta = json!({
                "io.modelcontextprotocol/protocolVersion": STATELESS_VERSION,
                "io.modelcontextprotocol/clientCapabilities": {},
            });
            params.insert("_meta".to_owned(), meta);
        }
        let id = self.next_id;
        self.next_id = id.saturating_add(1);
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))?;
        loop {
            let line = self.line(method)?;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let message = Message::parse(&line)?;
            match message {
                Message { method: Some(method), id: Some(id), .. } => self.answer(&method, id)?,
                Message { method: Some(_), .. } => {}
                Message { id: Some(of), result, error, .. } if of.get() == id.to_string() => {
                    return match (result, error) {
                        (Some(result), None) => Ok(Ok(result.to_owned())),
                        (None, Some(error)) => Ok(Err(error.get().to_owned())),
                        _ => Err(ServerError::NotAMessage(
                            "expected either `result` or `error` in an answer".to_owned(),
                        )),
                    };
                }
                // An answer to nothing that was asked.
                Message { .. } => {}
            }
        }
    }

    /// Answers a request of the server. This client knows `ping` only, since it stays for a list of tools.
    fn answer(&self, method: &str, id: &RawValue) -> Result<(), ServerError> {
        let answer = if method == "ping" {
            json!({ "jsonrpc": "2.0", "id": id, "result": {} })
        } else {
            let error = json!({ "code": -32601, "message": "method not found" });
            json!({ "jsonrpc": "2.0", "id": id, "error": error })
        };
        self.send(&answer)
    }

    /// Sends a message. If the server has closed its input, its output ends as well.
    fn send(&self, message: &Value) -> Result<(), ServerError> {
        match self.messages.as_ref().map(|messages| messages.try_send(format!("{message}\n"))) {
            Some(Err(TrySendError::Full(_))) => Err(ServerError::DoesNotRead),
            None | Some(Ok(()) | Err(TrySendError::Disconnected(_))) => Ok(()),
        }
    }

    fn line(&self, method: &'static str) -> Result<Vec<u8>, ServerError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                Err(ServerError::TimedOut { method, timeout: self.limits.timeout, stderr: self.stderr() })
            }
            Err(RecvTimeoutError::Disconnected) => Err(ServerError::Ended { method, stderr: self.stderr() }),
        }
    }

    fn stderr(&self) -> String {
        let stderr = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&stderr).trim().to_owned()
    }

    /// Closes the server's input, as the protocol asks, and kills what is left of it.
    fn end(mut self) {
        self.messages = None;
        let deadline = Instant::now() + END_TIMEOUT;
        while self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends each line, until the output ends or exceeds a bound.
fn read_lines(
    mut output: impl BufRead,
    limits: &ServerLimits,
    lines: &SyncSender<Result<Vec<u8>, ServerError>>,
) {
    let mut left = limits.max_bytes;
    loop {
        let mut line = Vec::new();
        let most = limits.max_line.min(left).saturating_add(1);
        let read = output.by_ref().take(u64::try_from(most).unwrap_or(u64::MAX)).read_until(b'\n', &mut line);
        let exceeded = |limit, what| Err(ServerError::TooMuch { limit, what });
        let next = match read {
            Ok(0) | Err(_) => return,
            Ok(bytes) if bytes > left => exceeded(limits.max_bytes, "bytes"),
            Ok(bytes) if bytes > limits.max_line => exceeded(limits.max_line, "bytes in a line"),
            Ok(bytes) => {
                left = left.saturating_sub(bytes);
                Ok(line)
            }
        };
        let is_last = next.is_err();
        if lines.send(next).is_err() || is_last {
            return;
        }
    }
}

/// Reads everything, and keeps the end.
fn keep_end(mut output: impl io::Read, end: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = output.read(&mut buffer) {
        let mut end = end.lock().unwrap_or_else(PoisonError::into_inner);
        end.extend_from_slice(buffer.get(..read).unwrap_or_default());
        let excess = end.len().saturating_sub(MAX_STDERR);
        end.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ServerLimits = ServerLimits {
        timeout: Duration::from_secs(20),
        max_line: 4_000,
        max_bytes: 20_000,
        max_pages: 3,
        max_tools: 4,
    };

    /// Answers the handshake, and then what `script` says; `$line` has the last request.
    fn list(script: &str) -> Result<Vec<String>, String> {
        list_within(script, &LIMITS)
    }

    fn list_within(script: &str, limits: &ServerLimits) -> Result<Vec<String>, String> {
        let script = format!(
            "say() {{ printf '%s\\n' \"$1\"; }}; hear() {{ read -r line; }}\n\
             hear; say '{{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{{\"protocolVersion\":\"2025-11-25\"}}}}'; hear\n{script}"
        );
        let tools = list_server_tools(&["sh", "-c", &script].map(OsString::from), limits);
        tools
            .map(|tools| tools.into_iter().map(|tool| tool.name).collect())
            .map_err(|error| error.to_string())
    }

    fn page(id: u32, rest: &str) -> String {
        format!("hear; say '{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{{rest}}}}}'")
    }

    #[test]
    fn tools_of_all_pages_are_read_and_requests_of_the_server_answered() {
        let script = [
            "say '{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}'",
            "say ''",
            "say '{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"ping\"}'",
            "hear; case $line in *tools/list*) ;; *) exit 1;; esac",
            "hear; case $line in *'\"id\":\"a\"'*'\"result\":{}'*) ;; *) exit 1;; esac",
            "say '{\"jsonrpc\":\"2.0\",\"id\":99,\"result\":{}}'",
            "say '{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[{\"name\":\"read\"}],\"nextCursor\":\"n\"}}'",
            "hear; case $line in *'\"cursor\":\"n\"'*) ;; *) exit 1;; esac",
            "say '{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{\"tools\":[{\"name\":\"write\"}]}}'",
        ];
        assert_eq!(list(&script.join("\n")), Ok(vec!["read".to_owned(), "write".to_owned()]));
    }

    #[test]
    fn server_that_refuses_the_handshake_is_asked_without_one() {
        let script =
            "read -r line; printf '%s\\n' '{\"jsonrpc\":\"2.0\",\"id\":0,\"error\":{\"code\":-32601}}'
            read -r line; case $line in *'protocolVersion\":\"2026-07-28'*) ;; *) exit 1;; esac
            printf '%s\\n' '{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[{\"name\":\"read\"}]}}'";
        let tools = list_server_tools(&["sh", "-c", script].map(OsString::from), &LIMITS).unwrap();
        assert_eq!(tools.len(), 1);
    }

    #[test]
    fn hostile_server_is_an_error() {
        let tool = |name: &str| format!("{{\"name\":\"{name}\"}}");
        let endless = "hear; while :; do printf x; done";
        let chatty = "hear; while :; do say '{\"method\":\"x\"}'; done";
        let silent = "hear; sleep 1000";
        for (script, expected) in [
            ("hear; say '{'".to_owned(), "expected each line of the server to be a JSON-RPC message"),
            ("hear; say '[]'".to_owned(), "expected each line of the server to be a JSON-RPC message"),
            ("hear; say '{\"id\":1,\"result\":{},\"result\":{}}'".to_owned(), "duplicate field `result`"),
            (
                "hear; say '{\"id\":1,\"result\":{},\"error\":{}}'".to_owned(),
                "expected either `result` or `error`",
            ),
            (
                "hear; say '{\"id\":1,\"error\":{\"code\":-1}}'".to_owned(),
                "found an error of the server: {\"code\":-1}",
            ),
            ("hear; echo 'no \u{1b}[2J room' >&2; exit 3".to_owned(), "its stderr ends with: no"),
            (endless.to_owned(), "expected at most 4000 bytes in a line of the server"),
            (chatty.to_owned(), "expected at most 20000 bytes of the server"),
            (page(1, "\"tools\":7"), "expected a result of `tools/list`"),
            ("hear; say '{\"id\":1,\"result\":[[]]}'".to_owned(), "expected a result of `tools/list`"),
            (page(1, "\"tools\":[],\"nextCursor\":7"), "expected a result of `tools/list`"),
            (page(1, "\"tools\":[{}]"), "tool 1 of the server: expected a `name`"),
            (
                page(1, "\"tools\":[{\"name\":\"a\",\"name\":\"b\"}]"),
                "tool 1 of the server: expected a JSON object in which no key",
            ),
            (page(1, &format!("\"tools\":[{},{}]", tool("a"), tool("a"))), "found `a` twice"),
            (
                [
                    page(1, &format!("\"tools\":[{}],\"nextCursor\":\"n\"", tool("a"))),
                    page(2, &format!("\"tools\":[{}]", tool("a"))),
                ]
                .join("\n"),
                "found `a` twice",
            ),
            (page(1, &format!("\"tools\":[{}]", tool("resources.read"))), "reserved name `resources.read`"),
            (
                page(1, &format!("\"tools\":[{}]", ["a", "b", "c", "d", "e"].map(tool).join(","))),
                "expected at most 4 tools",
            ),
            (
                (1..4)
                    .map(|id| page(id, &format!("\"tools\":[],\"nextCursor\":\"{id}\"")))
                    .collect::<Vec<_>>()
                    .join("\n"),
                "expected at most 3 pages",
            ),
            (
                (1..4).map(|id| page(id, "\"tools\":[],\"nextCursor\":\"n\"")).collect::<Vec<_>>().join("\n"),
                "expected a new `nextCursor`",
            ),
        ] {
            let error = list(&script).unwrap_err();
            assert!(error.contains(expected), "{script}: {error}");
        }
        let limits = ServerLimits { max_bytes: 100 << 20, ..LIMITS };
        let error =
            list_within("hear; while :; do say '{\"id\":1,\"method\":\"ping\"}'; done", &limits).unwrap_err();
        assert!(error.contains("found 64 messages waiting for it"), "{error}");
        let limits = ServerLimits { timeout: Duration::from_millis(200), ..LIMITS };
        let error = list_within(silent, &limits).unwrap_err();
        assert!(error.contains("answer to `tools/list` within 0 s"), "{error}");
        let error = list_server_tools(&["/nowhere/server".into()], &LIMITS).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/server: expected a program that starts"), "{error}");
        assert!(matches!(list_server_tools(&[], &LIMITS), Err(ServerError::NoCommand)));
    }
}
