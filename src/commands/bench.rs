//! `agentgov bench …`: try it hard, and measure.

use std::sync::Arc;

use agentgov_faults::{Outcome, Setup};
use agentgov_runtime::ExitCode;
use agentgov_testenv::BackendKind;

use super::audit;
use super::pipeline::{self, Stack};
use crate::cli::{BenchCommand, Faults, Global};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::progress::Progress;

pub fn bench(command: &BenchCommand, global: &Global) -> Result<ExitCode, Failure> {
    let BenchCommand::Faults(args) = command;
    faults(args, global)
}

fn faults(args: &Faults, global: &Global) -> Result<ExitCode, Failure> {
    let topology = context::topology(global)?;
    // Into files beside the parts' logs: who looks there wants to know what the stages did.
    let mut stage_args = vec!["--log".to_owned(), "info".to_owned()];
    if let Some(file) = &global.topology {
        stage_args.extend(["--topology".to_owned(), file.display().to_string()]);
    }
    let progress = Arc::new(Progress::new(global.json));
    let stack = Stack::start(topology, args.data.clone(), Some(BackendKind::Native), global, &progress)?;
    let setup = Setup {
        env: &stack.env,
        endpoints: &stack.endpoints,
        topology: &stack.topology,
        stage_args,
        tenant: pipeline::TENANT,
        agent: pipeline::AGENT,
        environment: pipeline::ENVIRONMENT,
        kills: args.kills,
        seed: args.seed,
    };
    let outcome = agentgov_faults::run(&setup, &|line| eprintln!("{line}")).or_exit(ExitCode::TryAgain)?;
    stack.env.stop().or_exit(ExitCode::Failed)?;
    if global.json {
        say!("{}", serde_json::to_string_pretty(&outcome).or_exit(ExitCode::Failed)?);
    } else {
        tell(&outcome);
    }
    Ok(if outcome.is_clean() { ExitCode::Done } else { ExitCode::Findings })
}

fn tell(outcome: &Outcome) {
    let seconds = |ms: u128| format!("{}.{} s", ms / 1_000, ms % 1_000 / 100);
    say!(
        "seed {}: {} kills in {}, {} events of {} sources meanwhile",
        outcome.seed,
        outcome.kills,
        seconds(outcome.faults_ms),
        outcome.events,
        outcome.sources
    );
    for (what, times) in &outcome.done {
        say!("  {what:<20} {times}");
    }
    if outcome.missed > 0 {
        say!("  {:<20} {}", "nothing there", outcome.missed);
    }
    for (how, times) in &outcome.ended {
        say!("  ended by itself: {how}, {times} times");
    }
    if let Some(settled) = outcome.settled_ms {
        say!(
            "{} records had no row yet when the faults were over; everything was done {} later",
            outcome.behind,
            seconds(settled)
        );
    }
    for complaint in outcome.complaints() {
        say!("  {complaint}");
    }
    audit::tell(&outcome.audit);
}
