//! Memory of a decision point with many open sessions, and its growth while it answers questions.

use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::decide::Start;
use crate::kafka::TailEntry;
use crate::process::{Process, Usage};
use crate::run::{Bench, Load, parse_result, wait_until_done};
use crate::worker::{PublishResult, PublishTask, RateLimiter, WorkerTask};
use crate::{BenchError, Setup};

/// Timeout of a question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between two samples of the memory.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// A measurement fails if more than one answer in this number did not know the session: such an answer reads no state.
const UNKNOWN_ONE_IN: u64 = 100;

/// Settings of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct DecisionLoad {
    /// Open sessions.
    pub sessions: usize,
    /// Duration of the questions.
    pub length: Duration,
    /// Questions per second.
    pub rate: f64,
}

/// Memory of a decision point at a moment.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct MemorySample {
    /// Seconds since the first question.
    pub seconds: f64,
    /// Resident bytes.
    pub resident: u64,
    /// Questions that were answered by then.
    pub answered: u64,
    /// Answers among them that did not know the session.
    pub unknown: u64,
}

/// Memory of a decision point.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DecisionMemory {
    /// Open sessions.
    pub sessions: usize,
    /// Events of these sessions.
    pub events: u64,
    /// Resident bytes of the evaluator when it has processed them.
    pub evaluator_resident: u64,
    /// Seconds from the start of the decision point until it is ready.
    pub ready_seconds: f64,
    /// Resident bytes when it is ready.
    pub ready_resident: u64,
    /// Maximum resident bytes until it is ready.
    pub ready_peak: u64,
    /// Memory while it answers, in order.
    pub samples: Vec<MemorySample>,
    /// Maximum resident bytes of the whole run.
    pub peak: u64,
}

impl Bench<'_> {
    /// Fills the evaluator's changelog with open sessions, starts a decision point with the file of its signing key and the
    /// folder of its spool, and asks it questions about the sessions.
    ///
    /// # Errors
    /// If a process fails, a question is not answered, or more than a hundredth of the answers did not know the session.
    pub fn decision_memory(
        &mut self,
        load: DecisionLoad,
        (key, spool): (&Path, &Path),
        on_sample: &dyn Fn(&MemorySample),
    ) -> Result<DecisionMemory, BenchError> {
        let (evaluator, run, events) = self.fill_sessions(load.sessions)?;
        let evaluator_resident = resident(&evaluator)?;
        let server = self.start(Start::Pdp { name: "pdp", key, spool })?;
        let point = &server.process;
        let http = reqwest::blocking::Client::builder().timeout(ANSWER_TIMEOUT).no_proxy().build();
        let http = http.map_err(BenchError::store("client of the decision point"))?;
        let url = format!("http://{}", server.address);
        let mut memory = DecisionMemory {
            sessions: load.sessions,
            events,
            evaluator_resident,
            ready_seconds: server.ready_after.as_secs_f64(),
            ready_resident: resident(point)?,
            ready_peak: point.usage()?.rss_bytes,
            samples: Vec::new(),
            peak: 0,
        };
        let questions = Questions { setup: self.setup, http: &http, url: &url, run: &run, load };
        memory.samples = questions.ask(point, on_sample)?;
        memory.peak = point.usage()?.rss_bytes;
        server.stop()?;
        evaluator.terminate()?;
        Ok(memory)
    }

    /// Publishes events of every session and waits until the evaluator has processed them. Returns the running evaluator, the
    /// prefix of the sessions' ids, and the number of events.
    fn fill_sessions(&mut self, sessions: usize) -> Result<(Process, String, u64), BenchError> {
        let names = self.names()?;
        let mut evaluator = self.start_stage(names.evaluator, names.evaluator, &self.env())?;
        // The address of its server.
        evaluator.read_line()?;
        // Each session gets its first event in turn, and another one on average.
        let load = Load { open_sessions: sessions, ..Load::of(2 * sessions as u64) };
        let task = PublishTask { visits_each: true, ..self.publish_task(load) };
        let run = task.run.clone();
        let mut publisher = self.start_worker("publisher", &WorkerTask::Publish(task))?;
        publisher.read_line()?;
        publisher.write_line("go")?;
        let published: PublishResult = parse_result(&publisher.read_line()?)?;
        let ends = self.kafka.end_offsets(names.actions)?;
        let group = self.group_of(names.evaluator)?;
        wait_until_done("the evaluator to catch up", Duration::from_millis(100), || {
            evaluator.check()?;
            let behind = group.lag(&ends, TailEntry::Record)?;
            Ok((behind > 0).then(|| format!("{behind} offsets are left")))
        })?;
        Ok((evaluator, run, published.events))
    }
}

