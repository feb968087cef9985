//! `agentgov import FORMAT FILE`: publishes recorded agent runs as events.

use std::path::Path;
use std::sync::Arc;
#[cfg(feature = "local-stack")]
use std::time::Duration;

use agentgov_connect::Endpoints;
#[cfg(feature = "local-stack")]
use agentgov_importers::CallDecider;
use agentgov_importers::{
    Import, ImportError, ImportOptions, Input, Problems, PublishError, Summary, chat_completions,
    parse_start_time,
};
use agentgov_schemas::Micros;
use agentgov_schemas::topology::Topology;
use agentgov_sdk::{Recorder, RecorderOptions, StartError};
use agentgov_service::ExitCode;

use crate::cli::{self, Format, Global};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{self, Text, json, outln};
use crate::progress::Progress;

/// Maximum number of skipped runs whose lines are printed.
const MAX_SHOWN_LINES: usize = 20;

pub fn import(args: &cli::Import, global: &Global) -> Result<ExitCode, Failure> {
    let start_time = args.start_time.as_deref().map(parse_start_time).transpose().or_exit(ExitCode::Usage)?;
    let options = ImportOptions {
        tenant_id: args.tenant.clone(),
        environment: args.environment.clone(),
        agent_id: args.agent.clone(),
        agent_version: None,
        start_time,
        now: now(),
        label: args.label.clone(),
        skip_bad: args.skip_bad,
    };
    let progress = Progress::new(global.json);
    let step = progress.step(format!("reading {}", args.file.display()));
    let import = match args.format {
        Format::ChatCompletions => read(open(&args.file)?, options)?,
    };
    drop(step);
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    let import = publish(import, &endpoints, &topology, &progress)?;
    let Summary { sessions, events, tool_calls, .. } = import.summary();
    let left_out: Vec<String> = import.left_out().iter().map(ToString::to_string).collect();
    if global.json {
        let result = serde_json::json!({
            "sessions": sessions, "events": events, "tool_calls": tool_calls, "source_id": import.source_id(),
            "left_out": left_out, "notes": import.notes().lines(),
        });
        json(&result)?;
    } else {
        outln!(
            "published {} events of {} sessions ({} tool calls) as source {}",
            events,
            sessions,
            tool_calls,
            import.source_id()
        );
        if !left_out.is_empty() {
            outln!("skipped {} runs, which begin on {}", left_out.len(), first_lines(&left_out));
        }
    }
    Ok(ExitCode::Done)
}

/// Opens a file to import, or standard input.
pub fn open(file: &Path) -> Result<Input<'static>, Failure> {
    Input::open(file).map_err(|e| Failure::new(ExitCode::Failed, format!("{}: {e}", file.display())))
}

/// Parses and checks a whole file of recorded runs. Prints to stderr the errors of skipped runs and the content of other
/// runs that is not imported.
pub fn read(input: Input<'_>, options: ImportOptions) -> Result<Import<'_>, Failure> {
    let import = chat_completions::read(input, options).map_err(unreadable)?;
    for note in notes(&import) {
        print::errln!("agentgov: {}", note);
    }
    report_skipped(import.problems());
    Ok(import)
}

/// Formats the notes about content that is not imported, one line each.
pub fn notes(import: &Import<'_>) -> Vec<Text> {
    import.notes().lines().iter().map(|note| print::text!("{}: {}", import.file(), note)).collect()
}

fn report_skipped(problems: &Problems) {
    if !problems.is_empty() {
        let left_out = failure_of("skipped runs that cannot be read:", problems);
        print::errln!("agentgov: {}", left_out.message());
    }
}

fn failure_of(what: &str, problems: &Problems) -> Failure {
    Failure::all(ExitCode::Config, what, problems.lines())
}

fn unreadable(error: ImportError) -> Failure {
    match error {
        ImportError::Problems(problems) => {
            failure_of("nothing was published; the file has errors:", &problems)
        }
        error => Failure::new(ExitCode::Failed, format!("nothing was published: {error}")),
    }
}

/// Publishes an import. Every event is durable when the function returns. Runs that the topic rejects are skipped, or
/// nothing is published, depending on the import's options. Returns the runs that were published.
pub fn publish<'b>(
    mut import: Import<'b>,
    endpoints: &Endpoints,
    topology: &Arc<Topology>,
    progress: &Progress,
) -> Result<Import<'b>, Failure> {
    loop {
        let recorder = start_recorder(recorder_options(&import, endpoints, topology))?;
        let step = progress.counted("publishing events", import.summary().events);
        let published =
            agentgov_importers::publish(&import, &recorder, &mut |done, total| step.at(done, total));
        match published {
            Ok(summary) => {
                step.done(format!("{} events, each durable", summary.events));
                return Ok(import);
            }
            Err(PublishError::Refused(refused)) if import.options().skip_bad && refused.rest.sessions > 0 => {
                report_skipped(&refused.problems);
                import = import.without(refused);
            }
            Err(error) => return Err(not_published(error)),
        }
    }
}

/// Publishes an import as [`publish`] does, and has each call decided before it is recorded. Skips no runs.
#[cfg(feature = "local-stack")]
pub fn publish_decided<D: CallDecider>(
    import: &Import<'_>,
    endpoints: &Endpoints,
    topology: &Arc<Topology>,
    decider: &mut D,
    progress: &Progress,
) -> Result<(), Failure> {
    // The next decision waits for each event.
    let options = RecorderOptions { linger: Duration::ZERO, ..recorder_options(import, endpoints, topology) };
    let recorder = start_recorder(options)?;
    let step = progress.counted("asking before each call", import.summary().events);
    let mut show = |done, total| step.at(done, total);
    let summary = agentgov_importers::publish_decided(import, &recorder, decider, &mut show);
    let summary = summary.map_err(not_published)?;
    step.done(format!("{} calls, {} events, each durable", summary.tool_calls, summary.events));
    Ok(())
}

fn not_published(error: PublishError) -> Failure {
    match error {
        PublishError::Refused(refused) => {
            let what = "nothing was published; some events cannot be accepted:";
            failure_of(what, &refused.problems)
        }
        PublishError::Import(error) => Failure::new(ExitCode::Failed, error),
        error if error.is_permanent() => Failure::new(ExitCode::Config, error),
        error => Failure::new(ExitCode::TryAgain, error),
    }
}

fn recorder_options(import: &Import<'_>, endpoints: &Endpoints, topology: &Arc<Topology>) -> RecorderOptions {
    let options = import.options();
    RecorderOptions {
        source_id: Some(import.source_id()),
        ..RecorderOptions::new(
            endpoints.kafka.clone(),
            endpoints.schema_registry.clone(),
            Arc::clone(topology),
            options.tenant_id.clone(),
            options.environment.clone(),
        )
    }
}

fn start_recorder(options: RecorderOptions) -> Result<Recorder, Failure> {
    Recorder::start(options).map_err(|error| {
        let code = match &error {
            StartError::Tenant(_) | StartError::Option { .. } => ExitCode::Usage,
            error if error.is_permanent() => ExitCode::Config,
            _ => ExitCode::TryAgain,
        };
        Failure::new(code, error)
    })
}

/// Formats the first lines and the number of further ones.
fn first_lines(places: &[String]) -> String {
    let shown: Vec<&str> = places.iter().take(MAX_SHOWN_LINES).map(String::as_str).collect();
    let more = match places.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("lines {}{more}", shown.join(", "))
}

/// Returns the current time of this machine's clock.
pub fn now() -> Micros {
    Micros(jiff::Timestamp::now().as_microsecond())
}
