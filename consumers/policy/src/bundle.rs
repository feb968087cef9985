//! A compiled bundle.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentgov_enrichment::Tools;
use agentgov_schemas::Digest;
use agentgov_schemas::yaml::Problem;

use crate::draft::{Draft, Sources};
use crate::files::BundleFiles;
use crate::index::Index;
use crate::internal::InternalError;
use crate::manifest::Manifest;
use crate::policy::Policy;

/// A bundle that judges.
#[derive(Debug)]
pub struct Bundle {
    manifest: Manifest,
    digest: Digest,
    tools: Tools,
    /// By id.
    policies: BTreeMap<String, Arc<Policy>>,
    index: Index,
    warnings: Vec<Problem>,
}

impl Bundle {
    /// Compiles the files of a bundle.
    ///
    /// # Errors
    /// Every mistake that was found, each with file and line.
    pub fn compile(files: &BundleFiles) -> Result<Self, Vec<Problem>> {
        Draft::read(files, &Sources::read(files)).finish(files)
    }

    /// The bundle of these parts, in which no mistake was found.
    pub(crate) fn new(
        digest: Digest,
        manifest: Manifest,
        tools: Tools,
        policies: Vec<(Policy, cedar_policy::Policy)>,
        warnings: Vec<Problem>,
    ) -> Result<Self, InternalError> {
        Ok(Self {
            manifest,
            digest,
            index: Index::new(policies.iter().map(|(_, cedar)| cedar), &tools)?,
            tools,
            policies: policies.into_iter().map(|(policy, _)| (policy.id.clone(), Arc::new(policy))).collect(),
            warnings,
        })
    }

    /// SHA-256 over its files: its name for ever.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.manifest.version
    }

    /// Where it judges.
    pub fn environments(&self) -> &[String] {
        &self.manifest.environments
    }

    /// Its policies, in order of their ids.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values()
    }

    /// The policy of an id.
    pub fn policy(&self, id: &str) -> Option<&Arc<Policy>> {
        self.policies.get(id)
    }

    /// Warnings, each with file and line. A bundle with warnings judges.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Its tool definitions.
    pub const fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Breaks what judging relies on.
    #[cfg(test)]
    pub(crate) fn lose_policy(&mut self, id: &str) {
        self.policies.remove(id).unwrap();
    }

    pub(crate) const fn index(&self) -> &Index {
        &self.index
    }
}
