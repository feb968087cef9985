//! Evaluating the entries of a tool.

use std::collections::BTreeSet;

use agentgov_schemas::catalogue;
use agentgov_schemas::event::{ActionEvent, ToolResult};
use agentgov_schemas::verdict::ErrorCode;
use cel::common::types::{CelBool, CelList, CelNull, CelOptional, CelString};
use cel::common::value::Val;

use super::{FactRule, Finding, Tools};
use crate::expression::Failure;
use crate::json::{self, Json, PayloadError};
use crate::known::{CallContext, FactRef};
use crate::scope::{Input, MAX_KEY, ResultValue, Scope, is_key};
use crate::session::Session;

/// Most facts that a verdict lists.
const MAX_REFERRED: usize = 1000;

/// The facts that a result states, by kind and key.
#[derive(Debug, Default)]
pub(crate) struct ExtractedFacts {
    pub(crate) facts: BTreeSet<(String, String)>,
    /// Kinds of which the result may state a fact: an expression erred.
    pub(crate) doubted: BTreeSet<String>,
    /// Kinds whose facts the result may replace, under keys that are unknown.
    pub(crate) outdated: BTreeSet<String>,
    /// What each of them says: the result.
    pub(crate) content: Option<Result<Json, PayloadError>>,
    pub(crate) findings: Vec<Finding>,
}

impl Tools {
    /// What is known of the call of `event`, in the state before it.
    pub fn derive(&self, session: &Session, event: &ActionEvent<'_>) -> CallContext {
        let mut known = CallContext::default();
        let Some(call) = &event.tool else {
            known.findings.push(Finding::new(
                ErrorCode::ToolMissing,
                "tool",
                "expected the tool that is called, found an event without it",
            ));
            return known;
        };
        let input = Json::arguments(call.arguments.data);
        if let Err(error) = &input {
            let code = match error {
                PayloadError::Syntax { .. } | PayloadError::UnreadableValue(_) => ErrorCode::ArgumentsNotJson,
                PayloadError::TooLarge => ErrorCode::ArgumentsTooLarge,
            };
            known.findings.push(Finding::new(code, "arguments", error.to_string()));
        }
        let scope = Scope::new(Input::Read(input), None, session, &self.kinds, event);
        let tool = self.tool(call.name);
        for (name, (declared, expression)) in &tool.derived {
            let mut code = ErrorCode::DerivedError;
            let value = expression.evaluate(&scope, |value| {
                code = ErrorCode::DerivedType;
                declared.take(value.as_ref()).map_err(Failure::Error)
            });
            match value {
                Ok(value) => drop(known.derived.insert(name.clone(), value)),
                Err(Failure::Absent) => {}
                Err(failure) => {
                    known.findings.extend(Finding::of(code, name, failure));
                    known.erred.insert(name.clone());
                }
            }
        }
        for (kind, expression) in &tool.refers {
            match expression.evaluate(&scope, |keys| strings(keys.as_ref())) {
                Ok(keys) => known.facts.extend(referred(session, kind, keys)),
                Err(failure) => known.findings.extend(Finding::of(ErrorCode::RefersError, kind, failure)),
            }
        }
        known.facts.truncate(MAX_REFERRED);
        known
    }

    /// What `result` states. It belongs to the latest call of its id; without one, only the default entry counts.
    pub(crate) fn state(
        &self,
        session: &Session,
        event: &ActionEvent<'_>,
        result: &ToolResult<'_>,
    ) -> ExtractedFacts {
        let mut stated = ExtractedFacts::default();
        let call = session.stored_call(result.call_id);
        if call.is_none() && session.forgets() {
            // The session may have dropped the call, so the tool is unknown.
            let own = self.tools.values().flat_map(|tool| tool.states.iter().skip(self.default.states.len()));
            stated.outdated = own.map(|states| states.kind.clone()).collect();
        }
        let tool = call.map_or(&self.default, |call| self.tool(&call.tool));
        if tool.states.is_empty() {
            return stated;
        }
        let content = Json::result(result.content.data);
        // Plain text states nothing. Broken JSON may state something.
        if matches!(content, Err(PayloadError::Syntax { .. })) && !json::is_meant_as_json(result.content.data)
        {
            return stated;
        }
        let input = call.map_or(Input::Absent, |call| Input::of(&call.arguments));
        let whole = content.as_ref().map(Json::as_val).map_err(|e| *e);
        let mut scope = Scope::new(input, Some(whole), session, &self.kinds, event);
        for states in &tool.states {
            scope.enter_result(whole);
            let key = match states.key_of(&scope) {
                Ok(None) | Err(Failure::Absent) => states.check_elements(whole, &mut scope).map(|()| None),
                found => found,
            };
            match key {
                Ok(Some(key)) => drop(stated.facts.insert((states.kind.clone(), key))),
                Ok(None) | Err(Failure::Absent) => {}
                Err(failure) => {
                    stated.doubted.insert(states.kind.clone());
                    let message = match failure {
                        Failure::Error(message) => message,
                        Failure::Absent | Failure::Arguments => {
                            "the arguments of its call cannot be read".to_owned()
                        }
                    };
                    stated.findings.push(Finding::new(ErrorCode::StatesError, &states.kind, message));
                }
            }
        }
        drop(scope);
        if event.r#type == catalogue::TOOL_RESPONSE_RECEIVED {
            stated.content = Some(content);
        } else {
            stated.doubt_facts();
        }
        stated
    }
}

