//! Instructions per event of each step, without Kafka and ClickHouse. Instruction counts do not depend on other load.
//!
//! A step includes the steps before it; its own cost is the difference. Counts of `n` and `2 n` events are compared, so
//! that the start-up cost cancels out.

use std::path::Path;
use std::process::Command;

use agentgov_alerter::Alerter;
use agentgov_enrichment::{AgentTable, Session, ToolTable};
use agentgov_evaluator::Evaluator;
use agentgov_log_sink::ActionRows;
use agentgov_policy::{Bundle, BundleFiles, BundleTable, FoldOutcome, Kernel, KeySet, RequestCache};
use agentgov_processor::{Outputs, Processor, RestoreValue, TableRecord};
use agentgov_runtime::sink::{Headers, Record, TopicPartition};
use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::governance::{self, AgentEntry, AgentState, BundleFile};
use agentgov_schemas::subject::{self, Subject};
use agentgov_schemas::topology::{MissingRole, Topology};
use agentgov_schemas::verdict::{Origin, Reason, Verdict};
use agentgov_schemas::wire::{self, SchemaId};
use agentgov_schemas::{Millis, RecordEncoder, record};
use agentgov_sdk::Composer;
use serde::{Deserialize, Serialize};

use crate::sessions::{Scripts, Sessions};

/// Concurrently open sessions.
const OPEN_SESSIONS: usize = 500;
/// Events of a partition in a batch.
const BATCH_EVENTS: usize = 100;
const ID: SchemaId = SchemaId(1);
const SEED: u64 = 1;

/// Step of an event through the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// SDK: check, number, encode.
    Compose,
    /// Decode, borrowed.
    Decode,
    /// Extract derived values, facts and calls.
    Enrich,
    /// Evaluate the policies.
    Evaluate,
    /// Whole evaluator: also encodes changelog and verdicts.
    Encode,
    /// Alerter, reading the verdicts.
    Alert,
    /// Log-sink: row in columns.
    Row,
}

impl Step {
    /// Steps in processing order.
    pub const ALL: [Self; 7] =
        [Self::Compose, Self::Decode, Self::Enrich, Self::Evaluate, Self::Encode, Self::Alert, Self::Row];

    /// Returns the name of the step.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compose => "compose",
            Self::Decode => "decode",
            Self::Enrich => "enrich",
            Self::Evaluate => "evaluate",
            Self::Encode => "encode",
            Self::Alert => "alert",
            Self::Row => "row",
        }
    }

    /// Returns the step that this one includes.
    const fn included_step(self) -> Option<Self> {
        match self {
            Self::Compose => None,
            Self::Decode | Self::Row => Some(Self::Compose),
            Self::Enrich => Some(Self::Decode),
            Self::Evaluate => Some(Self::Enrich),
            Self::Encode => Some(Self::Evaluate),
            Self::Alert => Some(Self::Encode),
        }
    }
}

/// Failure of a step.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StepError(String);

impl StepError {
    fn of<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }
}

/// Runs a step with a number of events. Returns a number that depends on all results, so that the compiler removes nothing.
///
/// # Errors
/// If the generated events or records are not accepted.
pub fn step(
    step: Step,
    events: usize,
    topology: &Topology,
    files: &BundleFiles,
    (tenant, agent, environment): (&str, &str, &str),
) -> Result<usize, StepError> {
    let composed = compose(events, tenant, agent, environment)?;
    let values = || composed.iter().map(|(_, value)| value.as_slice());
    match step {
        Step::Compose => Ok(values().map(<[u8]>::len).sum()),
        Step::Decode => {
            let mut sum = 0;
            for value in values() {
                sum += decode(value)?.session_id.len();
            }
            Ok(sum)
        }
        Step::Enrich | Step::Evaluate => {
            let governance = Governance::new(files, tenant, agent, environment)?;
            let kernel = governance.kernel(topology)?;
            let tools = governance.bundle.tools();
            let mut sessions: std::collections::HashMap<String, Session> = std::collections::HashMap::new();
            let mut sum = 0;
            for (offset, value) in values().enumerate() {
                let event = decode(value)?;
                let session = match sessions.get_mut(event.session_id) {
                    Some(session) => session,
                    None => sessions.entry(event.session_id.to_owned()).or_default(),
                };
                let origin = origin(offset);
                if step == Step::Evaluate {
                    let step = kernel.step(session, &event, &origin).map_err(|e| StepError(e.to_string()))?;
                    sum += step.changes.len() + usize::from(step.verdict.is_some());
                } else {
                    if event.is_judged() {
                        sum += tools.derive(session, &event).derived.len();
                    }
                    let check = session.check_sequence(&event);
                    sum += session.apply(&event, &check, &origin, Some(tools), &kernel.limits).changes.len();
                }
            }
            Ok(sum)
        }
        Step::Encode | Step::Alert => {
            let governance = Governance::new(files, tenant, agent, environment)?;
            let mut evaluating = ProcessorFixture::new(topology, "evaluator", Evaluator::new)?;
            governance.fold_into(topology, &mut evaluating.processor)?;
            let mut alerting = ProcessorFixture::new(topology, "alerter", |_, _| {
                Ok::<_, StepError>(Alerter::new(std::time::Duration::from_secs(3_600)))
            })?;
            let verdicts = topology.topic_of(subject::VERDICT).map_err(StepError::of("topology"))?.0;
            let mut sum = 0;
            for (offset, value) in values().enumerate() {
                let event = decode(value)?;
                sum += evaluating.step(offset, &event)?;
                if offset % BATCH_EVENTS == BATCH_EVENTS - 1 {
                    evaluating.finish(offset)?;
                }
                if step == Step::Alert {
                    for record in evaluating.outputs.iter().filter(|record| record.topic == verdicts) {
                        let (id, datum) = wire::split(record.value.unwrap_or_default())
                            .map_err(StepError::of("a verdict"))?;
                        let schema = subject::VERDICT.schema().map_err(StepError::of("schema"))?;
                        let verdict: Verdict<'_> =
                            schema.decode(id, datum).map_err(StepError::of("a verdict"))?;
                        if verdict.reason == Reason::NoBundle {
                            return Err(StepError("the evaluator judges without the bundle".to_owned()));
                        }
                        sum += alerting.step(offset, &verdict)?;
                    }
                    alerting.outputs.clear();
                }
                evaluating.outputs.clear();
            }
            Ok(sum)
        }
        Step::Row => {
            let mut rows = ActionRows::new().map_err(StepError::of("schema"))?;
            let at = TopicPartition::new("actions", 0);
            for (offset, (key, value)) in composed.iter().enumerate() {
                rows.push(&Record {
                    skipped: 0,
                    at: &at,
                    offset: offset as i64,
                    logged_at: Millis(1_700_000_000_000),
                    key: Some(key),
                    value: Some(value),
                    headers: Headers::none(),
                });
            }
            Ok(rows.bytes())
        }
    }
}

