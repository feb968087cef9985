//! Manifest of a bundle: `bundle.yaml` with name, version and environments.

use agentgov_schemas::yaml::{Fields, FromNode, Node, Problems};

/// Path of the manifest in a bundle.
pub(crate) const MANIFEST_FILE: &str = "bundle.yaml";

/// Parsed manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
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
        Some(Self { name: name?, version: version?, environments: environments? })
    }
}
