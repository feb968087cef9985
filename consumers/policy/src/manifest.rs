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
}

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
        let environments = fields.take("environments");
        let model = fields.take(MODEL);
        let unavailable = fields.take("unavailable");
        fields.end();
        for (key, text) in [("name", &name), ("version", &version)] {
            if text.as_ref().is_some_and(|text: &String| text.trim().is_empty()) {
                problems.add(node.location(&[key]), format!("`{key}` must not be empty"));
            }
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
        })
    }
}
