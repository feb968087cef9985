//! `agentgov demo`: sends recorded agent runs through the pipeline and prints a report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentgov_audit::completeness;
use agentgov_importers::{Import, ImportOptions, Input, parse_start_time};
use agentgov_log_reader::LogReader;
use agentgov_log_reader::imported::Violation;
use agentgov_schemas::escape::Escaped;
use agentgov_service::ExitCode;

use super::example::AIRLINE;
use super::inline::{Answers, Comparison, InlineClient};
use super::pipeline::{OtherBundles, Pipeline, Pushed};
use super::report::Report;
use super::{desk, import, up};
use crate::cli::{Demo, Global};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{Text, errln, json, outln, text};
use crate::progress::Progress;

pub fn demo(args: &Demo, global: &Global) -> Result<ExitCode, Failure> {
    if args.desk {
        return desk::desk(args, global);
    }
    // Invalid arguments and files are reported before anything starts.
    let topology = context::topology(global)?;
    let options = ImportOptions {
        tenant_id: AIRLINE.tenant.to_owned(),
        environment: AIRLINE.environment.to_owned(),
        agent_id: AIRLINE.agent.to_owned(),
        agent_version: None,
        start_time: Some(parse_start_time(&args.start_time).or_exit(ExitCode::Usage)?),
        now: import::now(),
        label: None,
        skip_bad: false,
    };
    let input = match &args.input {
        Some(file) => import::open(file)?,
        None => Input::bytes("examples/airline/runs.jsonl", AIRLINE.text("runs.jsonl")?.as_bytes()),
    };
    let import = import::read(input, options)?;

    if args.input.is_some()
        && let Some(warning) = unknown_tools(&import)?
    {
        errln!("{}", warning);
    }

    let began = Instant::now();
    let progress = Arc::new(Progress::new(global.json));
    let pushed = Pushed::of(&AIRLINE, OtherBundles::Refuse)?;
    let mut pipeline = Pipeline::start(topology, None, false, &pushed, global, &progress)?;
    let reader =
        LogReader::new(&pipeline.endpoints.clickhouse, &pipeline.topology).or_exit(ExitCode::Config)?;
    let pdp = if args.inline { Some(start_pdp(&mut pipeline, &import, &reader)?) } else { None };
    let publishing_began = Instant::now();
    let (import, answers) = match pdp {
        None => (import::publish(import, &pipeline.endpoints, &pipeline.topology, &progress)?, None),
        Some(url) => {
            let mut client = InlineClient::new(&import, &url)?;
            let (endpoints, topology) = (&pipeline.endpoints, &pipeline.topology);
            import::publish_decided(&import, endpoints, topology, &mut client, &progress)?;
            (import, Some(client.answers))
        }
    };

    // One more for the event that closes the source.
    let events = import.summary().events + 1;
    let source = import.source_id();
    let step = progress.counted("logging, judging, alerting", events);
    pipeline.wait("every event logged and judged", Duration::from_secs(args.within), |_| {
        let now = reader.progress(&source).or_exit(ExitCode::TryAgain)?;
        let (done, total) = now.steps(events);
        step.at(done, total);
        Ok(now.is_complete(events))
    })?;
    let pipeline_time = publishing_began.elapsed();
    step.done(format!("all done {:.1} s after the first was published", pipeline_time.as_secs_f64()));

    let inline = answers.map(|answers| compare(&pipeline, &reader, &source, &answers, args)).transpose()?;

    let mut violations = reader.violations(&source).or_exit(ExitCode::Failed)?;
    // Sorts the violations of a call by the position of their policies in the bundle.
    let place =
        |violation: &Violation| pipeline.bundle.policy(&violation.policy).map(|p| (p.file.clone(), p.line));
    for same_call in violations.chunk_by_mut(|a, b| a.session_id == b.session_id && a.call == b.call) {
        same_call.sort_by_key(place);
    }
    let written = match &args.violations {
        Some(file) => context::write(file, &tab_separated(&violations)),
        None => Ok(()),
    };
    // The log of an external stack may be large; its owner can run `audit completeness`.
    let audit = if pipeline.is_ours() {
        let step = progress.step("comparing topics and tables");
        let audit = completeness(&pipeline.topology, &pipeline.endpoints).or_exit(ExitCode::TryAgain)?;
        step.done(format!("{} records, {} findings", audit.records, audit.findings.len()));
        Some(audit)
    } else {
        None
    };
    let report = Report {
        audit,
        inline,
        input: import.file().to_owned(),
        counts: reader.counts(&source).or_exit(ExitCode::Failed)?,
        latency: reader.latency(&source).or_exit(ExitCode::Failed)?,
        violations,
        bundle: pipeline.bundle.name().to_owned(),
        policies: pipeline.bundle.policies().filter_map(|policy| super::report::Rule::of(policy)).collect(),
        pipeline_ms: pipeline_time.as_millis(),
        total_ms: began.elapsed().as_millis(),
    };
    if global.json {
        json(&report.to_json())?;
    } else {
        outln!("{}", report.to_text(args.keep));
    }
    // The report is printed even if the file could not be written.
    written?;
    if args.keep {
        up::serve_until_shutdown(pipeline, global.json)?;
    } else {
        pipeline.stop()?;
    }
    let differs = report.inline.as_ref().is_some_and(|inline| !inline.is_equal());
    Ok(if differs { ExitCode::Findings } else { ExitCode::Done })
}

