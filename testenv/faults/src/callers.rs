//! Callers: threads that ask a decision before each call, retry at the other decision point when one does not answer, and
//! record the call with its token.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use agentgov_authzen_client::{After, AskError, CallQuestion, Decision, DecisionClient, DecisionContext};
use agentgov_connect::Tls;
use agentgov_sdk::{Recorder, RecorderOptions};
use fastrand::Rng;

use crate::decision_points::{DECISION_POINTS, DecisionPoints};
use crate::plants::PLANT_REUSE_TOKEN;
use crate::producer::{ProducerReport, close_source};
use crate::run::Setup;
use crate::session::{NextCall, Session};

/// Number of callers.
pub(crate) const CALLERS: usize = 3;
/// Interval between two events of a caller.
const EVENT_INTERVAL: Duration = Duration::from_millis(40);
/// Concurrently open sessions of a caller.
const OPEN_SESSIONS: usize = 4;
/// Timeout of a request. A decision point waits 250 ms at most for the event before the call.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Decision points listen on this machine; their ports change.
const LOOPBACK: &str = "http://127.0.0.1";
/// One call of this number carries another token, if [`PLANT_REUSE_TOKEN`] is planted.
const WRONG_ONE_IN: u64 = 20;
/// Pause before a retry.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Answer of a decision point.
#[derive(Clone, Debug)]
pub(crate) struct AnsweredDecision {
    pub(crate) id: String,
    pub(crate) agent: String,
    pub(crate) outcome: String,
    /// Reason, with the code if the state was not known.
    pub(crate) reason: String,
    pub(crate) is_allow: bool,
    pub(crate) is_recorded: bool,
    /// A decision point signs only while it knows that its key is published.
    pub(crate) has_token: bool,
    /// When the caller sent the question that was answered.
    pub(crate) asked: Instant,
}

/// Decisions and events of the callers.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallerReports {
    pub(crate) answers: Vec<AnsweredDecision>,
    /// Requests without an answer, each followed by a retry.
    pub(crate) retries: u64,
    /// Calls that were recorded with a token.
    pub(crate) calls: u64,
    /// Last acknowledged sequence number by source.
    pub(crate) acknowledged: BTreeMap<String, i64>,
    /// Answers with an error, and errors of the SDK.
    pub(crate) failed: Vec<String>,
}

impl CallerReports {
    pub(crate) fn append(&mut self, mut other: Self) {
        self.answers.append(&mut other.answers);
        self.retries += other.retries;
        self.calls += other.calls;
        self.acknowledged.append(&mut other.acknowledged);
        self.failed.append(&mut other.failed);
    }
}

/// Session of a caller, with the number of its last recorded event.
struct OpenSession {
    session: Session,
    last: Option<i64>,
}

struct Caller<'a> {
    setup: &'a Setup<'a>,
    points: &'a DecisionPoints,
    agent: &'a str,
    client: DecisionClient,
    recorder: Recorder,
    rng: Rng,
    sessions: u64,
    report: CallerReports,
}

