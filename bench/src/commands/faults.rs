//! `agentgov-bench faults`: injects faults under load, then audits the log.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentgov::cli::Global;
use agentgov::commands::audit;
use agentgov::commands::example;
use agentgov::context;
use agentgov::failure::{Failure, OrExit as _};
use agentgov::print::{errln, json, outln};
use agentgov::progress::Progress;
use agentgov_faults::{
    DECISION_POINTS, DecisionReport, Failpoint, Outcome, PLANTS, PRODUCERS, Produce, ScheduleParams, Setup,
    UnexpectedExits, schedule,
};
use agentgov_schemas::topology::Topology;
use agentgov_service::{ExitCode, failpoint};

use super::{BenchStack, CURRENT_EXECUTABLE};
use crate::cli;

/// Timeout for the pipeline to process everything after the last fault.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(600);

pub fn faults(args: &cli::Faults, global: &Global) -> Result<ExitCode, Failure> {
    let plants = plants(args)?;
    let progress = Arc::new(Progress::new(global.json));
    let BenchStack { stack, mut stage_args, _edited } =
        BenchStack::start(args.data.as_ref(), global, &progress)?;
    // The stages log to files beside the parts' logs, for the analysis of findings.
    stage_args.extend(["--log".to_owned(), "info".to_owned()]);
    let setup = Setup {
        env: &stack.env,
        endpoints: &stack.endpoints,
        topology: &stack.topology,
        stage_args,
        tenant: example::TENANT,
        agent: example::AGENT,
        environment: example::ENVIRONMENT,
        program: PathBuf::from(CURRENT_EXECUTABLE),
        failpoints: failpoints(&stack.topology),
        plants,
        foreign_client: true,
        decision_points: true,
        steps: schedule(args.seed, args.kills, &schedule_params(&stack.topology)),
        seed: args.seed,
        settle: SETTLE_TIMEOUT,
    };
    let outcome = agentgov_faults::run(&setup, &|line| errln!("{}", line)).or_exit(ExitCode::TryAgain)?;
    stack.env.stop().or_report(ExitCode::Failed)?;
    if global.json {
        json(&outcome)?;
    } else {
        print_report(&outcome);
    }
    Ok(if outcome.is_clean() { ExitCode::Done } else { ExitCode::Findings })
}

/// Returns the failpoints of each stage's protocol, and of a decision.
fn failpoints(topology: &Topology) -> BTreeMap<String, Vec<Failpoint>> {
    let stages = topology.stages.iter().map(|(name, stage)| {
        let names = if stage.value.stores.is_empty() {
            failpoint::PROCESSOR_EDGES.as_slice()
        } else {
            failpoint::SINK_EDGES.as_slice()
        };
        let in_each_batch = |name| failpoint::BATCH_EDGES.contains(&name);
        (
            name.clone(),
            names.iter().map(|&name| Failpoint { name, in_each_batch: in_each_batch(name) }).collect(),
        )
    });
    // Each decision passes them.
    let of_decision = failpoint::PDP_EDGES.map(|name| Failpoint { name, in_each_batch: true });
    stages.chain([("pdp".to_owned(), of_decision.to_vec())]).collect()
}

fn schedule_params(topology: &Topology) -> ScheduleParams {
    ScheduleParams {
        stages: topology.stages.len(),
        producers: PRODUCERS,
        decision_points: DECISION_POINTS,
        session_timeout: topology.timing.session_timeout.0,
        insert_timeout: topology.timing.insert_timeout.0,
    }
}

/// Returns the names of the mistakes of `--plant`.
fn plants(args: &cli::Faults) -> Result<Vec<&'static str>, Failure> {
    let find_mistake = |name: &String| {
        PLANTS.into_iter().find(|plant| plant == name).ok_or_else(|| {
            let expected = PLANTS.join(", ");
            Failure::new(ExitCode::Usage, format!("expected one of {expected}, found `{name}`"))
        })
    };
    args.plant.iter().map(find_mistake).collect()
}

/// Runs a producer of the fault harness.
pub fn produce(args: cli::Produce, global: &Global) -> Result<ExitCode, Failure> {
    let endpoints = context::endpoints(global)?;
    let produce = Produce {
        kafka: endpoints.kafka,
        registry: endpoints.schema_registry,
        topology: context::topology(global)?,
        tenant: args.tenant,
        agent: args.agent,
        environment: args.environment,
        spool: args.spool,
        seed: args.seed,
    };
    agentgov_faults::produce(&produce).or_exit(ExitCode::Failed)?;
    Ok(ExitCode::Done)
}

fn print_report(outcome: &Outcome) {
    let seconds = |ms: u128| format!("{}.{} s", ms / 1_000, ms % 1_000 / 100);
    outln!(
        "seed {}: {} kills in {}, {} events of {} sources meanwhile",
        outcome.seed,
        outcome.kills,
        seconds(outcome.faults_ms),
        outcome.events,
        outcome.sources
    );
    for (what, times) in outcome.done.iter().chain(&outcome.at_failpoints) {
        outln!("  {:<34} {}", what, times);
    }
    if outcome.missed > 0 {
        outln!("  {:<34} {}", "no process", outcome.missed);
    }
    for (how, UnexpectedExits { times, log_tail }) in &outcome.unexpected_exits {
        outln!("  unexpected exit: {}, {} times; end of the first log:", how, times);
        log_tail.iter().for_each(|line| outln!("    {}", line));
    }
    if let Some(foreign_client) = &outcome.foreign_client {
        outln!(
            "foreign client: {} records committed, {} aborted, {} with unknown outcome; {} without a row, {} aborted ones with a row",
            foreign_client.records,
            foreign_client.aborted,
            foreign_client.unknown,
            foreign_client.missing,
            foreign_client.aborted_rows
        );
        for (operation, times) in &foreign_client.operations {
            outln!("  {:<34} {}", operation, times);
        }
    }
    if let Some(decisions) = &outcome.decisions {
        print_decisions(decisions);
    }
    if let Some(settled) = outcome.settled_ms {
        outln!(
            "{} records had no row when the faults were over; all work was done {} later",
            outcome.behind,
            seconds(settled)
        );
    }
    for problem in outcome.problems() {
        outln!("  {}", problem);
    }
    audit::print_report(&outcome.audit);
}

fn print_decisions(decisions: &DecisionReport) {
    outln!(
        "decisions: {} answered, {} requests repeated at the other decision point; {} in the log, {} rows of repeats; {} calls with a token",
        decisions.answers.values().sum::<u64>(),
        decisions.retries,
        decisions.logged,
        decisions.repeats,
        decisions.calls
    );
    for (outcome, times) in &decisions.answers {
        outln!("  {:<34} {}", outcome, times);
    }
    for (relation, times) in &decisions.verdicts {
        outln!("  verdict: {:<25} {}", relation, times);
    }
    outln!(
        "suspensions: {}; last allowed question {} ms after one, {} while Kafka was away",
        decisions.suspensions,
        decisions.allowed_after_ms,
        decisions.allowed_during_outages
    );
}
