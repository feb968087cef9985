//! The command that an agent runs: reads what the agent sends, asks the gateway, says whether the agent may go on. Every doubt
//! blocks. It starts for each call, so it uses no runtime, no TLS and no configuration.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::agent::CodingAgent;
use super::reply::{HOOK_REPLY_TYPE, HookOutcome, HookReply};

/// Maximum bytes that an agent sends to its hook. The gateway reads as many.
pub const MAX_BODY_BYTES: usize = 16 << 20;
/// Maximum bytes of an answer, with its headers.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Maximum number of headers of an answer.
const MAX_HEADERS: usize = 64;
/// Maximum characters of an error's text that are kept.
const MAX_ERROR_CHARS: usize = 1_000;

/// A hook that runs.
#[derive(Clone, Debug)]
pub struct HookOptions {
    /// The agent.
    pub agent: CodingAgent,
    /// URL of the gateway: plain HTTP on this machine.
    pub url: String,
    /// Bearer token for the gateway.
    pub token: Option<String>,
    /// Time for all of it. It must be shorter than the time that the agent gives its hook.
    pub timeout: Duration,
}

/// Result of a hook for its agent.
#[derive(Clone, Debug, PartialEq)]
pub enum HookEnd {
    /// The agent may go on.
    Allowed {
        /// JSON for the agent.
        output: Option<Value>,
    },
    /// The agent must not go on.
    Blocked {
        /// Why, for the model and for people.
        reason: String,
        /// JSON for the agent.
        output: Option<Value>,
    },
}

/// Reads `input` to its end and asks the gateway. Returns within the time-out, whatever input and gateway do; a thread that still
/// waits for them then ends with the process.
pub fn run(input: impl Read + Send + 'static, options: HookOptions) -> HookEnd {
    let blocked = |reason: String| HookEnd::Blocked { reason, output: None };
    let timeout = options.timeout;
    let until = Instant::now() + timeout;
    let (answered, answer) = mpsc::sync_channel(1);
    let asking = std::thread::Builder::new().name("hook".into()).spawn(move || {
        let reply = read_input(input).and_then(|body| ask(&options, &body, until));
        // Nobody waits any longer after the time-out.
        let _ = answered.send(reply);
    });
    if let Err(error) = asking {
        return blocked(format!("cannot start a thread: {error}"));
    }
    match answer.recv_timeout(timeout) {
        Ok(Ok(reply)) if reply.outcome == HookOutcome::Allow => HookEnd::Allowed { output: reply.output },
        Ok(Ok(reply)) => HookEnd::Blocked { reason: reply.reason, output: reply.output },
        Ok(Err(reason)) => blocked(reason),
        Err(mpsc::RecvTimeoutError::Timeout) => blocked(format!(
            "expected an answer of the gateway within {} ms, found none",
            timeout.as_millis()
        )),
        Err(mpsc::RecvTimeoutError::Disconnected) => blocked("the hook has failed".to_owned()),
    }
}

fn read_input(input: impl Read) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    let limit = MAX_BODY_BYTES as u64 + 1;
    input.take(limit).read_to_end(&mut body).map_err(|error| format!("standard input: {error}"))?;
    if body.len() > MAX_BODY_BYTES {
        return Err(format!("standard input: expected at most {MAX_BODY_BYTES} bytes, found more"));
    }
    Ok(body)
}

/// Where the gateway listens.
struct Target {
    /// Host and port, for the header.
    host: String,
    path: String,
    addresses: Vec<SocketAddr>,
}

impl Target {
    fn of(url: &str, agent: CodingAgent) -> Result<Self, String> {
        let expected = || format!("--url: expected http://HOST:PORT on this machine, found {url:?}");
        let rest = url.strip_prefix("http://").ok_or_else(expected)?;
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '@' | '?' | '#');
        if host.is_empty() || !rest.chars().all(is_plain) {
            return Err(expected());
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port { host.to_owned() } else { format!("{host}:80") };
        let addresses = with_port.to_socket_addrs().map_err(|error| format!("{}: {error}", expected()))?;
        let addresses: Vec<_> = addresses.collect();
        // The token and the agent's data would leave this machine in clear text.
        if addresses.is_empty() || !addresses.iter().all(|address| address.ip().is_loopback()) {
            return Err(expected());
        }
        let prefix = prefix.trim_end_matches('/');
        let separator = if prefix.is_empty() { "" } else { "/" };
        let path = format!("/{prefix}{separator}hooks/{}", agent.name());
        Ok(Self { host: with_port, path, addresses })
    }

    fn connect(&self, until: Instant) -> Result<TcpStream, String> {
        let mut last = "no address".to_owned();
        for address in &self.addresses {
            match left(until).and_then(|left| TcpStream::connect_timeout(address, left)) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error.to_string(),
            }
        }
        Err(format!("the gateway at {}: {last}; start it with `agentgov gateway serve`", self.host))
    }
}

