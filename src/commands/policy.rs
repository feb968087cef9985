//! `agentgov policy …`: checks, tests and pushes bundles.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use agentgov_connect::Endpoints;
use agentgov_policy::{Bundle, BundleFiles, BundleModel, Problem, SCHEMA_FILE, generated_schema, testing};
use agentgov_registry::{
    BundleOutcome, BundlePush, BundleToPush, RegistryContext, push_bundle, read_bundle_folder,
};
use agentgov_schemas::escape::EscapedLines;
use agentgov_schemas::topology::Topology;
use agentgov_service::ExitCode;

use crate::cli::{Global, PolicyCommand};
use crate::commands::access_bundle;
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{errln, json, outln, style};

/// Runs `policy …`.
///
/// # Errors
/// If the command fails.
pub fn policy(command: &PolicyCommand, global: &Global) -> Result<ExitCode, Failure> {
    match command {
        PolicyCommand::Check { bundle, write } => {
            let mut files = read(bundle)?;
            if BundleModel::of(&files) == Some(BundleModel::Authzen) {
                return access_bundle::check(bundle, &files, global);
            }
            // If tools.yaml is too broken to generate a schema, the check below reports its errors with all others.
            if *write && let Ok(schema) = generated_schema(&files) {
                context::write(&bundle.join(SCHEMA_FILE), &schema)?;
                files.0.insert(SCHEMA_FILE.to_owned(), schema.into_bytes());
            }
            let checked = agentgov_policy::check(&files);
            show_warnings(bundle, &checked.warnings);
            let compiled = match checked.bundle {
                Some(compiled) if checked.problems.is_empty() => compiled,
                _ => return Err(failure_of(bundle, &checked.problems)),
            };
            if global.json {
                json(&serde_json::json!({ "bundle": summary(&compiled, &checked.warnings) }))?;
            } else {
                outln!("ok: {}", describe(&compiled));
            }
            Ok(ExitCode::Done)
        }
        PolicyCommand::Test { bundle } => {
            let files = read(bundle)?;
            if BundleModel::of(&files) == Some(BundleModel::Authzen) {
                return access_bundle::test(bundle, &files, global);
            }
            let compiled = compile(bundle, &files)?;
            let report = testing::run(&compiled, &files);
            if global.json {
                json(&serde_json::json!({
                    "bundle": summary(&compiled, compiled.warnings()),
                    "passed": report.passed(),
                    "tests": report,
                }))?;
            } else {
                print_results(&compiled, &report);
            }
            Ok(if report.passed() { ExitCode::Done } else { ExitCode::Findings })
        }
        PolicyCommand::Push { bundle, replace } => {
            let files = read(bundle)?;
            if BundleModel::of(&files) == Some(BundleModel::Authzen) {
                return Err(access_bundle::push(bundle));
            }
            let compiled = compile(bundle, &files)?;
            let report = testing::run(&compiled, &files);
            if !global.json {
                print_results(&compiled, &report);
            }
            let outcome = if report.passed() {
                let (endpoints, topology) = (context::endpoints(global)?, context::topology(global)?);
                Some(push(&compiled, &files, (&endpoints, &topology), *replace)?)
            } else {
                None
            };
            let (outcome, replaced) = outcome.map(|push| (push.outcome, push.replaced)).unzip();
            let replaced = replaced.unwrap_or_default();
            for replaced in &replaced {
                errln!("replaced {}", replaced);
            }
            let (word, line) = match outcome {
                Some(BundleOutcome::Pushed) => ("pushed", "pushed: active from now on"),
                Some(BundleOutcome::AlreadyActive) => {
                    ("already_active", "nothing was pushed: the bundle is already active")
                }
                None => ("tests_failed", "nothing was pushed: a test failed"),
            };
            if global.json {
                json(&serde_json::json!({
                    "bundle": summary(&compiled, compiled.warnings()),
                    "passed": report.passed(),
                    "tests": report,
                    "outcome": word,
                    "replaced": replaced,
                }))?;
            } else {
                outln!("{}", line);
            }
            Ok(if report.passed() { ExitCode::Done } else { ExitCode::Findings })
        }
    }
}

/// Pushes a compiled bundle, which then becomes active in its environments. With `replaces_others`, it may take an environment
/// from a bundle of another name.
pub fn push(
    bundle: &Bundle,
    files: &BundleFiles,
    (endpoints, topology): (&Endpoints, &Topology),
    replaces_others: bool,
) -> Result<BundlePush, Failure> {
    let policies: Vec<String> = bundle.policies().map(|policy| policy.id.clone()).collect();
    let push = BundleToPush {
        files: &files.0,
        name: bundle.name(),
        version: bundle.version(),
        environments: bundle.environments(),
        digest: bundle.digest(),
        policies: &policies,
        pushed_by: &current_user(),
        replaces_others,
    };
    push_bundle(RegistryContext { endpoints, topology }, push).or_exit(ExitCode::Failed)
}

/// Returns the user name of this session. It is for the history, not for access control.
pub fn current_user() -> String {
    std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "unknown".into())
}

pub(crate) fn read(folder: &Path) -> Result<BundleFiles, Failure> {
    let files: BTreeMap<String, Vec<u8>> = read_bundle_folder(folder).or_exit(ExitCode::Config)?.files;
    Ok(BundleFiles(files))
}

fn compile(folder: &Path, files: &BundleFiles) -> Result<Arc<Bundle>, Failure> {
    let bundle = Bundle::compile(files).map(Arc::new).map_err(|problems| failure_of(folder, &problems))?;
    show_warnings(folder, bundle.warnings());
    Ok(bundle)
}

pub(crate) fn show_warnings(folder: &Path, warnings: &[Problem]) {
    for warning in warnings {
        errln!("{} {}", style("warning:").yellow().for_stderr(), format!("{}/{warning}", folder.display()));
    }
}

pub(crate) fn failure_of(folder: &Path, problems: &[Problem]) -> Failure {
    let placed = problems.iter().map(|problem| format!("{}/{problem}", folder.display()));
    Failure::all(ExitCode::Config, "the bundle has errors:", placed)
}

/// Prints the results of a bundle's tests.
fn print_results(bundle: &Bundle, report: &testing::Report) {
    outln!("{}", EscapedLines(report));
    if report.passed() {
        outln!("{} {}", style("ok:").green(), describe(bundle));
    }
}

fn summary(bundle: &Bundle, warnings: &[Problem]) -> serde_json::Value {
    serde_json::json!({
        "name": bundle.name(),
        "version": bundle.version(),
        "digest": bundle.digest().to_string(),
        "environments": bundle.environments(),
        "policies": bundle.policies().count(),
        "warnings": warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn describe(bundle: &Bundle) -> String {
    format!(
        "bundle {} {} ({} policies, sha256 {}), for {}",
        bundle.name(),
        bundle.version(),
        bundle.policies().count(),
        bundle.digest().short(),
        bundle.environments().join(", ")
    )
}
