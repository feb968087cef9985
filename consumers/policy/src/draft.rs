//! Compiles the files of a bundle and reports all mistakes in one run. Each phase checks the parts that the phases before it could
//! read, and reports no consequences of mistakes that they reported.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr as _;

use agentgov_enrichment::{Tools, ToolsDraft};
use agentgov_schemas::yaml::{self, Problem};
use cedar_policy::{Effect, PolicyId, PolicySet, Schema, ValidationMode, ValidationWarning, Validator};

use crate::bundle::Bundle;
use crate::cedar::RequiredAttributes;
use crate::depth::{self, MAX_DEPTH};
use crate::files::BundleFiles;
use crate::index::static_template;
use crate::manifest::{BundleModel, MANIFEST_FILE, Manifest};
use crate::policy::{Policy, is_id};
use crate::schema::{self, SCHEMA_FILE};
use crate::source::{self, Statement};

/// Path of the tool definitions in a bundle.
const TOOLS_FILE: &str = "tools.yaml";
/// Folder of the tests in a bundle.
pub(crate) const TESTS_FOLDER: &str = "tests/";

/// Texts of the `*.cedar` files.
pub(crate) struct Sources<'f> {
    texts: Vec<(&'f str, Cow<'f, str>)>,
    problems: Vec<Problem>,
}

impl<'f> Sources<'f> {
    pub(crate) fn read(files: &'f BundleFiles) -> Self {
        let mut problems = Vec::new();
        let texts = files
            .matching("", ".cedar")
            .filter_map(|(path, content)| Some((path, utf8(path, content, &mut problems)?)))
            .collect();
        Self { texts, problems }
    }

    /// Files that are not UTF-8.
    pub(crate) fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

/// Parsed files of a bundle, as far as they are readable.
pub(crate) struct Draft<'f> {
    manifest: Option<Manifest>,
    pub(crate) tools: ToolsDraft,
    pub(crate) policies: Vec<Parsed<'f>>,
    /// Statements that are not valid Cedar.
    pub(crate) unparsed: Vec<Statement<'f>>,
    pub(crate) problems: Vec<Problem>,
    /// Warnings do not prevent a bundle from judging.
    pub(crate) warnings: Vec<Problem>,
}

/// Policy that Cedar could parse.
pub(crate) struct Parsed<'f> {
    pub(crate) statement: Statement<'f>,
    /// `None` if its annotations have mistakes or its id is already used.
    pub(crate) policy: Option<Policy>,
    pub(crate) cedar: cedar_policy::Policy,
}

impl<'f> Draft<'f> {
    pub(crate) fn read(files: &BundleFiles, sources: &'f Sources<'f>) -> Self {
        let mut problems = sources.problems.clone();
        let manifest = read(files, MANIFEST_FILE, &mut problems).and_then(|text| {
            yaml::parse::<Manifest>(MANIFEST_FILE, &text).map_err(|found| problems.extend(found)).ok()
        });
        if manifest.as_ref().is_some_and(|manifest| manifest.model == BundleModel::Authzen) {
            let message = "a bundle of `model: authzen` answers requests (`agentgov pdp --bundle`) and judges no log; \
                           leave `model` out of a bundle of agents and tools";
            problems.push(problem(MANIFEST_FILE, message));
        }
        let tools = tools(files);
        problems.extend(tools.tools.as_ref().err().into_iter().flatten().cloned());
        let (policies, unparsed) = parse_policies(sources, &mut problems);
        let mut draft = Self { manifest, tools, policies, unparsed, problems, warnings: Vec::new() };
        draft.check_schema_file(files);
        draft.validate();
        draft.warnings.extend(draft.without_grant());
        draft.problems.extend(unknown_files(files));
        for found in [&mut draft.problems, &mut draft.warnings] {
            found.sort();
            found.dedup();
        }
        draft
    }

