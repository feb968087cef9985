//! `agentgov demo --inline`: asks the decision point before each call, and compares each decision with the later verdict.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use agentgov_authzen_client::{After, AskError, CallQuestion, DecisionClient, MessageContext};
use agentgov_connect::Tls;
use agentgov_importers::{CallDecider, Import};
use agentgov_log_reader::decided::DecidedCall;
use agentgov_schemas::verdict::Decision;
use agentgov_sdk::{Event, Receipt};
use agentgov_service::ExitCode;
use serde::Serialize;

use crate::failure::{Failure, OrExit as _};

/// Time after which such an answer is final.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Exceeds the time that the decision point takes for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Client that asks the decision point before each call of an import.
pub struct InlineClient {
    client: DecisionClient,
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

impl InlineClient {
    /// Creates a client for the calls of `import`, of the decision point at `url`.
    pub fn new(import: &Import<'_>, url: &str) -> Result<Self, Failure> {
        let client = DecisionClient::new(url, &Tls::default(), None, ANSWER_TIMEOUT);
        let options = import.options();
        Ok(Self {
            client: client.or_exit(ExitCode::Config)?,
            tenant_id: options.tenant_id.clone(),
            environment: options.environment.clone(),
            source_id: import.source_id(),
            answers: Answers::default(),
        })
    }

    /// Returns the question about a call; `None` if its arguments are no text.
    fn question<'a>(&'a self, call: &Event<'a>, after: Option<Receipt>) -> Option<CallQuestion<'a>> {
        let tool = call.tool?;
        let message = call.message.map(|message| MessageContext {
            id: message.id,
            role: message.role,
            has_text: message.has_text,
            tool_calls: message.tool_calls,
        });
        let of = (self.tenant_id.as_str(), self.environment.as_str());
        Some(CallQuestion {
            call_id: Some(tool.call_id).filter(|id| !id.is_empty()),
            arguments: str::from_utf8(tool.arguments.data).ok()?,
            message,
            actor: call.actor,
            time: call.occurred_at,
            after: after.map(|receipt| After { source: &self.source_id, sequence: receipt.sequence }),
            ..CallQuestion::new(of, call.agent.id, call.session_id, tool.name)
        })
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
        let (mut answers, mut recorded) = (0, 0);
        let decided = self.client.decide_when_known(&question, MAX_WAIT, |decision| {
            answers += 1;
            recorded += u64::from(decision.context.recorded);
        });
        self.answers.asked_again += u64::saturating_sub(answers, 1);
        self.answers.recorded += recorded;
        let decision = match decided {
            Ok(decision) => decision.context,
            Err(error @ AskError::Away { .. }) => return Err(error.into()),
            Err(error) => {
                self.answers.errors.push(format!("{}: {error}", name()));
                return Ok(None);
            }
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
