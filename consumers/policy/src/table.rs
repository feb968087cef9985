//! Table of the pushed bundles, folded from governance.bundles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agentgov_schemas::governance::{self, BundleFile};
use agentgov_schemas::yaml::Problem;
use agentgov_schemas::{Digest, Millis};

use crate::bundle::Bundle;
use crate::files::BundleFiles;

/// Pushed bundle that does not load. The last valid bundle of its environments stays active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedBundle {
    /// Offset of its record.
    pub offset: i64,
    /// Append time of its record.
    pub logged_at: Millis,
    /// Name in the record.
    pub name: String,
    /// Version in the record.
    pub version: String,
    /// Digest in the record.
    pub digest: Digest,
    /// Environments in the record.
    pub environments: Vec<String>,
    /// Author of the push in the record.
    pub pushed_by: String,
    /// Reasons why it does not load.
    pub problems: Vec<Problem>,
}

impl RefusedBundle {
    /// Returns the first problem.
    pub fn first_problem(&self) -> String {
        self.problems.first().map_or_else(|| "no problem was reported".to_owned(), ToString::to_string)
    }
}

/// Result of folding a record.
#[derive(Clone, Debug)]
pub enum FoldOutcome {
    /// The bundle is now active in its environments.
    Active(Arc<Bundle>),
    /// The bundle does not load.
    Refused(Arc<RefusedBundle>),
}

/// Result of [`BundleTable::compile_deferred`].
#[derive(Clone, Debug, Default)]
pub struct CompileSummary {
    /// Number of deferred bundles.
    pub pushed: usize,
    /// Number of compiled bundles.
    pub compiled: usize,
    /// Bundles that do not load and that no later bundle replaces in all of their environments, in the order of the topic.
    pub refused: Vec<Arc<RefusedBundle>>,
}

/// Global table of bundles. In each environment the last bundle that loads is active.
///
/// At startup, records are [deferred](Self::defer), and [`Self::compile_deferred`] compiles only the bundles that are needed. Later
/// records are [folded](Self::fold) at once. Both ways lead to the same table.
#[derive(Debug, Default)]
pub struct BundleTable {
    /// Bundles that are not compiled yet, in the order of the topic.
    deferred: Vec<DeferredBundle>,
    active: BTreeMap<String, Arc<Bundle>>,
    /// Refused bundles, by environment in which the last pushed bundle does not load.
    refused_by_environment: BTreeMap<String, Arc<RefusedBundle>>,
    /// All refused bundles, in the order of the topic.
    refused_bundles: Vec<Arc<RefusedBundle>>,
    next_offset: i64,
}

impl BundleTable {
    /// Creates a table with one bundle, active in its environments. For tests of bundles.
    pub fn with_bundle(bundle: Arc<Bundle>) -> Self {
        let mut table = Self::default();
        table.activate(&bundle);
        table
    }

    /// Compiles and applies the record at `offset` of the topic, appended at `logged_at`.
    pub fn fold(&mut self, record: &governance::Bundle<'_>, offset: i64, logged_at: Millis) -> FoldOutcome {
        let outcome = Self::compile(record, offset, logged_at);
        self.insert(&outcome, offset);
        outcome
    }

    /// Compiles a record without a table: it may take seconds.
    pub fn compile(record: &governance::Bundle<'_>, offset: i64, logged_at: Millis) -> FoldOutcome {
        compile(record, offset, logged_at)
    }

    /// Inserts the outcome of [`Self::compile`] of the record at `offset`.
    pub fn insert(&mut self, outcome: &FoldOutcome, offset: i64) {
        self.skip(offset);
        self.apply(outcome);
    }

    /// Stores the record at `offset`, appended at `logged_at`, for [`Self::compile_deferred`].
    pub fn defer(&mut self, record: &governance::Bundle<'_>, offset: i64, logged_at: Millis) {
        self.skip(offset);
        self.deferred.push(DeferredBundle::of(record, offset, logged_at));
    }

    /// Compiles deferred bundles of each environment from the newest backwards until one loads. Older bundles are not compiled: their
    /// problems were corrected before this start.
    pub fn compile_deferred(&mut self) -> CompileSummary {
        let deferred = std::mem::take(&mut self.deferred);
        let mut compiled: BTreeMap<usize, FoldOutcome> = BTreeMap::new();
        let mut settled: BTreeSet<&str> = BTreeSet::new();
        for (position, record) in deferred.iter().enumerate().rev() {
            let environments = &record.environments;
            // A bundle without environments never loads, and no bundle replaces it.
            if !environments.is_empty() && environments.iter().all(|name| settled.contains(name.as_str())) {
                continue;
            }
            let folded = compile(&record.record(), record.offset, record.logged_at);
            if matches!(folded, FoldOutcome::Active(_)) {
                settled.extend(environments.iter().map(String::as_str));
            }
            compiled.insert(position, folded);
        }
        // Applied from oldest to newest, as if each had been folded when it was pushed.
        compiled.values().for_each(|folded| self.apply(folded));
        let refused = compiled.values().filter_map(|folded| match folded {
            FoldOutcome::Refused(refused) => Some(Arc::clone(refused)),
            FoldOutcome::Active(_) => None,
        });
        CompileSummary { pushed: deferred.len(), compiled: compiled.len(), refused: refused.collect() }
    }

