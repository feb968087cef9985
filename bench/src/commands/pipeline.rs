//! `agentgov-bench pipeline`: measures throughput, CPU and latency of the pipeline beside its baselines.

use std::sync::Arc;

use agentgov::cli::Global;
use agentgov::context;
use agentgov::failure::{Failure, OrExit as _};
use agentgov::print::outln;
use agentgov::progress::Progress;
use agentgov_bench::{
    Baseline, Bench, Contender, Latency, Load, ObservedResult, PIPELINE, Report, Run, Spread, StageLatencies,
    Store, WARM_UP_SECONDS, WorkerContext,
};
use agentgov_service::ExitCode;

use super::results::ResultsFolder;
use super::{BenchStack, Edits, cores, policies, print_result, product};
use crate::cli;

/// Maximum number of recorded events, which the baseline processes repeat.
const MAX_RECORDED_EVENTS: u64 = 200_000;
/// Contender of the row latencies. Row and alert latencies have separate runs, since polling for rows loads ClickHouse.
const PIPELINE_ROWS: &str = "pipeline, rows";
const BASELINES: [(&str, Baseline); 3] = [
    ("baseline (a) copy", Baseline::Copy),
    ("baseline (b) insert", Baseline::Insert),
    ("baseline (c) both", Baseline::Both),
];

pub fn pipeline(args: &cli::Pipeline, global: &Global) -> Result<ExitCode, Failure> {
    let product = product(args.env.agentgov.as_deref())?;
    let results = ResultsFolder::prepare(&args.env.results)?;
    let progress = Arc::new(Progress::new(global.json));
    let edits = Edits { partitions: args.partitions, ..Edits::default() };
    let bench_stack = BenchStack::start_with(&edits, args.env.data.as_ref(), global, &progress)?;
    let mut policies = bench_stack.stack.bundle.policies().count();
    if let Some(count) = args.policies {
        policies::push(&bench_stack.stack, count, policies::OTHER_TOOLS)?;
        policies = count.max(policies);
    }
    let setup = bench_stack.setup(&product, args.env.seed)?;
    let mut bench = Bench::new(&setup).or_exit(ExitCode::Failed)?;
    let full = Load { open_sessions: args.sessions, processes: args.processes, ..Load::of(args.events) };
    let step = progress.step("warming up and recording");
    let recording = bench
        .record(Load { events: args.events.min(MAX_RECORDED_EVENTS), ..full })
        .or_exit(ExitCode::Failed)?;
    step.done("");
    let mut contenders: Vec<Contender> = std::iter::once(PIPELINE)
        .chain(BASELINES.map(|(name, _)| name))
        .map(|name| Contender { name: name.to_owned(), rounds: Vec::new() })
        .collect();
    for round in 0..args.rounds {
        let step = progress.step(format!("round {} of {}", round + 1, args.rounds));
        let mut rates = Vec::new();
        for contender in &mut contenders {
            let run = match BASELINES.iter().find(|(name, _)| *name == contender.name) {
                None => bench.pipeline(full, ObservedResult::Nothing),
                Some((_, baseline)) => bench.run_baseline(&recording, full, *baseline, false),
            }
            .or_exit(ExitCode::Failed)?;
            rates.push(format!("{:.0} k/s", run.rate() / 1e3));
            contender.rounds.push(run);
        }
        step.done(rates.join(", "));
    }
    let mut latency = Vec::new();
    if args.latency_seconds > 0 {
        let most =
            Spread::of(contenders.first().into_iter().flat_map(|c| c.rounds.iter().map(Run::rate))).median;
        let rate = args.rate.unwrap_or(most / 2.0);
        let seconds = WARM_UP_SECONDS + args.latency_seconds;
        let load = Load { events: (rate * seconds as f64) as u64, rate: Some(rate), ..full };
        let mut rounds = [(PIPELINE, Vec::new()), (PIPELINE_ROWS, Vec::new()), (BASELINES[0].0, Vec::new())];
        // The first round is warm-up: until then the broker's JIT compiler has only seen full speed.
        for round in 0..=args.latency_rounds {
            let what = match round {
                0 => "warming up".to_owned(),
                _ => format!("round {round} of {}", args.latency_rounds),
            };
            let step = progress.step(format!("latency at {rate:.0} events/s, {what}"));
            for (name, runs) in &mut rounds {
                let run = match *name {
                    PIPELINE => bench.pipeline(load, ObservedResult::Alerts),
                    PIPELINE_ROWS => bench.pipeline(load, ObservedResult::Rows),
                    _ => bench.run_baseline(&recording, load, Baseline::Copy, true),
                };
                let run = run.or_exit(ExitCode::Failed)?;
                if round > 0 {
                    runs.push(run);
                }
            }
            step.done("");
        }
        latency.extend(rounds.map(|(name, rounds)| Contender { name: name.to_owned(), rounds }));
    }
    let report = Report {
        events: args.events,
        processes: args.processes,
        open_sessions: args.sessions,
        seed: args.env.seed,
        cores: cores(),
        policies,
        contenders,
        latency,
    };
    bench_stack.stack.env.stop().or_report(ExitCode::Failed)?;
    if let Some(results) = results {
        results.write("pipeline", "pipeline", args, &report)?;
    }
    print_result(&report, global, print_report)
}

