//! `agentgov policy …`: bundles.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use agentgov_connect::Endpoints;
use agentgov_policy::{Bundle, BundleFiles, Problem, SCHEMA_FILE, generated_schema, testing};
use agentgov_registry::{BundleOutcome, BundleToPush, RegistryContext, push_bundle, read_bundle_folder};
use agentgov_schemas::escape::EscapedLines;
use agentgov_schemas::topology::Topology;
use agentgov_service::ExitCode;

use crate::cli::{Global, PolicyCommand};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{json, note, say, style};

/// Runs `policy …`.
///
/// # Errors
/// If the command fails.
pub fn policy(command: &PolicyCommand, global: &Global) -> Result<ExitCode, Failure> {
    match command {
        PolicyCommand::Check { bundle, write } => {
            let mut files = read(bundle)?;
            // The mistakes of a tools.yaml that gives no schema are reported below, with all others.
            if *write && let Ok(schema) = generated_schema(&files) {
                context::write(&bundle.join(SCHEMA_FILE), &schema)?;
                files.0.insert(SCHEMA_FILE.to_owned(), schema.into_bytes());
            }
            let checked = agentgov_policy::check(&files);
            show_warnings(bundle, &checked.warnings);
            let compiled = match checked.bundle {
                Some(compiled) if checked.problems.is_empty() => compiled,
                _ => return Err(wrong(bundle, &checked.problems)),
            };
            if global.json {
                json(&serde_json::json!({ "bundle": summary(&compiled, &checked.warnings) }))?;
            } else {
                say!("ok: {}", describe(&compiled));
            }
            Ok(ExitCode::Done)
        }
        PolicyCommand::Test { bundle } => {
            let files = read(bundle)?;
            let compiled = compile(bundle, &files)?;
            let report = testing::run(&compiled, &files);
            if global.json {
                json(&serde_json::json!({
                    "bundle": summary(&compiled, compiled.warnings()),
                    "passed": report.passed(),
                    "tests": report,
                }))?;
            } else {
                tell(&compiled, &report);
            }
            Ok(if report.passed() { ExitCode::Done } else { ExitCode::Findings })
        }
        PolicyCommand::Push { bundle } => {
            let files = read(bundle)?;
            let compiled = compile(bundle, &files)?;
            let report = testing::run(&compiled, &files);
            if !global.json {
                tell(&compiled, &report);
            }
            let outcome = if report.passed() {
                let (endpoints, topology) = (context::endpoints(global)?, context::topology(global)?);
                Some(push(&compiled, &files, &endpoints, &topology)?)
            } else {
                None
            };
            let (word, line) = match outcome {
                Some(BundleOutcome::Pushed) => ("pushed", "pushed: it judges from now on"),
                Some(BundleOutcome::AlreadyActive) => {
                    ("already_active", "it is active already: nothing was pushed")
                }
                None => ("tests_failed", "nothing was pushed"),
            };
            if global.json {
                json(&serde_json::json!({
                    "bundle": summary(&compiled, compiled.warnings()),
                    "passed": report.passed(),
                    "tests": report,
                    "outcome": word,
                }))?;
            } else {
                say!("{}", line);
            }
            Ok(if report.passed() { ExitCode::Done } else { ExitCode::Findings })
        }
    }
}

/// Pushes a compiled bundle: from then on it judges its environments.
pub fn push(
    bundle: &Bundle,
    files: &BundleFiles,
    endpoints: &Endpoints,
    topology: &Topology,
) -> Result<BundleOutcome, Failure> {
    let policies: Vec<String> = bundle.policies().map(|policy| policy.id.clone()).collect();
    let push = BundleToPush {
        files: &files.0,
        name: bundle.name(),
        version: bundle.version(),
        environments: bundle.environments(),
        digest: bundle.digest(),
        policies: &policies,
        pushed_by: &pusher(),
    };
    push_bundle(RegistryContext { endpoints, topology }, push).or_exit(ExitCode::Failed)
}

/// Who pushes, as the machine knows them: for the history, not for access.
pub fn pusher() -> String {
    std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "unknown".into())
}

fn read(folder: &Path) -> Result<BundleFiles, Failure> {
    let files: BTreeMap<String, Vec<u8>> = read_bundle_folder(folder).or_exit(ExitCode::Config)?.files;
    Ok(BundleFiles(files))
}

fn compile(folder: &Path, files: &BundleFiles) -> Result<Arc<Bundle>, Failure> {
    let bundle = Bundle::compile(files).map(Arc::new).map_err(|problems| wrong(folder, &problems))?;
    show_warnings(folder, bundle.warnings());
    Ok(bundle)
}

fn show_warnings(folder: &Path, warnings: &[Problem]) {
    for warning in warnings {
        note!("{} {}", style("warning:").yellow().for_stderr(), format!("{}/{warning}", folder.display()));
    }
}

fn wrong(folder: &Path, problems: &[Problem]) -> Failure {
    let placed = problems.iter().map(|problem| format!("{}/{problem}", folder.display()));
    Failure::all(ExitCode::Config, "the bundle has errors:", placed)
}

/// Prints the outcome of a bundle's tests.
fn tell(bundle: &Bundle, report: &testing::Report) {
    say!("{}", EscapedLines(report));
    if report.passed() {
        say!("{} {}", style("ok:").green(), describe(bundle));
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
