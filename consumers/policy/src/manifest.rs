//! Manifest of a bundle: `bundle.yaml` with name, version and environments.

use std::collections::BTreeMap;

use agentgov_schemas::governance::ToolEffect;
use agentgov_schemas::yaml::{Fields, FromNode, Node, Problems, Value};
use agentgov_schemas::{Vocabulary as _, words};

use crate::files::BundleFiles;

/// Path of the manifest in a bundle.
pub(crate) const MANIFEST_FILE: &str = "bundle.yaml";

/// Subject matter of a bundle's policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleModel {
    /// Agents that call tools within sessions, as the log records them: `model` is left out.
    Agents,
    /// Any subject, action and resource, without sessions: `model: authzen`.
    Authzen,
}
words!(BundleModel { "authzen" => Authzen }, absent: Agents);

impl BundleModel {
    /// Returns the model that a bundle's bundle.yaml names. `None`: the file is missing or unreadable, or names another model,
    /// which the compilation of the bundle reports.
    pub fn of(files: &BundleFiles) -> Option<Self> {
        let text = BundleFiles::text(files.0.get(MANIFEST_FILE)?).ok()?;
        let mut ignored = Problems::new(MANIFEST_FILE);
        let Value::Mapping(entries) = Node::parse(&text, &mut ignored)?.value else { return None };
        match entries.iter().find(|(key, _)| key.value == MODEL) {
            Some((_, node)) => Self::from_node(node, &mut ignored),
            None => Some(Self::Agents),
        }
    }
}

/// Maximum length of a name, a version and the name of an environment, in bytes: each verdict repeats name and version.
const MAX_NAME_BYTES: usize = 128;
/// Maximum number of environments of a bundle.
const MAX_ENVIRONMENTS: usize = 100;

/// Reports a text that is too long for the records that repeat it.
fn check_length(key: &str, text: &str, node: &Node, problems: &mut Problems) {
    if text.len() > MAX_NAME_BYTES {
        let message = format!("`{key}`: expected at most {MAX_NAME_BYTES} bytes, found {}", text.len());
        problems.add(node.location(&[key]), message);
    }
}

/// The key of a bundle's model.
pub(crate) const MODEL: &str = "model";

/// Parsed manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) model: BundleModel,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) environments: Vec<String>,
    pub(crate) unavailable: UnavailableByEffect,
    pub(crate) decisions: DecisionRequirement,
}

/// Whether each call must be decided before it happens. `decisions` in bundle.yaml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecisionRequirement {
    /// A call without a decision raises an alert.
    Required,
    /// A call without a decision raises no alert.
    Optional,
}
words!(DecisionRequirement { "required" => Required, "optional" => Optional }, absent: Optional);

/// Decision of a policy decision point on a call whose session it does not know, by the effect of its tool. `unavailable` in
/// bundle.yaml.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnavailableByEffect(BTreeMap<ToolEffect, UnavailableDecision>);

/// Decision on a call whose session is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnavailableDecision {
    Allow,
    Deny,
}
words!(UnavailableDecision { "allow" => Allow, "deny" => Deny });

impl UnavailableByEffect {
    /// Returns whether a call of a tool of this effect is allowed. Without an entry it is denied.
    pub(crate) fn allows(&self, effect: ToolEffect) -> bool {
        self.0.get(&effect) == Some(&UnavailableDecision::Allow)
    }
}

impl FromNode for UnavailableByEffect {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, "`unavailable`", problems)?;
        let mut by_effect = BTreeMap::new();
        for effect in ToolEffect::ALL {
            if let Some(Some(decision)) = fields.take::<Option<UnavailableDecision>>(effect.as_str()) {
                by_effect.insert(*effect, decision);
            }
        }
        fields.end();
        Some(Self(by_effect))
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl FromNode for Manifest {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, "a bundle", problems)?;
        let name = fields.take("name");
        let version = fields.take("version");
        let environments: Option<Vec<String>> = fields.take("environments");
        let model = fields.take(MODEL);
        let unavailable = fields.take("unavailable");
        let decisions = fields.take("decisions");
        fields.end();
        for (key, text) in [("name", &name), ("version", &version)] {
            if text.as_ref().is_some_and(|text: &String| text.trim().is_empty()) {
                problems.add(node.location(&[key]), format!("`{key}` must not be empty"));
            }
            check_length(key, text.as_deref().unwrap_or_default(), node, problems);
        }
        for environment in environments.iter().flatten() {
            if environment.trim().is_empty() {
                let message = "expected a name of an environment, found an empty text";
                problems.add(node.location(&["environments"]), message);
            }
            check_length("environments", environment, node, problems);
        }
        if environments.as_ref().is_some_and(|environments| environments.len() > MAX_ENVIRONMENTS) {
            let message = format!("expected at most {MAX_ENVIRONMENTS} environments, found more");
            problems.add(node.location(&["environments"]), message);
        }
        if environments.as_ref().is_some_and(|environments: &Vec<String>| environments.is_empty()) {
            let message = "expected at least one of `environments`, found none: it would judge nowhere";
            problems.add(node.location(&["environments"]), message);
        }
        Some(Self {
            model: model?,
            name: name?,
            version: version?,
            environments: environments?,
            unavailable: unavailable?,
            decisions: decisions?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let (_, problems) = agentgov_schemas::yaml::read::<Manifest>(MANIFEST_FILE, text);
        problems
            .finish::<()>(None)
            .err()
            .unwrap_or_default()
            .into_iter()
            .map(|problem| problem.message)
            .collect()
    }

    #[test]
    fn decisions_are_optional_unless_the_manifest_requires_them() {
        let text = |decisions: &str| format!("name: n\nversion: '1'\nenvironments: [e]\n{decisions}");
        for (decisions, expected) in [
            ("", DecisionRequirement::Optional),
            ("decisions: optional\n", DecisionRequirement::Optional),
            ("decisions: required\n", DecisionRequirement::Required),
        ] {
            let (manifest, problems) =
                agentgov_schemas::yaml::read::<Manifest>(MANIFEST_FILE, &text(decisions));
            assert_eq!(problems.finish(manifest).unwrap().decisions, expected, "{decisions}");
        }
        assert_eq!(problems(&text("decisions: always\n")), ["expected required or optional, found `always`"]);
    }

    #[test]
    fn manifest_is_bounded() {
        let long = "n".repeat(129);
        let names = |count: usize| (0..count).map(|i| format!("e{i}")).collect::<Vec<_>>().join(", ");
        for (text, expected) in [
            (
                format!("name: {long}\nversion: '1'\nenvironments: [e]\n"),
                "`name`: expected at most 128 bytes, found 129",
            ),
            (
                format!("name: n\nversion: {long}\nenvironments: [e]\n"),
                "`version`: expected at most 128 bytes, found 129",
            ),
            (
                format!("name: n\nversion: '1'\nenvironments: [{long}]\n"),
                "`environments`: expected at most 128 bytes, found 129",
            ),
            (
                "name: n\nversion: '1'\nenvironments: [e, ' ']\n".to_owned(),
                "expected a name of an environment, found an empty text",
            ),
            (
                format!("name: n\nversion: '1'\nenvironments: [{}]\n", names(101)),
                "expected at most 100 environments, found more",
            ),
        ] {
            assert_eq!(problems(&text), [expected], "{text}");
        }
        assert_eq!(
            problems(&format!("name: n\nversion: '1'\nenvironments: [{}]\n", names(100))),
            Vec::<String>::new()
        );
    }
}