/// Runs a caller until `stop` is set.
pub(crate) fn run(
    setup: &Setup<'_>,
    points: &DecisionPoints,
    agent: &str,
    stop: &AtomicBool,
) -> Result<CallerReports, String> {
    let options = RecorderOptions::new(
        setup.endpoints.kafka.clone(),
        setup.endpoints.schema_registry.clone(),
        std::sync::Arc::clone(setup.topology),
        setup.tenant,
        setup.environment,
    );
    let recorder = Recorder::start(RecorderOptions { linger: Duration::ZERO, ..options });
    let seed = agent.bytes().fold(setup.seed, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut caller = Caller {
        setup,
        points,
        agent,
        client: DecisionClient::new(LOOPBACK, &Tls::default(), None, ANSWER_TIMEOUT)
            .map_err(|e| e.to_string())?,
        recorder: recorder.map_err(|e| e.to_string())?,
        rng: Rng::with_seed(seed),
        sessions: 0,
        report: CallerReports::default(),
    };
    if let Err(error) = caller.write_sessions(stop) {
        caller.report.failed.push(format!("{agent}: {error}"));
    }
    match close_source(&caller.recorder) {
        Some(ProducerReport::Failed(error)) => caller.report.failed.push(format!("{agent}: {error}")),
        None => caller.report.failed.push(format!("{agent}: the source did not close in time")),
        Some(_) => {}
    }
    Ok(caller.report)
}

impl Caller<'_> {
    fn write_sessions(&mut self, stop: &AtomicBool) -> Result<(), String> {
        let mut open: Vec<OpenSession> = (0..OPEN_SESSIONS).map(|_| self.open_session()).collect();
        let reuses = self.setup.plants.contains(&PLANT_REUSE_TOKEN);
        let mut last_token = None;
        while !stop.load(Ordering::Relaxed) {
            let Some(of) = open.get_mut(self.rng.usize(..OPEN_SESSIONS)) else { break };
            let answer = match of.session.next_call() {
                None => None,
                Some(call) => {
                    let Some(answer) = self.ask_until_answered(of, &call, stop) else { break };
                    Some(answer)
                }
            };
            let token = answer.as_ref().and_then(|answer| answer.context.token.clone());
            let token = if reuses && token.is_some() && self.report.calls % WRONG_ONE_IN == 1 {
                last_token.clone()
            } else {
                token
            };
            last_token = token.clone().or(last_token);
            let receipt = of.session.record_next(&self.recorder, self.agent, token.as_deref());
            let sequence = receipt.map_err(|error| error.to_string())?.sequence;
            self.report.acknowledged.insert(self.recorder.source_id().to_owned(), sequence);
            of.last = Some(sequence);
            self.report.calls += u64::from(token.is_some());
            if answer.is_some_and(|answer| !answer.is_allowed()) {
                of.session.skip_result();
            }
            if of.session.is_over() {
                *of = self.open_session();
            }
            sleep(EVENT_INTERVAL);
        }
        Ok(())
    }

    fn open_session(&mut self) -> OpenSession {
        self.sessions += 1;
        let id = format!("{}-decided-{}", self.recorder.source_id(), self.sessions);
        OpenSession { session: Session::new(id, &mut self.rng), last: None }
    }

    /// Asks the decision points in turn until one answers. Returns `None` if `stop` is set first.
    fn ask_until_answered(
        &mut self,
        of: &OpenSession,
        call: &NextCall,
        stop: &AtomicBool,
    ) -> Option<Decision> {
        let first = self.rng.usize(..DECISION_POINTS);
        for member in (0..DECISION_POINTS).cycle().skip(first) {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let asked = Instant::now();
            if let Some(answer) = self.points.url(member).and_then(|url| self.ask(&url, of, call)) {
                let DecisionContext { outcome, reason, evaluation_id, recorded, unavailable, token, .. } =
                    &answer.context;
                let code = unavailable.as_ref().map_or(String::new(), |state| format!(": {}", state.code));
                self.report.answers.push(AnsweredDecision {
                    id: evaluation_id.clone(),
                    agent: self.agent.to_owned(),
                    outcome: outcome.clone(),
                    reason: format!("{reason}{code}"),
                    is_allow: answer.is_allowed(),
                    is_recorded: *recorded,
                    has_token: token.is_some(),
                    asked,
                });
                return Some(answer);
            }
            self.report.retries += 1;
            sleep(RETRY_INTERVAL);
        }
        None
    }

    /// Sends a question. Returns `None` if the decision point did not answer.
    fn ask(&mut self, url: &str, of: &OpenSession, call: &NextCall) -> Option<Decision> {
        match self.client.with_url(url).decide(&self.question(of, call)) {
            Ok(decision) => Some(decision),
            Err(AskError::Away { .. }) => None,
            Err(error) => {
                self.report.failed.push(format!("{}: expected an answer, found {error}", self.agent));
                None
            }
        }
    }

    fn question<'q>(&'q self, of: &'q OpenSession, call: &'q NextCall) -> CallQuestion<'q> {
        let tenancy = (self.setup.tenant, self.setup.environment);
        CallQuestion {
            call_id: Some(&call.id),
            arguments: call.arguments,
            after: of.last.map(|sequence| After { source: self.recorder.source_id(), sequence }),
            ..CallQuestion::new(tenancy, self.agent, of.session.id(), call.tool)
        }
    }
}
