//! `agentgov demo --inline`: asks the decision point before each call, and compares each decision with the later verdict.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use agentgov_connect::{Tls, describe, http_client, read_body};
use agentgov_importers::{CallDecider, Import};
use agentgov_log_reader::decided::DecidedCall;
use agentgov_schemas::verdict::Decision;
use agentgov_sdk::{Event, Receipt};
use agentgov_service::ExitCode;
use reqwest::blocking::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::failure::{Failure, OrExit as _};

/// Reasons of the decision point for which a later question may get another answer.
const PASSING: [&str; 4] = ["loading", "stale", "behind", "not_arrived"];
/// Time after which such an answer is final.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Pause before the same question is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Exceeds the time that the decision point takes for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Client that asks the decision point before each call of an import.
pub struct InlineClient {
    http: Client,
    url: String,
    tenant_id: String,
    environment: String,
    source_id: String,
    /// Decisions so far.
    pub answers: Answers,
}

/// Decisions that the decision point returned.
#[derive(Debug, Default)]
pub struct Answers {
    /// Outcome and reason by the id of the decision, of the last answer for each call.
    by_id: BTreeMap<String, (String, String)>,
    /// Errors instead of decisions.
    errors: Vec<String>,
    /// Number of answers that did not know the session yet, so that the question was asked again.
    asked_again: u64,
    /// Number of decisions that the log must have.
    recorded: u64,
    /// Time to the answer of each call, with all its questions.
    times: Vec<Duration>,
}

/// Response of the decision point, as far as it is read.
#[derive(Deserialize)]
struct Response {
    context: ResponseContext,
}

#[derive(Deserialize)]
struct ResponseContext {
    outcome: String,
    reason: String,
    evaluation_id: String,
    recorded: bool,
    token: Option<String>,
    unavailable: Option<Unavailable>,
}

#[derive(Deserialize)]
struct Unavailable {
    code: String,
}

impl InlineClient {
    /// Creates a client for the calls of `import`, of the decision point at `url`.
    pub fn new(import: &Import<'_>, url: &str) -> Result<Self, Failure> {
        let http = http_client(url, &Tls::default()).or_exit(ExitCode::Config)?;
        let options = import.options();
        Ok(Self {
            http: http.timeout(ANSWER_TIMEOUT).build().or_exit(ExitCode::Failed)?,
            url: format!("{url}/access/v1/evaluation"),
            tenant_id: options.tenant_id.clone(),
            environment: options.environment.clone(),
            source_id: import.source_id(),
            answers: Answers::default(),
        })
    }

