//! `agentgov-bench sink`: what does a row cost, and what does it cost others?

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use agentgov::cli::Global;
use agentgov::failure::{Failure, OrExit as _};
use agentgov::print::outln;
use agentgov::progress::Progress;
use agentgov_bench::{Bench, Contender, Load, Rival, Run, SinkContender, SinkReport, Spread};
use agentgov_service::ExitCode;

use super::results::ResultsFolder;
use super::{Ground, cores, product, say_report};
use crate::cli;

/// The program that installs or builds what a rival needs, in its folder.
const SETUP: &str = "setup";
/// The rival itself.
const SINK: &str = "sink";
/// What it promises, in a line.
const GUARANTEES: &str = "guarantees";
/// What the log sink promises (docs/ARCHITECTURE.md).
const OURS: &str = "exactly once, whatever dies when (fenced claims, positions read back from the table); what does not decode is a row with its reason; holes are found";

pub fn sink(args: &cli::Sink, global: &Global) -> Result<ExitCode, Failure> {
    let product = product(args.ground.agentgov.as_deref())?;
    let results = ResultsFolder::prepare(&args.results)?;
    let progress = Arc::new(Progress::new(global.json));
    let rivals =
        args.rivals.as_deref().map(|folder| rivals(folder, &progress)).transpose()?.unwrap_or_default();
    let ground = Ground::start(args.ground.data.as_ref(), global, &progress)?;
    let setup = ground.setup(&product, args.ground.seed)?;
    let mut bench = Bench::new(&setup).or_exit(ExitCode::Failed)?;
    let step = progress.step("filling a topic, and a table once");
    let backlog = bench.backlog(Load::of(args.events)).or_exit(ExitCode::Failed)?;
    step.done(format!("{} records", backlog.rows));
    let contender = |name: &str, guarantees: &str| SinkContender {
        contender: Contender { name: name.to_owned(), rounds: Vec::new() },
        guarantees: guarantees.to_owned(),
    };
    let mut sinks = vec![
        contender("log-sink", OURS),
        contender("insert", "none: rows from memory, nothing is read or decoded"),
    ];
    sinks.extend(rivals.iter().map(|(rival, guarantees)| contender(&rival.name, guarantees)));
    for round in 0..args.rounds {
        let step = progress.step(format!("round {} of {}", round + 1, args.rounds));
        let mut told = Vec::new();
        for (at, sink) in sinks.iter_mut().enumerate() {
            let run = match at {
                0 => bench.log_sink(&backlog),
                1 => bench.bare_insert(&backlog),
                _ => match rivals.get(at - 2) {
                    Some((rival, _)) => bench.rival(rival, &backlog),
                    None => continue,
                },
            }
            .or_exit(ExitCode::Failed)?;
            told.push(format!("{} {:.0} k/s", sink.contender.name, run.rate() / 1e3));
            sink.contender.rounds.push(run);
        }
        step.done(told.join(", "));
    }
    let report = SinkReport { rows: backlog.rows, seed: args.ground.seed, cores: cores(), sinks };
    ground.stack.env.stop().or_report(ExitCode::Failed)?;
    if let Some(results) = results {
        results.write("sink", "sink", args, &report)?;
    }
    say_report(&report, global, tell)
}

/// The programs in a folder, set up, with what each promises.
fn rivals(folder: &Path, progress: &Progress) -> Result<Vec<(Rival, String)>, Failure> {
    let failed = |what: &Path, error: std::io::Error| {
        Failure::new(
            ExitCode::Config,
            format!("{}: {error}; expected a folder as bench/rivals/README.md says", what.display()),
        )
    };
    let entries = std::fs::read_dir(folder).map_err(|error| failed(folder, error))?;
    let mut folders: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.join(SINK).is_file()).collect();
    folders.sort();
    folders
        .into_iter()
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let step = progress.step(format!("setting up {name}"));
            let setup = path.join(SETUP);
            let done = Command::new(&setup)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .output();
            let done = done.map_err(|error| failed(&setup, error))?;
            if !done.status.success() {
                let said = String::from_utf8_lossy(&done.stderr).into_owned();
                return Err(Failure::new(
                    ExitCode::Failed,
                    format!("{}: {}: {said}", setup.display(), done.status),
                ));
            }
            step.done("");
            let promises = path.join(GUARANTEES);
            let guarantees = std::fs::read_to_string(&promises).map_err(|error| failed(&promises, error))?;
            let sink = std::path::absolute(path.join(SINK)).map_err(|error| failed(&path, error))?;
            Ok((Rival { name, command: vec![sink.display().to_string()] }, guarantees.trim().to_owned()))
        })
        .collect()
}

fn tell(report: &SinkReport) {
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
        let times = report.sinks.first().map(|ours| ours.times(sink));
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
