//! Parser of the topology. It reports syntax errors and broken rules in one run.

use serde_saphyr::Spanned;

use super::model::{Principal, Stage, Store, Timing, Topic, Topology};
use super::{EMBEDDED, check};
use crate::yaml::{Fields, Named, Node, Problem, Problems};

/// Valid parts of a topology, and the tree with their locations.
pub(super) struct Draft {
    pub(super) root: Node,
    pub(super) version: Option<Spanned<u32>>,
    pub(super) topics: Named<Topic>,
    pub(super) stages: Named<Stage>,
    pub(super) stores: Named<Store>,
    pub(super) principals: Named<Principal>,
    pub(super) timing: Option<Timing>,
}

impl Topology {
    /// Parses a topology and checks every rule. `file_name` is the name of the file in problems. Returns all problems at once.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::new(file_name);
        let topology = Node::parse(text, &mut problems)
            .and_then(|root| Draft::read(root, &mut problems))
            .and_then(|draft| {
                check::check(&draft, &mut problems);
                draft.complete()
            });
        problems.finish(topology)
    }

    /// Returns the topology that is compiled into this build.
    pub fn embedded() -> Result<Self, Vec<Problem>> {
        Self::parse("topology.yaml", EMBEDDED)
    }
}

impl Draft {
    fn read(root: Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(&root, "the topology", problems)?;
        let version = fields.take("version");
        // `take` has reported missing keys.
        let topics = fields.take("topics").unwrap_or_default();
        let stages = fields.take("stages").unwrap_or_default();
        let stores = fields.take("stores").unwrap_or_default();
        let principals = fields.take::<Option<Named<Principal>>>("principals").flatten().unwrap_or_default();
        let timing = fields.take("timing");
        fields.end();
        Some(Self { root, version, topics, stages, stores, principals, timing })
    }

    #[cfg(test)]
    pub(super) fn from_text(text: &str) -> Self {
        let mut problems = Problems::new("t");
        Self::read(Node::parse(text, &mut problems).unwrap(), &mut problems).unwrap()
    }

    fn complete(self) -> Option<Topology> {
        Some(Topology {
            version: self.version?,
            topics: self.topics.complete()?,
            stages: self.stages.complete()?,
            stores: self.stores.complete()?,
            principals: self.principals.complete()?,
            timing: self.timing?,
        })
    }
}
