//! Checks a bundle for its author: reports the mistakes of all files in one run, and names that are probably misspelt.

use agentgov_schemas::Vocabulary as _;
use agentgov_schemas::governance::ToolEffect;
use agentgov_schemas::yaml::{self, Problem};

use crate::bundle::Bundle;
use crate::cedar::RequiredAttributes;
use crate::draft::{Draft, Parsed, Sources, TESTS_FOLDER, context_attributes};
use crate::files::BundleFiles;
use crate::names::{Mentions, NameKind, hint};
use crate::schema;
use crate::testing::TestCheck;

/// Result of [`check`].
#[derive(Debug)]
pub struct CheckReport {
    /// Bundle, if it compiles.
    pub bundle: Option<Bundle>,
    /// All mistakes, each with file and line.
    pub problems: Vec<Problem>,
    /// Warnings of Cedar, and names that are probably misspelt.
    pub warnings: Vec<Problem>,
}

/// Checks all files of a bundle, including its tests.
pub fn check(files: &BundleFiles) -> CheckReport {
    let sources = Sources::read(files);
    let draft = Draft::read(files, &sources);
    let mut mentions = Mentions::default();
    draft.tools.names.iter().for_each(|name| mentions.declare(NameKind::Tool, name));
    let mut warnings = draft.warnings.clone();
    for parsed in &draft.policies {
        collect_mentions(parsed, &mut mentions);
        warnings.extend(unknown_effects(parsed));
        warnings.extend(unknown_attributes(&draft, parsed));
    }
    let mut tests = TestCheck::new(&draft);
    for (path, content) in files.matching(TESTS_FOLDER, ".yaml") {
        tests.file(path, content, &mut mentions);
    }
    let (test_problems, test_warnings) = tests.finish();
    warnings.extend(test_warnings);
    warnings.extend(mentions.suspicious());
    let (bundle, mut problems) = match draft.finish(files) {
        Ok(bundle) => (Some(bundle), Vec::new()),
        Err(problems) => (None, problems),
    };
    problems.extend(test_problems);
    for found in [&mut problems, &mut warnings] {
        found.sort();
        found.dedup();
    }
    CheckReport { bundle, problems, warnings }
}

/// Creates a problem at the first mention of `text` in a policy, or at its beginning.
fn place(parsed: &Parsed<'_>, text: &str, message: String) -> Problem {
    let statement = &parsed.statement;
    statement.problem(statement.text.find(text).unwrap_or_else(|| statement.first_token()), message)
}

fn collect_mentions(parsed: &Parsed<'_>, mentions: &mut Mentions) {
    let by = parsed.cedar.id().to_string();
    for uid in parsed.cedar.entity_literals() {
        let of = uid.type_name().to_string();
        if let Some(kind) = NameKind::ALL.into_iter().find(|kind| kind.entity_type() == of) {
            mentions.add(kind, uid.id().unescaped(), &by, place(parsed, &uid.to_string(), String::new()));
        }
    }
}

/// Warns about unknown effects: no tool has them, so a condition on one never holds.
fn unknown_effects(parsed: &Parsed<'_>) -> Vec<Problem> {
    let words = ToolEffect::names();
    let literals = parsed.cedar.entity_literals();
    let effects = literals.iter().filter(|uid| uid.type_name().to_string() == "Effect");
    let unknown = effects.filter(|uid| !words.contains(&uid.id().unescaped()));
    unknown
        .map(|uid| {
            let near = hint(uid.id().unescaped(), words.iter().copied());
            let message = format!("no tool has the effect {uid}: expected {}{near}", yaml::one_of(&words));
            place(parsed, &uid.to_string(), message)
        })
        .collect()
}

/// Warns about undeclared attributes in `context has …`, which is never true. Cedar does not report them.
fn unknown_attributes(draft: &Draft<'_>, parsed: &Parsed<'_>) -> Vec<Problem> {
    let RequiredAttributes::Only(names) = context_attributes(&parsed.cedar) else { return Vec::new() };
    if !draft.tools.declarations_complete {
        return Vec::new();
    }
    let reported =
        |name: &str| draft.problems.iter().any(|p| p.message.contains(&format!("attribute `{name}`")));
    let unknown = names.iter().filter(|name| !draft.has_attribute(name) && !reported(name));
    unknown
        .map(|name| {
            let known = draft.tools.types.keys().map(String::as_str).chain(schema::reserved());
            let message = format!(
                "no tool derives `{name}`, and the context has no such attribute{}",
                hint(name, known)
            );
            place(parsed, name, message)
        })
        .collect()
}
