//! `agentgov-bench instructions`: counts instructions per step and compares them with recorded counts.

use std::collections::BTreeMap;
use std::path::Path;

use agentgov::cli::Global;
use agentgov::commands::example::{AGENT, AIRLINE, ENVIRONMENT, TENANT};
use agentgov::context;
use agentgov::failure::{Failure, OrExit as _};
use agentgov::print::{json, outln};
use agentgov_bench::Step;
use agentgov_service::ExitCode;

use super::results::ResultsFolder;
use crate::cli;

/// Instructions per event, by step.
type Figures = BTreeMap<String, u64>;

pub fn instructions(args: &cli::Instructions, global: &Global) -> Result<ExitCode, Failure> {
    let known = args.check.as_deref().map(read).transpose()?;
    let results = ResultsFolder::prepare(&args.results)?;
    let program = std::env::current_exe().or_exit(ExitCode::Failed)?;
    let mut print_count = |step: Step, found: f64| {
        if global.json {
            return;
        }
        let before = known.as_ref().and_then(|known| known.get(step.as_str()));
        let change = before.map_or_else(String::new, |before| {
            format!("{before:>12}  {:>+6.1} %", (found / *before as f64 - 1.0) * 100.0)
        });
        outln!("{:<10} {:>12.0} {}", step.as_str(), found, change);
    };
    let found =
        agentgov_bench::instructions(&program, args.events, &mut print_count).or_exit(ExitCode::Failed)?;
    let figures: Figures =
        found.iter().map(|(step, count)| (step.as_str().to_owned(), count.round() as u64)).collect();
    let text = serde_json::to_string_pretty(&figures).or_exit(ExitCode::Failed)?;
    if global.json {
        json(&figures)?;
    }
    if let Some(results) = results {
        results.write("instructions", "instructions", args, &figures)?;
    }
    if let Some(file) = &args.write {
        context::write(file, &format!("{text}\n"))?;
    }
    let costlier = |(step, before): (&String, &u64)| {
        let now = figures.get(step).copied().unwrap_or_default();
        (now as f64 > *before as f64 * (1.0 + args.tolerance / 100.0))
            .then(|| format!("{step}: {before} before, {now} now"))
    };
    let costlier: Vec<String> = known.iter().flatten().filter_map(costlier).collect();
    if costlier.is_empty() {
        return Ok(ExitCode::Done);
    }
    Err(Failure::all(ExitCode::Findings, "these steps cost more instructions than recorded:", costlier))
}

/// Runs one step.
pub fn step(args: &cli::Step, global: &Global) -> Result<ExitCode, Failure> {
    let known = Step::ALL.into_iter().find(|step| step.as_str() == args.step);
    let step = known.ok_or_else(|| Failure::new(ExitCode::Usage, format!("unknown step `{}`", args.step)))?;
    let topology = context::topology(global)?;
    let source = (TENANT, AGENT, ENVIRONMENT);
    let done = agentgov_bench::step(step, args.events, &topology, &AIRLINE.bundle_files(), source)
        .or_exit(ExitCode::Failed)?;
    outln!("{}", done);
    Ok(ExitCode::Done)
}

fn read(file: &Path) -> Result<Figures, Failure> {
    serde_json::from_slice(&context::read(file)?).map_err(|error| {
        let message = format!("{}: expected figures by step, found {error}", file.display());
        Failure::new(ExitCode::Config, message)
    })
}
