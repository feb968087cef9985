//! `agentgov policy …` of bundles of `model: authzen`.

use std::path::Path;

use agentgov_policy::authzen::{self, AccessBundle};
use agentgov_policy::{BundleFiles, Problem};
use agentgov_schemas::escape::EscapedLines;
use agentgov_service::ExitCode;

use crate::cli::Global;
use crate::commands::policy::{failure_of, show_warnings};
use crate::failure::Failure;
use crate::print::{json, outln};

/// Runs `policy check`. Generates no schema, since the schema of such a bundle is written by hand.
pub fn check(folder: &Path, files: &BundleFiles, global: &Global) -> Result<ExitCode, Failure> {
    let report = authzen::check(files);
    show_warnings(folder, &report.warnings);
    let bundle = match report.bundle {
        Some(bundle) if report.problems.is_empty() => bundle,
        _ => return Err(failure_of(folder, &report.problems)),
    };
    if global.json {
        json(&serde_json::json!({ "bundle": summary(&bundle, &report.warnings) }))?;
    } else {
        outln!(
            "ok: bundle {} {} of model authzen ({} policies, {} known entities, sha256 {}), for {}",
            bundle.name(),
            bundle.version(),
            bundle.policies().count(),
            bundle.known_entities(),
            bundle.digest().short(),
            bundle.environments().join(", ")
        );
    }
    Ok(ExitCode::Done)
}

/// Runs `policy test`.
pub fn test(folder: &Path, files: &BundleFiles, global: &Global) -> Result<ExitCode, Failure> {
    let bundle = AccessBundle::compile(files).map_err(|problems| failure_of(folder, &problems))?;
    let report = authzen::test(&bundle, files);
    if global.json {
        json(&serde_json::json!({
            "bundle": summary(&bundle, &[]),
            "passed": report.passed(),
            "tests": report,
        }))?;
    } else {
        outln!("{}", EscapedLines(&report));
    }
    Ok(if report.passed() { ExitCode::Done } else { ExitCode::Findings })
}

/// Returns the failure of `policy push`: the log has no requests that such a bundle could judge.
pub fn push(folder: &Path) -> Failure {
    let message = format!(
        "{}: expected a bundle of agents and tools, found `model: authzen`, which judges no log; start \
         `agentgov pdp --bundle` with it",
        folder.display()
    );
    Failure::new(ExitCode::Config, message)
}

fn summary(bundle: &AccessBundle, warnings: &[Problem]) -> serde_json::Value {
    serde_json::json!({
        "name": bundle.name(),
        "version": bundle.version(),
        "model": "authzen",
        "digest": bundle.digest().to_string(),
        "environments": bundle.environments(),
        "policies": bundle.policies().count(),
        "known_entities": bundle.known_entities(),
        "warnings": warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
