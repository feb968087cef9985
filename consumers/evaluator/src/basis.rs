//! Evaluation bases: the inputs of verdicts besides the actions, recorded per partition when they change (ADR 0039).

use std::collections::BTreeMap;

use agentgov_policy::RULES_VERSION;
use agentgov_processor::{OutputError, Outputs};
use agentgov_schemas::Digest;
use agentgov_schemas::basis::EvaluationBasis;
use agentgov_schemas::subject::{self, Subject};
use agentgov_schemas::topology::{MissingRole, SessionLimits, Stage, Topology};
use agentgov_schemas::verdict::TablePosition;

/// Schemas of the global tables that rules depend on.
const REQUIRED_TABLES: [Subject; 4] = [subject::AGENT, subject::TOOL, subject::BUNDLE, subject::KEY];

/// The current basis, of every partition. It changes between batches only.
#[derive(Debug)]
pub struct Basis {
    topic: String,
    partitions: i32,
    limits: SessionLimits,
    /// Next offset to fold of each global table.
    tables: BTreeMap<String, i64>,
    /// Digest of the basis, once computed.
    digest: Option<Digest>,
}

/// State of a partition's bases in the topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordedBasis {
    /// Digest of the last recorded basis; `None` if none was recorded.
    pub digest: Option<Digest>,
    /// Offset of the first action that is not applied yet, from which a new basis holds.
    pub next_offset: i64,
}

impl Basis {
    /// Creates the basis of a stage whose tables are empty.
    ///
    /// # Errors
    /// Fails if the topology has no topic of actions, if the stage emits no topic of bases, or if it lacks one of the global
    /// tables that rules depend on: an empty table would suspend nothing.
    pub fn new(topology: &Topology, stage: &Stage, limits: SessionLimits) -> Result<Self, MissingRole> {
        let (topic, settings) = topology.topic_of(subject::ACTION_EVENT)?;
        let (bases, _) = topology.topic_of(subject::EVALUATION_BASIS)?;
        if !stage.emits.iter().any(|emitted| emitted.value == bases) {
            return Err(MissingRole::Output { stage: "evaluator", schema: subject::EVALUATION_BASIS.name });
        }
        for required in REQUIRED_TABLES {
            let (topic, _) = topology.topic_of(required)?;
            if !stage.global_tables.iter().any(|table| table.value == topic) {
                let (stage, topic) = ("evaluator", topic.to_owned());
                return Err(MissingRole::GlobalTable { stage, topic, schema: required.name });
            }
        }
        // Controls are for the loop; the evaluator does not fold them.
        let controls = topology.topic_of(subject::CONTROL).ok().map(|(topic, _)| topic);
        let tables = stage.global_tables.iter().map(|table| &table.value);
        let tables = tables.filter(|table| Some(table.as_str()) != controls);
        Ok(Self {
            topic: topic.to_owned(),
            partitions: settings.partitions.value,
            limits,
            tables: tables.map(|table| (table.clone(), 0)).collect(),
            digest: None,
        })
    }

    /// Moves the position of a global table past the record at `offset`, whether it can be read or not.
    pub fn fold(&mut self, table: &str, offset: i64) {
        let next_offset = offset.saturating_add(1);
        let position = self.tables.entry(table.to_owned()).or_default();
        *position = next_offset.max(*position);
        self.digest = None;
    }

    /// Emits the basis for the actions of `partition` before `next_offset` that are not in `recorded`, if it differs from
    /// the last recorded one. Without such an action nothing is emitted, so no two bases of a partition begin at the same
    /// offset.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn emit_if_changed(
        &mut self,
        partition: i32,
        recorded: &mut RecordedBasis,
        next_offset: i64,
        out: &mut Outputs,
    ) -> Result<(), OutputError> {
        let from_offset = std::mem::replace(&mut recorded.next_offset, next_offset);
        if next_offset <= from_offset {
            return Ok(());
        }
        let digest = self.digest()?;
        if recorded.digest == Some(digest) {
            return Ok(());
        }
        let key = format!("{}/{partition}", self.topic);
        out.emit(key.as_bytes(), &self.record(partition, from_offset))?;
        recorded.digest = Some(digest);
        Ok(())
    }

    /// Returns the digest of all fields besides the partition and the offset.
    fn digest(&mut self) -> Result<Digest, OutputError> {
        if let Some(digest) = self.digest {
            return Ok(digest);
        }
        let fields =
            serde_json::to_vec(&self.record(0, 0)).map_err(|e| OutputError::Encode(e.to_string()))?;
        Ok(*self.digest.insert(Digest::of(&fields)))
    }

    fn record(&self, partition: i32, from_offset: i64) -> EvaluationBasis<'_> {
        let SessionLimits { ttl, max_facts, max_bytes } = self.limits;
        EvaluationBasis {
            topic: &self.topic,
            partition,
            from_offset,
            tables: self
                .tables
                .iter()
                .map(|(topic, next_offset)| TablePosition { topic, next_offset: *next_offset })
                .collect(),
            rules_version: RULES_VERSION,
            build: env!("CARGO_PKG_VERSION"),
            partitions: self.partitions,
            session_ttl_ms: i64::try_from(ttl.0.as_millis()).unwrap_or(i64::MAX),
            max_facts: i64::from(max_facts),
            max_bytes: i64::try_from(max_bytes).unwrap_or(i64::MAX),
        }
    }
}
