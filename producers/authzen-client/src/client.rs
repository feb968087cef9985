//! The client.

use std::error::Error;
use std::time::{Duration, Instant};

use agentgov_connect::{Secret, Tls, TlsError, describe, http_client, read_body};
use reqwest::blocking::Client;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::Value;

use crate::{CallQuestion, Decision, PermittedTool};

/// Maximum number of pages of a search.
const MAX_PAGES: usize = 100;
/// Pause before the same question is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum bytes of an error's text that are kept.
const MAX_ERROR_BYTES: usize = 1_000;

/// Blocking client of one decision point. Clones share its connections.
#[derive(Clone, Debug)]
pub struct DecisionClient {
    http: Client,
    url: String,
    token: Option<Secret>,
}

/// A question without a decision. It is never an allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The decision point cannot be reached, or did not answer in time.
    #[error("the decision point at {url}: {message}")]
    Away {
        /// URL of the decision point.
        url: String,
        /// Error of the client.
        message: String,
    },
    /// The decision point answered with an error.
    #[error("the decision point at {url}: {status}: {message}")]
    Refused {
        /// URL of the decision point.
        url: String,
        /// HTTP status.
        status: u16,
        /// Text of the error.
        message: String,
    },
    /// The answer is no decision.
    #[error("the decision point at {url}: {message}")]
    Unreadable {
        /// URL of the decision point.
        url: String,
        /// The expected and the found content.
        message: String,
    },
}

/// Client that cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file of the TLS settings is missing or has invalid content.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The HTTP client cannot be created.
    #[error(transparent)]
    Http(#[from] reqwest::Error),
}

impl DecisionClient {
    /// Creates a client of the decision point at `url`. Each request takes at most `timeout`. `token` names the caller.
    ///
    /// # Errors
    /// If the TLS settings are invalid.
    pub fn new(url: &str, tls: &Tls, token: Option<Secret>, timeout: Duration) -> Result<Self, ClientError> {
        let builder = http_client(url, tls)?.timeout(timeout).redirect(reqwest::redirect::Policy::none());
        Ok(Self { http: builder.build()?, url: url.trim_end_matches('/').to_owned(), token })
    }

    /// Returns a client of another decision point of the same kind, with the connections of this one.
    pub fn with_url(&self, url: &str) -> Self {
        Self { url: url.trim_end_matches('/').to_owned(), ..self.clone() }
    }

    /// Returns the URL of the decision point.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Asks for a decision.
    ///
    /// # Errors
    /// If there is no decision.
    pub fn decide(&self, question: &CallQuestion<'_>) -> Result<Decision, AskError> {
        let text = self.post("/access/v1/evaluation", &question.to_json())?;
        Decision::parse(&text).map_err(|message| self.unreadable(message))
    }

