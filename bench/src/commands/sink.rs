//! `agentgov-bench sink`: measures rows per CPU-second of the log-sink and of competitors.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use agentgov::cli::Global;
use agentgov::failure::{Failure, OrExit as _};
use agentgov::print::outln;
use agentgov::progress::Progress;
use agentgov_bench::{Bench, Competitor, Contender, Load, Run, SinkContender, SinkReport, Spread};
use agentgov_service::ExitCode;

use super::results::ResultsFolder;
use super::{BenchStack, cores, print_result, product};
use crate::cli;

/// Program that installs or builds the dependencies of a competitor, in its folder.
const SETUP_PROGRAM: &str = "setup";
/// Program of the competitor.
const SINK_PROGRAM: &str = "sink";
/// File with its guarantees, one line.
const GUARANTEES_FILE: &str = "guarantees";
/// Guarantees of the log-sink (docs/ARCHITECTURE.md).
const LOG_SINK_GUARANTEES: &str = "exactly once, whichever process is killed (fenced claims, resume positions read from the table); an undecodable record is a row with the reason; missing offsets are detected";

pub fn sink(args: &cli::Sink, global: &Global) -> Result<ExitCode, Failure> {
    let product = product(args.env.agentgov.as_deref())?;
    let results = ResultsFolder::prepare(&args.env.results)?;
    let progress = Arc::new(Progress::new(global.json));
    let competitors = args
        .competitors
        .as_deref()
        .map(|folder| competitors(folder, &progress))
        .transpose()?
        .unwrap_or_default();
    let bench_stack = BenchStack::start(args.env.data.as_ref(), global, &progress)?;
    let setup = bench_stack.setup(&product, args.env.seed)?;
    let mut bench = Bench::new(&setup).or_exit(ExitCode::Failed)?;
    let step = progress.step("filling a topic, and a table once");
    let backlog = bench.backlog(Load::of(args.events)).or_exit(ExitCode::Failed)?;
    step.done(format!("{} records", backlog.rows));
    let contender = |name: &str, guarantees: &str| SinkContender {
        contender: Contender { name: name.to_owned(), rounds: Vec::new() },
        guarantees: guarantees.to_owned(),
    };
    let mut sinks = vec![
        contender("log-sink", LOG_SINK_GUARANTEES),
        contender("insert", "none: inserts rows from memory without reading or decoding"),
    ];
    sinks.extend(competitors.iter().map(|(competitor, guarantees)| contender(&competitor.name, guarantees)));
    for round in 0..args.rounds {
        let step = progress.step(format!("round {} of {}", round + 1, args.rounds));
        let mut rates = Vec::new();
        for (at, sink) in sinks.iter_mut().enumerate() {
            let run = match at {
                0 => bench.log_sink(&backlog),
                1 => bench.bare_insert(&backlog),
                _ => match competitors.get(at - 2) {
                    Some((competitor, _)) => bench.run_competitor(competitor, &backlog),
                    None => continue,
                },
            }
            .or_exit(ExitCode::Failed)?;
            rates.push(format!("{} {:.0} k/s", sink.contender.name, run.rate() / 1e3));
            sink.contender.rounds.push(run);
        }
        step.done(rates.join(", "));
    }
    let report = SinkReport { rows: backlog.rows, seed: args.env.seed, cores: cores(), sinks };
    bench_stack.stack.env.stop().or_report(ExitCode::Failed)?;
    if let Some(results) = results {
        results.write("sink", "sink", args, &report)?;
    }
    print_result(&report, global, print_report)
}

/// Sets up the competitors of a folder and returns them with their guarantees.
fn competitors(folder: &Path, progress: &Progress) -> Result<Vec<(Competitor, String)>, Failure> {
    let failed = |what: &Path, error: std::io::Error| {
        Failure::new(
            ExitCode::Config,
            format!("{}: {error}; expected a folder as bench/competitors/README.md says", what.display()),
        )
    };
    let entries = std::fs::read_dir(folder).map_err(|error| failed(folder, error))?;
    let mut folders: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join(SINK_PROGRAM).is_file())
        .collect();
    folders.sort();
    folders
        .into_iter()
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let step = progress.step(format!("setting up {name}"));
            let setup = path.join(SETUP_PROGRAM);
            let done = Command::new(&setup)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .output();
            let done = done.map_err(|error| failed(&setup, error))?;
            if !done.status.success() {
                let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
                return Err(Failure::new(
                    ExitCode::Failed,
                    format!("{}: {}: {stderr}", setup.display(), done.status),
                ));
            }
            step.done("");
            let guarantees_file = path.join(GUARANTEES_FILE);
            let guarantees =
                std::fs::read_to_string(&guarantees_file).map_err(|error| failed(&guarantees_file, error))?;
            let sink = std::path::absolute(path.join(SINK_PROGRAM)).map_err(|error| failed(&path, error))?;
            Ok((Competitor { name, command: vec![sink.display().to_string()] }, guarantees.trim().to_owned()))
        })
        .collect()
}

fn print_report(report: &SinkReport) {
    let rounds = report.sinks.first().map_or(0, |sink| sink.contender.rounds.len());
    outln!("{} rows a round, {} rounds, {} cores, seed {}", report.rows, rounds, report.cores, report.seed);
    outln!("");
    outln!(
        "{:<15} {:>28} {:>14} {:>22} {:>12} {:>8}",
        "",
        "rows a CPU-second",
        "log-sink has",
        "CPU-s a million, all",
        "rows/s",
        "MB"
    );
    for sink in &report.sinks {
        let (own, all) = (sink.rows_per_cpu_second(), sink.contender.cpu());
        let times = report.sinks.first().map(|ours| ours.ratio_to(sink));
        let times = times.map_or_else(String::new, |times| format!("{:.1} times", times.median));
        let usage = sink.contender.by_process();
        let rss = usage.get(&sink.contender.name).map_or(0, |usage| usage.rss_bytes);
        outln!(
            "{:<15} {:>28} {:>14} {:>22} {:>12.0} {:>8}",
            sink.contender.name,
            thousands(own),
            times,
            format!("{:.1} ({:.1} to {:.1})", all.median, all.least, all.most),
            Spread::of(sink.contender.rounds.iter().map(Run::rate)).median,
            rss / 1_000_000
        );
    }
    outln!("");
    for sink in &report.sinks {
        outln!("{:<15} {}", sink.contender.name, sink.guarantees);
    }
    outln!("");
    for sink in &report.sinks {
        let usage = sink.contender.by_process();
        let parts = usage.iter().map(|(name, usage)| format!("{name} {:.2}", usage.cpu_s));
        outln!("{}: CPU-s a million rows: {}", sink.contender.name, parts.collect::<Vec<_>>().join(", "));
    }
}

fn thousands(spread: Spread) -> String {
    let k = |value: f64| format!("{:.0} k", value / 1e3);
    format!("{} ({} to {})", k(spread.median), k(spread.least), k(spread.most))
}
