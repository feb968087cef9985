//! Evaluates the expressions of a tool: derived values, fact references and fact rules.

use std::collections::BTreeSet;

use agentgov_schemas::catalogue;
use agentgov_schemas::event::{ActionEvent, ToolResult};
use agentgov_schemas::verdict::ErrorCode;
use cel::common::types::{CelBool, CelList, CelNull, CelOptional, CelString};
use cel::common::value::Val;

use super::{FactRule, Finding, Tools};
use crate::call_context::{CallContext, FactRef};
use crate::expression::Failure;
use crate::json::{self, Json, PayloadError};
use crate::scope::{Input, MAX_KEY, ResultValue, Scope, is_key};
use crate::session::Session;

/// Maximum number of facts that a verdict lists.
const MAX_FACT_REFS: usize = 1000;

/// Facts that a result carries.
#[derive(Debug, Default)]
pub(crate) struct ExtractedFacts {
    /// Kind and key of each fact.
    pub(crate) facts: BTreeSet<(String, String)>,
    /// Kinds that the result may carry a fact of, since a rule failed.
    pub(crate) uncertain_kinds: BTreeSet<String>,
    /// Kinds whose facts the result may replace under unknown keys.
    pub(crate) stale_kinds: BTreeSet<String>,
    /// Value of each fact: the result. `None` if no fact is certain.
    pub(crate) content: Option<Result<Json, PayloadError>>,
    pub(crate) findings: Vec<Finding>,
}

impl Tools {
    /// Computes the context of the call in `event` from the state before the event.
    pub fn derive(&self, session: &Session, event: &ActionEvent<'_>) -> CallContext {
        let mut known = CallContext::default();
        let Some(call) = &event.tool else {
            known.findings.push(Finding::new(
                ErrorCode::ToolMissing,
                "tool",
                "expected the name of the called tool, found an event without `tool`",
            ));
            return known;
        };
        let input = Json::arguments(call.arguments.data);
        if let Err(error) = &input {
            let code = match error {
                PayloadError::Syntax { .. } | PayloadError::Unreadable(_) => ErrorCode::ArgumentsNotJson,
                PayloadError::TooLarge => ErrorCode::ArgumentsTooLarge,
            };
            known.findings.push(Finding::new(code, "arguments", error.to_string()));
        }
        let scope = Scope::new(Input::Parsed(input), None, session, &self.kinds, event);
        let tool = self.tool(call.name);
        for (name, (declared, expression)) in &tool.derived {
            let mut code = ErrorCode::DerivedError;
            let value = expression.evaluate(&scope, |value| {
                code = ErrorCode::DerivedType;
                declared.convert(value.as_ref()).map_err(Failure::Error)
            });
            match value {
                Ok(value) => drop(known.derived.insert(name.clone(), value)),
                Err(Failure::Missing) => {}
                Err(failure) => {
                    known.findings.extend(Finding::from_failure(code, name, failure));
                    known.erred.insert(name.clone());
                }
            }
        }
        for (kind, expression) in &tool.refers {
            match expression.evaluate(&scope, |keys| fact_keys(keys.as_ref())) {
                Ok(keys) => known.facts.extend(resolve_references(session, kind, keys)),
                Err(failure) => {
                    known.findings.extend(Finding::from_failure(ErrorCode::RefersError, kind, failure))
                }
            }
        }
        known.facts.truncate(MAX_FACT_REFS);
        known
    }

