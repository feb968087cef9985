//! The bundles that were pushed: governance.bundles, folded.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentgov_schemas::Digest;
use agentgov_schemas::governance;
use agentgov_schemas::yaml::Problem;

use crate::bundle::Bundle;
use crate::files::BundleFiles;

/// A pushed bundle that does not load. The last good one of its environments stays active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Where it stands in the governance topic.
    pub offset: i64,
    /// Its name, as its record says.
    pub name: String,
    /// Its version, as its record says.
    pub version: String,
    /// Its digest, as its record says.
    pub digest: Digest,
    /// Where it was to judge.
    pub environments: Vec<String>,
    /// Why it does not load.
    pub problems: Vec<Problem>,
}

/// What became of a record.
#[derive(Clone, Debug)]
pub enum Folded {
    /// The bundle judges from now on in its environments.
    Active(Arc<Bundle>),
    /// It does not load.
    Refused(Arc<Refused>),
}

/// The bundles as far as their topic was read. In each environment the last one that loads is active.
#[derive(Debug, Default)]
pub struct BundleTable {
    active: BTreeMap<String, Arc<Bundle>>,
    /// By environment, where the last one pushed does not load.
    refused: BTreeMap<String, Arc<Refused>>,
    /// Every one, in the order of the topic.
    refusals: Vec<Arc<Refused>>,
    next_offset: i64,
}

impl BundleTable {
    /// A table that has one bundle, active in its environments. For tests of bundles.
    pub fn of(bundle: Arc<Bundle>) -> Self {
        let mut table = Self::default();
        table.activate(&bundle);
        table
    }

    /// Takes in the record at `offset` of the governance topic.
    pub fn fold(&mut self, record: &governance::Bundle<'_>, offset: i64) -> Folded {
        self.skip(offset);
        match load(record) {
            Ok(bundle) => {
                let bundle = Arc::new(bundle);
                self.activate(&bundle);
                Folded::Active(bundle)
            }
            Err(problems) => {
                let refused = Arc::new(Refused {
                    offset,
                    name: record.name.to_owned(),
                    version: record.version.to_owned(),
                    digest: record.digest,
                    environments: record.environments.iter().map(|e| (*e).to_owned()).collect(),
                    problems,
                });
                for environment in &refused.environments {
                    self.refused.insert(environment.clone(), Arc::clone(&refused));
                }
                self.refusals.push(Arc::clone(&refused));
                Folded::Refused(refused)
            }
        }
    }

    /// Passes over the record at `offset`, which could not be read.
    pub fn skip(&mut self, offset: i64) {
        self.next_offset = self.next_offset.max(offset.saturating_add(1));
    }

    fn activate(&mut self, bundle: &Arc<Bundle>) {
        for environment in bundle.environments() {
            self.active.insert(environment.clone(), Arc::clone(bundle));
            self.refused.remove(environment);
        }
    }

    /// The bundle that judges in an environment.
    pub fn active(&self, environment: &str) -> Option<&Arc<Bundle>> {
        self.active.get(environment)
    }

    /// Environments in which the last bundle pushed does not load: the stage is not ready.
    pub fn refused(&self) -> &BTreeMap<String, Arc<Refused>> {
        &self.refused
    }

    /// Every bundle that did not load, in the order of the topic: for alerts.
    pub fn refusals(&self) -> &[Arc<Refused>] {
        &self.refusals
    }

    /// The first offset not yet folded: what a verdict names.
    pub const fn next_offset(&self) -> i64 {
        self.next_offset
    }
}

/// The record must say what its files say: people and queries read the record.
fn load(record: &governance::Bundle<'_>) -> Result<Bundle, Vec<Problem>> {
    let files = BundleFiles::from(record);
    let mismatch = |what: &str, said: String, found: String| Problem {
        file: "(record)".to_owned(),
        line: 1,
        column: 1,
        message: format!(
            "its {what} is `{said}`, but its files give `{found}`; push the folder with `agentgov policy push`"
        ),
    };
    let digest = files.digest();
    if digest != record.digest {
        return Err(vec![mismatch("digest", record.digest.to_string(), digest.to_string())]);
    }
    let bundle = Bundle::compile(&files)?;
    let ids: Vec<&str> = bundle.policies().map(|policy| policy.id.as_str()).collect();
    let said = [
        record.name.to_owned(),
        record.version.to_owned(),
        record.environments.join(", "),
        record.policies.join(", "),
    ];
    let found = [
        bundle.name().to_owned(),
        bundle.version().to_owned(),
        bundle.environments().join(", "),
        ids.join(", "),
    ];
    let problems: Vec<Problem> = ["name", "version", "environments", "policies"]
        .into_iter()
        .zip(said.into_iter().zip(found))
        // A record of an older writer does not name its policies.
        .filter(|(what, (said, found))| said != found && !(*what == "policies" && said.is_empty()))
        .map(|(what, (said, found))| mismatch(what, said, found))
        .collect();
    if problems.is_empty() { Ok(bundle) } else { Err(problems) }
}