    /// Returns the compiled bundle.
    ///
    /// # Errors
    /// All mistakes.
    pub(crate) fn finish(self, files: &BundleFiles) -> Result<Bundle, Vec<Problem>> {
        let Self { manifest, tools: ToolsDraft { tools, .. }, policies, problems, warnings, .. } = self;
        let policies: Option<Vec<_>> =
            policies.into_iter().map(|parsed| Some((parsed.policy?, parsed.cedar))).collect();
        match (manifest, tools, policies) {
            (Some(manifest), Ok(tools), Some(policies)) if problems.is_empty() => {
                Bundle::new(files.digest(), manifest, tools, policies, warnings)
                    .map_err(|e| vec![problem("*.cedar", e.to_string())])
            }
            _ if problems.is_empty() => Err(vec![problem(
                "(bundle)",
                "the bundle does not compile, but no problem was reported; report this as a bug",
            )]),
            _ => Err(problems),
        }
    }

    /// Compares the schema file with the schema that tools.yaml generates, unless mistakes in tools.yaml may hide declarations.
    fn check_schema_file(&mut self, files: &BundleFiles) {
        let Some(written) = read(files, SCHEMA_FILE, &mut self.problems) else { return };
        let generated = schema::generate(&self.tools.types);
        if self.tools.declarations_complete && written != generated {
            let same = written.lines().zip(generated.lines()).take_while(|(a, b)| a == b).count();
            self.problems.push(Problem {
                line: same as u64 + 1,
                ..problem(
                    SCHEMA_FILE,
                    "differs from the schema of tools.yaml; generate it again with `agentgov policy check --write`",
                )
            });
        }
    }

    /// Validates the policies against the schema. Skips policies that read a derived value which a mistake in tools.yaml may hide.
    fn validate(&mut self) {
        let schema = match Schema::from_str(&schema::generate(&self.tools.types)) {
            Ok(schema) => schema,
            Err(e) => {
                let message = format!("the generated schema is not valid: {e}");
                return self.problems.push(problem(SCHEMA_FILE, message));
            }
        };
        let decided =
            self.policies.iter().filter(|p| self.tools.declarations_complete || self.is_known(&p.cedar));
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        validate_policies(&schema, decided, &mut problems, &mut warnings);
        self.problems.extend(problems);
        self.warnings.extend(warnings);
    }

    /// Returns true if a policy reads only declared attributes of the context.
    fn is_known(&self, policy: &cedar_policy::Policy) -> bool {
        match context_attributes(policy) {
            RequiredAttributes::Only(names) => names.iter().all(|name| self.has_attribute(name)),
            RequiredAttributes::All => false,
        }
    }

    /// Returns true if the context has an attribute of that name.
    pub(crate) fn has_attribute(&self, name: &str) -> bool {
        self.tools.types.contains_key(name) || schema::reserved().contains(&name)
    }

    /// Warns about a bundle without a permit, which allows nothing.
    fn without_grant(&self) -> Option<Problem> {
        let granted = self.policies.iter().any(|p| p.cedar.effect() == Effect::Permit);
        let first = self.policies.first().filter(|_| !granted && self.unparsed.is_empty())?;
        let message = "no policy of the bundle is a `permit`: every call is denied, with reason no_grant";
        Some(first.statement.problem(first.statement.first_token(), message))
    }
}

/// Validates policies by a schema.
pub(crate) fn validate_policies<'p, 'f: 'p>(
    schema: &Schema,
    policies: impl Iterator<Item = &'p Parsed<'f>> + Clone,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    let set = match PolicySet::from_policies(policies.clone().map(|p| p.cedar.clone())) {
        Ok(set) => set,
        Err(e) => return problems.push(problem("*.cedar", e.to_string())),
    };
    let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
    let by_id: BTreeMap<_, _> = policies.map(|p| (p.cedar.id().clone(), p.statement)).collect();
    let report_of = |id: &PolicyId, found: &dyn miette::Diagnostic| {
        let statement = by_id.get(id);
        // A diagnostic without a place is still reported.
        statement.map_or_else(
            || problem("*.cedar", found.to_string()),
            |statement| statement.problem_from_diagnostic(found),
        )
    };
    problems.extend(result.validation_errors().map(|e| report_of(e.policy_id(), e)));
    for warning in result.validation_warnings() {
        // A rule that can never apply protects nothing, so it is a mistake. The other warnings are about confusable letters in names.
        let never = matches!(
            warning,
            ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_)
        );
        let found = if never { &mut *problems } else { &mut *warnings };
        found.push(report_of(warning.policy_id(), warning));
    }
}

