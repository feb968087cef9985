//! `agentgov-bench faults`: injects faults under load, then audits the log.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentgov::cli::Global;
use agentgov::commands::audit;
use agentgov::commands::pipeline;
use agentgov::context;
use agentgov::failure::{Failure, OrExit as _};
use agentgov::print::{errln, json, outln};
use agentgov::progress::Progress;
use agentgov_faults::{Edge, Ended, Outcome, PLANTS, PRODUCERS, Produce, Scene, Setup, schedule};
use agentgov_schemas::topology::Topology;
use agentgov_service::{ExitCode, failpoint};

use super::{BenchStack, CURRENT_EXECUTABLE};
use crate::cli;

/// How long the pipeline may take to process everything after the last fault.
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
        tenant: pipeline::TENANT,
        agent: pipeline::AGENT,
        environment: pipeline::ENVIRONMENT,
        program: PathBuf::from(CURRENT_EXECUTABLE),
        edges: edges(&stack.topology),
        plants,
        strangers: true,
        steps: schedule(args.seed, args.kills, &scene(&stack.topology)),
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

/// Returns the failpoints of each stage's protocol.
fn edges(topology: &Topology) -> BTreeMap<String, Vec<Edge>> {
    let edges = topology.stages.iter().map(|(name, stage)| {
        let names = if stage.value.stores.is_empty() {
            failpoint::PROCESSOR_EDGES.as_slice()
        } else {
            failpoint::SINK_EDGES.as_slice()
        };
        let in_each_batch = |name| failpoint::BATCH_EDGES.contains(&name);
        (name.clone(), names.iter().map(|&name| Edge { name, in_each_batch: in_each_batch(name) }).collect())
    });
    edges.collect()
}

fn scene(topology: &Topology) -> Scene {
    Scene {
        stages: topology.stages.len(),
        producers: PRODUCERS,
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
    for (what, times) in outcome.done.iter().chain(&outcome.at_edges) {
        outln!("  {:<34} {}", what, times);
    }
    if outcome.missed > 0 {
        outln!("  {:<34} {}", "nothing there", outcome.missed);
    }
    for (how, Ended { times, last_words }) in &outcome.ended {
        outln!("  ended by itself: {}, {} times; the log of the first ended with", how, times);
        last_words.iter().for_each(|line| outln!("    {}", line));
    }
    if let Some(strangers) = &outcome.strangers {
        outln!(
            "a stranger beside them: {} records, {} more withdrawn, {} of which it is not known; {} are no row, {} came back",
            strangers.records,
            strangers.withdrawn,
            strangers.unknown,
            strangers.missing,
            strangers.returned
        );
        for (deed, times) in &strangers.deeds {
            outln!("  {:<34} {}", deed, times);
        }
    }
    if let Some(settled) = outcome.settled_ms {
        outln!(
            "{} records had no row yet when the faults were over; everything was done {} later",
            outcome.behind,
            seconds(settled)
        );
    }
    for complaint in outcome.complaints() {
        outln!("  {}", complaint);
    }
    audit::print_report(&outcome.audit);
}
