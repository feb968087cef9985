//! From the file to [`Tools`]: every mistake at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agentgov_schemas::yaml::{self, Location, Named, Problem, Problems};
use serde_saphyr::Spanned;

use super::file::{Entry, StatesEntry, ToolsFile};
use super::{States, Tool, Tools, ValueType};
use crate::expression::{Expression, Names};

/// What an expression about a result may look at.
const STATES: Names = &["input", "result", "event"];
/// What an expression about a call may look at.
const CALL: Names = &["input", "facts", "session", "event"];

impl Tools {
    /// Compiles the text of `file`. `reserved` are names that derived values must not have.
    ///
    /// # Errors
    /// Every mistake that was found, each at its place.
    pub fn compile(file: &str, text: &str, reserved: &[&str]) -> Result<Self, Vec<Problem>> {
        let read: ToolsFile = yaml::parse(file, text)?;
        let mut compiler = Compiler::new(file, &read, reserved);
        let default = compiler.entry(&read.default, None);
        let named = read.tools.as_ref().into_iter().flat_map(Named::good);
        let tools = named
            .map(|(name, entry)| (name.to_owned(), compiler.entry(&entry.value, Some(&default))))
            .collect();
        let Compiler { problems, kinds, types, .. } = compiler;
        problems.finish(Some(Self {
            default,
            tools,
            kinds,
            types: types.into_iter().map(|(n, (t, _))| (n, t)).collect(),
        }))
    }
}

struct Compiler<'r> {
    problems: Problems,
    reserved: &'r [&'r str],
    kinds: BTreeSet<String>,
    /// With the line where each was first declared.
    types: BTreeMap<String, (ValueType, u64)>,
}

impl<'r> Compiler<'r> {
    /// Kinds are collected first: an expression may refer to what a later entry states.
    fn new(file: &str, read: &ToolsFile, reserved: &'r [&'r str]) -> Self {
        let mut compiler =
            Self { problems: Problems::new(file), reserved, kinds: BTreeSet::new(), types: BTreeMap::new() };
        let entries = read.tools.as_ref().into_iter().flat_map(Named::good).map(|(_, entry)| &entry.value);
        for states in std::iter::once(&read.default).chain(entries).flat_map(|entry| &entry.states) {
            compiler.check_identifier(&states.fact.value, states.fact.referenced);
            compiler.kinds.insert(states.fact.value.clone());
        }
        compiler
    }

    fn entry(&mut self, entry: &Entry, default: Option<&Tool>) -> Tool {
        let mut tool = Tool {
            effect: entry.effect,
            states: default.map(|d| d.states.clone()).unwrap_or_default(),
            refers: default.map(|d| d.refers.clone()).unwrap_or_default(),
            derived: default.map(|d| d.derived.clone()).unwrap_or_default(),
        };
        tool.states.extend(entry.states.iter().filter_map(|states| self.states(states)).map(Arc::new));
        for (kind, cel) in entry.refers.iter().flat_map(Named::good) {
            if !self.kinds.contains(kind) {
                let message = format!("no tool states a fact of kind `{kind}`; {}", self.known_kinds());
                self.problems.add(cel.referenced, message);
            }
            if let Some(expression) = self.expression(&cel.value, CALL) {
                tool.refers.insert(kind.to_owned(), Arc::new(expression));
            }
        }
        for (name, declared) in entry.derived.iter().flat_map(Named::good) {
            self.check_derived(name, declared.value.value_type, declared.referenced);
            if let Some(expression) = self.expression(&declared.value.value, CALL) {
                tool.derived.insert(name.to_owned(), (declared.value.value_type, Arc::new(expression)));
            }
        }
        tool
    }

    fn states(&mut self, entry: &StatesEntry) -> Option<States> {
        let key = self.expression(&entry.key, STATES);
        let when = entry.when.as_ref().map(|when| self.expression(when, STATES));
        Some(States {
            kind: entry.fact.value.clone(),
            key: key?,
            when: match when {
                Some(compiled) => Some(compiled?),
                None => None,
            },
        })
    }

    fn expression(&mut self, source: &Spanned<String>, names: Names) -> Option<Expression> {
        match Expression::compile(&source.value, names, &self.kinds) {
            Ok(expression) => Some(expression),
            Err(messages) => {
                for message in messages {
                    self.problems.add(source.referenced, message);
                }
                None
            }
        }
    }

    /// A name has one type, whichever tool derives it, and is not one that the context has already.
    fn check_derived(&mut self, name: &str, declared: ValueType, at: Location) {
        self.check_identifier(name, at);
        if self.reserved.contains(&name) {
            self.problems.add(at, format!("`{name}` is a name that policies have already; choose another"));
        }
        let (first, line) = *self.types.entry(name.to_owned()).or_insert((declared, at.line()));
        if first != declared {
            self.problems
                .add(at, format!("`{name}` is declared as {declared} here, and as {first} in line {line}"));
        }
    }

    fn check_identifier(&mut self, name: &str, at: Location) {
        let mut chars = name.chars();
        let starts = chars.next().is_some_and(|c| c.is_ascii_alphabetic());
        if !starts || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
            self.problems.add(at, format!("expected a name of letters, digits and `_`, found `{name}`"));
        }
    }

    fn known_kinds(&self) -> String {
        let kinds: Vec<&str> = self.kinds.iter().map(String::as_str).collect();
        format!("expected {}", yaml::one_of(&kinds))
    }
}