    /// Extracts the facts of `result` by the rules of the tool that the latest call of its id names. Without such a call, only
    /// the rules of the default entry apply.
    pub(crate) fn extract_facts(
        &self,
        session: &Session,
        event: &ActionEvent<'_>,
        result: &ToolResult<'_>,
    ) -> ExtractedFacts {
        let mut extracted = ExtractedFacts::default();
        let call = session.stored_call(result.call_id);
        if call.is_none() && session.is_incomplete() {
            // The session may have dropped the call: any tool may have answered.
            let rules_of_tools =
                self.tools.values().flat_map(|tool| tool.states.iter().skip(self.default.states.len()));
            extracted.stale_kinds = rules_of_tools.map(|rule| rule.kind.clone()).collect();
        }
        let tool = call.map_or(&self.default, |call| self.tool(&call.tool));
        if tool.states.is_empty() {
            return extracted;
        }
        let content = Json::result(result.content.data);
        // Plain text carries no fact. Broken JSON may carry one.
        if matches!(content, Err(PayloadError::Syntax { .. })) && !json::may_contain_json(result.content.data)
        {
            return extracted;
        }
        let input = call.map_or(Input::Missing, |call| Input::stored(&call.arguments));
        let whole = content.as_ref().map(Json::as_val).map_err(|e| *e);
        let mut scope = Scope::new(input, Some(whole), session, &self.kinds, event);
        for rule in &tool.states {
            scope.enter_result(whole);
            let key = match rule.fact_key(&scope) {
                Ok(None) | Err(Failure::Missing) => rule.check_elements(whole, &mut scope).map(|()| None),
                found => found,
            };
            match key {
                Ok(Some(key)) => drop(extracted.facts.insert((rule.kind.clone(), key))),
                Ok(None) | Err(Failure::Missing) => {}
                Err(failure) => {
                    extracted.uncertain_kinds.insert(rule.kind.clone());
                    let message = match failure {
                        Failure::Error(message) => message,
                        Failure::Missing | Failure::UnreadableArguments => {
                            "the arguments of the call are not readable".to_owned()
                        }
                    };
                    extracted.findings.push(Finding::new(ErrorCode::StatesError, &rule.kind, message));
                }
            }
        }
        drop(scope);
        if event.r#type == catalogue::TOOL_RESPONSE_RECEIVED {
            extracted.content = Some(content);
        } else {
            extracted.mark_uncertain();
        }
        extracted
    }
}

impl ExtractedFacts {
    /// Marks the kinds of all facts as uncertain, since only a response may carry facts.
    fn mark_uncertain(&mut self) {
        for (kind, _) in std::mem::take(&mut self.facts) {
            if self.uncertain_kinds.insert(kind.clone()) {
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
    /// Returns the key under which the result is a fact, or `None` if it is no fact.
    fn fact_key(&self, scope: &Scope<'_>) -> Result<Option<String>, Failure> {
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
        // No key, no fact. A key of another type than text is an error: the tool may convert it to a text.
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
    /// Fails if the result is a list and the rule would match, or fails for, one of its elements. Such a list may replace the
    /// fact, and a condition such as `type(result) == map` does not see that.
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
            match self.fact_key(scope) {
                Ok(None) | Err(Failure::Missing) => {}
                Ok(Some(_)) => {
                    let message = "expected a result that is a fact, found a list with an element that matches the rule";
                    return Err(Failure::Error(message.to_owned()));
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
}

/// Returns the keys that a value names: one text, or the texts of a list. Other values name nothing.
fn fact_keys(value: &dyn Val) -> Result<BTreeSet<String>, Failure> {
    let one = |value: &dyn Val| value.downcast_ref::<CelString<'_>>().map(|text| text.inner().to_owned());
    Ok(match value.downcast_ref::<CelList<'_>>() {
        Some(list) => list.iter().filter_map(|item| one(item.as_ref())).collect(),
        None => one(value).into_iter().collect(),
    })
}

/// Returns references to the facts of these keys that the session has.
fn resolve_references(session: &Session, kind: &str, keys: BTreeSet<String>) -> Vec<FactRef> {
    let Some(facts) = session.facts().get(kind) else { return Vec::new() };
    keys.into_iter()
        .filter_map(|key| {
            let offset = facts.get_fact(&key)?.offset();
            Some(FactRef { key, kind: kind.to_owned(), offset })
        })
        .collect()
}
