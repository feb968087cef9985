//! What is known of a policy beside its text: its annotations.

use agentgov_schemas::verdict::{Mode, RuleEffect, Severity};
use agentgov_schemas::yaml::one_of;
use agentgov_schemas::{Vocabulary, vocabulary};
use cedar_policy::Effect;

use crate::source::Statement;

/// A policy of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its `@id`: unique in the bundle.
    pub id: String,
    /// Its `@title`: what it says, in one line.
    pub title: Option<String>,
    /// What its violator should do: `@remediation`.
    pub remediation: Option<String>,
    /// The controls that it implements: `@controls`, separated by commas.
    pub controls: Vec<String>,
    /// A rule, or a grant.
    pub kind: PolicyKind,
    /// The file that it stands in, within the bundle.
    pub file: String,
    /// The line that its text begins in, from 1.
    pub line: u64,
    /// Its text, as it was written.
    pub source: String,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// A `permit`: says which agents may use which tools.
    Grant,
    /// A `forbid`.
    Rule {
        /// `@severity`.
        severity: Severity,
        /// `@mode`, by default enforce.
        mode: Mode,
        /// `@effect`, by default deny.
        effect: RuleEffect,
        /// `@on_error`, by default indeterminate.
        on_error: OnError,
    },
}

vocabulary! {
    /// Outcome of an enforced rule that erred, or that mentions a value that erred.
    OnError {
        /// Nothing is decided, unless another rule denies or nothing is granted.
        Indeterminate = "indeterminate",
        /// The others decide, as if the rule were not there.
        Ignore = "ignore",
    }
}

const KNOWN: &[&str] = &["id", "title", "severity", "mode", "effect", "on_error", "remediation", "controls"];

const ON_ERROR: &str = "on_error";
/// A grant has none of these.
const RULES_ONLY: &[&str] = &["severity", "mode", "effect", ON_ERROR];
/// Longest id, in bytes.
const MAX_ID: usize = 128;

/// Returns true for a rule that makes the verdict indeterminate if it errs.
pub(crate) fn decides_or_errs(parsed: &cedar_policy::Policy) -> bool {
    let is = |name: &str, word: &str| parsed.annotation(name) == Some(word);
    parsed.effect() == Effect::Forbid
        && !is("mode", Mode::Observe.as_str())
        && !is(ON_ERROR, OnError::Ignore.as_str())
}

impl Policy {
    /// Reads the annotations of a parsed policy. Every mistake is reported; `None` if it cannot be used.
    pub(crate) fn read(
        statement: &Statement<'_>,
        parsed: &cedar_policy::Policy,
        report: &mut dyn FnMut(String),
    ) -> Option<Self> {
        let annotation = |name: &str| parsed.annotation(name).map(str::to_owned);
        for (name, _) in parsed.annotations().filter(|(name, _)| !KNOWN.contains(name)) {
            report(format!("unknown annotation `@{name}`; expected {}", one_of(KNOWN)));
        }
        let id = annotation("id").filter(|id| is_id(id));
        if id.is_none() {
            let found = annotation("id").map_or("none".to_owned(), |found| match found.len() {
                0 => "an empty one".to_owned(),
                1..=MAX_ID => format!("`{}`", found.escape_debug()),
                more => format!("one of {more} bytes"),
            });
            report(format!(
                "expected `@id(\"…\")` of at most {MAX_ID} letters, digits, `-`, `_` and `.`, which names the policy in verdicts, found {found}"
            ));
        }
        let kind = match parsed.effect() {
            Effect::Permit => {
                for name in RULES_ONLY.iter().filter(|name| annotation(name).is_some()) {
                    report(format!("`@{name}` is for forbid policies; a permit is a grant and has none"));
                }
                Some(PolicyKind::Grant)
            }
            Effect::Forbid => {
                let severity = value("severity", annotation("severity"), None, report);
                let mode = value("mode", annotation("mode"), Some(Mode::Enforce), report);
                let effect = value("effect", annotation("effect"), Some(RuleEffect::Deny), report);
                let on_error = value(ON_ERROR, annotation(ON_ERROR), Some(OnError::Indeterminate), report);
                severity.zip(mode).zip(effect.zip(on_error)).map(|((severity, mode), (effect, on_error))| {
                    PolicyKind::Rule { severity, mode, effect, on_error }
                })
            }
        };
        let controls = annotation("controls").unwrap_or_default();
        Some(Self {
            id: id?,
            title: annotation("title"),
            remediation: annotation("remediation"),
            controls: controls
                .split(',')
                .map(str::trim)
                .filter(|c| !c.is_empty())
                .map(str::to_owned)
                .collect(),
            kind: kind?,
            file: statement.file.to_owned(),
            line: statement.line,
            source: statement.text.to_owned(),
        })
    }
}

fn is_id(id: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=MAX_ID).contains(&id.len()) && id.chars().all(allowed)
}

/// The value of an annotation, or `default` where it is left out.
fn value<T: Vocabulary>(
    name: &str,
    found: Option<String>,
    default: Option<T>,
    report: &mut dyn FnMut(String),
) -> Option<T> {
    let expected = || one_of(&T::names());
    let Some(found) = found else {
        if default.is_none() {
            report(format!("expected `@{name}` of {}", expected()));
        }
        return default;
    };
    let value = T::by_name(&found);
    if value.is_none() {
        report(format!("`@{name}`: expected {}, found `{found}`", expected()));
    }
    value
}