fn ask(options: &HookOptions, body: &[u8], until: Instant) -> Result<HookReply, String> {
    let target = Target::of(&options.url, options.agent)?;
    let mut stream = target.connect(until)?;
    let of_gateway = |error: &dyn std::fmt::Display| format!("the gateway at {}: {error}", target.host);
    let sent = send(&mut stream, &target, options.token.as_deref(), body, until);
    // A gateway that refuses a request may answer before it has read all of it.
    let received = receive(&mut stream, until);
    let answer = match (sent, received) {
        (_, Ok(answer)) => answer,
        (Err(error), Err(_)) | (Ok(()), Err(error)) => return Err(of_gateway(&error)),
    };
    let (status, body) = parse(&answer).map_err(|error| of_gateway(&error))?;
    if status != 200 {
        let text: String = body.trim().chars().take(MAX_ERROR_CHARS).collect();
        return Err(of_gateway(&format!("{status}: {text}")));
    }
    HookReply::parse(body).map_err(|error| of_gateway(&error))
}

fn send(
    stream: &mut TcpStream,
    target: &Target,
    token: Option<&str>,
    body: &[u8],
    until: Instant,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\n{authorization}Content-Type: application/json\r\nAccept: {HOOK_REPLY_TYPE}\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        target.path,
        target.host,
        body.len()
    );
    let mut request = head.into_bytes();
    request.extend_from_slice(body);
    let mut rest = request.as_slice();
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(until)?))?;
        match stream.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads to the end of the connection: the request asks to close it.
fn receive(stream: &mut TcpStream, until: Instant) -> std::io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut buffer = [0; 8 << 10];
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        let read = match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // The rest of a request that was not read resets the connection, after the whole answer.
            Err(error) if error.kind() == ErrorKind::ConnectionReset && parse(&answer).is_ok() => {
                return Ok(answer);
            }
            Err(error) => return Err(error),
        };
        answer.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if answer.len() > MAX_ANSWER_BYTES {
            return Err(std::io::Error::other("expected a shorter answer"));
        }
    }
}

/// Returns status and body of a whole answer.
fn parse(answer: &[u8]) -> Result<(u16, &str), String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(answer).map_err(|error| format!("expected an answer of HTTP/1.1: {error}"))?;
    let httparse::Status::Complete(begin) = parsed else {
        return Err("expected an answer of HTTP/1.1, found its beginning".to_owned());
    };
    let body = answer.get(begin..).unwrap_or_default();
    let mut lengths = head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = lengths.next().and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    if length != Some(body.len()) || lengths.next().is_some() {
        return Err("expected an answer of the length that its header states, found another".to_owned());
    }
    let body = std::str::from_utf8(body).map_err(|error| format!("expected UTF-8: {error}"))?;
    Ok((head.code.unwrap_or_default(), body))
}