    /// Returns the question about a call; `None` if its arguments are no text.
    fn question(&self, call: &Event<'_>, after: Option<Receipt>) -> Option<Value> {
        let tool = call.tool?;
        let mut context = json!({
            "tenant": self.tenant_id,
            "environment": self.environment,
            "session": call.session_id,
            "arguments": str::from_utf8(tool.arguments.data).ok()?,
        });
        let members = [
            ("call_id", Some(json!(tool.call_id)).filter(|_| !tool.call_id.is_empty())),
            ("time", call.occurred_at.map(|time| json!(time.0))),
            ("actor", call.actor.map(|actor| json!({ "id": actor.id, "type": actor.r#type }))),
            (
                "message",
                call.message.map(|message| {
                    json!({ "id": message.id, "role": message.role, "has_text": message.has_text, "tool_calls": message.tool_calls })
                }),
            ),
            (
                "after",
                after.map(|receipt| json!({ "source": self.source_id, "sequence": receipt.sequence })),
            ),
        ];
        for (name, value) in members {
            if let (Some(value), Some(context)) = (value, context.as_object_mut()) {
                context.insert(name.to_owned(), value);
            }
        }
        Some(json!({
            "subject": { "type": "agent", "id": call.agent.id },
            "action": { "name": "tools/call" },
            "resource": { "type": "tool", "id": tool.name },
            "context": context,
        }))
    }

    /// Sends a question. Returns the decision, or the text of the decision point's error.
    fn ask(&self, question: &Value) -> Result<Result<ResponseContext, String>, String> {
        let away = |error: &dyn Error| format!("the decision point at {}: {}", self.url, describe(error));
        let response = self.http.post(&self.url).json(question).send();
        let response = response.map_err(|error| away(&error.without_url()))?;
        let status = response.status();
        let text = read_body(response).map_err(|error| away(&error))?;
        if !status.is_success() {
            return Ok(Err(format!("{status}: {}", text.trim_end())));
        }
        let answer: Result<Response, _> = serde_json::from_str(&text);
        Ok(answer.map(|answer| answer.context).map_err(|error| format!("expected a decision: {error}")))
    }
}

impl CallDecider for InlineClient {
    const MAX_TOKEN_BYTES: usize = agentgov_token::MAX_TOKEN_BYTES;

    fn decide(
        &mut self,
        call: &Event<'_>,
        after: Option<Receipt>,
    ) -> Result<Option<String>, Box<dyn Error + Send + Sync>> {
        let began = Instant::now();
        let name = || format!("session {}, tool {}", call.session_id, call.tool.map_or("", |tool| tool.name));
        let Some(question) = self.question(call, after) else {
            self.answers.errors.push(format!("{}: expected arguments in UTF-8", name()));
            return Ok(None);
        };
        let decision = loop {
            let decision = match self.ask(&question)? {
                Ok(decision) => decision,
                Err(error) => {
                    self.answers.errors.push(format!("{}: {error}", name()));
                    return Ok(None);
                }
            };
            self.answers.recorded += u64::from(decision.recorded);
            let code = decision.unavailable.as_ref().map(|unavailable| unavailable.code.as_str());
            if !code.is_some_and(|code| PASSING.contains(&code)) || began.elapsed() > MAX_WAIT {
                break decision;
            }
            self.answers.asked_again += 1;
            std::thread::sleep(RETRY_INTERVAL);
        };
        self.answers.times.push(began.elapsed());
        self.answers.by_id.insert(decision.evaluation_id, (decision.outcome, decision.reason));
        Ok(decision.token)
    }
}

/// Comparison of the decisions with their verdicts.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Number of calls about which the decision point was asked.
    pub asked: u64,
    /// Number of questions that were asked again, since the session's last event was not known yet.
    pub asked_again: u64,
    /// Number of calls with decision allow.
    pub allowed: u64,
    /// Number of calls with decision deny.
    pub denied: u64,
    /// Number of calls with decision ask.
    pub asked_a_person: u64,
    /// Number of calls with decision indeterminate.
    pub indeterminate: u64,
    /// Number of calls whose decision differs from their verdict.
    pub differed: usize,
    /// Median time to an answer, in milliseconds; `None` without an answer.
    pub p50_ms: Option<f64>,
    /// Errors of the decision point instead of a decision.
    pub errors: Vec<String>,
    /// Calls whose decision differs from their verdict.
    pub differences: Vec<DifferingCall>,
}

/// Call whose decision differs from its verdict.
#[derive(Debug, Serialize)]
pub struct DifferingCall {
    /// The call.
    pub call: DecidedCall,
    /// Parts that differ: outcome, reason, violations or known_digest; `answer` if the recorded decision is not the returned one.
    pub differs: Vec<&'static str>,
}

impl Answers {
    /// Returns the number of decisions that the log must have.
    pub const fn recorded(&self) -> u64 {
        self.recorded
    }

    /// Compares each call of the import with its decision. A call without a decision differs.
    pub fn compare(&self, calls: Vec<DecidedCall>) -> Comparison {
        let count = |outcome: Decision| {
            self.by_id.values().filter(|(decided, _)| decided == outcome.as_str()).count() as u64
        };
        let differing = calls.into_iter().filter_map(|call| {
            let mut differs = call.differences();
            let is_answered = self
                .by_id
                .get(&call.decision_id)
                .is_some_and(|(outcome, reason)| (outcome, reason) == (&call.decided, &call.decided_reason));
            if !is_answered {
                differs.push("answer");
            }
            (!differs.is_empty()).then_some(DifferingCall { call, differs })
        });
        let differences: Vec<DifferingCall> = differing.collect();
        let mut times = self.times.clone();
        times.sort_unstable();
        Comparison {
            asked: (self.by_id.len() + self.errors.len()) as u64,
            asked_again: self.asked_again,
            allowed: count(Decision::Allow),
            denied: count(Decision::Deny),
            asked_a_person: count(Decision::Ask),
            indeterminate: count(Decision::Indeterminate),
            differed: differences.len(),
            p50_ms: times.get(times.len() / 2).map(|time| time.as_secs_f64() * 1000.0),
            errors: self.errors.clone(),
            differences,
        }
    }
}

impl Comparison {
    /// Returns true if each call was decided as its verdict.
    pub const fn is_equal(&self) -> bool {
        self.differences.is_empty() && self.errors.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: &str, decided: &str) -> DecidedCall {
        DecidedCall {
            session: "0/0".to_owned(),
            call: 0,
            tool: "think".to_owned(),
            decision_id: id.to_owned(),
            decided: decided.to_owned(),
            decided_reason: "granted".to_owned(),
            decided_violations: Vec::new(),
            decided_known: "00".to_owned(),
            judged: "allow".to_owned(),
            judged_reason: "granted".to_owned(),
            judged_violations: Vec::new(),
            judged_known: "00".to_owned(),
        }
    }

    #[test]
    fn call_without_an_equal_decision_differs() {
        let granted = |outcome: &str| (outcome.to_owned(), "granted".to_owned());
        let by_id = [("a", granted("allow")), ("b", granted("deny")), ("c", granted("deny"))];
        let answers = Answers {
            by_id: by_id.map(|(id, answer)| (id.to_owned(), answer)).into(),
            times: [3, 1, 2].map(Duration::from_millis).to_vec(),
            ..Answers::default()
        };
        let equal = answers.compare(vec![call("a", "allow")]);
        assert!(equal.is_equal());
        assert_eq!((equal.asked, equal.allowed, equal.denied, equal.p50_ms), (3, 1, 2, Some(2.0)));
        let compared = answers.compare(vec![
            call("a", "allow"),
            // The verdict is another one.
            call("b", "deny"),
            // The log has another decision than the answer, and no decision at all.
            call("c", "allow"),
            call("", ""),
        ]);
        let differs: Vec<_> = compared.differences.iter().map(|call| &call.differs[..]).collect();
        assert_eq!(differs, [&["outcome"][..], &["answer"], &["outcome", "answer"]]);
        assert_eq!((compared.differed, compared.is_equal()), (3, false));
        let failed = Answers { errors: vec!["400".to_owned()], ..Answers::default() };
        assert!(!failed.compare(Vec::new()).is_equal());
    }
}