/// Runs a worker process of the benchmark.
pub fn worker(args: &cli::Worker, global: &Global) -> Result<ExitCode, Failure> {
    let task = serde_json::from_str(&args.task).or_exit(ExitCode::Usage)?;
    let endpoints = context::endpoints(global)?;
    let context = WorkerContext {
        kafka: endpoints.kafka.clone(),
        registry: endpoints.schema_registry.clone(),
        topology: context::topology(global)?,
        clickhouse: Store::new(&endpoints.clickhouse).or_exit(ExitCode::Failed)?,
        recordings: args.recordings.clone(),
    };
    agentgov_bench::run_worker(&task, &context).or_exit(ExitCode::Failed)?;
    Ok(ExitCode::Done)
}

fn print_report(report: &Report) {
    outln!(
        "{} events a round, {} rounds, {} process(es) a stage, {} open sessions, {} policies, {} cores, seed {}",
        report.events,
        report.contenders.first().map_or(0, |contender| contender.rounds.len()),
        report.processes,
        report.open_sessions,
        report.policies,
        report.cores,
        report.seed
    );
    outln!("");
    outln!("{:<18} {:>24} {:>26} {:>16}", "", "events/s", "CPU-s a million events", "pipeline has");
    for contender in &report.contenders {
        let (rate, cpu) = (contender.rate(), contender.cpu());
        let share = match report.rate_share_of(&contender.name) {
            Some(share) if contender.name != PIPELINE => format!("{:.0} %", share.median * 100.0),
            _ => String::new(),
        };
        outln!(
            "{:<18} {:>24} {:>26} {:>16}",
            contender.name,
            format!("{:.0} ({:.0} to {:.0})", rate.median, rate.least, rate.most),
            format!("{:.1} ({:.1} to {:.1})", cpu.median, cpu.least, cpu.most),
            share
        );
    }
    outln!("");
    for contender in &report.contenders {
        outln!("{}: CPU-s a million events, and most memory, by process", contender.name);
        for (process, usage) in contender.by_process() {
            outln!("  {:<18} {:>7.2} {:>8} MB", process, usage.cpu_s, usage.rss_bytes / 1_000_000);
        }
    }
    for contender in &report.latency {
        for latency in contender.rounds.iter().filter_map(|run| run.latency) {
            let (what, p, stages) = match latency {
                Latency::Alert(alerts) => ("alert", alerts.latencies, alerts.stages),
                Latency::Row(p) => ("row", p, None),
            };
            outln!(
                "{:<18} publish to {:<6} p50 {:>7.1} ms  p99 {:>7.1} ms  p99.9 {:>7.1} ms  ({} seen)",
                contender.name,
                what,
                p.p50_ms,
                p.p99_ms,
                p.p999_ms,
                p.count
            );
            if let Some(stages) = stages {
                print_stages(&stages);
            }
        }
    }
    if let Some(times) = report.p99_ratio_to(BASELINES[0].0) {
        outln!("p99 from publish to alert: {:.1} times that of {} (medians)", times, BASELINES[0].0);
    }
}

fn print_stages(stages: &StageLatencies) {
    let StageLatencies { to_verdict, to_alert, to_reader } = stages;
    let stages =
        [("event to verdict", to_verdict), ("verdict to alert", to_alert), ("alert to reader", to_reader)];
    for (what, latency) in stages {
        outln!(
            "{:<18} {:<16} p50 {:>7.1} ms  p99 {:>7.1} ms  in the slowest hundredth {:>7.1} ms",
            "",
            what,
            latency.all.p50_ms,
            latency.all.p99_ms,
            latency.slowest_ms
        );
    }
}
