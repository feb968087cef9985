//! `agentgov-bench pipeline`: how fast is it, and what does it cost?

use std::sync::Arc;

use agentgov::cli::Global;
use agentgov::context;
use agentgov::failure::{Failure, OrExit as _};
use agentgov::print::outln;
use agentgov::progress::Progress;
use agentgov_bench::{
    Bench, Contender, Floor, Hops, Latency, Load, PIPELINE, Places, Report, Run, Spread, Store,
    WARM_UP_SECONDS, Watched,
};
use agentgov_service::ExitCode;

use super::results::ResultsFolder;
use super::{Edits, Ground, cores, policies, product, say_report};
use crate::cli;

/// Events that the bare processes repeat, at most.
const TAPE: u64 = 200_000;
/// The pipeline whose rows are watched: apart from the one whose alerts are, since looking at rows is work for ClickHouse.
const ROWS: &str = "pipeline, rows";
const FLOORS: [(&str, Floor); 3] =
    [("floor (a) copy", Floor::Copy), ("floor (b) insert", Floor::Insert), ("floor (c) both", Floor::Both)];

pub fn pipeline(args: &cli::Pipeline, global: &Global) -> Result<ExitCode, Failure> {
    let product = product(args.ground.agentgov.as_deref())?;
    let results = ResultsFolder::prepare(&args.results)?;
    let progress = Arc::new(Progress::new(global.json));
    let edits = Edits { partitions: args.partitions, ..Edits::default() };
    let ground = Ground::with(&edits, args.ground.data.as_ref(), global, &progress)?;
    let mut policies = ground.stack.bundle.policies().count();
    if let Some(count) = args.policies {
        policies::push(&ground.stack, count, policies::OTHER_TOOLS)?;
        policies = count.max(policies);
    }
    let setup = ground.setup(&product, args.ground.seed)?;
    let mut bench = Bench::new(&setup).or_exit(ExitCode::Failed)?;
    let full = Load { open_sessions: args.sessions, processes: args.processes, ..Load::of(args.events) };
    let step = progress.step("warming up, and taping what goes through");
    let tape = bench.tape(Load { events: args.events.min(TAPE), ..full }).or_exit(ExitCode::Failed)?;
    step.done("");
    let mut contenders: Vec<Contender> = std::iter::once(PIPELINE)
        .chain(FLOORS.map(|(name, _)| name))
        .map(|name| Contender { name: name.to_owned(), rounds: Vec::new() })
        .collect();
    for round in 0..args.rounds {
        let step = progress.step(format!("round {} of {}", round + 1, args.rounds));
        let mut told = Vec::new();
        for contender in &mut contenders {
            let run = match FLOORS.iter().find(|(name, _)| *name == contender.name) {
                None => bench.pipeline(full, Watched::Nothing),
                Some((_, floor)) => bench.floor(&tape, full, *floor, false),
            }
            .or_exit(ExitCode::Failed)?;
            told.push(format!("{:.0} k/s", run.rate() / 1e3));
            contender.rounds.push(run);
        }
        step.done(told.join(", "));
    }
    let mut latency = Vec::new();
    if args.latency_seconds > 0 {
        let most =
            Spread::of(contenders.first().into_iter().flat_map(|c| c.rounds.iter().map(Run::rate))).median;
        let rate = args.rate.unwrap_or(most / 2.0);
        let seconds = WARM_UP_SECONDS + args.latency_seconds;
        let load = Load { events: (rate * seconds as f64) as u64, rate: Some(rate), ..full };
        let mut rounds = [(PIPELINE, Vec::new()), (ROWS, Vec::new()), (FLOORS[0].0, Vec::new())];
        // The first round is not kept: the broker's compiler has seen nothing but full speed so far.
        for round in 0..=args.latency_rounds {
            let what = match round {
                0 => "warming up".to_owned(),
                _ => format!("round {round} of {}", args.latency_rounds),
            };
            let step = progress.step(format!("latency at {rate:.0} events/s, {what}"));
            for (name, runs) in &mut rounds {
                let run = match *name {
                    PIPELINE => bench.pipeline(load, Watched::Alerts),
                    ROWS => bench.pipeline(load, Watched::Rows),
                    _ => bench.floor(&tape, load, Floor::Copy, true),
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
        seed: args.ground.seed,
        cores: cores(),
        policies,
        contenders,
        latency,
    };
    ground.stack.env.stop().or_report(ExitCode::Failed)?;
    if let Some(results) = results {
        results.write("pipeline", "pipeline", args, &report)?;
    }
    say_report(&report, global, tell)
}

/// One of the bench's own processes.
pub fn part(args: &cli::Part, global: &Global) -> Result<ExitCode, Failure> {
    let part = serde_json::from_str(&args.what).or_exit(ExitCode::Usage)?;
    let endpoints = context::endpoints(global)?;
    let places = Places {
        kafka: endpoints.kafka.clone(),
        registry: endpoints.schema_registry.clone(),
        topology: context::topology(global)?,
        clickhouse: Store::new(&endpoints.clickhouse).or_exit(ExitCode::Failed)?,
        tapes: args.tapes.clone(),
    };
    agentgov_bench::work(&part, &places).or_exit(ExitCode::Failed)?;
    Ok(ExitCode::Done)
}

fn tell(report: &Report) {
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
        let share = match report.share_of(&contender.name) {
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
            let (what, p, hops) = match latency {
                Latency::Alert(alerts) => ("alert", alerts.late, alerts.hops),
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
            if let Some(hops) = hops {
                tell_hops(&hops);
            }
        }
    }
    if let Some(times) = report.p99_beside(FLOORS[0].0) {
        outln!("p99 from publish to alert: {:.1} times that of {} (medians)", times, FLOORS[0].0);
    }
}

fn tell_hops(hops: &Hops) {
    let Hops { to_verdict, to_alert, to_reader } = hops;
    let hops =
        [("event to verdict", to_verdict), ("verdict to alert", to_alert), ("alert to reader", to_reader)];
    for (what, hop) in hops {
        outln!(
            "{:<18} {:<16} p50 {:>7.1} ms  p99 {:>7.1} ms  in the slowest hundredth {:>7.1} ms",
            "",
            what,
            hop.all.p50_ms,
            hop.all.p99_ms,
            hop.slowest_ms
        );
    }
}
