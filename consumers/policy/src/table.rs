//! The bundles that were pushed: governance.bundles, folded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agentgov_schemas::governance::{self, BundleFile};
use agentgov_schemas::yaml::Problem;
use agentgov_schemas::{Digest, Millis};

use crate::bundle::Bundle;
use crate::files::BundleFiles;

/// A pushed bundle that does not load. The last good one of its environments stays active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedBundle {
    /// Where it stands in the governance topic.
    pub offset: i64,
    /// When its record was appended.
    pub logged_at: Millis,
    /// Its name, as its record says.
    pub name: String,
    /// Its version, as its record says.
    pub version: String,
    /// Its digest, as its record says.
    pub digest: Digest,
    /// Where it was to judge.
    pub environments: Vec<String>,
    /// Who pushed it, as its record says.
    pub pushed_by: String,
    /// Why it does not load.
    pub problems: Vec<Problem>,
}

impl RefusedBundle {
    /// The first problem. There is always one, unless the compiler forgot to say it.
    pub fn first_problem(&self) -> String {
        self.problems.first().map_or_else(|| "no problem is named".to_owned(), ToString::to_string)
    }
}

/// What became of a record.
#[derive(Clone, Debug)]
pub enum FoldOutcome {
    /// The bundle judges from now on in its environments.
    Active(Arc<Bundle>),
    /// It does not load.
    Refused(Arc<RefusedBundle>),
}

/// What a start came to.
#[derive(Clone, Debug, Default)]
pub struct CompileSummary {
    /// How many bundles were pushed.
    pub pushed: usize,
    /// How many bundles were compiled.
    pub compiled: usize,
    /// Those that do not load and that no later one replaces in each of their environments, in the order of the topic.
    pub refused: Vec<Arc<RefusedBundle>>,
}

/// The bundles as far as their topic was read. In each environment the last one that loads is active.
///
/// A start reads every bundle that was ever pushed, and compiles those that it needs: each is [deferred](Self::defer), and
/// then the newest of them are [compiled](Self::compile_deferred). What is pushed later is [folded](Self::fold). Both ways lead to the same table.
#[derive(Debug, Default)]
pub struct BundleTable {
    /// Not compiled yet, in the order of the topic.
    kept: Vec<Kept>,
    active: BTreeMap<String, Arc<Bundle>>,
    /// By environment, where the last one pushed does not load.
    refused: BTreeMap<String, Arc<RefusedBundle>>,
    /// Every one, in the order of the topic.
    refusals: Vec<Arc<RefusedBundle>>,
    next_offset: i64,
}

impl BundleTable {
    /// A table that has one bundle, active in its environments. For tests of bundles.
    pub fn with_bundle(bundle: Arc<Bundle>) -> Self {
        let mut table = Self::default();
        table.activate(&bundle);
        table
    }

    /// Takes in the record at `offset` of the governance topic, appended at `logged_at`.
    pub fn fold(&mut self, record: &governance::Bundle<'_>, offset: i64, logged_at: Millis) -> FoldOutcome {
        self.skip(offset);
        let folded = compile(record, offset, logged_at);
        self.take(&folded);
        folded
    }

    /// Keeps the record at `offset`, appended at `logged_at`, until the table is settled.
    pub fn defer(&mut self, record: &governance::Bundle<'_>, offset: i64, logged_at: Millis) {
        self.skip(offset);
        self.kept.push(Kept::of(record, offset, logged_at));
    }

    /// Compiles, for each environment, what was kept, from the newest backwards until one loads. What is older in all of its
    /// environments is not looked at: it was corrected before anybody saw it.
    pub fn compile_deferred(&mut self) -> CompileSummary {
        let kept = std::mem::take(&mut self.kept);
        let mut compiled: BTreeMap<usize, FoldOutcome> = BTreeMap::new();
        let mut settled: BTreeSet<&str> = BTreeSet::new();
        for (position, record) in kept.iter().enumerate().rev() {
            let environments = &record.environments;
            // One that names none never loads, and nothing replaces it.
            if !environments.is_empty() && environments.iter().all(|name| settled.contains(name.as_str())) {
                continue;
            }
            let folded = compile(&record.record(), record.offset, record.logged_at);
            if matches!(folded, FoldOutcome::Active(_)) {
                settled.extend(environments.iter().map(String::as_str));
            }
            compiled.insert(position, folded);
        }
        // Oldest first: as if each had been folded when it came.
        compiled.values().for_each(|folded| self.take(folded));
        let refused = compiled.values().filter_map(|folded| match folded {
            FoldOutcome::Refused(refused) => Some(Arc::clone(refused)),
            FoldOutcome::Active(_) => None,
        });
        CompileSummary { pushed: kept.len(), compiled: compiled.len(), refused: refused.collect() }
    }

    fn take(&mut self, folded: &FoldOutcome) {
        match folded {
            FoldOutcome::Active(bundle) => self.activate(bundle),
            FoldOutcome::Refused(refused) => {
                for environment in &refused.environments {
                    self.refused.insert(environment.clone(), Arc::clone(refused));
                }
                self.refusals.push(Arc::clone(refused));
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
    pub fn refused_by_environment(&self) -> &BTreeMap<String, Arc<RefusedBundle>> {
        &self.refused
    }

    /// Every bundle that did not load, in the order of the topic: for alerts.
    pub fn refused_bundles(&self) -> &[Arc<RefusedBundle>] {
        &self.refusals
    }

    /// The first offset not yet folded: what a verdict names.
    pub const fn next_offset(&self) -> i64 {
        self.next_offset
    }
}

/// A record of the governance topic, owned.
#[derive(Debug)]
struct Kept {
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

impl Kept {
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
