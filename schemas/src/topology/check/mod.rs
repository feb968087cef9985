//! Rules for a topology, each with its reason. docs/topology.md lists them for people.
//!
//! A rule checks valid values only. The parser has already reported the others.

mod general;
mod names;
mod partitions;
mod principals;
mod stages;
mod stores;
mod topics;

#[cfg(test)]
mod tests;

use super::read::Draft;
use crate::yaml::Problems;

type Rule = fn(&Draft, &mut Problems);

const RULES: &[(&str, Rule)] = &[
    ("version", general::version),
    ("every schema has its topic", general::schemas),
    ("timing", general::timing),
    ("topic names", names::topics),
    ("other names", names::others),
    ("descriptions and owners", names::texts),
    ("topic numbers", topics::numbers),
    ("compaction", topics::compaction),
    ("actions", topics::actions),
    ("use of topics", topics::used),
    ("references", stages::references),
    ("lists", stages::lists),
    ("groups", stages::groups),
    ("global tables", stages::global_tables),
    ("state", stages::state),
    ("emits", stages::emits),
    ("jobs", stages::jobs),
    ("limits", stages::limits),
    ("partitions", partitions::equal),
    ("principals", principals::principals),
    ("tasks", principals::tasks),
    ("transactional ids", principals::transactional_ids),
    ("writers", stores::writers),
    ("feeds", stores::feeds),
];

/// Checks `draft` against every rule.
pub(super) fn check(draft: &Draft, problems: &mut Problems) {
    for (_, rule) in RULES {
        rule(draft, problems);
    }
}
