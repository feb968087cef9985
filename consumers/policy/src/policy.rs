//! Policy metadata from annotations.

use agentgov_schemas::verdict::{Mode, RuleEffect, Severity, Violation};
use agentgov_schemas::yaml::one_of;
use agentgov_schemas::{Vocabulary, vocabulary};
use cedar_policy::Effect;

use crate::source::Statement;

/// Policy of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `@id`, unique in the bundle.
    pub id: String,
    /// `@title`: summary in one line.
    pub title: Option<String>,
    /// `@remediation`: instructions for resolving a violation.
    pub remediation: Option<String>,
    /// `@controls`: implemented controls, separated by commas in the annotation.
    pub controls: Vec<String>,
    /// Rule or grant.
    pub kind: PolicyKind,
    /// Path of its file in the bundle.
    pub file: String,
    /// Line of the beginning of its text, from 1.
    pub line: u64,
    /// Source text.
    pub source: String,
}

/// Kind of a policy, by its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// A `permit`: allows agents to use tools.
    Grant,
    /// A `forbid`: denies calls or requires approval.
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
    /// Effect of an enforced rule that failed or that reads an erred value.
    OnError {
        /// The verdict is indeterminate, unless another rule denies or no grant applies.
        Indeterminate = "indeterminate",
        /// The other policies decide, as if the rule did not exist.
        Ignore = "ignore",
    }
}

const ANNOTATIONS: &[&str] =
    &["id", "title", "severity", "mode", "effect", "on_error", "remediation", "controls"];

const ON_ERROR: &str = "on_error";
/// Annotations that a grant must not have.
const RULES_ONLY: &[&str] = &["severity", "mode", "effect", ON_ERROR];
/// Maximum length of an id in bytes.
const MAX_ID_BYTES: usize = 128;

/// Returns true for a rule that makes the verdict indeterminate if it fails.
pub(crate) fn is_indeterminate_on_error(parsed: &cedar_policy::Policy) -> bool {
    let is = |name: &str, word: &str| parsed.annotation(name) == Some(word);
    parsed.effect() == Effect::Forbid
        && !is("mode", Mode::Observe.as_str())
        && !is(ON_ERROR, OnError::Ignore.as_str())
}

impl Policy {
    /// Returns whether the policy is a rule that is only observed.
    pub const fn is_observed(&self) -> bool {
        matches!(self.kind, PolicyKind::Rule { mode: Mode::Observe, .. })
    }

    /// Returns a rule as records carry it; `None` for a grant.
    pub fn violation(&self) -> Option<Violation<'_>> {
        match self.kind {
            PolicyKind::Rule { severity, mode, effect, .. } => Some(Violation {
                policy: &self.id,
                severity: severity.into(),
                mode: mode.into(),
                effect: effect.into(),
            }),
            PolicyKind::Grant => None,
        }
    }

    /// Reads the annotations of a parsed policy and reports all mistakes. Returns `None` if the policy cannot be used.
    pub(crate) fn read(
        statement: &Statement<'_>,
        parsed: &cedar_policy::Policy,
        report: &mut dyn FnMut(String),
    ) -> Option<Self> {
        let annotation = |name: &str| parsed.annotation(name).map(str::to_owned);
        for (name, _) in parsed.annotations().filter(|(name, _)| !ANNOTATIONS.contains(name)) {
            report(format!("unknown annotation `@{name}`; expected {}", one_of(ANNOTATIONS)));
        }
        let id = annotation("id").filter(|id| is_id(id));
        if id.is_none() {
            let found = annotation("id").map_or("none".to_owned(), |found| match found.len() {
                0 => "an empty one".to_owned(),
                1..=MAX_ID_BYTES => format!("`{}`", found.escape_debug()),
                more => format!("one of {more} bytes"),
            });
            report(format!(
                "expected `@id(\"…\")` of at most {MAX_ID_BYTES} letters, digits, `-`, `_` and `.`, which names the policy in verdicts, found {found}"
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
                let severity = annotation_value("severity", annotation("severity"), None, report);
                let mode = annotation_value("mode", annotation("mode"), Some(Mode::Enforce), report);
                let effect = annotation_value("effect", annotation("effect"), Some(RuleEffect::Deny), report);
                let on_error =
                    annotation_value(ON_ERROR, annotation(ON_ERROR), Some(OnError::Indeterminate), report);
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

pub(crate) fn is_id(id: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.chars().all(allowed)
}

/// Returns the value of an annotation, or `default` if it is missing.
fn annotation_value<T: Vocabulary>(
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
