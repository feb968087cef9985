//! Checks the tests of a bundle without running them: syntax and names.

use std::collections::{BTreeMap, BTreeSet};

use agentgov_schemas::Vocabulary as _;
use agentgov_schemas::verdict::{Decision, ErrorCode};
use agentgov_schemas::yaml::{FromNode as _, Node, Problem, Problems, Value, one_of};
use cedar_policy::Effect;

use super::file::TestFile;
use super::run::{EXPECTED_STEP, parse_time};
use crate::draft::Draft;
use crate::files::BundleFiles;

use crate::names::{Mentions, NameKind, hint, nearest};

/// Error codes that a verdict can have.
const CODES: [ErrorCode; 7] = [
    ErrorCode::ArgumentsNotJson,
    ErrorCode::ArgumentsTooLarge,
    ErrorCode::ToolMissing,
    ErrorCode::DerivedError,
    ErrorCode::DerivedType,
    ErrorCode::RefersError,
    ErrorCode::PolicyError,
];

/// Checker for the test files of one bundle.
pub(crate) struct TestCheck {
    /// Policies by id, with the effect if Cedar could parse the policy.
    policies: BTreeMap<String, Option<Effect>>,
    /// False if the id of some policy is unknown.
    policies_whole: bool,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl TestCheck {
    /// Creates a checker for tests of the policies in `draft`.
    pub(crate) fn new(draft: &Draft<'_>) -> Self {
        let parsed = draft.policies.iter().map(|p| (p.cedar.annotation("id"), Some(p.cedar.effect())));
        let unparsed = draft.unparsed.iter().map(|statement| (id_of(statement.text), None));
        let ids: Vec<_> = parsed.chain(unparsed).collect();
        Self {
            policies_whole: ids.iter().all(|(id, _)| id.is_some()),
            policies: ids.into_iter().filter_map(|(id, effect)| Some((id?.to_owned(), effect))).collect(),
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Returns mistakes and warnings.
    pub(crate) fn finish(self) -> (Vec<Problem>, Vec<Problem>) {
        (self.problems, self.warnings)
    }

    /// Checks a file and collects the tools and roles that it mentions.
    pub(crate) fn file(&mut self, path: &str, content: &[u8], mentions: &mut Mentions) {
        let mut found =
            FileCheck { problems: Problems::new(path), warnings: Problems::new(path), path, mentions };
        match BundleFiles::text(content) {
            Ok(text) => {
                if let Some(root) = Node::parse(&text, &mut found.problems) {
                    TestFile::from_node(&root, &mut found.problems);
                    self.tests(&root, &mut found);
                }
            }
            Err(_) => self.problems.push(Problem {
                file: path.to_owned(),
                line: 1,
                column: 1,
                message: "expected UTF-8".to_owned(),
            }),
        }
        self.problems.extend(found.problems.into_sorted());
        self.warnings.extend(found.warnings.into_sorted());
    }

    fn tests(&self, root: &Node, found: &mut FileCheck<'_>) {
        if let Some((node, start)) = text(root, "start")
            && let Err(message) = parse_time(start)
        {
            found.problems.add(node.at, message);
        }
        found.agent(root);
        for test in items(root, "tests") {
            found.agent(test);
            let mut calls = BTreeSet::new();
            for step in items(test, "steps") {
                self.step(step, found);
                found.check_result(step, &mut calls);
            }
        }
    }

    fn step(&self, step: &Node, found: &mut FileCheck<'_>) {
        if let Some((node, tool)) = text(step, "call") {
            found.mention(NameKind::Tool, tool, node);
        }
        let ends = entry(step, "end").is_some_and(|end| !matches!(end.value, Value::Bool(false)));
        let is_step = ends || entry(step, "call").is_some() || entry(step, "result").is_some();
        if matches!(step.value, Value::Mapping(_)) && !is_step {
            found.problems.add(step.at, EXPECTED_STEP);
        }
        for (node, id) in items(step, "expect").filter_map(as_text) {
            match self.policies.get(id) {
                Some(Some(Effect::Permit)) => {
                    found.problems.add(node.at, format!("`{id}` is a permit: no call violates it"));
                }
                None if self.policies_whole => {
                    let rules = self.policies.iter().filter(|(_, effect)| **effect != Some(Effect::Permit));
                    let near = hint(id, rules.map(|(id, _)| id.as_str()));
                    found.problems.add(
                        node.at,
                        format!("expected the id of a policy of the bundle, found `{id}`{near}"),
                    );
                }
                _ => {}
            }
        }
        if let Some((node, word)) = text(step, "decision") {
            let words = Decision::names();
            found.one_of(node, word, &words);
        }
        for (node, error) in items(step, "errors").filter_map(as_text) {
            found.one_of(node, error.split(' ').next().unwrap_or(error), &CODES.map(ErrorCode::as_str));
        }
    }
}

/// Findings in one file.
struct FileCheck<'m> {
    problems: Problems,
    warnings: Problems,
    path: &'m str,
    mentions: &'m mut Mentions,
}

impl FileCheck<'_> {
    fn agent(&mut self, of: &Node) {
        let Some(agent) = entry(of, "agent") else { return };
        for (node, role) in items(agent, "roles").filter_map(as_text) {
            self.mention(NameKind::Role, role, node);
        }
    }

    fn mention(&mut self, kind: NameKind, name: &str, node: &Node) {
        let place = Problem {
            file: self.path.to_owned(),
            line: node.at.line().max(1),
            column: node.at.column().max(1),
            message: String::new(),
        };
        self.mentions.add(kind, name, self.path, place);
    }

    fn one_of(&mut self, node: &Node, word: &str, words: &[&str]) {
        if !words.contains(&word) {
            let near = hint(word, words.iter().copied());
            self.problems.add(node.at, format!("expected {}, found `{word}`{near}", one_of(words)));
        }
    }

    /// Checks that a separate result answers a call made before.
    fn check_result(&mut self, step: &Node, calls: &mut BTreeSet<String>) {
        if entry(step, "call").is_some() {
            calls.extend(text(step, "id").map(|(_, id)| id.to_owned()));
            return;
        }
        let Some(result) = entry(step, "result") else { return };
        match text(step, "of") {
            None => {
                self.warnings.add(result.at, "the result answers no call; name the id of the call with `of`")
            }
            // A test may be about a result without a call.
            Some((node, of)) if !calls.contains(of) => {
                if let Some(near) = nearest(of, calls.iter().map(String::as_str)) {
                    self.warnings
                        .add(node.at, format!("no call before has the id `{of}`; did you mean `{near}`?"));
                }
            }
            Some(_) => {}
        }
    }
}

/// Returns the id of a statement that is not valid Cedar, if its text contains one.
fn id_of(text: &str) -> Option<&str> {
    let (id, _) = text.split_once("@id(\"")?.1.split_once('"')?;
    Some(id)
}

fn entry<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Value::Mapping(entries) = &node.value else { return None };
    entries.iter().find(|(found, _)| found.value == key).map(|(_, node)| node)
}

fn items<'n>(node: &'n Node, key: &str) -> impl Iterator<Item = &'n Node> + use<'n> {
    let items = match entry(node, key).map(|node| &node.value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    items.iter()
}

fn as_text(node: &Node) -> Option<(&Node, &str)> {
    match &node.value {
        Value::Text(text) => Some((node, text)),
        _ => None,
    }
}

fn text<'n>(node: &'n Node, key: &str) -> Option<(&'n Node, &'n str)> {
    as_text(entry(node, key)?)
}