/// Questions about the open sessions.
struct Questions<'a> {
    setup: &'a Setup<'a>,
    http: &'a reqwest::blocking::Client,
    url: &'a str,
    /// Prefix of the sessions' ids.
    run: &'a str,
    load: DecisionLoad,
}

impl Questions<'_> {
    /// Asks questions at the rate, about random sessions, and samples the memory of the decision point.
    fn ask(
        &self,
        point: &Process,
        on_sample: &dyn Fn(&MemorySample),
    ) -> Result<Vec<MemorySample>, BenchError> {
        let (began, limiter) = (Instant::now(), RateLimiter::new(Some(self.load.rate)));
        let mut rng = Rng::with_seed(self.setup.seed);
        let (mut samples, mut next_sample, mut unknown) = (Vec::new(), Duration::ZERO, 0);
        for answered in 0_u64.. {
            let elapsed = began.elapsed();
            if elapsed >= next_sample || elapsed >= self.load.length {
                let (seconds, resident) = (elapsed.as_secs_f64(), resident(point)?);
                let sample = MemorySample { seconds, resident, answered, unknown };
                on_sample(&sample);
                samples.push(sample);
                next_sample += SAMPLE_INTERVAL;
            }
            if elapsed >= self.load.length {
                check_unknown(answered, unknown)?;
                break;
            }
            limiter.wait(answered);
            let answer = self.ask_about(rng.usize(1..=self.load.sessions.max(1)), answered)?;
            unknown += u64::from(!knows_records(&answer));
        }
        Ok(samples)
    }

    fn ask_about(&self, session: usize, number: u64) -> Result<Value, BenchError> {
        let question = json!({
            "subject": { "type": "agent", "id": self.setup.agent },
            "action": { "name": "tools/call" },
            "resource": { "type": "tool", "id": "update_reservation_baggages" },
            "context": {
                "tenant": self.setup.tenant,
                "environment": self.setup.environment,
                "session": format!("{}-{session}", self.run),
                "call_id": format!("question-{number}"),
                "arguments": r#"{"reservation_id":"QX1","total_baggages":1}"#,
            },
        });
        self.http
            .post(format!("{}/access/v1/evaluation", self.url))
            .header("Content-Type", "application/json")
            .body(question.to_string())
            .send()
            .and_then(|answer| answer.error_for_status()?.json())
            .map_err(BenchError::store("a question to the decision point"))
    }
}

/// Returns true if the decision knew records of the session's partition. It has no such member if the state was not known.
fn knows_records(answer: &Value) -> bool {
    answer.pointer("/context/known_through/offset").and_then(Value::as_i64).is_some_and(|offset| offset >= 0)
}

fn check_unknown(answered: u64, unknown: u64) -> Result<(), BenchError> {
    if unknown * UNKNOWN_ONE_IN <= answered {
        return Ok(());
    }
    let message = format!(
        "expected decisions that know the records of the session, found {unknown} of {answered} answers without `known_through`"
    );
    Err(BenchError::Http { what: "asking about open sessions", message })
}

fn resident(process: &Process) -> Result<u64, BenchError> {
    let failed = |source| BenchError::Process { name: process.name.clone(), source };
    Usage::resident(process.pid()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_know_nothing_fail_the_measurement() {
        let answer = |context: Value| json!({ "decision": false, "context": context });
        for (context, is_known) in [
            (json!({ "known_through": { "partition": 3, "offset": 0 } }), true),
            (json!({ "known_through": { "partition": 3, "offset": -1 } }), false),
            (json!({ "unavailable": { "code": "stale" } }), false),
        ] {
            assert_eq!(knows_records(&answer(context.clone())), is_known, "{context}");
        }
        for (answered, unknown, is_ok) in [(0, 0, true), (100, 1, true), (100, 2, false), (5, 5, false)] {
            assert_eq!(check_unknown(answered, unknown).is_ok(), is_ok, "{unknown} of {answered}");
        }
    }
}
