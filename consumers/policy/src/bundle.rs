//! Compiled bundle.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentgov_enrichment::Tools;
use agentgov_schemas::Digest;
use agentgov_schemas::governance::ToolEffect;
use agentgov_schemas::verdict::BundleRef;
use agentgov_schemas::yaml::Problem;

use crate::draft::{Draft, Sources};
use crate::files::BundleFiles;
use crate::index::Index;
use crate::internal::InternalError;
use crate::manifest::{DecisionRequirement, Manifest};
use crate::policy::Policy;

/// Compiled bundle: manifest, tools, and indexed policies.
#[derive(Debug)]
pub struct Bundle {
    manifest: Manifest,
    digest: Digest,
    tools: Tools,
    /// Policies by id.
    policies: BTreeMap<String, Arc<Policy>>,
    index: Index,
    warnings: Vec<Problem>,
}

impl Bundle {
    /// Compiles the files of a bundle.
    ///
    /// # Errors
    /// All mistakes, each with file and line.
    pub fn compile(files: &BundleFiles) -> Result<Self, Vec<Problem>> {
        Draft::read(files, &Sources::read(files)).finish(files)
    }

    /// Creates a bundle from parts without mistakes.
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

    /// Returns the SHA-256 digest of the files, which identifies the bundle.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// Returns the version.
    pub fn version(&self) -> &str {
        &self.manifest.version
    }

    /// Returns the bundle as records name it.
    pub fn reference(&self) -> BundleRef<'_> {
        BundleRef { name: self.name(), version: self.version(), digest: self.digest() }
    }

    /// Returns the environments that the bundle judges in.
    pub fn environments(&self) -> &[String] {
        &self.manifest.environments
    }

    /// Returns whether a call of a tool of this effect is allowed while the state of its session is not known.
    pub fn allows_unavailable(&self, effect: ToolEffect) -> bool {
        self.manifest.unavailable.allows(effect)
    }

    /// Returns whether a call without a decision raises an alert.
    pub fn requires_decisions(&self) -> bool {
        self.manifest.decisions == DecisionRequirement::Required
    }

    /// Returns the policies in order of their ids.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values()
    }

    /// Returns the policy with an id.
    pub fn policy(&self, id: &str) -> Option<&Arc<Policy>> {
        self.policies.get(id)
    }

    /// Returns the warnings, each with file and line. Warnings do not prevent judging.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Returns the tool definitions.
    pub const fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Removes a policy that the index still has, to violate an invariant.
    #[cfg(test)]
    pub(crate) fn lose_policy(&mut self, id: &str) {
        self.policies.remove(id).unwrap();
    }

    pub(crate) const fn index(&self) -> &Index {
        &self.index
    }
}
