//! Evaluation bases: for each verdict they name the inputs by which the evaluator made it, across restarts and aborted
//! batches.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by a panic")]

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use agentgov_evaluator::{Evaluator, Sessions};
use agentgov_policy::RULES_VERSION;
use agentgov_processor::{Outputs, Processor as _, RestoreValue, TableRecord};
use agentgov_schemas::basis::EvaluationBasis;
use agentgov_schemas::event::{ActionEvent, Agent, Payload, Source, ToolCall};
use agentgov_schemas::subject::{self, Subject};
use agentgov_schemas::topology::{HumanDuration, MissingRole, Topology};
use agentgov_schemas::verdict::{Origin, Verdict};
use agentgov_schemas::wire::{self, SchemaId};
use agentgov_schemas::{Digest, Micros, Millis, SessionKey, catalogue};
use proptest::prelude::*;

const ID: SchemaId = SchemaId(1);
const PARTITIONS: i32 = 2;

/// Positions of the global tables, by topic.
type Positions = BTreeMap<String, i64>;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// A record of a global table is folded.
    Fold { table: usize },
    /// A batch of actions; its transaction is committed or aborted.
    Batch { partition: i32, actions: i64, is_committed: bool },
    /// The partition moves past offsets without a record.
    Skip { partition: i32, offsets: i64 },
    /// A side output is committed without a record.
    SideOutput { partition: i32 },
    /// The stage starts again, with this limit.
    Restart { ttl_hours: u64 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => (0..8_usize).prop_map(|table| Op::Fold { table }),
        5 => (0..PARTITIONS, 1..4_i64, prop::bool::weighted(0.8))
            .prop_map(|(partition, actions, is_committed)| Op::Batch { partition, actions, is_committed }),
        1 => (0..PARTITIONS, 1..3_i64).prop_map(|(partition, offsets)| Op::Skip { partition, offsets }),
        1 => (0..PARTITIONS).prop_map(|partition| Op::SideOutput { partition }),
        1 => (1..3_u64).prop_map(|ttl_hours| Op::Restart { ttl_hours }),
    ];
    prop::collection::vec(op, 1..60)
}

/// A verdict, and the inputs that the test gave the evaluator for it.
#[derive(Debug)]
struct Judged {
    partition: i32,
    offset: i64,
    positions: Positions,
    ttl_ms: i64,
    /// Positions that the verdict names.
    named: Positions,
}

/// Fields of a recorded basis.
#[derive(Debug)]
struct Recorded {
    partition: i32,
    from_offset: i64,
    positions: Positions,
    ttl_ms: i64,
}

struct Run {
    topology: Topology,
    evaluator: Evaluator,
    outputs: Outputs,
    sessions: Vec<Sessions>,
    /// Compacted changelog, by partition and key.
    changelog: BTreeMap<(i32, Vec<u8>), Option<Vec<u8>>>,
    next_offsets: Vec<i64>,
    positions: Positions,
    judged: Vec<Judged>,
    bases: Vec<Recorded>,
}

fn topology(ttl_hours: u64) -> Topology {
    // Parsing takes longer than a case.
    static EMBEDDED: LazyLock<Topology> = LazyLock::new(|| Topology::embedded().unwrap());
    let mut topology = EMBEDDED.clone();
    let stage = &mut topology.stages.get_mut("evaluator").unwrap().value;
    stage.session.as_mut().unwrap().value.ttl = HumanDuration(Duration::from_hours(ttl_hours));
    topology
}

fn evaluator(topology: &Topology) -> Evaluator {
    Evaluator::new(topology, topology.stage("evaluator").unwrap()).unwrap()
}

impl Run {
    fn new() -> Self {
        let topology = topology(1);
        let stage = topology.stage("evaluator").unwrap();
        let (controls, _) = topology.topic_of(subject::CONTROL).unwrap();
        let tables = stage.global_tables.iter().map(|table| table.value.clone());
        let positions = tables.filter(|table| table != controls).map(|table| (table, 0)).collect();
        let mut evaluator = evaluator(&topology);
        evaluator.tables_loaded();
        Self {
            outputs: Outputs::new(&topology, stage, |_, _| Ok::<_, MissingRole>(ID)).unwrap(),
            sessions: (0..PARTITIONS).map(|partition| evaluator.partition(partition)).collect(),
            evaluator,
            topology,
            changelog: BTreeMap::new(),
            next_offsets: vec![0; PARTITIONS as usize],
            positions,
            judged: Vec::new(),
            bases: Vec::new(),
        }
    }

