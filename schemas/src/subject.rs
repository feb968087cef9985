//! Schemas by subject, with every published version, so that tests can check their compatibility.
//!
//! The schema registry's subject of a topic is `<topic>-value` (Confluent's TopicNameStrategy). topology.yaml names the schema
//! of each topic.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::wire::{Schema, SchemaError};

/// Schema family of `schemas/avro/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject {
    /// Name of the folder, and of the schema in topology.yaml.
    pub name: &'static str,
    /// Texts of the `*.avsc` files, version 1 first. This build writes and reads the last one.
    pub versions: &'static [&'static str],
}

macro_rules! subjects {
    ($($(#[$doc:meta])* $constant:ident = $name:literal [$($version:literal),+];)*) => {
        $($(#[$doc])* pub const $constant: Subject = Subject {
            name: $name,
            versions: &[$(include_str!(concat!("../avro/", $name, "/", $version, ".avsc"))),+],
        };)*
        /// Every schema family.
        pub const SUBJECTS: &[Subject] = &[$($constant),*];
    };
}

subjects! {
    /// Actions: [`crate::event::ActionEvent`].
    ACTION_EVENT = "action-event" [1, 2, 3, 4];
    /// Verdicts: [`crate::verdict::Verdict`].
    VERDICT = "verdict" [1, 2, 3, 4];
    /// Alerts: [`crate::alert::Alert`].
    ALERT = "alert" [1, 2];
    /// Rejects: [`crate::reject::Reject`].
    REJECT = "reject" [1];
    /// The evaluator's changelog: [`crate::state::SessionState`].
    SESSION_STATE = "session-state" [1, 2, 3, 4];
    /// The alerter's changelog: [`crate::state::AlertState`].
    ALERT_STATE = "alert-state" [1];
    /// The agent registry: [`crate::governance::AgentEntry`].
    AGENT = "agent" [1, 2, 3];
    /// The tool registry: [`crate::governance::ToolEntry`].
    TOOL = "tool" [1, 2];
    /// Policy bundles: [`crate::governance::Bundle`].
    BUNDLE = "bundle" [1];
    /// Commands of operators to stages: [`crate::governance::Control`].
    CONTROL = "control" [1];
    /// Keys of pdps and approvers: [`crate::governance::KeyEntry`].
    KEY = "key" [1];
    /// Inputs of verdicts besides the actions: [`crate::basis::EvaluationBasis`].
    EVALUATION_BASIS = "evaluation-basis" [1];
}

impl Subject {
    /// Returns the `*.avsc` text that this build writes and reads.
    pub fn latest(&self) -> &'static str {
        // Each subject above has a version; `schema` would fail on the empty text.
        self.versions.last().copied().unwrap_or_default()
    }

    /// Returns the schema that this build writes and reads. Each process parses it once.
    pub fn schema(&self) -> Result<&'static Schema, SchemaError> {
        static PARSED: LazyLock<BTreeMap<&'static str, Result<Schema, SchemaError>>> =
            LazyLock::new(|| SUBJECTS.iter().map(|s| (s.name, Schema::parse(s.latest()))).collect());
        match PARSED.get(self.name) {
            Some(parsed) => parsed.as_ref().map_err(Clone::clone),
            None => Err(SchemaError::unknown_subject(self.name)),
        }
    }

    /// Returns the subject with this name, as topology.yaml uses it.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        SUBJECTS.iter().find(|subject| subject.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_of_every_subject_parses() {
        for subject in SUBJECTS {
            assert!(subject.schema().is_ok(), "{}: {:?}", subject.name, subject.schema());
            for version in subject.versions {
                assert!(Schema::parse(version).is_ok(), "{}", subject.name);
            }
        }
    }
}
