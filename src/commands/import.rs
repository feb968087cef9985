//! `agentgov import FORMAT FILE`: recorded agent runs as events.

use std::sync::Arc;

use agentgov_connect::Endpoints;
use agentgov_importers::{Import, ImportOptions, Summary, chat_completions, parse_start_time};
use agentgov_runtime::ExitCode;
use agentgov_schemas::Micros;
use agentgov_schemas::topology::Topology;
use agentgov_sdk::{Recorder, RecorderOptions};

use crate::cli::{self, Format, Global};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{json, say};
use crate::progress::Progress;

pub fn import(args: &cli::Import, global: &Global) -> Result<ExitCode, Failure> {
    let start_time = args.start_time.as_deref().map(parse_start_time).transpose().or_exit(ExitCode::Usage)?;
    let options = ImportOptions {
        tenant_id: args.tenant.clone(),
        environment: args.environment.clone(),
        agent_id: args.agent.clone(),
        agent_version: None,
        start_time,
        now: now(),
    };
    let bytes = context::read(&args.file)?;
    let import = match args.format {
        Format::ChatCompletions => parse(&args.file.display().to_string(), &bytes, options)?,
    };
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    let progress = Progress::new(global.json);
    let summary = publish(&import, &endpoints, &topology, &progress)?;
    let Summary { sessions, events, tool_calls, .. } = summary;
    if global.json {
        let told = serde_json::json!({
            "sessions": sessions, "events": events, "tool_calls": tool_calls, "source_id": import.source_id(),
        });
        json(&told)?;
    } else {
        say!(
            "published {} events of {} sessions ({} tool calls) as source {}",
            events,
            sessions,
            tool_calls,
            import.source_id()
        );
    }
    Ok(ExitCode::Done)
}

/// Checks a whole file of recorded runs; every bad line is named.
pub fn parse<'b>(file: &str, bytes: &'b [u8], options: ImportOptions) -> Result<Import<'b>, Failure> {
    chat_completions::parse(file, bytes, options).map_err(|problems| {
        Failure::all(ExitCode::Config, "nothing was published, since the file has errors:", problems)
    })
}

/// Publishes an import; when it returns, every event is durable.
pub fn publish(
    import: &Import<'_>,
    endpoints: &Endpoints,
    topology: &Arc<Topology>,
    progress: &Progress,
) -> Result<Summary, Failure> {
    let options = import.options();
    let recorder = Recorder::start(RecorderOptions {
        source_id: Some(import.source_id()),
        ..RecorderOptions::new(
            endpoints.kafka.clone(),
            endpoints.registry.clone(),
            Arc::clone(topology),
            options.tenant_id.clone(),
            options.environment.clone(),
        )
    })
    .or_exit(ExitCode::TryAgain)?;
    let step = progress.counted("publishing events", import.summary().events);
    let summary = agentgov_importers::publish(import, &recorder, &mut |done, total| step.at(done, total))
        .or_exit(ExitCode::TryAgain)?;
    step.done(format!("{} events, each durable", summary.events));
    Ok(summary)
}

/// This machine's clock.
pub fn now() -> Micros {
    Micros(jiff::Timestamp::now().as_microsecond())
}
