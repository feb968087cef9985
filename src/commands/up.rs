//! `agentgov up`: starts a pipeline and keeps it running.

use std::sync::Arc;

use agentgov_schemas::escape::shell_word;
use agentgov_service::ExitCode;

use super::example::AIRLINE;
use super::pipeline::{OtherBundles, Pipeline, Pushed};
use crate::cli::{Global, Up};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::local::{self, NoteOutcome};
use crate::print::{self, Text, errln, outln, text};
use crate::progress::Progress;

pub fn up(args: &Up, global: &Global) -> Result<ExitCode, Failure> {
    let progress = Arc::new(Progress::new(global.json));
    let (topology, data) = (context::topology(global)?, args.data.clone());
    let pushed = Pushed::of(&AIRLINE, OtherBundles::Keep)?;
    let pipeline = Pipeline::start(topology, data, args.accept_gap, &pushed, global, &progress)?;
    serve_until_shutdown(pipeline, global.json)?;
    Ok(ExitCode::Done)
}

/// Prints the stack's addresses and waits for Ctrl-C or SIGTERM.
pub fn serve_until_shutdown(mut pipeline: Pipeline, json: bool) -> Result<(), Failure> {
    let stop = pipeline.stop_handle();
    ctrlc::set_handler(move || stop.request()).or_exit(ExitCode::Failed)?;
    let pdp = pipeline.start_pdp()?;
    let note = local::write_note(&pipeline.endpoints, &pdp);
    if let NoteOutcome::Failed { error } = &note {
        errln!(
            "agentgov: warning: {}; other commands find this stack only through the variables below",
            error
        );
    }
    if json {
        let mut addresses = serde_json::to_value(&pipeline.endpoints).or_exit(ExitCode::Failed)?;
        if let Some(addresses) = addresses.as_object_mut() {
            addresses.insert("pdp".to_owned(), pdp.into());
        }
        print::json_line(&addresses)?;
    } else {
        outln!();
        export_lines(&pipeline, &pdp).iter().for_each(|line| outln!("{}", line));
        match &note {
            NoteOutcome::Written { .. } => {
                outln!("Other `agentgov` commands of this user connect to this stack.");
            }
            NoteOutcome::OtherStackNoted => {
                outln!(
                    "Other `agentgov` commands of this user connect to the stack that was started first. To connect to this one, set"
                );
                outln!("the variables above where they run.");
            }
            NoteOutcome::Failed { .. } => {
                outln!("To connect other `agentgov` commands, set the variables above in their shell.")
            }
        }
        outln!("Ctrl-C ends everything.");
    }
    pipeline.join()
}

/// Formats the stack's addresses as shell assignments.
fn export_lines(pipeline: &Pipeline, pdp: &str) -> Vec<Text> {
    let endpoints = &pipeline.endpoints;
    let mut lines = vec![
        export("AGENTGOV_KAFKA", &endpoints.kafka.bootstrap),
        export("AGENTGOV_SCHEMA_REGISTRY", &endpoints.schema_registry.url),
        export("AGENTGOV_CLICKHOUSE", &endpoints.clickhouse.url),
        export("AGENTGOV_CLICKHOUSE_DATABASE", &endpoints.clickhouse.database),
        export("AGENTGOV_PDP", pdp),
    ];
    if !pipeline.logs().as_os_str().is_empty() {
        lines.push(text!("# logs of the parts: {}", pipeline.logs().display()));
    }
    lines
}

/// Formats a shell line that exports a variable.
pub fn export(variable: &'static str, value: &str) -> Text {
    match shell_word(value) {
        Some(word) => text!("export {}={}", variable, Text::from_escaped(word.into_owned())),
        None => text!("# {} cannot be exported: {}", variable, value),
    }
}