/// Starts the decision point, and returns its URL. Rejects events that the log has already: a decision would know its own call.
fn start_pdp(pipeline: &mut Pipeline, import: &Import<'_>, reader: &LogReader) -> Result<String, Failure> {
    let logged = reader.progress(&import.source_id()).or_exit(ExitCode::TryAgain)?.logged;
    if logged > 0 {
        return Err(Failure::new(
            ExitCode::Usage,
            format!(
                "{}: expected runs that the log does not have, found {logged} of their events; give another --start-time, which makes \
                 them other events",
                import.file()
            ),
        ));
    }
    pipeline.start_pdp()
}

/// Compares each decision with its verdict, once all decisions are logged.
fn compare(
    pipeline: &Pipeline,
    reader: &LogReader,
    source: &str,
    answers: &Answers,
    args: &Demo,
) -> Result<Comparison, Failure> {
    pipeline.wait("every decision logged", Duration::from_secs(args.within), |_| {
        Ok(reader.decisions(source).or_exit(ExitCode::TryAgain)? >= answers.recorded())
    })?;
    Ok(answers.compare(reader.decided_calls(source).or_exit(ExitCode::Failed)?))
}

/// Returns a warning that names the called tools without an entry in the example's bundle, since none of its rules apply to
/// them.
fn unknown_tools(import: &Import<'_>) -> Result<Option<Text>, Failure> {
    const MAX_NAMED: usize = 10;
    let bundle = AIRLINE.bundle()?;
    let known: BTreeSet<&str> = bundle.tools().names().collect();
    let (mut tools, mut unknown) = (BTreeSet::new(), BTreeMap::<String, u64>::new());
    for session in import.sessions() {
        let session = session.or_exit(ExitCode::Failed)?;
        for event in session.events() {
            let Some(tool) = event.tool else { continue };
            if !known.contains(tool.name) {
                *unknown.entry(tool.name.to_owned()).or_default() += 1;
            }
            tools.insert(tool.name.to_owned());
        }
    }
    if unknown.is_empty() {
        return Ok(None);
    }
    let mut names: Vec<Text> = unknown.keys().take(MAX_NAMED).map(Text::from).collect();
    if unknown.len() > MAX_NAMED {
        names.push(text!("and {} more", unknown.len() - MAX_NAMED));
    }
    Ok(Some(text!(
        "note: bundle `{}` has no entry for {} of the {} tools that these runs call, in {} calls: {}. No rule applies to them; \
         a call without a grant is denied. Your own tools need a bundle of your own: docs/policies.md",
        bundle.name(),
        unknown.len(),
        tools.len(),
        unknown.values().sum::<u64>(),
        Text::join(&names, ", ")
    )))
}

/// Formats violations in the report's order, one line each: session, call, tool, policy. Every value is escaped, so that it
/// contains no tab and no line break.
pub fn tab_separated(violations: &[Violation]) -> String {
    let mut text = String::from("session\tcall\ttool\tpolicy\n");
    for Violation { session, call, tool, policy, .. } in violations {
        let (session, tool, policy) = (Escaped(session), Escaped(tool), Escaped(policy));
        text.push_str(&format!("{session}\t{call}\t{tool}\t{policy}\n"));
    }
    text
}