    fn ttl_ms(&self) -> i64 {
        let limits = self.topology.stage("evaluator").unwrap().session.as_ref().unwrap().value;
        i64::try_from(limits.ttl.0.as_millis()).unwrap()
    }

    /// Folds a record that nothing can be read from; it moves the table's position like any other.
    fn fold(&mut self, topic: &str, offset: i64) {
        let record = TableRecord { topic, offset, logged_at: Millis(5), value: Err("nothing to read") };
        self.evaluator.update_table(&self.topology, &record);
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Fold { table } => {
                let topic = self.positions.keys().nth(table % self.positions.len()).unwrap().clone();
                let position = self.positions.get_mut(&topic).unwrap();
                let offset = *position;
                *position += 1;
                self.fold(&topic, offset);
            }
            Op::Batch { partition, actions, is_committed } => self.batch(partition, actions, is_committed),
            Op::Skip { partition, offsets } => {
                let at = partition as usize;
                self.next_offsets[at] += offsets;
                self.finish(partition);
                self.commit();
            }
            Op::SideOutput { partition } => {
                self.finish(partition);
                self.commit();
            }
            Op::Restart { ttl_hours } => {
                self.topology = topology(ttl_hours);
                self.evaluator = evaluator(&self.topology);
                for (topic, position) in self.positions.clone() {
                    (0..position).for_each(|offset| self.fold(&topic, offset));
                }
                self.evaluator.tables_loaded();
                (0..PARTITIONS).for_each(|partition| self.restore(partition));
            }
        }
    }

    fn batch(&mut self, partition: i32, actions: i64, is_committed: bool) {
        let at = partition as usize;
        let first = self.next_offsets[at];
        self.outputs.set_partition(partition);
        for offset in first..first + actions {
            let data = b"{}";
            let arguments = Payload { data, sha256: Digest::of(data), media_type: "", redacted: false };
            let event = ActionEvent {
                environment: "demo",
                occurred_at: Micros(0),
                tool: Some(ToolCall::new("look", "c", arguments)),
                ..ActionEvent::new(
                    "e",
                    catalogue::TOOL_INVOKED,
                    SessionKey { tenant_id: "t", session_id: "s" },
                    Source { id: "p", sequence: offset },
                    Agent::new("a"),
                )
            };
            let origin = Origin { topic: "agent.actions", partition, offset, logged_at: Millis(offset) };
            self.evaluator.step(&mut self.sessions[at], &origin, &event, &mut self.outputs).unwrap();
        }
        self.next_offsets[at] += actions;
        self.finish(partition);
        if is_committed {
            self.commit();
        } else {
            self.next_offsets[at] = first;
            self.outputs.clear();
            self.restore(partition);
        }
    }

    fn finish(&mut self, partition: i32) {
        let at = partition as usize;
        self.outputs.set_partition(partition);
        self.evaluator.finish(&mut self.sessions[at], self.next_offsets[at], &mut self.outputs).unwrap();
    }

    /// Commits the outputs of a batch.
    fn commit(&mut self) {
        let ttl_ms = self.ttl_ms();
        let topic = |subject: Subject| self.topology.topic_of(subject).unwrap().0;
        for record in self.outputs.iter() {
            if record.topic == topic(subject::SESSION_STATE) {
                let entry = (record.partition, record.key.to_vec());
                self.changelog.insert(entry, record.value.map(<[u8]>::to_vec));
                continue;
            }
            let (id, datum) = wire::split(record.value.unwrap()).unwrap();
            if record.topic == topic(subject::VERDICT) {
                let verdict: Verdict<'_> = subject::VERDICT.schema().unwrap().decode(id, datum).unwrap();
                let named = verdict.tables.iter().map(|table| (table.topic.to_owned(), table.next_offset));
                self.judged.push(Judged {
                    partition: verdict.origin.partition,
                    offset: verdict.origin.offset,
                    positions: self.positions.clone(),
                    ttl_ms,
                    named: named.collect(),
                });
            } else if record.topic == topic(subject::EVALUATION_BASIS) {
                let schema = subject::EVALUATION_BASIS.schema().unwrap();
                let basis: EvaluationBasis<'_> = schema.decode(id, datum).unwrap();
                assert_eq!(record.partition, basis.partition, "in the partition of its actions");
                assert_eq!(record.key, format!("agent.actions/{}", basis.partition).as_bytes());
                assert_eq!((basis.topic, basis.partitions), ("agent.actions", 12));
                assert_eq!((basis.rules_version, basis.max_facts), (RULES_VERSION, 10_000));
                let tables = basis.tables.iter().map(|table| (table.topic.to_owned(), table.next_offset));
                self.bases.push(Recorded {
                    partition: basis.partition,
                    from_offset: basis.from_offset,
                    positions: tables.collect(),
                    ttl_ms: basis.session_ttl_ms,
                });
            }
        }
        self.outputs.clear();
    }

    /// Restores a partition from the changelog.
    fn restore(&mut self, partition: i32) {
        let mut sessions = self.evaluator.partition(partition);
        let schema = subject::SESSION_STATE.schema().unwrap();
        for ((of, key), value) in &self.changelog {
            if *of == partition {
                let value = value.as_deref().map(|bytes| {
                    let (id, datum) = wire::split(bytes).unwrap();
                    RestoreValue::new(id, schema, datum)
                });
                self.evaluator.restore(&mut sessions, key, value).unwrap();
            }
        }
        self.sessions[partition as usize] = sessions;
    }

    /// Returns the basis that holds for an action: the last one of its partition that begins at or before it.
    fn basis_of(&self, partition: i32, offset: i64) -> Option<&Recorded> {
        let before =
            self.bases.iter().filter(|basis| basis.partition == partition && basis.from_offset <= offset);
        before.max_by_key(|basis| basis.from_offset)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn basis_of_a_verdict_names_its_inputs(ops in ops()) {
        let mut run = Run::new();
        ops.iter().for_each(|op| run.apply(*op));
        for judged in &run.judged {
            let basis = run.basis_of(judged.partition, judged.offset);
            let basis = basis.ok_or_else(|| TestCaseError::fail(format!("no basis for {judged:?}")))?;
            prop_assert_eq!(&basis.positions, &judged.positions, "{:?}", judged);
            prop_assert_eq!(basis.ttl_ms, judged.ttl_ms, "{:?}", judged);
            for (topic, named) in &judged.named {
                prop_assert_eq!(basis.positions.get(topic), Some(named), "{:?}", judged);
            }
        }
        for partition in 0..PARTITIONS {
            let of_partition: Vec<_> = run.bases.iter().filter(|basis| basis.partition == partition).collect();
            for pair in of_partition.windows(2) {
                prop_assert!(pair[0].from_offset < pair[1].from_offset, "{:?}", pair);
                let inputs = |basis: &Recorded| (basis.positions.clone(), basis.ttl_ms);
                prop_assert_ne!(inputs(pair[0]), inputs(pair[1]), "an unchanged basis is recorded once");
            }
        }
    }
}

#[test]
fn evaluator_without_a_topic_of_bases_does_not_start() {
    let mut topology = Topology::embedded().unwrap();
    let (bases, _) = topology.topic_of(subject::EVALUATION_BASIS).unwrap();
    let bases = bases.to_owned();
    topology.stages.get_mut("evaluator").unwrap().value.emits.retain(|topic| topic.value != bases);
    let error = Evaluator::new(&topology, topology.stage("evaluator").unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "topology: expected a topic with schema `evaluation-basis` in the emits of stage `evaluator`, found none"
    );
}

#[test]
fn evaluator_without_a_global_table_does_not_start() {
    for required in [subject::AGENT, subject::TOOL, subject::BUNDLE, subject::KEY] {
        let mut topology = Topology::embedded().unwrap();
        let topic = topology.topic_of(required).unwrap().0.to_owned();
        let stage = &mut topology.stages.get_mut("evaluator").unwrap().value;
        stage.global_tables.retain(|table| table.value != topic);
        let error = Evaluator::new(&topology, topology.stage("evaluator").unwrap()).unwrap_err();
        let expected = format!("expected topic `{topic}` (schema `{}`) in the global_tables", required.name);
        assert!(error.to_string().contains(&expected), "{error}");
    }
}