/// Returns the attributes of the context that a policy reads.
pub(crate) fn context_attributes(policy: &cedar_policy::Policy) -> RequiredAttributes {
    static_template(policy)
        .map_or(RequiredAttributes::All, |template| RequiredAttributes::of(template.clauses()))
}

/// Generates the content of [`SCHEMA_FILE`], for `agentgov policy check --write`.
///
/// # Errors
/// The mistakes of tools.yaml.
pub fn generated_schema(files: &BundleFiles) -> Result<String, Vec<Problem>> {
    tools(files).tools.map(|tools| schema::generate(tools.types()))
}

pub(crate) fn problem(file: &str, message: impl Into<String>) -> Problem {
    Problem { file: file.to_owned(), line: 1, column: 1, message: message.into() }
}

pub(crate) fn read<'f>(
    files: &'f BundleFiles,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Option<Cow<'f, str>> {
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

fn tools(files: &BundleFiles) -> ToolsDraft {
    let mut problems = Vec::new();
    match read(files, TOOLS_FILE, &mut problems) {
        Some(text) => Tools::draft(TOOLS_FILE, &text, &schema::reserved()),
        None => ToolsDraft::unreadable(Err(problems)),
    }
}

/// Reports files that are not part of a bundle, which are typing errors in most cases.
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
    unknown.map(|path| problem(path, format!("not part of a bundle; {expected}"))).collect()
}

/// Parses the policies. Returns them and the statements that are not valid Cedar.
pub(crate) fn parse_policies<'f>(
    sources: &'f Sources<'f>,
    problems: &mut Vec<Problem>,
) -> (Vec<Parsed<'f>>, Vec<Statement<'f>>) {
    let (mut parsed, mut unparsed) = (Vec::new(), Vec::new());
    let mut places: BTreeMap<String, (&str, u64)> = BTreeMap::new();
    let statements = sources.texts.iter().flat_map(|(path, text)| source::split(path, text));
    for statement in statements {
        let Some(cedar) = parse(&statement, problems) else {
            unparsed.push(statement);
            continue;
        };
        let mut report = |message: String| problems.push(statement.problem(statement.first_token(), message));
        let mut policy = Policy::read(&statement, &cedar, &mut report);
        // Also if the policy has another mistake.
        if let Some(id) = cedar.annotation("id").filter(|id| is_id(id)) {
            if let Some((file, line)) = places.get(id) {
                report(format!("`@id(\"{id}\")` is already used in {file}:{line}; ids must be unique"));
                policy = None;
            } else {
                places.insert(id.to_owned(), (statement.file, statement.line));
            }
        }
        // A policy without a valid id is identified by its place.
        let id = policy.as_ref().map_or_else(
            || {
                let at = statement.problem(statement.first_token(), "");
                format!("{}:{}:{}", at.file, at.line, at.column)
            },
            |policy| policy.id.clone(),
        );
        parsed.push(Parsed { statement, policy, cedar: cedar.new_id(PolicyId::new(id)) });
    }
    if parsed.is_empty() && unparsed.is_empty() && sources.problems.is_empty() {
        problems.push(problem(
            "*.cedar",
            "expected at least one policy, found none: nobody would be allowed anything",
        ));
    }
    (parsed, unparsed)
}

fn parse(statement: &Statement<'_>, problems: &mut Vec<Problem>) -> Option<cedar_policy::Policy> {
    // Checked before parsing, since parser, validator and evaluator are recursive.
    if let Some(place) = depth::first_too_deep(statement.text, MAX_DEPTH) {
        problems.push(statement.problem(
            place,
            format!(
                "expected at most {MAX_DEPTH} operators and brackets within each other, found more here; \
                 each operand of a chain of `||` or `&&` is one: write more policies, or `[…].contains(…)`"
            ),
        ));
        return None;
    }
    cedar_policy::Policy::parse(None, statement.text)
        .map_err(|errors| {
            problems.extend(errors.iter().map(|error| statement.problem_from_diagnostic(error)))
        })
        .ok()
}
