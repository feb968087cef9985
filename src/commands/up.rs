//! `agentgov up`: a pipeline that stays up.

use std::sync::Arc;

use agentgov_schemas::escape::shell_word;
use agentgov_service::ExitCode;

use super::pipeline::Pipeline;
use crate::cli::{Global, Up};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::local::{self, Noted};
use crate::print::{self, Text, note, say, text};
use crate::progress::Progress;

pub fn up(args: &Up, global: &Global) -> Result<ExitCode, Failure> {
    let progress = Arc::new(Progress::new(global.json));
    let pipeline =
        Pipeline::start(context::topology(global)?, args.data.clone(), args.accept_gap, global, &progress)?;
    stay(pipeline, global.json)?;
    Ok(ExitCode::Done)
}

/// Says where everything is, and waits for Ctrl-C or SIGTERM.
pub fn stay(pipeline: Pipeline, json: bool) -> Result<(), Failure> {
    let stop = pipeline.stop_handle();
    ctrlc::set_handler(move || stop.ask()).or_exit(ExitCode::Failed)?;
    let noted = local::note(&pipeline.endpoints);
    if let Noted::Nowhere { error } = &noted {
        note!(
            "agentgov: warning: {}; other commands find this stack by the variables, not by themselves",
            error
        );
    }
    if json {
        print::json_line(&pipeline.endpoints)?;
    } else {
        say!();
        addresses(&pipeline).iter().for_each(|line| say!("{}", line));
        match &noted {
            Noted::Here { .. } => {
                say!("Other `agentgov` commands of this user find this stack by themselves.");
            }
            Noted::Another => {
                say!(
                    "Other `agentgov` commands of this user find the stack that was started before this one: for this one, set"
                );
                say!("the variables above where they run.");
            }
            Noted::Nowhere { .. } => {
                say!("For other `agentgov` commands, set the variables above where they run.")
            }
        }
        say!("Ctrl-C ends everything.");
    }
    pipeline.join()
}

/// Where everything is, as lines for a shell.
fn addresses(pipeline: &Pipeline) -> Vec<Text> {
    let endpoints = &pipeline.endpoints;
    let mut lines = vec![
        export("AGENTGOV_KAFKA", &endpoints.kafka.bootstrap),
        export("AGENTGOV_SCHEMA_REGISTRY", &endpoints.registry.url),
        export("AGENTGOV_CLICKHOUSE", &endpoints.clickhouse.url),
        export("AGENTGOV_CLICKHOUSE_DATABASE", &endpoints.clickhouse.database),
    ];
    if !pipeline.logs().as_os_str().is_empty() {
        lines.push(text!("# logs of the parts: {}", pipeline.logs().display()));
    }
    lines
}

/// A line that a shell reads as this assignment.
pub fn export(variable: &'static str, value: &str) -> Text {
    match shell_word(value) {
        Some(word) => text!("export {}={}", variable, Text::from_escaped(word.into_owned())),
        None => text!("# {} cannot be exported: {}", variable, value),
    }
}
