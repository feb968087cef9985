//! A bundle's `tools.yaml`, compiled: what is to be known of a call, and what a result states.

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

/// The tool definitions of a bundle.
#[derive(Debug)]
pub struct Tools {
    /// For tools that are not listed.
    default: Tool,
    tools: BTreeMap<String, Tool>,
    /// Kinds of facts that some result states.
    kinds: BTreeSet<String>,
    /// Derived values by name.
    types: BTreeMap<String, ValueType>,
}

/// A `tools.yaml` with or without mistakes: the names that other files may refer to are there even if it does not compile.
#[derive(Debug)]
pub struct ToolsDraft {
    /// The tools, or every mistake that was found, each at its place.
    pub tools: Result<Tools, Vec<Problem>>,
    /// The tools that are listed.
    pub names: BTreeSet<String>,
    /// Derived values that are declared, with their types.
    pub types: BTreeMap<String, ValueType>,
    /// False if a mistake may hide a tool or a derived value.
    pub declarations_complete: bool,
}

impl ToolsDraft {
    /// A file of which nothing is known but its problems.
    pub const fn unreadable(tools: Result<Tools, Vec<Problem>>) -> Self {
        Self { tools, names: BTreeSet::new(), types: BTreeMap::new(), declarations_complete: false }
    }
}

/// One entry, with what it inherits from the default entry.
#[derive(Debug)]
struct Tool {
    effect: ToolEffect,
    states: Vec<Arc<FactRule>>,
    /// By kind.
    refers: BTreeMap<String, Arc<Expression>>,
    /// By name.
    derived: BTreeMap<String, (ValueType, Arc<Expression>)>,
}

/// When and under which key a result is a fact.
#[derive(Debug)]
struct FactRule {
    kind: String,
    key: Expression,
    when: Option<Expression>,
}

impl Tools {
    /// Derived values by name, with their types. A value that a tool does not derive is absent.
    pub const fn types(&self) -> &BTreeMap<String, ValueType> {
        &self.types
    }

    /// What calling a tool does. Of a tool that is not listed: what the default entry says.
    pub fn effect(&self, tool: &str) -> ToolEffect {
        self.tool(tool).effect
    }

    /// The effect of calling a tool that is not listed.
    pub const fn default_effect(&self) -> ToolEffect {
        self.default.effect
    }

    /// The tools that are listed.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tools.keys().map(String::as_str)
    }

    fn tool(&self, name: &str) -> &Tool {
        self.tools.get(name).unwrap_or(&self.default)
    }
}
