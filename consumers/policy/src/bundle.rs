//! From files to something that judges: every mistake at once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;

use agentgov_enrichment::Tools;
use agentgov_schemas::Digest;
use agentgov_schemas::yaml::{self, Problem};
use cedar_policy::{PolicyId, PolicySet, Schema, ValidationMode, ValidationWarning, Validator};

use crate::depth::{self, MAX_DEPTH};
use crate::files::BundleFiles;
use crate::index::Index;
use crate::manifest::{MANIFEST_FILE, Manifest};
use crate::policy::{Kind, Policy};
use crate::schema::{self, SCHEMA_FILE};
use crate::source::{self, Statement};

/// Its path in a bundle.
const TOOLS_FILE: &str = "tools.yaml";
/// Where its tests are.
pub(crate) const TESTS_FOLDER: &str = "tests/";

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
        let mut problems = Vec::new();
        let manifest = read(files, MANIFEST_FILE, &mut problems).and_then(|text| {
            yaml::parse::<Manifest>(MANIFEST_FILE, &text).map_err(|found| problems.extend(found)).ok()
        });
        if let Some(manifest) = &manifest {
            problems.extend(check_manifest(manifest));
        }
        let tools = tools(files, &mut problems);
        let sources: Vec<_> = files
            .matching("", ".cedar")
            .filter_map(|(path, content)| Some((path, utf8(path, content, &mut problems)?)))
            .collect();
        let parsed = parse_policies(&sources, &mut problems);
        let mut warnings = Vec::new();
        if let Some(tools) = &tools {
            warnings = check_schema(files, tools, &parsed, &mut problems);
        }
        warnings.extend(without_grant(&parsed));
        problems.extend(unknown_files(files));
        for found in [&mut problems, &mut warnings] {
            found.sort();
            found.dedup();
        }
        match (manifest, tools) {
            (Some(manifest), Some(tools)) if problems.is_empty() => Ok(Self {
                manifest,
                digest: files.digest(),
                index: Index::new(parsed.iter().map(|p| &p.cedar), &tools),
                tools,
                policies: parsed.into_iter().map(|p| (p.policy.id.clone(), Arc::new(p.policy))).collect(),
                warnings,
            }),
            _ => Err(problems),
        }
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

    pub(crate) const fn index(&self) -> &Index {
        &self.index
    }
}

/// What the file [`SCHEMA_FILE`] of a bundle must say: for `agentgov policy check --write`.
///
/// # Errors
/// The mistakes of tools.yaml, from which it is generated.
pub fn generated_schema(files: &BundleFiles) -> Result<String, Vec<Problem>> {
    let mut problems = Vec::new();
    tools(files, &mut problems).map(|tools| schema::generate(&tools)).ok_or(problems)
}

/// A policy that could be parsed.
struct Parsed<'f> {
    statement: Statement<'f>,
    policy: Policy,
    cedar: cedar_policy::Policy,
}

fn problem(file: &str, message: impl Into<String>) -> Problem {
    Problem { file: file.to_owned(), line: 1, column: 1, message: message.into() }
}

fn read<'f>(files: &'f BundleFiles, path: &str, problems: &mut Vec<Problem>) -> Option<Cow<'f, str>> {
    let Some(content) = files.0.get(path) else {
        problems.push(problem(path, "expected this file in the bundle, found none"));
        return None;
    };
    utf8(path, content, problems)
}

fn utf8<'f>(path: &str, content: &'f [u8], problems: &mut Vec<Problem>) -> Option<Cow<'f, str>> {
    BundleFiles::text(content)
        .map_err(|e| {
            problems.push(problem(path, format!("expected UTF-8, found another byte at {}", e.valid_up_to())))
        })
        .ok()
}

fn tools(files: &BundleFiles, problems: &mut Vec<Problem>) -> Option<Tools> {
    let text = read(files, TOOLS_FILE, problems)?;
    Tools::compile(TOOLS_FILE, &text, &schema::reserved()).map_err(|found| problems.extend(found)).ok()
}

fn check_manifest(manifest: &Manifest) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (key, value) in [("name", &manifest.name), ("version", &manifest.version)] {
        if value.trim().is_empty() {
            problems.push(problem(MANIFEST_FILE, format!("`{key}` must not be empty")));
        }
    }
    if manifest.environments.is_empty() {
        problems.push(problem(
            MANIFEST_FILE,
            "expected at least one of `environments`, found none: it would judge nowhere",
        ));
    }
    problems
}