    /// Asks for a decision, and asks again while the state of the session is not known, for about `max_wait`. `each` sees every
    /// decision, since each one may be recorded.
    ///
    /// # Errors
    /// If there is no decision.
    pub fn decide_when_known(
        &self,
        question: &CallQuestion<'_>,
        max_wait: Duration,
        mut each: impl FnMut(&Decision),
    ) -> Result<Decision, AskError> {
        let began = Instant::now();
        loop {
            let decision = self.decide(question)?;
            each(&decision);
            if !decision.may_change_soon() || began.elapsed() > max_wait {
                return Ok(decision);
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
    }

    /// Returns the tools that the agent of the question may use, whatever its tool, by the search for resources.
    ///
    /// # Errors
    /// If there is no complete list.
    pub fn permitted_tools(&self, question: &CallQuestion<'_>) -> Result<Vec<PermittedTool>, AskError> {
        let mut tools = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let text = self.post("/access/v1/search/resource", &question.to_search(token.as_deref()))?;
            let found: Found = serde_json::from_str(&text)
                .map_err(|error| self.unreadable(format!("expected a page of tools: {error}")))?;
            tools.extend(found.results.into_iter().map(FoundTool::into_tool));
            if found.page.next_token.is_empty() {
                return Ok(tools);
            }
            token = Some(found.page.next_token);
        }
        Err(self.unreadable(format!("expected at most {MAX_PAGES} pages of tools, found more")))
    }

    fn post(&self, path: &str, body: &Value) -> Result<String, AskError> {
        let away = |error: &dyn Error| AskError::Away { url: self.url.clone(), message: describe(error) };
        let mut request =
            self.http.post(format!("{}{path}", self.url)).header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        let response = request.body(body.to_string()).send().map_err(|error| away(&error.without_url()))?;
        let status = response.status();
        let text = read_body(response).map_err(|error| away(&error))?;
        if status.as_u16() == 200 {
            return Ok(text);
        }
        let message = text.trim_end().chars().take(MAX_ERROR_BYTES).collect();
        Err(AskError::Refused { url: self.url.clone(), status: status.as_u16(), message })
    }

    fn unreadable(&self, message: String) -> AskError {
        AskError::Unreadable { url: self.url.clone(), message }
    }
}

#[derive(Deserialize)]
struct Found {
    page: FoundPage,
    results: Vec<FoundTool>,
}

#[derive(Deserialize)]
struct FoundPage {
    next_token: String,
}

#[derive(Deserialize)]
struct FoundTool {
    id: String,
    #[serde(default)]
    properties: FoundProperties,
}

#[derive(Default, Deserialize)]
struct FoundProperties {
    definition: Option<String>,
}

impl FoundTool {
    fn into_tool(self) -> PermittedTool {
        PermittedTool { name: self.id, definition: self.properties.definition }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// Answers the given requests, one connection each. Returns the URL and the received requests.
    fn serve(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                while !String::from_utf8_lossy(&request).ends_with('}') {
                    let read = stream.read(&mut buffer).unwrap();
                    assert!(read > 0, "{}", String::from_utf8_lossy(&request));
                    request.extend_from_slice(buffer.get(..read).unwrap());
                }
                requests.push(String::from_utf8(request).unwrap());
                stream.write_all(answer.as_bytes()).unwrap();
            }
            requests
        });
        (url, serving)
    }

    fn response(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    fn decision(outcome: &str, more: &str) -> String {
        let body = format!(
            r#"{{"decision": {}, "context": {{"outcome": "{outcome}", "reason": "r", "evaluation_id": "e", "recorded": true{more}}}}}"#,
            outcome == "allow"
        );
        response("200 OK", &body)
    }

    fn client(url: &str, timeout: Duration) -> DecisionClient {
        DecisionClient::new(url, &Tls::default(), Some(Secret::new("t0ken")), timeout).unwrap()
    }

    const QUESTION: CallQuestion<'_> = CallQuestion::new(("acme", "test"), "bot", "s", "pay");
    const TIMEOUT: Duration = Duration::from_secs(20);

    #[test]
    fn question_is_asked_again_until_the_state_is_known() {
        let passing = decision("deny", r#", "unavailable": {"code": "not_arrived"}"#);
        let (url, serving) = serve(vec![passing.clone(), passing, decision("allow", r#", "token": "x""#)]);
        let mut seen = 0;
        let decided = client(&url, TIMEOUT).decide_when_known(&QUESTION, TIMEOUT, |_| seen += 1).unwrap();
        assert_eq!((seen, decided.is_allowed(), decided.context.token.as_deref()), (3, true, Some("x")));
        let requests = serving.join().unwrap();
        assert!(
            requests.iter().all(|request| request.to_lowercase().contains("authorization: bearer t0ken"))
        );
    }

    #[test]
    fn every_other_answer_is_an_error() {
        let allow = decision("allow", "");
        let (_, body) = allow.split_once("\r\n\r\n").unwrap();
        for answer in [
            response("403 Forbidden", "another agent"),
            response("500 Internal Server Error", body),
            response("201 Created", body),
            response("307 Temporary Redirect\r\nlocation: /elsewhere", body),
            response("200 OK", "allow"),
            response("200 OK", &body.replace("\"allow\"", "\"deny\"")),
            String::new(),
        ] {
            let (url, serving) = serve(vec![answer.clone()]);
            let asked = client(&url, TIMEOUT).decide(&QUESTION);
            assert!(asked.is_err(), "{answer}: {asked:?}");
            serving.join().unwrap();
        }
    }

    #[test]
    fn decision_point_that_is_silent_or_away_is_an_error_within_the_timeout() {
        // Accepts by its backlog, and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let began = Instant::now();
        let asked = client(&url, Duration::from_millis(200)).decide(&QUESTION);
        assert!(matches!(asked, Err(AskError::Away { .. })), "{asked:?}");
        assert!(began.elapsed() < TIMEOUT);
        drop(silent);
        let asked = client(&url, TIMEOUT).decide(&QUESTION);
        assert!(matches!(asked, Err(AskError::Away { .. })), "{asked:?}");
    }

    #[test]
    fn search_reads_all_pages_with_the_accepted_definitions() {
        let page = |token: &str, results: &str| {
            response(
                "200 OK",
                &format!(r#"{{"page": {{"next_token": "{token}", "count": 1}}, "results": [{results}]}}"#),
            )
        };
        let (url, serving) = serve(vec![
            page("p2", r#"{"type": "tool", "id": "files/read", "properties": {"definition": "ab"}}"#),
            page("", r#"{"type": "tool", "id": "files/write"}"#),
        ]);
        let tools = client(&url, TIMEOUT).permitted_tools(&QUESTION).unwrap();
        let tools: Vec<_> =
            tools.iter().map(|tool| (tool.name.as_str(), tool.definition.as_deref())).collect();
        assert_eq!(tools, [("files/read", Some("ab")), ("files/write", None)]);
        let requests = serving.join().unwrap();
        assert!(
            !requests[0].contains("\"token\"") && requests[1].contains(r#""token":"p2""#),
            "{requests:?}"
        );
    }
}