/// A processor without its runtime.
struct ProcessorFixture<P: Processor> {
    processor: P,
    partition: P::Partition,
    outputs: Outputs,
}

impl<P: Processor> ProcessorFixture<P> {
    fn new<E: std::fmt::Display>(
        topology: &Topology,
        name: &str,
        new: impl FnOnce(&Topology, &agentgov_schemas::topology::Stage) -> Result<P, E>,
    ) -> Result<Self, StepError> {
        let stage = topology.stage(name).map_err(StepError::of("topology"))?;
        let processor = new(topology, stage).map_err(StepError::of("processor"))?;
        let partition = processor.partition(0);
        let outputs = Outputs::new(topology, stage, |_, _| Ok::<_, MissingRole>(ID))
            .map_err(StepError::of("outputs"))?;
        Ok(Self { processor, partition, outputs })
    }

    fn step(&mut self, offset: usize, input: &P::Input<'_>) -> Result<usize, StepError> {
        self.processor
            .step(&mut self.partition, &origin(offset), input, &mut self.outputs)
            .map_err(|reject| StepError(format!("rejected: {reject:?}")))?;
        Ok(self.outputs.iter().count())
    }

    /// Finishes a batch.
    fn finish(&mut self, offset: usize) -> Result<(), StepError> {
        self.processor
            .finish(&mut self.partition, offset as i64 + 1, &mut self.outputs)
            .map_err(StepError::of("the end of a batch"))
    }
}

/// Agent, bundle and tables.
struct Governance {
    agents: AgentTable,
    bundles: BundleTable,
    requests: RequestCache,
    bundle: std::sync::Arc<Bundle>,
    records: [(Subject, Vec<u8>); 2],
}

/// The benchmarks have no registered tools: the effects of the bundle count.
static NO_TOOLS: ToolTable = ToolTable::new();

impl Governance {
    fn new(files: &BundleFiles, tenant: &str, agent: &str, environment: &str) -> Result<Self, StepError> {
        let entry = AgentEntry {
            name: agent,
            owner: "bench",
            roles: vec!["airline-agent"],
            pushed_by: "bench",
            ..AgentEntry::new(tenant, agent, AgentState::Active)
        };
        let compiled = Bundle::compile(files).map_err(|problems| StepError(format!("{problems:?}")))?;
        let ids: Vec<String> = compiled.policies().map(|policy| policy.id.clone()).collect();
        let bundle = governance::Bundle {
            name: compiled.name(),
            version: compiled.version(),
            digest: files.digest(),
            environments: compiled.environments().iter().map(String::as_str).collect(),
            files: files.0.iter().map(|(path, content)| BundleFile { path, content }).collect(),
            pushed_by: "bench",
            policies: ids.iter().map(String::as_str).collect(),
        };
        let mut agents = AgentTable::default();
        agents.fold(&entry, 0);
        let mut bundles = BundleTable::default();
        if let FoldOutcome::Refused(refused) = bundles.fold(&bundle, 0, Millis(0)) {
            return Err(StepError(format!("the bundle is refused: {refused:?}")));
        }
        let active = bundles.active(environment).map(std::sync::Arc::clone);
        let active = active.ok_or_else(|| StepError("the bundle is not active".to_owned()))?;
        let records = [encoded(&entry)?, encoded(&bundle)?];
        Ok(Self { agents, bundles, requests: RequestCache::default(), bundle: active, records })
    }

