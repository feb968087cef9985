//! `bundle.yaml`: what a bundle is called, and where it judges.

use agentgov_schemas::mapping;

/// Its path in a bundle.
pub(crate) const MANIFEST_FILE: &str = "bundle.yaml";

/// The file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) environments: Vec<String>,
}
mapping!(Manifest, "a bundle", { name, version, environments });
