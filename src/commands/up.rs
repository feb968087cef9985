//! `agentgov up`: a pipeline that stays up.

use std::sync::Arc;

use agentgov_runtime::ExitCode;

use super::pipeline::Pipeline;
use crate::cli::{Global, Up};
use crate::failure::{Failure, OrExit as _};
use crate::progress::Progress;
use crate::{context, local};

pub fn up(args: &Up, global: &Global) -> Result<ExitCode, Failure> {
    let progress = Arc::new(Progress::new(global.json));
    let pipeline = Pipeline::start(context::topology(global)?, args.data.clone(), global, &progress)?;
    stay(pipeline, global.json)?;
    Ok(ExitCode::Done)
}

/// Says where everything is, and waits for Ctrl-C or SIGTERM.
pub fn stay(pipeline: Pipeline, json: bool) -> Result<(), Failure> {
    let stop = pipeline.stop_handle();
    ctrlc::set_handler(move || stop.ask()).or_exit(ExitCode::Failed)?;
    let note = local::note(&pipeline.endpoints)?;
    if json {
        say!("{}", serde_json::to_string(&pipeline.endpoints).or_exit(ExitCode::Failed)?);
    } else {
        say!("\n{}", addresses(&pipeline));
        if note.is_some() {
            say!("Other `agentgov` commands of this user find this stack by themselves.");
        } else {
            say!(
                "Other `agentgov` commands of this user find the stack that was started before this one: for this one, set"
            );
            say!("the variables above where they run.");
        }
        say!("Ctrl-C ends everything.");
    }
    pipeline.join()
}

/// Where everything is, as lines for a shell.
fn addresses(pipeline: &Pipeline) -> String {
    let endpoints = &pipeline.endpoints;
    let mut lines = vec![
        format!("export AGENTGOV_KAFKA={}", endpoints.kafka.bootstrap),
        format!("export AGENTGOV_REGISTRY={}", endpoints.registry.url),
        format!("export AGENTGOV_CLICKHOUSE={}", endpoints.clickhouse.url),
        format!("export AGENTGOV_CLICKHOUSE_DATABASE={}", endpoints.clickhouse.database),
    ];
    if !pipeline.logs().as_os_str().is_empty() {
        lines.push(format!("# logs of the parts: {}", pipeline.logs().display()));
    }
    lines.join("\n")
}