    fn kernel(&self, topology: &Topology) -> Result<Kernel<'_>, StepError> {
        let stage = topology.stage("evaluator").map_err(StepError::of("topology"))?;
        let limits = stage.session.as_ref().ok_or_else(|| StepError("no limits".to_owned()))?.value;
        Ok(Kernel {
            agents: &self.agents,
            tools: &NO_TOOLS,
            bundles: &self.bundles,
            keys: const { &KeySet::new() },
            limits,
            agents_topic: "agents",
            tools_topic: "tools",
            bundles_topic: "bundles",
            requests: &self.requests,
        })
    }

    fn fold_into(&self, topology: &Topology, evaluator: &mut Evaluator) -> Result<(), StepError> {
        for (subject, bytes) in &self.records {
            let schema = subject.schema().map_err(StepError::of("schema"))?;
            let (id, datum) = wire::split(bytes).map_err(StepError::of("an entry"))?;
            let topic = topology.topic_of(*subject).map_err(StepError::of("topology"))?.0;
            let value = Ok(RestoreValue::new(id, schema, datum));
            evaluator.update_table(topology, &TableRecord { topic, offset: 0, logged_at: Millis(0), value });
        }
        evaluator.tables_loaded();
        Ok(())
    }
}

/// Returns a record's subject and encoded value.
fn encoded<T: record::Record>(record: &T) -> Result<(Subject, Vec<u8>), StepError> {
    let mut encoder = RecordEncoder::<T::Static>::new(ID).map_err(StepError::of("schema"))?;
    Ok((T::SUBJECT, encoder.encode(record).map_err(StepError::of("encoding"))?))
}

fn decode(value: &[u8]) -> Result<ActionEvent<'_>, StepError> {
    let (id, datum) = wire::split(value).map_err(StepError::of("an event"))?;
    let schema = subject::ACTION_EVENT.schema().map_err(StepError::of("schema"))?;
    schema.decode(id, datum).map_err(StepError::of("an event"))
}

fn origin(offset: usize) -> Origin<'static> {
    Origin {
        topic: "agent.actions",
        partition: 0,
        offset: offset as i64,
        logged_at: Millis(1_700_000_000_000),
    }
}

/// Key and value of each event.
type Composed = Vec<(Vec<u8>, Vec<u8>)>;

fn compose(events: usize, tenant: &str, agent: &str, environment: &str) -> Result<Composed, StepError> {
    let scripts = Scripts::new(SEED);
    let mut sessions = Sessions::new(&scripts, "s", OPEN_SESSIONS, SEED);
    let composer =
        Composer::new(tenant, environment, "bench", ID, 1 << 20).map_err(StepError::of("composer"))?;
    let mut encoder = composer.encoder();
    let mut composed = Vec::with_capacity(events);
    for sequence in 0..events {
        let record = sessions.next(agent, "s", |event| {
            let prepared = composer.prepare(event)?;
            let mut value = Vec::new();
            prepared.encode_into(sequence as i64, &mut encoder, &mut value)?;
            Ok::<_, agentgov_sdk::RecordError>((prepared.key().to_vec(), value))
        });
        composed.push(record.map_err(StepError::of("composing"))?);
    }
    Ok(composed)
}

/// Counts the instructions per event of each step with valgrind's callgrind.
///
/// # Errors
/// If valgrind is not installed, or a step fails.
pub fn instructions(
    program: &Path,
    events: usize,
    on_count: &mut dyn FnMut(Step, f64),
) -> Result<Vec<(Step, f64)>, StepError> {
    let counted = |step: Step, events: usize| -> Result<f64, StepError> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(program)
            .args(["step", step.as_str(), "--events", &events.to_string()])
            .output()
            .map_err(StepError::of("valgrind (of the package of that name)"))?;
        let output_text = String::from_utf8_lossy(&output.stderr);
        let collected =
            output_text.lines().find_map(|line| line.rsplit_once("Collected : ")).map(|(_, n)| n.trim());
        match collected.and_then(|n| n.parse::<f64>().ok()) {
            Some(collected) if output.status.success() => Ok(collected),
            _ => Err(StepError(format!(
                "valgrind with step {}: {}: {output_text}",
                step.as_str(),
                output.status
            ))),
        }
    };
    let mut whole: Vec<(Step, f64)> = Vec::new();
    let mut own = Vec::new();
    for step in Step::ALL {
        let per_event = (counted(step, 2 * events)? - counted(step, events)?) / events as f64;
        let before = step.included_step().and_then(|before| whole.iter().find(|(step, _)| *step == before));
        let own_cost = per_event - before.map_or(0.0, |(_, before)| *before);
        on_count(step, own_cost);
        whole.push((step, per_event));
        own.push((step, own_cost));
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_includes_an_earlier_one() {
        for step in Step::ALL {
            assert!(step.included_step().is_none_or(|before| before < step), "{step:?}");
        }
    }
}
