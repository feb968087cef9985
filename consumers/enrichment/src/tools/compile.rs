//! Compiles `tools.yaml` to [`Tools`] and reports all mistakes in one run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agentgov_schemas::yaml::{self, Location, Problem, Problems};
use serde_saphyr::Spanned;

use super::file::{Entry, FactRuleEntry, ToolsFile};
use super::{FactRule, Tool, Tools, ToolsDraft, ValueType};
use crate::expression::{Expression, VariableNames};

/// Variables of the expressions of fact rules.
const RESULT_VARIABLES: VariableNames = &["input", "result", "event"];
/// Variables of the expressions of references and derived values.
const CALL_VARIABLES: VariableNames = &["input", "facts", "session", "event"];

impl Tools {
    /// Compiles the text of `file`. Derived values must not have `reserved` names.
    ///
    /// # Errors
    /// All mistakes, each with its place.
    pub fn compile(file: &str, text: &str, reserved: &[&str]) -> Result<Self, Vec<Problem>> {
        Self::draft(file, text, reserved).tools
    }

    /// Compiles the text of `file`. Returns its declarations even if it has mistakes.
    pub fn draft(file: &str, text: &str, reserved: &[&str]) -> ToolsDraft {
        let (read, problems) = yaml::read::<ToolsFile>(file, text);
        let declarations_complete = problems.is_empty();
        let Some(read) = read else {
            return ToolsDraft::unreadable(problems.finish(None));
        };
        let mut compiler = Compiler::new(problems, &read, reserved);
        let default = read.default.as_ref().and_then(|entry| compiler.entry(entry, None));
        let listed: BTreeMap<String, Tool> = read
            .tools
            .valid()
            .filter_map(|(name, entry)| {
                Some((name.to_owned(), compiler.entry(&entry.value, default.as_ref())?))
            })
            .collect();
        let Compiler { problems, kinds, types, .. } = compiler;
        let types: BTreeMap<_, _> = types.into_iter().map(|(name, (t, _))| (name, t)).collect();
        let tools = default.map(|default| Self { default, tools: listed, kinds, types: types.clone() });
        ToolsDraft {
            tools: problems.finish(tools),
            names: read.tools.0.into_keys().collect(),
            types,
            declarations_complete,
        }
    }
}

struct Compiler<'r> {
    problems: Problems,
    reserved: &'r [&'r str],
    kinds: BTreeSet<String>,
    /// False if a mistake may hide a kind. Then expressions may use any kind.
    kinds_complete: bool,
    /// Types of derived values, with the line of their first declaration.
    types: BTreeMap<String, (ValueType, u64)>,
}

impl<'r> Compiler<'r> {
    /// Collects the kinds first, since an expression may use a kind that a later entry declares.
    fn new(problems: Problems, read: &ToolsFile, reserved: &'r [&'r str]) -> Self {
        let named = read.tools.0.values().map(|entry| entry.as_ref().map(|entry| &entry.value));
        let entries: Vec<Option<&Entry>> = std::iter::once(read.default.as_ref()).chain(named).collect();
        let whole =
            |entry: &Entry| entry.states.is_complete && entry.states.items.iter().all(|s| s.fact.is_some());
        let kinds_complete = entries.iter().all(|entry| entry.is_some_and(whole));
        let mut compiler =
            Self { problems, reserved, kinds: BTreeSet::new(), kinds_complete, types: BTreeMap::new() };
        let states = entries.into_iter().flatten().flat_map(|entry| &entry.states.items);
        for fact in states.filter_map(|states| states.fact.as_ref()) {
            compiler.check_identifier(&fact.value, fact.referenced);
            compiler.kinds.insert(fact.value.clone());
        }
        compiler
    }

    /// Compiles an entry. Returns `None` for an entry without an effect, which is reported already, after checking its other
    /// fields.
    fn entry(&mut self, entry: &Entry, default: Option<&Tool>) -> Option<Tool> {
        let (mut states, mut refers, mut derived) = match default {
            Some(default) => (default.states.clone(), default.refers.clone(), default.derived.clone()),
            None => (Vec::new(), BTreeMap::new(), BTreeMap::new()),
        };
        states.extend(entry.states.items.iter().filter_map(|states| self.states(states)).map(Arc::new));
        for (kind, cel) in entry.refers.valid() {
            if self.kinds_complete && !self.kinds.contains(kind) {
                let message = format!("unknown kind of fact `{kind}`; {}", self.known_kinds());
                self.problems.add(cel.referenced, message);
            }
            if let Some(expression) = self.expression(&cel.value, CALL_VARIABLES) {
                refers.insert(kind.to_owned(), Arc::new(expression));
            }
        }
        for (name, declared) in entry.derived.valid() {
            self.check_derived(name, declared.value.value_type, declared.referenced);
            let expression =
                declared.value.value.as_ref().and_then(|value| self.expression(value, CALL_VARIABLES));
            if let (Some(value_type), Some(expression)) = (declared.value.value_type, expression) {
                derived.insert(name.to_owned(), (value_type, Arc::new(expression)));
            }
        }
        Some(Tool { effect: entry.effect?, states, refers, derived })
    }

    fn states(&mut self, entry: &FactRuleEntry) -> Option<FactRule> {
        let key = entry.key.as_ref().map(|key| self.expression(key, RESULT_VARIABLES));
        let when = entry.when.as_ref().map(|when| self.expression(when, RESULT_VARIABLES));
        Some(FactRule {
            kind: entry.fact.as_ref()?.value.clone(),
            key: key??,
            when: match when {
                Some(compiled) => Some(compiled?),
                None => None,
            },
        })
    }

    fn expression(&mut self, source: &Spanned<String>, names: VariableNames) -> Option<Expression> {
        match Expression::compile(&source.value, names, self.kinds_complete.then_some(&self.kinds)) {
            Ok(expression) => Some(expression),
            Err(messages) => {
                for message in messages {
                    self.problems.add(source.referenced, message);
                }
                None
            }
        }
    }

    /// Checks the name of a derived value: it has one type in all tools, and is not a reserved name.
    fn check_derived(&mut self, name: &str, declared: Option<ValueType>, at: Location) {
        self.check_identifier(name, at);
        if self.reserved.contains(&name) {
            self.problems.add(
                at,
                format!("`{name}` is reserved for an attribute of the context; choose another name"),
            );
        }
        let Some(declared) = declared else { return };
        let (first, line) = *self.types.entry(name.to_owned()).or_insert((declared, at.line()));
        if first != declared {
            self.problems
                .add(at, format!("`{name}` is declared as {declared} here and as {first} in line {line}"));
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