    fn apply(&mut self, folded: &FoldOutcome) {
        match folded {
            FoldOutcome::Active(bundle) => self.activate(bundle),
            FoldOutcome::Refused(refused) => {
                for environment in &refused.environments {
                    self.refused_by_environment.insert(environment.clone(), Arc::clone(refused));
                }
                self.refused_bundles.push(Arc::clone(refused));
            }
        }
    }

    /// Skips the record at `offset`, which could not be decoded.
    pub fn skip(&mut self, offset: i64) {
        self.next_offset = self.next_offset.max(offset.saturating_add(1));
    }

    fn activate(&mut self, bundle: &Arc<Bundle>) {
        for environment in bundle.environments() {
            self.active.insert(environment.clone(), Arc::clone(bundle));
            self.refused_by_environment.remove(environment);
        }
    }

    /// Returns the active bundle of an environment.
    pub fn active(&self, environment: &str) -> Option<&Arc<Bundle>> {
        self.active.get(environment)
    }

    /// Iterates over the environments with their active bundles.
    pub fn all_active(&self) -> impl Iterator<Item = (&str, &Arc<Bundle>)> {
        self.active.iter().map(|(environment, bundle)| (environment.as_str(), bundle))
    }

    /// Returns the last pushed bundle of each environment in which that bundle was refused. The stage is not ready
    /// while such an environment exists.
    pub fn refused_by_environment(&self) -> &BTreeMap<String, Arc<RefusedBundle>> {
        &self.refused_by_environment
    }

    /// Returns all refused bundles in the order of the topic, for alerts.
    pub fn refused_bundles(&self) -> &[Arc<RefusedBundle>] {
        &self.refused_bundles
    }

    /// Returns the next offset to fold. Verdicts record it as the position of the table.
    pub const fn next_offset(&self) -> i64 {
        self.next_offset
    }
}

/// Owned record of the topic.
#[derive(Debug)]
struct DeferredBundle {
    offset: i64,
    logged_at: Millis,
    name: String,
    version: String,
    digest: Digest,
    environments: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    pushed_by: String,
    policies: Vec<String>,
}

impl DeferredBundle {
    fn of(record: &governance::Bundle<'_>, offset: i64, logged_at: Millis) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Self {
            offset,
            logged_at,
            name: record.name.to_owned(),
            version: record.version.to_owned(),
            digest: record.digest,
            environments: owned(&record.environments),
            files: record.files.iter().map(|file| (file.path.to_owned(), file.content.to_vec())).collect(),
            pushed_by: record.pushed_by.to_owned(),
            policies: owned(&record.policies),
        }
    }

    fn record(&self) -> governance::Bundle<'_> {
        governance::Bundle {
            name: &self.name,
            version: &self.version,
            digest: self.digest,
            environments: self.environments.iter().map(String::as_str).collect(),
            files: self.files.iter().map(|(path, content)| BundleFile { path, content }).collect(),
            pushed_by: &self.pushed_by,
            policies: self.policies.iter().map(String::as_str).collect(),
        }
    }
}

fn compile(record: &governance::Bundle<'_>, offset: i64, logged_at: Millis) -> FoldOutcome {
    match load(record) {
        Ok(bundle) => FoldOutcome::Active(Arc::new(bundle)),
        Err(problems) => FoldOutcome::Refused(Arc::new(RefusedBundle {
            offset,
            logged_at,
            name: record.name.to_owned(),
            version: record.version.to_owned(),
            digest: record.digest,
            environments: record.environments.iter().map(|e| (*e).to_owned()).collect(),
            pushed_by: record.pushed_by.to_owned(),
            problems,
        })),
    }
}

/// Compiles a record. Its fields must agree with its files, since people and queries read the fields.
fn load(record: &governance::Bundle<'_>) -> Result<Bundle, Vec<Problem>> {
    let files = BundleFiles::from(record);
    let mismatch = |what: &str, recorded: String, found: String| Problem {
        file: "(record)".to_owned(),
        line: 1,
        column: 1,
        message: format!(
            "expected the {what} of the files, `{found}`, found `{recorded}` in the record; push the folder with `agentgov policy push`"
        ),
    };
    let digest = files.digest();
    if digest != record.digest {
        return Err(vec![mismatch("digest", record.digest.to_string(), digest.to_string())]);
    }
    let bundle = Bundle::compile(&files)?;
    let ids: Vec<&str> = bundle.policies().map(|policy| policy.id.as_str()).collect();
    let recorded = [
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
        .zip(recorded.into_iter().zip(found))
        // Records of older writers do not list policies.
        .filter(|(what, (recorded, found))| {
            recorded != found && !(*what == "policies" && recorded.is_empty())
        })
        .map(|(what, (recorded, found))| mismatch(what, recorded, found))
        .collect();
    if problems.is_empty() { Ok(bundle) } else { Err(problems) }
}
