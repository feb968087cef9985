//! Manifest of a bundle: `bundle.yaml` with name, version and environments.

use agentgov_schemas::words;
use agentgov_schemas::yaml::{Fields, FromNode, Node, Problems, Value};

use crate::files::BundleFiles;

/// Path of the manifest in a bundle.
pub(crate) const MANIFEST_FILE: &str = "bundle.yaml";

/// What a bundle's policies are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleModel {
    /// Agents that call tools within sessions, as the log records them: `model` is left out.
    Agents,
    /// Any subject, action and resource, without sessions: `model: authzen`.
    Authzen,
}
words!(BundleModel { "authzen" => Authzen }, absent: Agents);

impl BundleModel {
    /// Reads the model that a bundle's bundle.yaml names. A bundle whose file cannot be read, or names another one, counts as
    /// one of agents: its compilation reports the mistake.
    pub fn of(files: &BundleFiles) -> Self {
        let text = files.0.get(MANIFEST_FILE).and_then(|content| BundleFiles::text(content).ok());
        let mut ignored = Problems::new(MANIFEST_FILE);
        let node = text.and_then(|text| Node::parse(&text, &mut ignored));
        match node.map(|node| node.value) {
            Some(Value::Mapping(entries)) => entries
                .iter()
                .find(|(key, _)| key.value == MODEL)
                .and_then(|(_, node)| Self::from_node(node, &mut ignored))
                .unwrap_or(Self::Agents),
            _ => Self::Agents,
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
}

impl FromNode for Manifest {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, "a bundle", problems)?;
        let name = fields.take("name");
        let version = fields.take("version");
        let environments = fields.take("environments");
        let model = fields.take(MODEL);
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
        Some(Self { model: model?, name: name?, version: version?, environments: environments? })
    }
}