/// Returns the time that is left.
fn left(until: Instant) -> std::io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// Exceeds every wait on a loaded machine.
    const DEADLINE: Duration = Duration::from_secs(20);
    /// Elapses in the tests of slow gateways.
    const SHORT: Duration = Duration::from_millis(150);

    fn options(url: &str, timeout: Duration) -> HookOptions {
        let token = Some("t0ken".to_owned());
        HookOptions { agent: CodingAgent::Codex, url: url.to_owned(), token, timeout }
    }

    /// Answers one request with `answer`. Returns the URL and the request.
    fn serve(answer: Vec<u8>) -> (String, JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"}") {
                let read = stream.read(&mut buffer).unwrap();
                assert!(read > 0, "{}", String::from_utf8_lossy(&request));
                request.extend_from_slice(&buffer[..read]);
            }
            // The hook does not read an answer that is too long.
            let _ = stream.write_all(&answer);
            request
        });
        (url, serving)
    }

    fn answer(status: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    fn hook(url: &str, timeout: Duration) -> HookEnd {
        run(Cursor::new(b"{}".to_vec()), options(url, timeout))
    }

    fn reason(end: HookEnd) -> String {
        match end {
            HookEnd::Blocked { reason, .. } => reason,
            HookEnd::Allowed { .. } => panic!("allowed"),
        }
    }

    #[test]
    fn answer_allows_or_blocks() {
        let (url, serving) = serve(answer("200 OK", r#"{"outcome":"allow","output":{"a":1}}"#));
        let end = hook(&format!("{url}/"), DEADLINE);
        assert_eq!(end, HookEnd::Allowed { output: Some(serde_json::json!({ "a": 1 })) });
        let request = String::from_utf8(serving.join().unwrap()).unwrap();
        assert!(
            request.starts_with("POST /hooks/codex HTTP/1.1\r\n")
                && request.contains("Authorization: Bearer t0ken\r\n")
                && request.ends_with("\r\n\r\n{}"),
            "{request}"
        );
        let (url, serving) = serve(answer("200 OK", r#"{"outcome":"deny","reason":"The rule"}"#));
        assert_eq!(reason(hook(&url, DEADLINE)), "The rule");
        serving.join().unwrap();
    }

    #[test]
    fn every_other_answer_blocks_with_a_reason() {
        let allow = r#"{"outcome":"allow"}"#;
        for (answer, expected) in [
            (answer("500 Internal Server Error", allow), ": 500: "),
            (answer("401 Unauthorized", "no token"), ": 401: no token"),
            (answer("204 No Content", ""), ": 204: "),
            (answer("301 Moved\r\nLocation: /elsewhere", allow), ": 301: "),
            (answer("200 OK", "{}"), "expected an answer to a hook"),
            (answer("200 OK", ""), "expected an answer to a hook"),
            (answer("200 OK", r#"{"outcome":"ask","reason":"r"}"#), "expected an answer to a hook"),
            (answer("200 OK", r#"{"outcome":"allow","outcome":"allow"}"#), "expected an answer to a hook"),
            (answer("200 OK", r#"{"outcome":"allow","unknown":1}"#), "expected an answer to a hook"),
            (answer("200 OK", r#"{"outcome":"deny"}"#), "expected a reason"),
            (answer("200 OK", "\u{1b}[2J"), "expected an answer to a hook"),
            (format!("HTTP/1.1 200 OK\r\n\r\n{allow}").into_bytes(), "of the length that its header states"),
            (
                format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{allow}").into_bytes(),
                "of the length that its header states",
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(), "found its beginning"),
            (b"SSH-2.0-x\r\n".to_vec(), "expected an answer of HTTP/1.1"),
            (Vec::new(), "found its beginning"),
            (vec![b'x'; MAX_ANSWER_BYTES + 1], "expected a shorter answer"),
        ] {
            let shown = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
            let (url, serving) = serve(answer);
            let reason = reason(hook(&url, DEADLINE));
            assert!(reason.contains(expected), "{shown}: {reason}");
            serving.join().unwrap();
        }
    }

    #[test]
    fn gateway_that_is_away_silent_or_slow_blocks_within_the_timeout() {
        // Accepts by its backlog, and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let began = Instant::now();
        assert!(!reason(hook(&url, SHORT)).is_empty());
        assert!(began.elapsed() < DEADLINE);
        // Accepts, and stops in the middle of an answer that allows.
        let begun = std::thread::spawn(move || {
            let mut streams: Vec<_> = (0..2).map(|_| silent.accept().unwrap().0).collect();
            for stream in &mut streams {
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"outcome\":\"allow\"");
            }
            streams
        });
        assert!(!reason(hook(&url, SHORT)).is_empty());
        drop(begun.join().unwrap());
        let away = reason(hook(&url, DEADLINE));
        assert!(away.contains("start it with `agentgov gateway serve`"), "{away}");
    }

    #[test]
    fn input_that_is_too_large_endless_or_never_ends_blocks() {
        struct Never(std::sync::mpsc::Receiver<()>);
        impl Read for Never {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                let _ = self.0.recv();
                Ok(0)
            }
        }
        let url = "http://127.0.0.1:9";
        let large = reason(run(Cursor::new(vec![b' '; 50 << 20]), options(url, DEADLINE)));
        assert!(large.contains("expected at most 16777216 bytes"), "{large}");
        let endless = reason(run(std::io::repeat(b' '), options(url, DEADLINE)));
        assert!(endless.contains("expected at most 16777216 bytes"), "{endless}");
        let (_open, never) = std::sync::mpsc::channel();
        let never = reason(run(Never(never), options(url, SHORT)));
        assert!(never.contains("within 150 ms"), "{never}");
    }

    #[test]
    fn url_is_plain_http_on_this_machine() {
        for url in [
            "https://127.0.0.1:1",
            "127.0.0.1:1",
            "http://",
            "http://192.0.2.1:1",
            "http://a@127.0.0.1:1",
            "http://127.0.0.1:1/a?b",
            "http://127.0.0.1:1/a\r\nX: y",
            "http://127.0.0.1:x",
        ] {
            assert!(reason(hook(url, DEADLINE)).contains("--url: expected http://HOST:PORT"), "{url}");
        }
        let target = Target::of("http://127.0.0.1/prefix/", CodingAgent::Cursor).unwrap();
        assert_eq!((target.host.as_str(), target.path.as_str()), ("127.0.0.1:80", "/prefix/hooks/cursor"));
    }
}