impl ExtractedFacts {
    /// Doubts what is stated: the event is not one that brings results, so that it may mean something else.
    fn doubt_facts(&mut self) {
        for (kind, _) in std::mem::take(&mut self.facts) {
            if self.doubted.insert(kind.clone()) {
                let message = format!(
                    "expected a result in an event of type `{}`, found one in an event of another type",
                    catalogue::TOOL_RESPONSE_RECEIVED
                );
                self.findings.push(Finding::new(ErrorCode::StatesError, &kind, message));
            }
        }
    }
}

impl FactRule {
    /// The key under which the result is a fact; `None` if it is none.
    fn key_of(&self, scope: &Scope<'_>) -> Result<Option<String>, Failure> {
        if let Some(when) = &self.when {
            let holds = when.evaluate(scope, |value| {
                value
                    .downcast_ref::<CelBool>()
                    .map(|b| *b.inner())
                    .ok_or_else(|| Failure::Error("`when`: expected true or false".to_owned()))
            })?;
            if !holds {
                return Ok(None);
            }
        }
        // Without a key there is no fact. A key of another type may be a text to the tool.
        self.key.evaluate(scope, |value| {
            let found = match value.downcast_ref::<CelOptional<'_>>() {
                Some(optional) => optional.option(),
                None => Some(value.as_ref()),
            };
            let Some(found) = found.filter(|found| found.downcast_ref::<CelNull>().is_none()) else {
                return Ok(None);
            };
            let Some(key) = found.downcast_ref::<CelString<'_>>().map(|key| key.inner()) else {
                let message = format!("`key`: expected a text, found {}", found.get_type().name());
                return Err(Failure::Error(message));
            };
            if !is_key(key) {
                return Err(Failure::Error(format!(
                    "`key`: expected a text of at most {MAX_KEY} bytes without U+FFFD (half a surrogate pair)"
                )));
            }
            Ok(Some(key.to_owned()))
        })
    }
}

impl FactRule {
    /// Fails if the result is a list with an element that would be a fact as a result of its own, or that errs: the list may
    /// replace the fact, which an expression such as `type(result) == map` does not see.
    fn check_elements<'a>(&self, result: ResultValue<'a>, scope: &mut Scope<'a>) -> Result<(), Failure> {
        let Some(list) = result.ok().and_then(|result| result.downcast_ref::<CelList<'static>>()) else {
            return Ok(());
        };
        let mut open: Vec<&'a (dyn Val + 'static)> = list.iter().map(AsRef::as_ref).collect();
        while let Some(value) = open.pop() {
            if let Some(list) = value.downcast_ref::<CelList<'static>>() {
                open.extend(list.iter().map(AsRef::as_ref));
                continue;
            }
            let Some(element) = json::element_as_result(value) else { continue };
            scope.enter_element(element)?;
            match self.key_of(scope) {
                Ok(None) | Err(Failure::Absent) => {}
                Ok(Some(_)) => {
                    let message =
                        "expected a result that is a fact, found a list with an element that would be one";
                    return Err(Failure::Error(message.to_owned()));
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
}

/// One key, or a list of them. What is no text refers to nothing.
fn strings(value: &dyn Val) -> Result<BTreeSet<String>, Failure> {
    let one = |value: &dyn Val| value.downcast_ref::<CelString<'_>>().map(|text| text.inner().to_owned());
    Ok(match value.downcast_ref::<CelList<'_>>() {
        Some(list) => list.iter().filter_map(|item| one(item.as_ref())).collect(),
        None => one(value).into_iter().collect(),
    })
}

/// Those that are known.
fn referred(session: &Session, kind: &str, keys: BTreeSet<String>) -> Vec<FactRef> {
    let Some(facts) = session.facts().get(kind) else { return Vec::new() };
    keys.into_iter()
        .filter_map(|key| {
            let offset = facts.get_fact(&key)?.offset();
            Some(FactRef { key, kind: kind.to_owned(), offset })
        })
        .collect()
}
