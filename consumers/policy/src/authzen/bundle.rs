//! A compiled bundle of `model: authzen`.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentgov_schemas::Digest;
use agentgov_schemas::yaml::Problem;

use super::check::Draft;
use super::entities::KnownEntities;
use super::index::Index;
use super::model::Model;
use crate::files::BundleFiles;
use crate::internal::InternalError;
use crate::manifest::Manifest;
use crate::policy::Policy;

/// A bundle that answers requests about any subject, action and resource. Immutable, so threads share it.
#[derive(Debug)]
pub struct AccessBundle {
    manifest: Manifest,
    digest: Digest,
    model: Model,
    known: KnownEntities,
    /// Policies by id.
    policies: BTreeMap<String, Arc<Policy>>,
    index: Index,
}

impl AccessBundle {
    /// Compiles the files of a bundle.
    ///
    /// # Errors
    /// All mistakes, each with file and line.
    pub fn compile(files: &BundleFiles) -> Result<Self, Vec<Problem>> {
        super::check::compile(files)
    }

    /// Creates a bundle from parts without mistakes.
    pub(super) fn new(files: &BundleFiles, draft: Draft) -> Result<Self, InternalError> {
        let Draft { manifest, model, known, policies } = draft;
        let cedar: Vec<&cedar_policy::Policy> = policies.iter().map(|(_, cedar)| cedar).collect();
        let index = Index::new(&cedar, &model, &known)?;
        let policies = policies.into_iter().map(|(policy, _)| (policy.id.clone(), Arc::new(policy)));
        Ok(Self { manifest, digest: files.digest(), policies: policies.collect(), index, model, known })
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

    /// Returns the environments that the bundle decides in.
    pub fn environments(&self) -> &[String] {
        &self.manifest.environments
    }

    /// Returns the policies in order of their ids.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values()
    }

    /// Returns the number of known entities.
    pub fn known_entities(&self) -> usize {
        self.known.len()
    }

    /// Returns the ids of the known entities of a type, in order. Empty for a type that the schema does not have.
    pub fn ids(&self, kind: &str) -> &[String] {
        self.known.ids(kind)
    }

    /// Returns the names of the actions that the schema declares for these types, in order.
    pub fn actions<'b>(&'b self, subject: &str, resource: &str) -> impl Iterator<Item = &'b str> {
        let types = self.model.entity_type(subject).zip(self.model.entity_type(resource));
        self.model.actions().filter_map(move |(name, action)| {
            let (subject, resource) = types?;
            self.index.environment(&subject.name, &action.uid, &resource.name)?;
            Some(name)
        })
    }

    pub(super) fn policy(&self, id: &str) -> Option<&Arc<Policy>> {
        self.policies.get(id)
    }

    pub(super) const fn model(&self) -> &Model {
        &self.model
    }

    pub(super) const fn known(&self) -> &KnownEntities {
        &self.known
    }

    pub(super) const fn index(&self) -> &Index {
        &self.index
    }

    /// Violates an invariant on which decisions rely.
    #[cfg(test)]
    pub(super) fn lose_policy(&mut self, id: &str) {
        self.policies.remove(id).unwrap();
    }
}
