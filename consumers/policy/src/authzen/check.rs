//! Compiles the files of a bundle of `model: authzen` and reports all mistakes in one run.

use agentgov_schemas::yaml::{self, Problem};
use cedar_policy::Effect;

use super::bundle::AccessBundle;
use super::entities::{self, ENTITIES_FILE, KnownEntities};
use super::model::Model;
use super::testing;
use crate::draft::{Parsed, Sources, TESTS_FOLDER, parse_policies, problem, read, validate_policies};
use crate::files::BundleFiles;
use crate::manifest::{BundleModel, MANIFEST_FILE, Manifest};
use crate::policy::Policy;
use crate::schema::SCHEMA_FILE;
use crate::source;

/// Outcome of [`check`].
#[derive(Debug)]
pub struct AccessReport {
    /// The bundle, if it compiles.
    pub bundle: Option<AccessBundle>,
    /// Every mistake, each with file and line.
    pub problems: Vec<Problem>,
    /// Warnings, each with file and line. A bundle with warnings decides.
    pub warnings: Vec<Problem>,
}

/// The parts of a bundle without mistakes.
pub(super) struct Draft {
    pub(super) manifest: Manifest,
    pub(super) model: Model,
    pub(super) known: KnownEntities,
    pub(super) policies: Vec<(Policy, cedar_policy::Policy)>,
}

/// Checks all files of a bundle, including its tests.
pub fn check(files: &BundleFiles) -> AccessReport {
    let mut warnings = Vec::new();
    let (bundle, mut problems) = match compiled(files, &mut warnings) {
        Ok(bundle) => (Some(bundle), Vec::new()),
        Err(problems) => (None, problems),
    };
    problems.extend(testing::problems(files, bundle.as_ref()));
    warnings.sort();
    warnings.dedup();
    AccessReport { bundle, problems, warnings }
}

pub(super) fn compile(files: &BundleFiles) -> Result<AccessBundle, Vec<Problem>> {
    compiled(files, &mut Vec::new())
}

fn compiled(files: &BundleFiles, warnings: &mut Vec<Problem>) -> Result<AccessBundle, Vec<Problem>> {
    let mut problems = Vec::new();
    let manifest = read(files, MANIFEST_FILE, &mut problems).and_then(|text| {
        yaml::parse::<Manifest>(MANIFEST_FILE, &text).map_err(|found| problems.extend(found)).ok()
    });
    if manifest.as_ref().is_some_and(|manifest| manifest.model != BundleModel::Authzen) {
        problems.push(problem(
            MANIFEST_FILE,
            "expected `model: authzen`, found no `model`: it is a bundle of agents and tools",
        ));
    }
    let model = read(files, SCHEMA_FILE, &mut problems).and_then(|text| {
        let placed = |(offset, message): (usize, String)| {
            let (line, column) = source::place(&text, offset);
            Problem { line, column, ..problem(SCHEMA_FILE, message) }
        };
        Model::read(&text).map_err(|found| problems.extend(found.into_iter().map(placed))).ok()
    });
    let known = read(files, ENTITIES_FILE, &mut problems).and_then(|text| {
        entities::read(&text, model.as_ref()).map_err(|found| problems.extend(found)).ok().flatten()
    });
    let sources = Sources::read(files);
    problems.extend(sources.problems().iter().cloned());
    let (policies, unparsed) = parse_policies(&sources, &mut problems);
    if let Some(model) = &model {
        validate_policies(&model.schema, policies.iter(), &mut problems, warnings);
    }
    if unparsed.is_empty() {
        warnings.extend(without_grant(&policies));
    }
    problems.extend(unknown_files(files));
    problems.sort();
    problems.dedup();
    let policies: Option<Vec<_>> =
        policies.into_iter().map(|parsed| Some((parsed.policy?, parsed.cedar))).collect();
    match (manifest, model, known, policies) {
        (Some(manifest), Some(model), Some(known), Some(policies)) if problems.is_empty() => {
            let draft = Draft { manifest, model, known, policies };
            AccessBundle::new(files, draft).map_err(|e| vec![problem("*.cedar", e.to_string())])
        }
        _ if problems.is_empty() => {
            Err(vec![problem("(bundle)", "does not compile, and no problem says why")])
        }
        _ => Err(problems),
    }
}

/// Warns about a bundle without a permit, which allows nothing.
fn without_grant(policies: &[Parsed<'_>]) -> Option<Problem> {
    let granted = policies.iter().any(|parsed| parsed.cedar.effect() == Effect::Permit);
    let first = policies.first().filter(|_| !granted)?;
    let message = "no policy of the bundle is a `permit`: every request is denied, with reason no_grant";
    Some(first.statement.problem(first.statement.first_token(), message))
}

/// Reports files that are not part of a bundle, whose names are probably mistyped.
fn unknown_files(files: &BundleFiles) -> Vec<Problem> {
    let known = |path: &str| {
        [MANIFEST_FILE, SCHEMA_FILE, ENTITIES_FILE, "README.md"].contains(&path)
            || (path.ends_with(".cedar") && !path.contains('/'))
            || path
                .strip_prefix(TESTS_FOLDER)
                .is_some_and(|name| name.ends_with(".yaml") && !name.contains('/'))
    };
    let unknown = files.0.keys().filter(|path| !known(path));
    let expected = "expected bundle.yaml, schema.cedarschema, entities.yaml, README.md, *.cedar and tests/*.yaml \
                    only";
    unknown.map(|path| problem(path, format!("no part of a bundle of model authzen; {expected}"))).collect()
}
