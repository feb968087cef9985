//! `agentgov run STAGE…`: runs stages until a shutdown signal.

use std::sync::Arc;

use agentgov_connect::Endpoints;
use agentgov_schemas::topology::Topology;
use agentgov_service::{ExitCode, HealthServer, Metrics, lag};

use crate::cli::{Global, Listen, Run};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{self, outln};
use crate::stages::RunningStages;

pub fn run(args: &Run, global: &Global) -> Result<ExitCode, Failure> {
    let topology = context::topology(global)?;
    let endpoints = context::endpoints(global)?;
    // Before the stages start, since earlier metrics are lost.
    let metrics = args.listen.as_ref().map(|_| Metrics::start()).transpose()?;
    let running = RunningStages::start(&args.stages, &endpoints, &topology, args.accept_gap)?;
    let stop = running.stop().clone();
    ctrlc::set_handler(move || stop.request()).or_exit(ExitCode::Failed)?;
    let serving = match args.listen.as_ref().zip(metrics) {
        Some((listen, metrics)) => {
            Some(serve(listen, metrics, &running, &endpoints, &topology, global.json)?)
        }
        None => None,
    };
    let ended = running.join();
    if let Some(serving) = serving {
        serving.join();
    }
    ended.map(|()| ExitCode::Done)
}

/// Serves health and metrics of the stages, and starts the lag watchers of their groups.
fn serve(
    listen: &Listen,
    metrics: Metrics,
    running: &RunningStages,
    endpoints: &Endpoints,
    topology: &Arc<Topology>,
    json: bool,
) -> Result<HealthServer, Failure> {
    let stop = running.stop();
    let serving = HealthServer::start(&listen.0, running.healths(), metrics, stop.clone())?;
    for health in running.healths() {
        let stage = health.snapshot().stage;
        let group = topology.stage(&stage).or_exit(ExitCode::Config)?.group.value.clone();
        let places = lag::input_partitions(topology, &stage).or_exit(ExitCode::Config)?;
        // The watcher ends with the shutdown signal; nothing waits for it.
        let _watch = lag::spawn_monitor(endpoints.kafka.clone(), health, group, places, stop.clone())
            .or_exit(ExitCode::Failed)?;
    }
    let url = format!("http://{}", serving.address());
    if json {
        print::json_line(&serde_json::json!({ "listening": url }))?;
    } else {
        outln!("health and metrics on {}", url);
    }
    Ok(serving)
}