/// A file that nobody reads is a typing error.
fn unknown_files(files: &BundleFiles) -> Vec<Problem> {
    let known = |path: &str| {
        [MANIFEST_FILE, TOOLS_FILE, SCHEMA_FILE, "README.md"].contains(&path)
            || (path.ends_with(".cedar") && !path.contains('/'))
            || path
                .strip_prefix(TESTS_FOLDER)
                .is_some_and(|name| name.ends_with(".yaml") && !name.contains('/'))
    };
    let unknown = files.0.keys().filter(|path| !known(path));
    let expected =
        "expected bundle.yaml, tools.yaml, schema.cedarschema, README.md, *.cedar and tests/*.yaml only";
    unknown.map(|path| problem(path, format!("no part of a bundle; {expected}"))).collect()
}

fn parse_policies<'f>(
    sources: &'f [(&'f str, Cow<'f, str>)],
    problems: &mut Vec<Problem>,
) -> Vec<Parsed<'f>> {
    let mut parsed: Vec<Parsed<'f>> = Vec::new();
    let mut places: BTreeMap<String, (&str, u64)> = BTreeMap::new();
    for (path, text) in sources {
        for statement in source::split(path, text) {
            // Before the parser sees it: what recurses over a policy must end.
            if let Some(place) = depth::deeper_than(statement.text, MAX_DEPTH) {
                problems.push(statement.problem(
                    place,
                    format!(
                        "expected at most {MAX_DEPTH} operators and brackets within each other, found more here; \
                         each operand of a chain of `||` or `&&` is one: write more policies, or `[…].contains(…)`"
                    ),
                ));
                continue;
            }
            let cedar = match cedar_policy::Policy::parse(None, statement.text) {
                Ok(cedar) => cedar,
                Err(errors) => {
                    problems.extend(errors.iter().map(|error| statement.diagnosed(error)));
                    continue;
                }
            };
            let mut report =
                |message: String| problems.push(statement.problem(statement.first_token(), message));
            let Some(policy) = Policy::read(&statement, &cedar, &mut report) else { continue };
            if let Some((file, line)) = places.get(&policy.id) {
                report(format!("`@id(\"{}\")` stands in {file}:{line} already", policy.id));
                continue;
            }
            places.insert(policy.id.clone(), (statement.file, statement.line));
            let cedar = cedar.new_id(PolicyId::new(&policy.id));
            parsed.push(Parsed { statement, policy, cedar });
        }
    }
    if parsed.is_empty() && problems.is_empty() {
        problems.push(problem(
            "*.cedar",
            "expected at least one policy, found none: nobody would be allowed anything",
        ));
    }
    parsed
}

/// Without a permit nothing is allowed: one was forgotten, or another bundle was meant.
fn without_grant(parsed: &[Parsed<'_>]) -> Option<Problem> {
    let granted = parsed.iter().any(|p| p.policy.kind == Kind::Grant);
    let first = parsed.first().filter(|_| !granted)?;
    let message = "no policy of the bundle is a `permit`: every call is denied, with reason no_grant";
    Some(first.statement.problem(first.statement.first_token(), message))
}

/// Holds the schema file to tools.yaml, and the policies to the schema. Gives what is only to be looked at.
fn check_schema(
    files: &BundleFiles,
    tools: &Tools,
    parsed: &[Parsed<'_>],
    problems: &mut Vec<Problem>,
) -> Vec<Problem> {
    let generated = schema::generate(tools);
    if let Some(written) = read(files, SCHEMA_FILE, problems)
        && written != generated
    {
        let same = written.lines().zip(generated.lines()).take_while(|(a, b)| a == b).count();
        problems.push(Problem {
            line: same as u64 + 1,
            ..problem(
                SCHEMA_FILE,
                "is not what tools.yaml says; write it anew with `agentgov policy check --write`",
            )
        });
    }
    let schema = match Schema::from_str(&generated) {
        Ok(schema) => schema,
        Err(e) => {
            problems.push(problem(SCHEMA_FILE, format!("the generated schema is not valid: {e}")));
            return Vec::new();
        }
    };
    let set = match PolicySet::from_policies(parsed.iter().map(|p| p.cedar.clone())) {
        Ok(set) => set,
        Err(e) => {
            problems.push(problem("*.cedar", e.to_string()));
            return Vec::new();
        }
    };
    let result = Validator::new(schema).validate(&set, ValidationMode::Strict);
    let statement = |id: &PolicyId| parsed.iter().find(|p| p.cedar.id() == id).map(|p| p.statement);
    problems.extend(result.validation_errors().filter_map(|e| Some(statement(e.policy_id())?.diagnosed(e))));
    let mut warnings = Vec::new();
    for warning in result.validation_warnings() {
        let Some(statement) = statement(warning.policy_id()) else { continue };
        // A rule that can never apply guards nothing. The others are about letters that look like others: a name is what it is.
        let never = matches!(
            warning,
            ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_)
        );
        let found = if never { &mut *problems } else { &mut warnings };
        found.push(statement.diagnosed(warning));
    }
    warnings
}
