//! Tool definitions of a bundle: effects, fact rules and derived values, compiled from `tools.yaml`.

mod compile;
mod derive;
mod file;
mod finding;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agentgov_schemas::governance::ToolEffect;
use agentgov_schemas::yaml::Problem;

use crate::expression::Expression;
pub use finding::Finding;
pub use value::ValueType;

/// Tool definitions of a bundle.
#[derive(Debug)]
pub struct Tools {
    /// Entry for tools that are not listed.
    default: Tool,
    tools: BTreeMap<String, Tool>,
    /// Kinds of facts that the rules declare.
    kinds: BTreeSet<String>,
    /// Types of derived values, by name.
    types: BTreeMap<String, ValueType>,
}

/// Result of reading a `tools.yaml`. Its declarations are known even if it does not compile, so that other files can be checked.
#[derive(Debug)]
pub struct ToolsDraft {
    /// Compiled tools, or all mistakes, each with its place.
    pub tools: Result<Tools, Vec<Problem>>,
    /// Names of the listed tools.
    pub names: BTreeSet<String>,
    /// Declared derived values with their types.
    pub types: BTreeMap<String, ValueType>,
    /// False if a mistake may hide a tool or a derived value.
    pub declarations_complete: bool,
}

impl ToolsDraft {
    /// Creates the draft of a file that cannot be read.
    pub const fn unreadable(tools: Result<Tools, Vec<Problem>>) -> Self {
        Self { tools, names: BTreeSet::new(), types: BTreeMap::new(), declarations_complete: false }
    }
}

/// Entry of a tool, merged with the default entry.
#[derive(Debug)]
struct Tool {
    effect: ToolEffect,
    states: Vec<Arc<FactRule>>,
    /// Expressions that yield the keys of referenced facts, by kind.
    refers: BTreeMap<String, Arc<Expression>>,
    /// Derived values by name.
    derived: BTreeMap<String, (ValueType, Arc<Expression>)>,
}

/// Rule that makes a result a fact: kind, key and condition.
#[derive(Debug)]
struct FactRule {
    kind: String,
    key: Expression,
    when: Option<Expression>,
}

impl Tools {
    /// Returns the types of derived values by name. A tool may derive only some of them.
    pub const fn types(&self) -> &BTreeMap<String, ValueType> {
        &self.types
    }

    /// Returns the effect of calling a tool. A tool that is not listed has the effect of the default entry.
    pub fn effect(&self, tool: &str) -> ToolEffect {
        self.tool(tool).effect
    }

    /// Returns the effect of calling a tool that is not listed.
    pub const fn default_effect(&self) -> ToolEffect {
        self.default.effect
    }

    /// Returns the names of the listed tools.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tools.keys().map(String::as_str)
    }

    fn tool(&self, name: &str) -> &Tool {
        self.tools.get(name).unwrap_or(&self.default)
    }
}
